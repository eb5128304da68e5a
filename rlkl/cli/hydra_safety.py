"""Checks that a config for Hydra itself names no code to run and reaches no shell."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import hydra.conf
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_text

PLUGINS = {
    "launcher": {
        "basic": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "joblib": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "submitit_local": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "submitit_slurm": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "ray": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    },
    "sweeper": {"basic": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
}
"""The classes that run jobs, by option of the group."""

LOGGING_GROUPS = ("job_logging", "hydra_logging")

COMMAND_LINE_ONLY = (
    "env_set", "setup", "python", "srun_args", "additional_parameters", "runtime_env", "address",
)  # fmt: skip
"""Settings of jobs and launchers that reach a shell, a process's environment variables or another
machine. They may be set on the command line, not in a config file."""


def check_hydra(settings: DictConfig, from_files: DictConfig) -> None:
    """Raise if the config composed for Hydra would run code that a config names.

    Before the first job Hydra creates the class that `_target_` names, Python's logging creates
    handlers from names, and launchers pass text to shells. `from_files` is without what the command
    line sets below `hydra.`.
    """
    for part, known in PLUGINS.items():
        target = f"{part}._target_"
        named = OmegaConf.select(settings, target, throw_on_resolution_failure=False)
        if named not in known.values():
            _refuse_code(f"{target}={named}", f"choose hydra/{part}={' or '.join(known)}")
    for part in LOGGING_GROUPS:
        known_logging = _logging_configs(part)
        if OmegaConf.to_container(settings[part], resolve=False) not in known_logging.values():
            choices = " or ".join(known_logging)
            _refuse_code(part, f"choose hydra/{part}={choices}", ", as its handlers may")
    checked = {f"{part}._target_" for part in PLUGINS}
    for key, value in _leaves(settings):
        if key.startswith("callbacks.") or (key.endswith("_target_") and key not in checked):
            _refuse_code(f"{key}={value}", "leave it out")
        if key.startswith("launcher.") and isinstance(value, str):
            check_text(f"hydra.{key}", value)  # a line break would start a command in a job script
    for key, value in _leaves(from_files):
        part, *path = key.split(".")
        is_set = value not in (None, "")
        if part in ("job", "launcher") and is_set and set(path) & set(COMMAND_LINE_ONLY):
            raise ConfigError(
                f"hydra.{key}={value}: expected on the command line, because it reaches a shell or "
                "another machine"
            )


def _refuse_code(setting: str, advice: str, how: str = "") -> NoReturn:
    raise ConfigError(f"hydra.{setting}: a config cannot name code to run{how}; {advice}")


@cache
def _logging_configs(part: str) -> dict[str, Any]:
    """Return Hydra's own logging configs, by option."""
    folder = Path(hydra.conf.__path__[0], "hydra", part)
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys and values; a value that cannot be resolved yet is yielded as written."""
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        where, child = f"{prefix}{key!s}", node._get_node(key)
        value = child._value()
        if isinstance(value, dict | list):
            value = child
        elif child._is_interpolation():  # only these are resolved, which is slow
            with suppress(OmegaConfBaseException):
                value = node[key]
        if OmegaConf.is_config(value):
            yield from _leaves(value, f"{where}.")
        else:
            yield where, value
