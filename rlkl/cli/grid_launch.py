"""Hydra's launchers, which run the jobs of a grid."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from rlkl.cli.grid_line import LAUNCHER, GridLine
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.hydra_safety import PLUGINS
from rlkl.cli.schema import CONFIG_DIR, options, search_path
from rlkl.tools.grid.call import Call
from rlkl.tools.grid.display import Job
from rlkl.tools.grid.job import JobRunner
from rlkl.utils.cpu import usable_cores
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, check_installed, check_range

RLKL_LAUNCHERS = {"cores": "joblib", "slurm": "submitit_slurm",
                  "slurm_rehearsal": "submitit_local", "ray_cluster": "ray"}  # fmt: skip
"""rlkl's configs of Hydra's launchers."""

ALL_CORES = -1


def check_launcher(launching: list[str], config_dirs: list[Path]) -> None:
    """Raise if the launcher is not installed, or its settings are invalid."""
    for text in launching:
        key, _, name = text.partition("=")
        if key == LAUNCHER:
            hydras = PLUGINS["launcher"]
            check_choice(LAUNCHER, name, {**options(LAUNCHER, config_dirs), **hydras})
            target = hydras.get(RLKL_LAUNCHERS.get(name, name), "")
            if plugin := re.match(r"hydra_plugins\.hydra_(\w+)_launcher", target):
                check_installed(plugin[0], plugin[1], f"{LAUNCHER}={name}")  # the extra's name
    with _composed([*launching, "hydra.sweep.dir=."], config_dirs) as (_, composed):
        with one_line_errors():
            settings: Any = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
        target = settings.get("_target_")
        if target not in Plugins.instance().class_name_to_class:
            raise ConfigError(f"{LAUNCHER}: {target} is not an installed launcher")
        if target == PLUGINS["launcher"]["submitit_slurm"] and shutil.which("srun") is None:
            raise ConfigError(
                f"{LAUNCHER}: this machine has no srun, so it is not part of a Slurm cluster; run "
                f"the command on a login node, or test it with {LAUNCHER}=slurm_rehearsal"
            )
        jobs = settings.get("n_jobs", ALL_CORES)
        if jobs != ALL_CORES:
            check_range("hydra.launcher.n_jobs", jobs, at_least=1)


@contextmanager
def _composed(overrides: list[str], config_dirs: list[Path]) -> Iterator[tuple[Any, DictConfig]]:
    """Yield Hydra and the config of a launch."""
    texts = [*overrides, search_path(config_dirs)]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3", job_name="rlkl"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with one_line_errors():
            config = hydra.compose_config("grid", texts, run_mode=RunMode.MULTIRUN)
        yield hydra, config


@contextmanager
def launcher(line: GridLine, config_dirs: list[Path], call: Call, jobs: list[Job]) -> Iterator[Any]:
    """Yield a launcher of Hydra for the jobs, and end its workers afterwards."""
    folder = str(call.folder).replace("\\", "\\\\").replace("'", "\\'")
    overrides = [*line.launching, f"hydra.sweep.dir='{folder}'"]
    with _composed(overrides, config_dirs) as (hydra, config):
        if config.hydra.launcher.get("n_jobs") == ALL_CORES:
            threads = max(job.config.threads for job in jobs)
            config.hydra.launcher.n_jobs = jobs_at_a_time(len(jobs), threads)
        try:
            yield Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(hydra.config_loader, Callbacks()),
                task_function=JobRunner(call, Path.cwd(), os.getpid()),
                config=config,
            )
        finally:
            loky: Any = sys.modules.get("joblib.externals.loky")
            if loky is not None:  # joblib would keep its workers for another launch
                loky.get_reusable_executor().shutdown()


def launch(launcher: Any, jobs: list[Job], batch: int | None) -> BaseException | None:
    """Launch all jobs and wait for them; return the launcher's error, if it failed."""
    overrides = [[f"job='{job.name}'"] for job in jobs]
    size = batch or len(jobs)
    try:
        for start in range(0, len(jobs), size):
            for result in launcher.launch(overrides[start : start + size], initial_job_idx=start):
                _ = result.return_value  # raises the runner's error
    except (Exception, KeyboardInterrupt) as error:  # Ctrl-C may reach a worker
        return error
    return None


def jobs_at_a_time(jobs: int, threads: int) -> int:
    """Return how many jobs, each with so many threads, the available cores can run at once."""
    return max(1, min(jobs, usable_cores() // threads))
