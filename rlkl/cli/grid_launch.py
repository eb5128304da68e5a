"""Hydra's launchers, which run the jobs of a grid."""

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

from rlkl.cli.grid_line import LAUNCHER, GridLine, JobRequest
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.hydra_safety import PLUGINS
from rlkl.cli.schema import CONFIG_DIR, options
from rlkl.tools.grid.call import Call
from rlkl.tools.grid.job import JobRunner
from rlkl.utils.cpu import usable_cores
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, check_installed, check_range

HYDRA_LAUNCHERS = {
    "basic": "",
    "joblib": "",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
}
"""Hydra's launchers, and the extra of rlkl that installs each."""

RLKL_LAUNCHERS = {"cores": "joblib", "slurm": "submitit_slurm",
                  "slurm_rehearsal": "submitit_local", "ray_cluster": "ray"}  # fmt: skip
"""rlkl's configs of Hydra's launchers."""

ALL_CORES = -1


def check_launcher(launching: list[str], config_dirs: list[Path]) -> None:
    """Check that the launcher is installed and its settings are valid.

    Raises:
        ConfigError: it is not; the message names the launchers, or the missing extra.
    """
    for text in launching:
        key, _, name = text.partition("=")
        if key == LAUNCHER:
            check_choice(LAUNCHER, name, {**options(LAUNCHER, config_dirs), **HYDRA_LAUNCHERS})
            extra = HYDRA_LAUNCHERS.get(RLKL_LAUNCHERS.get(name, name))
            if extra:
                package = f"hydra_plugins.hydra_{extra}_launcher"
                check_installed(package, extra, f"{LAUNCHER}={name}")
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
    search_path = ",".join(f"file://{path.resolve()}" for path in config_dirs)
    extra = [f"hydra.searchpath=[{search_path}]"] if config_dirs else []
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3", job_name="rlkl"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with one_line_errors():
            config = hydra.compose_config("grid", [*overrides, *extra], run_mode=RunMode.MULTIRUN)
        yield hydra, config


class Launch:
    """A launcher with the jobs that it will run; a context manager."""

    def __init__(
        self, line: GridLine, config_dirs: list[Path], call: Call, jobs: list[JobRequest]
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
        if loky is not None:  # joblib would keep its workers for another launch
            loky.get_reusable_executor().shutdown()
        self._context.__exit__(*error)

    def run(self) -> BaseException | None:
        """Launch all jobs and wait for them; return the launcher's error, if it failed."""
        try:
            for start in range(0, len(self._jobs), self._batch):
                batch = self._jobs[start : start + self._batch]
                for result in self._launcher.launch(batch, initial_job_idx=start):
                    _ = result.return_value  # raises the runner's error
        except (Exception, KeyboardInterrupt) as error:  # Ctrl-C may reach a worker
            return error
        return None


def jobs_at_a_time(jobs: int, threads: int) -> int:
    """Return how many jobs, each with so many threads, the available cores can run at once."""
    return max(1, min(jobs, usable_cores() // threads))
