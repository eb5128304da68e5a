"""The folder of one call of a grid: what was requested, the status of each job, stop requests."""

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
from rlkl.utils.errors import ConfigError

CALLS = "calls"
"""Folder of a grid that contains a folder for each call."""

RECORD = "call"
"""File name in a call's folder for what was requested; jobs have files beside it."""

MAX_STOP_REQUESTS = 3
"""The first lets a job end its iteration, the second ends it at once, the third kills it."""


@dataclass(frozen=True)
class Status:
    """Status of a job."""

    name: str  # waiting, running, finished, stopped, failed, or taken by another process
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether no process of this call runs the job or will run it."""
        return self.name not in ("waiting", "running")


@dataclass(frozen=True)
class Call:
    """A call's folder, shared with its jobs on all machines."""

    folder: Path  # absolute

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write the config of a job, or what was requested."""
        write_durably(self.folder / f"{name}.yaml", as_yaml(content).encode())

    def config(self, job: str) -> TrainConfig:
        """Read the config of a job."""
        return saved_config(yaml.safe_load((self.folder / f"{job}.yaml").read_text()))

    def write_status(self, job: str, status: Status) -> None:
        """Write the status of a job."""
        write_json(self.folder / f"{job}.json", asdict(status))

    def status(self, job: str) -> Status:
        """Read the status of a job."""
        try:
            return Status(**json.loads((self.folder / f"{job}.json").read_text()))
        except FileNotFoundError:
            return Status("waiting")

    def started_jobs(self) -> set[str]:
        """Return the names of the jobs that are no longer waiting."""
        return {path.stem for path in self.folder.glob("*.json")}

    def request_stop(self) -> None:
        """Ask all jobs to stop; each further request is more urgent."""
        count = min(MAX_STOP_REQUESTS, self.stop_requests() + 1)
        write_durably(self.folder / "stop", str(count).encode())

    def stop_requests(self) -> int:
        """Return the number of stop requests."""
        with suppress(FileNotFoundError):
            return int((self.folder / "stop").read_text())
        return 0


def new_call(grid_dir: Path) -> Call:
    """Create the folder of a call, and the grid's folder if necessary.

    Raises:
        ConfigError: it cannot be created.
    """
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = grid_dir / CALLS / (now if number == 1 else f"{now}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
        return Call(folder.resolve())
    raise ConfigError(f"{folder} exists already; a thousand calls were made in this second")
