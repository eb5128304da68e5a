"""Configs for Hydra choose how jobs run, but name no code and reach no shell."""

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from rlkl.cli.compose import load
from rlkl.cli.hydra_safety import PLUGINS, check_hydra
from rlkl.cli.schema import register_schemas
from rlkl.utils.errors import ConfigError

register_schemas()


def settings(slurm: dict[str, Any] | None = None, **more: Any) -> DictConfig:
    """Return the part of Hydra's composed config that is checked."""
    launcher = {"_target_": PLUGINS["launcher"]["submitit_slurm"]} | (slurm or {})
    plain: dict[str, Any] = {
        "launcher": launcher,
        "sweeper": {"_target_": PLUGINS["sweeper"]["basic"], "params": None},
        "job_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
        "hydra_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
        "callbacks": {},
        "job": {"name": "rlkl", "env_set": {}},
        "sweep": {"dir": "runs/sweeps/${now:%Y}"},
    }
    return OmegaConf.create(plain | more)


NONE = settings()


@pytest.mark.parametrize("name", PLUGINS["launcher"])
def test_every_launcher_can_be_configured(name: str) -> None:
    launcher = {
        "_target_": PLUGINS["launcher"][name],
        "n_jobs": 4,
        "timeout_min": 60,
        "partition": "long",
        "setup": None,
        "additional_parameters": {},
        "ray": {"init": {"address": None, "num_cpus": 2}, "remote": {}},
        "submitit_folder": "${sweep.dir}/.submitit/%j",
    }
    check_hydra(settings(launcher), settings(launcher))


@pytest.mark.parametrize("choice", ["default", "disabled", "none", "stdout"])
def test_hydra_logging_options_are_allowed(choice: str) -> None:
    load([f"hydra/job_logging={choice}"])
    if choice != "stdout":
        load([f"hydra/hydra_logging={choice}"])


def test_sweep_folder_and_job_environment_can_be_typed() -> None:
    load(["hydra.sweep.dir=elsewhere", "+hydra.job.env_set.OMP_NUM_THREADS=1", "seed=3"])


REACHING = {
    "setup": ["rm -rf x"],
    "python": "own/python",
    "srun_args": ["--bcast"],
    "additional_parameters": {"wrap": "x"},
    "ray": {"init": {"address": "elsewhere:1"}},
}


@pytest.mark.parametrize("key", REACHING)
def test_settings_that_reach_a_shell_must_be_typed(key: str) -> None:
    reaching = settings({key: REACHING[key]})
    check_hydra(reaching, NONE)
    with pytest.raises(ConfigError, match=rf"^hydra\.launcher\.{key}.*: expected on the command l"):
        check_hydra(reaching, reaching)
    remote = settings({"ray": {"remote": {"runtime_env": {"pip": ["x"]}}}})
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.ray\.remote\.runtime_env"):
        check_hydra(remote, remote)


def test_line_breaks_in_launcher_settings_are_rejected() -> None:
    for partition in ("long\nrm -rf x", "${more}"):
        broken = settings({"partition": partition}, more="long\nrm -rf x")
        with pytest.raises(ConfigError, match=r"^hydra\.launcher\.partition=.*line breaks"):
            check_hydra(broken, NONE)


def test_nested_targets_in_launcher_settings_are_rejected() -> None:
    for nested in ({"_target_": "os.system"}, {"deep": [{"_target_": "os.system"}]}):
        hidden = settings({"additional_parameters": nested})
        with pytest.raises(ConfigError, match=r"_target_=os\.system: a config cannot name code"):
            check_hydra(hidden, NONE)


NAMING: dict[str, dict[str, Any]] = {
    "launcher._target_": {"launcher": {"_target_": "os.system"}},
    "sweeper._target_": {"sweeper": {"_target_": "${env_id}"}},
    "job_logging": {"job_logging": {"version": 1, "handlers": {"x": {"()": "os.system"}}}},
    "hydra_logging": {"hydra_logging": {"version": 1, "root": {"level": "DEBUG"}}},
    "callbacks.x._target_": {"callbacks": {"x": {"_target_": "os.system"}}},
}


@pytest.mark.parametrize("key", NAMING)
def test_config_that_names_code_is_rejected(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^hydra\.{key}.*: a config cannot name code to run"):
        check_hydra(settings(**NAMING[key]), NONE)


def test_job_environment_variables_must_be_typed() -> None:
    changed = settings(job={"env_set": {"PATH": "own"}})
    check_hydra(changed, NONE)
    with pytest.raises(ConfigError, match=r"^hydra\.job\.env_set\.PATH=own: expected on the comm"):
        check_hydra(changed, changed)
