"""What a run leaves behind: a folder with metrics, episodes, TensorBoard events and a summary."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import yaml
from torch import Tensor

from rlkl.algos.base import Metrics
from rlkl.rollouts.rollout import Episode
from rlkl.training.diagnostics import TAGS
from rlkl.training.tensorboard import (
    KL_BOUNDS,
    KL_OF_RUN,
    LAYOUT,
    EventFile,
    experiment,
    forget_end,
    session_end,
    session_start,
)
from rlkl.utils.atomic_files import open_unlinked, sync, write_durably
from rlkl.utils.field_types import check_fields, plain_data
from rlkl.utils.validation import ConfigError, check_choice, check_range, check_text

PROGRESS = ("auto", "live", "plain", "none")


@dataclass(frozen=True)
class LoggerConfig:
    """What is written beside the CSV files and the summary, which every run has.

    Attributes:
        tensorboard: write TensorBoard events.
        histogram_interval: iterations from one set of histograms to the next; 0 for none.
        progress: `live` is one line that moves, `plain` prints lines now and then, `none` is
            silence, `auto` is live on a terminal and plain elsewhere.
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
"""The two files that every run has, and their columns."""


APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class Logger(Protocol):
    """Keeps what training reports."""

    def log(self, env_steps: int, metrics: Metrics, histograms: dict[str, Tensor]) -> None:
        """Keep one iteration: scalars (NaN where a tag does not apply) and histograms."""
        ...

    def log_episodes(self, episodes: Iterable[Episode]) -> None:
        """Keep finished training episodes."""
        ...

    def close(self, status: str) -> None:
        """Put everything on the disk.

        Args:
            status: how the run ended: `finished`, `stopped` or `failed`.
        """
        ...


class CSVLogger:
    """`metrics.csv`, a row for each iteration, and `episodes.csv`, a row for each episode.

    Both are on the disk after each iteration. NaN is an empty field.

    Args:
        run_dir: exists, without these files, or with those that a resumed run keeps.
    """

    def __init__(self, run_dir: Path) -> None:
        self._files = {name: _GrowingFile(run_dir / name) for name in HEADERS}
        writers = []
        for name, file in self._files.items():
            writers.append(csv.writer(file))
            if not file.lines:
                writers[-1].writerow(HEADERS[name])
        self._metrics, self._episodes = writers

    def sync(self) -> None:
        """Put all rows where a loss of power leaves them."""
        for file in self._files.values():
            sync(file.file)

    def digests(self) -> dict[str, dict[str, int | str]]:
        """Return of each file how many rows it has, and the SHA-256 of all of it."""
        return {
            name: {"rows": file.lines - 1, "sha256": file.digest}
            for name, file in self._files.items()
        }

    def log(self, env_steps: int, metrics: Metrics, histograms: dict[str, Tensor]) -> None:
        """Write one row."""
        fields = ["" if math.isnan(metrics[tag]) else repr(metrics[tag]) for tag in TAGS]
        self._metrics.writerow([env_steps, *fields])
        for file in self._files.values():
            file.file.flush()

    def log_episodes(self, episodes: Iterable[Episode]) -> None:
        """Write one row for each episode."""
        self._episodes.writerows(episodes)

    def close(self, status: str) -> None:
        """Close both files."""
        for file in self._files.values():
            file.file.close()


class _GrowingFile:
    """A file that is written on at its end, its number of lines, and the digest of all of it."""

    def __init__(self, path: Path) -> None:
        self.lines, self._digest = 0, hashlib.sha256()
        self._add(path.read_bytes() if path.exists() else b"")
        self.file = open_unlinked(path, APPEND, "a", newline="")

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
    """Return what a digest is of: editors and archives change the ends of lines."""
    return content.replace(b"\r", b"")


