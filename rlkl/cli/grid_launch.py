"""Launchers of Hydra for the jobs of a grid: which there are, and one ready to go."""

import os
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

from rlkl.cli.compose import CONFIG_DIR, one_line_errors, options
from rlkl.cli.grid_line import LAUNCHER, Asked, GridLine
from rlkl.cli.hydra_safety import PLUGINS
from rlkl.tools.grid.call import Call
from rlkl.tools.grid.job import JobRunner
from rlkl.utils.cpu import usable_cores
from rlkl.utils.validation import ConfigError, check_choice, check_installed, check_range

OF_HYDRA = {
    "basic": "",
    "joblib": "",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
}
"""Launchers of Hydra's own, and the extra of rlkl that brings each."""

OF_RLKL = {"cores": "joblib", "slurm": "submitit_slurm", "slurm_rehearsal": "submitit_local",
           "ray_cluster": "ray"}  # fmt: skip
"""The configs that set them up for rlkl."""

ALL_CORES = -1


def check_launcher(launching: list[str], config_dirs: list[Path]) -> None:
    """Raise unless the launcher is there, and its settings can be read.

    Raises:
        ConfigError: naming the launchers, or the extra that brings the one that is missing.
    """
    for text in launching:
        key, _, name = text.partition("=")
        if key == LAUNCHER:
            check_choice(LAUNCHER, name, {**options(LAUNCHER, config_dirs), **OF_HYDRA})
            extra = OF_HYDRA.get(OF_RLKL.get(name, name))
            if extra:
                package = f"hydra_plugins.hydra_{extra}_launcher"
                check_installed(package, extra, f"{LAUNCHER}={name}")
    with _composed([*launching, "hydra.sweep.dir=."], config_dirs) as (_, composed):
        with one_line_errors():
            settings: Any = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
        target = settings.get("_target_")
        if target not in Plugins.instance().class_name_to_class:
            raise ConfigError(f"{LAUNCHER}: {target} is none of the launchers that are installed")
        if target == PLUGINS["launcher"]["submitit_slurm"] and shutil.which("srun") is None:
            raise ConfigError(
                f"{LAUNCHER}: there is no srun here, so this machine is not of a Slurm cluster; "
                f"run the command on a login node, or rehearse it with {LAUNCHER}=slurm_rehearsal"
            )
        jobs = settings.get("n_jobs", ALL_CORES)
        if jobs != ALL_CORES:
            check_range("hydra.launcher.n_jobs", jobs, at_least=1)


@contextmanager
def _composed(overrides: list[str], config_dirs: list[Path]) -> Iterator[tuple[Any, DictConfig]]:
    """Give Hydra and the config of a launch."""
    search_path = ",".join(f"file://{path.resolve()}" for path in config_dirs)
    extra = [f"hydra.searchpath=[{search_path}]"] if config_dirs else []
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3", job_name="rlkl"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with one_line_errors():
            config = hydra.compose_config("grid", [*overrides, *extra], run_mode=RunMode.MULTIRUN)
        yield hydra, config


class Launch:
    """Hydra's launcher, ready to go; a context manager.

    Args:
        line: says which launcher.
        config_dirs: searched beside rlkl's own configs.
        call: whose folder the launcher and the jobs write to.
        jobs: to launch.
    """

    def __init__(
        self, line: GridLine, config_dirs: list[Path], call: Call, jobs: list[Asked]
    ) -> None:
        self._batch = line.batch or len(jobs)
        self._jobs = [[f"job='{job.name}'"] for job in jobs]
        folder = str(call.folder).replace("\\", "\\\\").replace("'", "\\'")
        self._runner = JobRunner(call, Path.cwd(), os.getpid())
        self._context = _composed([*line.launching, f"hydra.sweep.dir='{folder}'"], config_dirs)
        self._threads = max(job.config.threads for job in jobs)

    def __enter__(self) -> "Launch":
        hydra, config = self._context.__enter__()
        launching = config.hydra.launcher
        if launching.get("n_jobs") == ALL_CORES:
            launching.n_jobs = jobs_at_a_time(len(self._jobs), self._threads)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=self._runner, config=config
        )
        return self

    def __exit__(self, *error: Any) -> None:
        loky: Any = sys.modules.get("joblib.externals.loky")
        if loky is not None:  # joblib keeps its workers for a next time, which will not come
            loky.get_reusable_executor().shutdown()
        self._context.__exit__(*error)

    def go(self) -> BaseException | None:
        """Launch all jobs and wait for them; return what broke the launcher, if it broke."""
        try:
            for begin in range(0, len(self._jobs), self._batch):
                batch = self._jobs[begin : begin + self._batch]
                for done in self._launcher.launch(batch, initial_job_idx=begin):
                    _ = done.return_value  # raises what the runner did
        except (Exception, KeyboardInterrupt) as error:  # the latter from a worker that Ctrl-C hit
            return error
        return None


def jobs_at_a_time(jobs: int, threads: int) -> int:
    """Return how many jobs there are cores for, of those that this process may use.

    Args:
        jobs: how many there are.
        threads: of each.
    """
    return max(1, min(jobs, usable_cores() // threads))
