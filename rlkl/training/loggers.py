"""The interface of loggers, the CSV logger, and the formats of the other files of a run."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from rlkl.training.report import DIAGNOSIS_TAGS, TAGS, Report, is_own_column
from rlkl.training.running_means import info_numbers
from rlkl.utils.atomic_files import open_nofollow, sync, write_durably
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited, plain_data
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_text

PROGRESS = ("auto", "live", "plain", "none")
TRACKERS = ("none", "wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class LoggerConfig:
    """What is written in addition to the CSV files and the summary, and what is shown.

    Attributes:
        tensorboard: write TensorBoard events.
        histogram_interval: iterations between two sets of histograms; 0 for none.
        diagnosis_interval: iterations between two diagnoses of plasticity and collapse (ranks of
            features, dormant units, gradients by layer); 0 for none.
        video_interval: iterations between two videos of an episode with deterministic actions, in
            `videos/` and the logs (extra: video); 0 for none.
        info_keys: numbers in the infos of environments to log: `speed` or `speed:mean` is the mean
            over the steps of an iteration, `success:last` the mean over the last 100 episodes of
            the info of their last step, `is_success` the same as `info/success_rate`.
        tracker: `wandb`, `mlflow` or `trackio` (extras of these names) also gets what is logged.
        project: W&B's or Trackio's project, or MLflow's experiment.
        track_checkpoints: save `last.pt` and `best.pt` as artifacts of the tracker at the end.
        progress: `live` updates one line, `plain` prints lines now and then, `none` prints
            nothing, `auto` is live on a terminal and plain elsewhere.
    """

    tensorboard: bool = True
    histogram_interval: int = limited(10, at_least=0)
    diagnosis_interval: int = limited(0, at_least=0)
    video_interval: int = limited(0, at_least=0)
    info_keys: list[str] = field(default_factory=list)
    tracker: str = limited("none", choices=TRACKERS)
    project: str = "rlkl"
    track_checkpoints: bool = False
    progress: str = limited("auto", choices=PROGRESS)

    def __post_init__(self) -> None:
        check_fields(self, "logger.")
        info_numbers(self.info_keys)
        check_text("logger.project", self.project)
        if self.track_checkpoints and self.tracker == "none":
            raise ConfigError(
                "logger.track_checkpoints=true: there is no tracker; add logger.tracker=wandb, "
                "mlflow or trackio"
            )


HEADERS = {"metrics.csv": ["env_steps", *TAGS], "episodes.csv": ["env_steps", "return", "length"]}
"""The two CSV files of every run, and their columns without a diagnosis."""


def header_of(name: str, content: bytes, more: Sequence[str] = ()) -> list[str]:
    """Return the columns of a CSV file: its own, or those of a new file.

    An older version of rlkl wrote fewer. `more` are further columns of a new `metrics.csv`: of a
    diagnosis, of `logger.info_keys` and of callbacks.
    """
    is_metrics = name == "metrics.csv"
    of_diagnosis = DIAGNOSIS_TAGS if is_metrics else ()
    first = content.partition(b"\n")[0].decode(errors="replace").rstrip("\r").split(",")
    known = [column for column in (*HEADERS[name], *of_diagnosis) if column in first]
    known += dict.fromkeys(column for column in first if is_metrics and is_own_column(column))
    needed = {"env_steps", "kl/old_new"} & set(HEADERS[name])
    if first == known and needed <= set(first):
        return first
    return HEADERS[name] + (list(more) if is_metrics else [])


class Logger(Protocol):
    """Receives the report of every iteration; any object with these two methods is one."""

    def log(self, report: Report) -> None:
        """Log one iteration.

        Args:
            report: `scalars` by tag, NaN where one does not apply, at `env_steps`; with
                histograms, images, videos and the episodes that ended.
        """

    def close(self, status: str) -> None:
        """Write everything to disk.

        Args:
            status: how the run ended: `finished`, `stopped` or `failed`.
        """


class CSVLogger:
    """Writes `metrics.csv`, a row for each iteration, and `episodes.csv`, a row for each episode.

    Both files are complete after each iteration. NaN is an empty field.

    Args:
        run_dir: an existing folder; rows are appended to existing files, in their columns.
        more: columns of a new `metrics.csv` besides `TAGS`.
    """

    def __init__(self, run_dir: Path, more: Sequence[str] = ()) -> None:
        self._files = {name: _CSVFile(run_dir / name, more) for name in HEADERS}

    @property
    def columns(self) -> list[str]:
        """The columns of `metrics.csv`."""
        return self._files["metrics.csv"].header

    def sync(self) -> None:
        """Flush all rows to disk, so that they survive a power loss."""
        for file in self._files.values():
            sync(file.file)

    def digests(self) -> dict[str, dict[str, int | str]]:
        """Return the number of rows and the SHA-256 of each file."""
        return {
            name: {"rows": file.lines - 1, "sha256": file.digest.hexdigest()}
            for name, file in self._files.items()
        }

    def log(self, report: Report) -> None:
        """Write a row for the iteration, and one for each episode that ended in it."""
        self._files["episodes.csv"].rows.writerows(report.episodes)
        scalars, metrics = report.scalars, self._files["metrics.csv"]
        tags = metrics.header[1:]
        values = (scalars.get(tag, math.nan) for tag in tags)
        fields = ["" if math.isnan(value) else repr(value) for value in values]
        metrics.rows.writerow([report.env_steps, *fields])
        for file in self._files.values():
            file.file.flush()

    def close(self, status: str) -> None:
        """Close both files."""
        for file in self._files.values():
            file.file.close()


def open_csv(run_dir: Path, config: LoggerConfig, tags: Sequence[str]) -> CSVLogger:
    """Open the CSV files; `tags` are those of callbacks, more columns of a new `metrics.csv`."""
    diagnosis = DIAGNOSIS_TAGS if config.diagnosis_interval else ()
    tags = [*(number.tag for number in info_numbers(config.info_keys)), *tags]
    files = CSVLogger(run_dir, [*diagnosis, *tags])
    if missing := [tag for tag in tags if tag not in files.columns]:
        tell(
            f"metrics.csv has no columns for {', '.join(missing)}: the run began without them; "
            "the other loggers get these numbers"
        )
    return files


class _CSVFile:
    """A CSV file that is appended to, with its number of lines and its digest."""

    def __init__(self, path: Path, more: Sequence[str]) -> None:
        self.lines, self.digest = 0, hashlib.sha256()
        content = path.read_bytes() if path.exists() else b""
        self.header = header_of(path.name, content, more)
        self._count(content)
        self.file = open_nofollow(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "a", newline="")
        self.rows = csv.writer(self)
        if not self.lines:
            self.rows.writerow(self.header)

    def write(self, text: str) -> None:
        self.file.write(text)
        self._count(text.encode())

    def _count(self, content: bytes) -> None:
        self.lines += content.count(b"\n")
        self.digest.update(without_returns(content))


def without_returns(content: bytes) -> bytes:
    """Return the content to digest, without carriage returns: editors change line endings."""
    return content.replace(b"\r", b"")


def as_yaml(config: dict[str, Any]) -> str:
    """Return a config as YAML, in the order of its fields.

    Raises:
        ConfigError: it has a value that YAML cannot represent.
    """
    return str(yaml.safe_dump(plain_data(config), sort_keys=False, allow_unicode=True))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically; NaN and infinity become null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in content.items()
    }
    write_durably(path, (json.dumps(finite, indent=2, allow_nan=False) + "\n").encode())
