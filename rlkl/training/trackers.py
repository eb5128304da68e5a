"""Experiment trackers as loggers: a failure of theirs is one line, and training goes on."""

import io
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlkl.training.checkpoint import BEST, LAST
from rlkl.training.config import TrainConfig, leaves
from rlkl.training.loggers import LoggerConfig
from rlkl.training.pictures import gif_bytes, png_bytes
from rlkl.training.report import Report
from rlkl.training.run_folder import run_name
from rlkl.utils.field_types import plain_data
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_installed, described, one_line

SECONDS_TO_CONNECT = 30.0  # after them a run in W&B is logged offline

WANDB_EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 255}
"""What W&B shows as finished, failed and killed."""

MLFLOW_STATUSES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Environment variables that keep a server that is gone from holding up training for minutes."""

MOST_PARAMS, MOST_CHARACTERS = 100, 6000
"""MLflow's limits: hyperparameters in one call, and characters of a value."""


class Tracker(Protocol):
    """A run in a tracker, whose steps are environment steps.

    It is made from a run's folder, its config, and the `run_id` of a run to continue, else empty.
    """

    run_id: str

    def log(self, scalars: dict[str, float], report: Report) -> None:
        """Log the scalars of a report that apply, by tag, and its pictures."""

    def save(self, files: list[Path]) -> None:
        """Save checkpoints as artifacts."""

    def close(self, status: str) -> None:
        """End the run: `finished`, `stopped` or `failed`."""


class _Wandb:
    """A run in Weights & Biases; offline without a key or a network.

    W&B's files go to `wandb/` in the run's folder.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, run_id: str) -> None:
        self._wandb: Any = import_module("wandb")
        self._interval, self._iterations = config.logger.histogram_interval, 0
        self._settings = {
            "project": config.logger.project,
            "name": run_name(run_dir),
            "group": f"{config.env.id}/{config.algo.name}",
            "id": run_id or None,
            "resume": "allow",
            "dir": str(run_dir),
            "config": asdict(config),
        }
        self._run = self._opened()
        self.run_id = str(self._run.id)

    def _opened(self) -> Any:
        """Open the run, online if that is possible."""
        if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
            return self._init(None)
        try:
            if not self._wandb.login(prompt=False, verify=False):
                raise PermissionError("no API key; `wandb login` stores one")
            return self._init(None)
        except Exception as error:
            run = self._init("offline")
            tell(
                f"logger.tracker=wandb: {one_line(error)}; the run is logged offline, and uploaded "
                f"by: wandb sync {run.settings.sync_dir}"
            )
            return run

    def _init(self, mode: str | None) -> Any:
        quiet = {"console": "off", "silent": True, "init_timeout": SECONDS_TO_CONNECT}
        settings = self._wandb.Settings(**quiet)
        return self._wandb.init(**self._settings, mode=mode, settings=settings)

    def log(self, scalars: dict[str, float], report: Report) -> None:
        wandb, content = self._wandb, dict[str, Any](scalars)
        if self._interval and self._iterations % self._interval == 0:
            for tag, values in report.histograms.items():
                if values.isfinite().all():
                    found = np.histogram(values.numpy(force=True), 64)
                    content[tag] = wandb.Histogram(np_histogram=found)
        content |= {tag: wandb.Image(image) for tag, image in report.images.items()}
        for tag, video in report.videos.items():
            content[tag] = wandb.Video(io.BytesIO(gif_bytes(video)), format="gif")
        self._run.log(content, step=report.env_steps)
        self._iterations += 1

    def save(self, files: list[Path]) -> None:
        self._run.log_artifact(_artifact(self._wandb, f"checkpoints-{self.run_id}", files))

    def close(self, status: str) -> None:
        self._run.finish(exit_code=WANDB_EXIT_CODES[status])


class _Trackio:
    """A run in Trackio, Hugging Face's tracker, which keeps its runs in files of this machine.

    Trackio's own variables say where to: `TRACKIO_DIR`, `TRACKIO_SERVER_URL` or `TRACKIO_SPACE_ID`.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, run_id: str) -> None:
        self._trackio: Any = import_module("trackio")
        with redirect_stdout(io.StringIO()):  # it prints how to open its dashboard
            self._run = self._trackio.init(
                project=config.logger.project,
                name=run_id or run_name(run_dir),
                group=f"{config.env.id}/{config.algo.name}",
                config=_flat(config),
                resume="must" if run_id else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.run_id = str(self._run.name)

    def log(self, scalars: dict[str, float], report: Report) -> None:
        content = dict[str, Any](scalars)
        content |= {tag: self._trackio.Image(image) for tag, image in report.images.items()}
        with tempfile.TemporaryDirectory() as folder:  # Trackio copies what is in it
            for number, (tag, video) in enumerate(report.videos.items()):
                path = Path(folder, f"{number}.gif")
                path.write_bytes(gif_bytes(video))
                content[tag] = self._trackio.Video(path)
            self._run.log(content, step=report.env_steps)

    def save(self, files: list[Path]) -> None:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"checkpoints-{self.run_id}")
        self._run.log_artifact(_artifact(self._trackio, name, files))

    def close(self, status: str) -> None:
        with redirect_stdout(io.StringIO()):  # Trackio knows no status
            self._trackio.finish()