class TensorBoardLogger:
    """TensorBoard events, environment steps along the x-axis.

    Args:
        run_dir: where the event file goes.
        config: of the run, a `TrainConfig`; shown as text and in the table of hyperparameters.
        env_steps: made before, by a run that is resumed; events from behind are no longer shown.
        kl_so_far: KL(π_old ‖ π_θ) of each iteration up to there, in nats.
    """

    def __init__(
        self, run_dir: Path, config: Any, env_steps: int = 0, kl_so_far: Sequence[float] = ()
    ) -> None:
        # Imported here: it takes a second that a run without it need not spend.
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
        self._events.add(self._forms.custom_scalars(LAYOUT))
        self._events.add(experiment(type(config)))
        self._events.add(session_start(config))
        self._events.flush()

    def log(self, env_steps: int, metrics: Metrics, histograms: dict[str, Tensor]) -> None:
        """Write the scalars that apply, and the histograms when it is their turn."""
        scalars = {tag: value for tag, value in metrics.items() if not math.isnan(value)}
        if {"kl/old_new", "kl/target"} <= scalars.keys():
            bounds = (factor * scalars["kl/target"] for factor in self._kl_bounds)
            scalars |= zip(KL_BOUNDS, (scalars["kl/old_new"], *bounds), strict=True)
        self._write(env_steps, scalars)
        if self._histogram_interval and self._iterations % self._histogram_interval == 0:
            for tag, values in histograms.items():
                if values.isfinite().all():  # TensorBoard has no bin for infinity
                    # Its default of 1,500 bins takes three times as long, and is drawn in 30.
                    shown = self._forms.histogram(tag, values.numpy(force=True), 64)
                    self._events.add(shown, env_steps)
        self._iterations += 1
        self._env_steps = env_steps
        self._kl_sum += metrics["kl/old_new"]
        self._events.flush()

    def _write(self, env_steps: int, scalars: Metrics) -> None:
        # One event for all of them: `add_scalar` for each takes five times as long.
        values = [self._summary.Value(tag=tag, simple_value=scalars[tag]) for tag in scalars]
        self._events.add(self._summary(value=values), env_steps)

    def log_episodes(self, episodes: Iterable[Episode]) -> None:
        """Write nothing: `return/train` is the mean over episodes."""

    def close(self, status: str) -> None:
        """Write what is known at the end alone, and what is pending."""
        if self._iterations and not math.isnan(self._kl_sum):
            self._write(self._env_steps, {KL_OF_RUN: self._kl_sum / self._iterations})
        self._events.add(session_end(status))
        self._events.close()


def as_yaml(config: dict[str, Any]) -> str:
    """Return a config as YAML, in the order of its fields.

    Raises:
        ConfigError: it holds what YAML cannot.
    """
    text: str = yaml.safe_dump(plain_data(config), sort_keys=False, allow_unicode=True)
    return text


def make_run_dir(
    run_dir: str | None, env_id: str, algo: str, seed: int, begun_in: Path = Path()
) -> Path:
    """Make the folder of a run, one that does not exist yet, and return it as it is typed.

    Args:
        run_dir: where the user wants it; None for `runs/<env>/<algo>/<date-time>-seed<seed>`, with
            a number behind it where two runs begin in the same second.
        env_id: Gymnasium id, whose module the folder's name leaves out.
        algo: name of the algorithm.
        seed: of the run.
        begun_in: what a path that is not absolute is relative to, wherever an environment has
            changed the working directory to.

    Raises:
        ConfigError: the folder exists already, or cannot be made.
    """
    if run_dir is not None:
        path = check_folder("run_dir", run_dir, begun_in)
        try:
            (begun_in / path).mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(
                f"run_dir={run_dir} exists already and is not overwritten; choose another"
            ) from None
        except OSError as error:
            raise ConfigError(f"run_dir={run_dir} cannot be made: {error.strerror}") from error
        return path
    # Without the module that registers it: `Corridor-v0` for `my_package:Corridor-v0`.
    env = env_id.rpartition(":")[2].replace("/", "_")
    moment = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path("runs", env, algo)
    name = f"{moment}-seed{seed}"
    for number in range(1, 1000):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            (begun_in / path).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}") from error
        return path
    raise ConfigError(f"{parent / name} exists already, a thousand times; set run_dir=")


def check_folder(key: str, folder: str, begun_in: Path = Path()) -> Path:
    """Return the folder that a user wants, if one could be made there or is there already.

    Args:
        key: that it is the value of.
        folder: as typed.
        begun_in: what it is relative to.

    Raises:
        ConfigError: its name is none, something on the way to it is a file, or it may not be
            written into.
    """
    check_text(key, folder)
    path = Path(folder)
    try:
        if ".." in path.parts:
            # Without it, mkdir would also make the folders before the `..`.
            path = (begun_in / path).resolve()
        full = begun_in / path
        there = next(parent for parent in (full, *full.parents) if parent.exists())
    except OSError as error:
        raise ConfigError(f"{key}={folder} cannot be made: {error.strerror}") from error
    if there != full and not there.is_dir():
        raise ConfigError(f"{key}={folder} cannot be made: {there} is not a folder")
    if there != full and not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder} cannot be made: {there} may not be written into")
    return path


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is whole at every moment; NaN and infinity become null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in content.items()
    }
    write_durably(path, (json.dumps(finite, indent=2, allow_nan=False) + "\n").encode())
