"""Loggers: metrics and episodes as CSV files, and TensorBoard events."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from rlkl.algos.base import Metrics
from rlkl.training.report import TAGS, Report
from rlkl.training.tensorboard import (
    KL_BOUNDS,
    KL_OF_RUN,
    EventFile,
    experiment,
    forget_end,
    layout,
    session_end,
    session_start,
)
from rlkl.utils.atomic_files import open_nofollow, sync, write_durably
from rlkl.utils.field_types import check_fields, plain_data
from rlkl.utils.validation import check_choice, check_range

PROGRESS = ("auto", "live", "plain", "none")


@dataclass(frozen=True)
class LoggerConfig:
    """What is written in addition to the CSV files and the summary, and what is shown.

    Attributes:
        tensorboard: write TensorBoard events.
        histogram_interval: iterations between two sets of histograms; 0 for none.
        progress: `live` updates one line, `plain` prints lines now and then, `none` prints
            nothing, `auto` is live on a terminal and plain elsewhere.
    """

    tensorboard: bool = True
    histogram_interval: int = 10
    progress: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "logger.")
        check_range("logger.histogram_interval", self.histogram_interval, at_least=0)
        check_choice("logger.progress", self.progress, PROGRESS)


HEADERS = {
    "metrics.csv": ["env_steps", *TAGS],
    "episodes.csv": ["env_steps", "return", "length"],
}
"""The two CSV files of every run, and their columns."""


APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class Logger(Protocol):
    """Receives the report of every iteration."""

    def log(self, report: Report) -> None:
        """Log one iteration."""
        ...

    def close(self, status: str) -> None:
        """Write everything to disk.

        Args:
            status: how the run ended: `finished`, `stopped` or `failed`.
        """
        ...


class CSVLogger:
    """Writes `metrics.csv`, a row for each iteration, and `episodes.csv`, a row for each episode.

    Both files are complete after each iteration. NaN is an empty field.

    Args:
        run_dir: an existing folder; rows are appended to existing files.
    """

    def __init__(self, run_dir: Path) -> None:
        self._files = {name: _AppendedFile(run_dir / name) for name in HEADERS}
        writers = []
        for name, file in self._files.items():
            writers.append(csv.writer(file))
            if not file.lines:
                writers[-1].writerow(HEADERS[name])
        self._metrics, self._episodes = writers

    def sync(self) -> None:
        """Flush all rows to disk, so that they survive a power loss."""
        for file in self._files.values():
            sync(file.file)

    def digests(self) -> dict[str, dict[str, int | str]]:
        """Return the number of rows and the SHA-256 of each file."""
        return {
            name: {"rows": file.lines - 1, "sha256": file.digest}
            for name, file in self._files.items()
        }

    def log(self, report: Report) -> None:
        """Write a row for the iteration, and one for each episode that ended in it."""
        self._episodes.writerows(report.episodes)
        scalars = report.scalars
        fields = ["" if math.isnan(scalars[tag]) else repr(scalars[tag]) for tag in TAGS]
        self._metrics.writerow([report.env_steps, *fields])
        for file in self._files.values():
            file.file.flush()

    def close(self, status: str) -> None:
        """Close both files."""
        for file in self._files.values():
            file.file.close()


class _AppendedFile:
    """A file that is appended to, with its number of lines and its digest."""

    def __init__(self, path: Path) -> None:
        self.lines, self._digest = 0, hashlib.sha256()
        self._add(path.read_bytes() if path.exists() else b"")
        self.file = open_nofollow(path, APPEND, "a", newline="")

    def write(self, text: str) -> None:
        self.file.write(text)
        self._add(text.encode())

    def _add(self, content: bytes) -> None:
        self.lines += content.count(b"\n")
        self._digest.update(without_returns(content))

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def without_returns(content: bytes) -> bytes:
    """Return the content to digest, without carriage returns: editors change line endings."""
    return content.replace(b"\r", b"")


class TensorBoardLogger:
    """Writes TensorBoard events, with environment steps on the x-axis.

    Args:
        run_dir: folder of the event file.
        config: of the run, a `TrainConfig`; shown as text and in the table of hyperparameters.
        env_steps: of the checkpoint, in a resumed run; TensorBoard drops events after it.
        kl_so_far: KL(π_old ‖ π_θ) of each iteration so far, in nats.
    """

    def __init__(
        self, run_dir: Path, config: Any, env_steps: int = 0, kl_so_far: Sequence[float] = ()
    ) -> None:
        # Imported here because it takes a second, which a run without TensorBoard saves.
        import tensorboard.compat.proto.summary_pb2 as summaries  # type: ignore[import-untyped]  # noqa: PLC0415
        import torch.utils.tensorboard.summary as torch_summaries  # noqa: PLC0415

        forget_end(run_dir)
        self._summary: Any = summaries.Summary
        self._forms: Any = torch_summaries
        self._events = EventFile(run_dir, env_steps + 1)
        self._histogram_interval = config.logger.histogram_interval
        self._kl_bounds = config.algo.kl_bounds
        self._iterations, self._env_steps = len(kl_so_far), env_steps
        self._kl_sum = sum(kl_so_far)
        self._events.add(self._forms.text("config", f"```yaml\n{as_yaml(asdict(config))}```"))
        self._events.add(self._forms.custom_scalars(layout()))
        self._events.add(experiment(type(config)))
        self._events.add(session_start(config))
        self._events.flush()

    def log(self, report: Report) -> None:
        """Write the scalars that apply, and the histograms every `histogram_interval`."""
        env_steps, all_scalars = report.env_steps, report.scalars
        scalars = {tag: value for tag, value in all_scalars.items() if not math.isnan(value)}
        if {"kl/old_new", "kl/target"} <= scalars.keys():
            bounds = (factor * scalars["kl/target"] for factor in self._kl_bounds)
            scalars |= zip(KL_BOUNDS, (scalars["kl/old_new"], *bounds), strict=True)
        self._write(env_steps, scalars)
        if self._histogram_interval and self._iterations % self._histogram_interval == 0:
            for tag, values in report.histograms.items():
                if values.isfinite().all():  # TensorBoard has no bin for infinity
                    # The default is 1,500 bins, which is slow; TensorBoard draws 30.
                    summary = self._forms.histogram(tag, values.numpy(force=True), 64)
                    self._events.add(summary, env_steps)
        self._iterations += 1
        self._env_steps = env_steps
        self._kl_sum += all_scalars["kl/old_new"]
        self._events.flush()

    def _write(self, env_steps: int, scalars: Metrics) -> None:
        # One event for all scalars: `add_scalar` for each is slow.
        values = [self._summary.Value(tag=tag, simple_value=scalars[tag]) for tag in scalars]
        self._events.add(self._summary(value=values), env_steps)

    def close(self, status: str) -> None:
        """Write the mean KL of the run and how it ended, and close the file."""
        if self._iterations and not math.isnan(self._kl_sum):
            self._write(self._env_steps, {KL_OF_RUN: self._kl_sum / self._iterations})
        self._events.add(session_end(status))
        self._events.close()


def as_yaml(config: dict[str, Any]) -> str:
    """Return a config as YAML, in the order of its fields.

    Raises:
        ConfigError: it has a value that YAML cannot represent.
    """
    text: str = yaml.safe_dump(plain_data(config), sort_keys=False, allow_unicode=True)
    return text


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically; NaN and infinity become null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in content.items()
    }
    write_durably(path, (json.dumps(finite, indent=2, allow_nan=False) + "\n").encode())
