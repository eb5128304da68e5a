"""Experiment trackers as loggers: a failure of theirs is one line, and training goes on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rlkl.training.checkpoint import BEST, LAST
from rlkl.training.config import TrainConfig
from rlkl.training.loggers import LoggerConfig
from rlkl.training.report import Report
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_installed, described


class Tracker(Protocol):
    """A run in a tracker.

    It is made from a run's folder, its config, and the `run_id` of a run to continue, else empty.
    """

    run_id: str

    def log(self, scalars: dict[str, float], report: Report) -> None:
        """Log the scalars of a report that apply, by tag, and its pictures."""
        ...

    def save(self, files: list[Path]) -> None:
        """Save checkpoints as artifacts."""
        ...

    def close(self, status: str) -> None:
        """End the run: `finished`, `stopped` or `failed`."""
        ...


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
        tracker = _opened(name, run_dir, config, known if before == name else "")
    except Exception as error:
        _tell_of(name, error)
        return None
    saved = [LAST, BEST] if config.logger.track_checkpoints else []
    return TrackerLogger(name, tracker, [run_dir / "checkpoints" / file for file in saved])


def _opened(name: str, run_dir: Path, config: TrainConfig, run_id: str) -> Tracker:
    # Imported here because their packages are extras, and take seconds.
    if name == "wandb":
        from rlkl.training.wandb_tracker import WandbTracker  # noqa: PLC0415

        return WandbTracker(run_dir, config, run_id)
    if name == "trackio":
        from rlkl.training.trackio_tracker import TrackioTracker  # noqa: PLC0415

        return TrackioTracker(run_dir, config, run_id)
    from rlkl.training.mlflow_tracker import MLflowTracker  # noqa: PLC0415

    return MLflowTracker(run_dir, config, run_id)