class _MLflow:
    """A run in MLflow.

    The server is that of MLflow's own variable `MLFLOW_TRACKING_URI`, and the experiment
    `logger.project`.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, run_id: str) -> None:
        for key, value in MLFLOW_PATIENCE.items():
            os.environ.setdefault(key, value)
        self._entities: Any = import_module("mlflow.entities")
        self._client: Any = import_module("mlflow").MlflowClient()
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        project = config.logger.project
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        run = self._client.create_run(experiment, run_name=run_name(run_dir))
        self.run_id = str(run.info.run_id)
        params = [
            self._entities.Param(key, str(value)[:MOST_CHARACTERS])
            for key, value in _flat(config).items()
        ]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self.run_id, params=params[start : start + MOST_PARAMS])

    def log(self, scalars: dict[str, float], report: Report) -> None:
        """Log numbers in one call, and pictures as artifacts."""
        now, step = int(1000 * time.time()), report.env_steps
        metrics = [self._entities.Metric(tag, value, now, step) for tag, value in scalars.items()]
        self._client.log_batch(self.run_id, metrics=metrics)
        pictures = {f"{tag}/{step}.png": png_bytes(i) for tag, i in report.images.items()}
        pictures |= {f"{tag}/{step}.gif": gif_bytes(v) for tag, v in report.videos.items()}
        for name, content in pictures.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, Path(name).name)
                path.write_bytes(content)
                self._client.log_artifact(self.run_id, str(path), str(Path(name).parent))

    def save(self, files: list[Path]) -> None:
        for path in files:
            self._client.log_artifact(self.run_id, str(path), "checkpoints")

    def close(self, status: str) -> None:
        self._client.set_terminated(self.run_id, MLFLOW_STATUSES[status])


KINDS: dict[str, Callable[[Path, TrainConfig, str], Tracker]] = {
    "wandb": _Wandb,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}


def _flat(config: TrainConfig) -> dict[str, Any]:
    return dict(leaves(plain_data(asdict(config))))


def _artifact(module: Any, name: str, files: list[Path]) -> Any:
    artifact = module.Artifact(name, type="model")
    for path in files:
        artifact.add_file(str(path))
    return artifact


class TrackerLogger:
    """Passes reports to a tracker until it fails, and checkpoints that exist at the end."""

    def __init__(self, name: str, tracker: Tracker, checkpoints: list[Path]) -> None:
        self.name, self.run_id = name, tracker.run_id
        self._tracker, self._checkpoints = tracker, checkpoints
        self._has_failed = False

    def log(self, report: Report) -> None:
        """Log the numbers that apply, with the tags of `metrics.csv`."""
        scalars = {tag: value for tag, value in report.scalars.items() if not math.isnan(value)}
        self._attempt(lambda: self._tracker.log(scalars, report))

    def close(self, status: str) -> None:
        """Save the checkpoints, if the config says so, and end the tracker's run."""
        files = [path for path in self._checkpoints if path.exists()]
        if files:
            self._attempt(lambda: self._tracker.save(files))
        self._attempt(lambda: self._tracker.close(status))

    def _attempt(self, work: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            work()
        except Exception as error:
            self._has_failed = True
            _tell_of(self.name, error)


def _tell_of(name: str, error: Exception) -> None:
    tell(f"logger.tracker={name}: {described(error)}; training continues without it")


def check_tracker(config: LoggerConfig) -> None:
    """Raise MissingPackageError if the package of the tracker is not installed."""
    if config.tracker != "none":
        check_installed(config.tracker, config.tracker, f"logger.tracker={config.tracker}")


def open_tracker(run_dir: Path, config: TrainConfig, run_id: str) -> TrackerLogger | None:
    """Open the run of the config's tracker; None without one, or if that fails.

    `run_id` is `tracker:id` of a run to continue; empty for a new one.
    """
    name = config.logger.tracker
    if name == "none":
        return None
    before, _, known = run_id.partition(":")
    try:
        tracker = KINDS[name](run_dir, config, known if before == name else "")
    except Exception as error:
        _tell_of(name, error)
        return None
    saved = [LAST, BEST] if config.logger.track_checkpoints else []
    return TrackerLogger(name, tracker, [run_dir / "checkpoints" / file for file in saved])
