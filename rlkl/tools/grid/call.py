"""The record of one call of a grid: what it asked for, how each job stands, whether to stop."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlkl.training.config import TrainConfig, saved_config
from rlkl.training.loggers import as_yaml, write_json
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.validation import ConfigError

CALLS = "calls"
"""The folder in a grid's folder that has one for each call."""

RECORD = "call"
"""In a call's folder, what was asked for; jobs have files of their own names beside it."""

MOST_STOPS = 3
"""A job is asked to end after its iteration, then told to end at once, then killed."""


@dataclass(frozen=True)
class Status:
    """How a job stands.

    Attributes:
        name: `waiting`, `running`, or how it ended: `finished`, `stopped`, `failed`, or `taken`
            by another process, which is at it.
        reason: why it stopped or failed, else empty.
    """

    name: str
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether no process of this call is at it, or will be."""
        return self.name not in ("waiting", "running")


@dataclass(frozen=True)
class Call:
    """A call's folder, which its jobs see too, on whatever machine they run.

    Attributes:
        folder: exists; absolute.
    """

    folder: Path

    def write_record(self, record: dict[str, Any]) -> None:
        """Write down what was asked for."""
        write_durably(self.folder / f"{RECORD}.yaml", as_yaml(record).encode())

    def write_config(self, job: str, config: TrainConfig) -> None:
        """Write down what a job is to run."""
        write_durably(self.folder / f"{job}.yaml", as_yaml(asdict(config)).encode())

    def config(self, job: str) -> TrainConfig:
        """Return what a job is to run."""
        return saved_config(yaml.safe_load((self.folder / f"{job}.yaml").read_text()))

    def write_status(self, job: str, status: Status) -> None:
        """Tell how a job stands."""
        write_json(self.folder / f"{job}.json", asdict(status))

    def status(self, job: str) -> Status:
        """Return how a job stands."""
        try:
            return Status(**json.loads((self.folder / f"{job}.json").read_text()))
        except FileNotFoundError:
            return Status("waiting")

    def told(self) -> set[str]:
        """Return the jobs that are not just waiting."""
        return {path.stem for path in self.folder.glob("*.json")}

    def ask_to_stop(self) -> None:
        """Ask all jobs to stop; the next time, to be quicker about it."""
        asked = min(MOST_STOPS, self.stops_asked() + 1)
        write_durably(self.folder / "stop", str(asked).encode())

    def stops_asked(self) -> int:
        """Return how often that was asked."""
        with suppress(FileNotFoundError):
            return int((self.folder / "stop").read_text())
        return 0


def new_call(grid_dir: Path) -> Call:
    """Make the folder of a call.

    Args:
        grid_dir: of the grid; made if it is not there.

    Raises:
        ConfigError: it cannot be made.
    """
    moment = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = grid_dir / CALLS / (moment if number == 1 else f"{moment}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
        return Call(folder.resolve())
    raise ConfigError(f"{folder} exists already, as do a thousand others of this second")
