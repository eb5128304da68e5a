"""What a config may tell Hydra itself: which launcher, how many jobs, where to, but no code."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkl.utils.validation import ConfigError, check_text

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
"""The classes that run jobs, by the names that they are chosen by."""

LOGGINGS = ("job_logging", "hydra_logging")

TYPED_ALONE = (
    "env_set",
    "setup",
    "python",
    "srun_args",
    "additional_parameters",
    "runtime_env",
    "address",
)
"""Settings of jobs and launchers that reach a shell, the surroundings of a process, or another
machine: the command line may give them, a config file may not."""


def check_hydra(settings: DictConfig, of_files: DictConfig) -> None:
    """Raise if what is composed for Hydra would run code that a config names.

    Hydra makes whatever class `_target_` names, Python's logging makes handlers from names, and
    launchers hand text to shells; all of it before the first job begins.

    Args:
        settings: the node `hydra` as composed.
        of_files: the same without what the command line sets below `hydra.`.

    Raises:
        ConfigError: naming the key, and what is expected there.
    """
    for part, known in PLUGINS.items():
        target = f"{part}._target_"
        named = OmegaConf.select(settings, target, throw_on_resolution_failure=False)
        if named not in known.values():
            raise ConfigError(
                f"hydra.{target}={named}: a config cannot name code to run; choose "
                f"hydra/{part}={' or '.join(known)}"
            )
    for part in LOGGINGS:
        if OmegaConf.to_container(settings[part], resolve=False) not in _loggings(part).values():
            raise ConfigError(
                f"hydra.{part}: a config cannot name code to run, as its handlers may; choose "
                f"hydra/{part}={' or '.join(_loggings(part))}"
            )
    allowed = {f"{part}._target_" for part in PLUGINS}
    for key, value in _leaves(settings):
        if key.startswith("callbacks.") or (key.endswith("_target_") and key not in allowed):
            raise ConfigError(
                f"hydra.{key}={value}: a config cannot name code to run; leave it out"
            )
        if key.startswith("launcher.") and isinstance(value, str):
            check_text(f"hydra.{key}", value)  # a line break would begin a command of a job script
    for key, value in _leaves(of_files):
        part, *path = key.split(".")
        is_set = value not in (None, "")
        if part in ("job", "launcher") and is_set and set(path) & set(TYPED_ALONE):
            raise ConfigError(
                f"hydra.{key}={value}: expected on the command line, which alone may set what "
                "reaches a shell or another machine"
            )


@cache
def _loggings(part: str) -> dict[str, Any]:
    """Return the configs of logging that Hydra itself brings, by name."""
    folder = files("hydra.conf") / "hydra" / part
    return {
        path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text())
        for path in sorted(folder.iterdir(), key=str)
        if path.name.endswith(".yaml")
    }


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys and what stands there, or would be put there if that cannot be told yet."""
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        where = f"{prefix}{key!s}"
        try:
            value = node[key]
        except OmegaConfBaseException:
            value = node._get_node(key)._value()
        if OmegaConf.is_config(value):
            yield from _leaves(value, f"{where}.")
        else:
            yield where, value
