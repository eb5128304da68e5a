"""What every experiment is: settings, the rows of numbers it comes to, a table and a drawing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlkl.training.config import TrainConfig
from rlkl.utils.validation import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, str | int | float]
Rows = list[Row]
Tell = Callable[[str], None]
"""Says in a line how far a calculation has come."""


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings of every experiment.

    Attributes:
        output: folder for the figure and its numbers; null for a new one below runs/show.
    """

    output: str | None = None


@dataclass(frozen=True)
class TrainingExperimentConfig(ExperimentConfig):
    """Settings of every experiment that trains.

    Attributes:
        train: what is trained; on the command line the keys of `rlkl train`.
    """

    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Experiment:
    """An entry of the registry.

    Attributes:
        purpose: what it shows, in one line.
        config: the dataclass of its settings.
        calculate: settings to rows, which are all that table and drawing are made from.
        tabulate: rows to the few that are printed.
        draw: puts rows into an empty figure.
        inches: width and height of the figure.
        overrides: of `rlkl train`, in front of the user's; None if the experiment trains nothing.
    """

    purpose: str
    config: type[ExperimentConfig]
    calculate: Callable[[Any, Tell], Rows]
    tabulate: Callable[[Rows], Rows]
    draw: Callable[["Figure", Rows], None]
    inches: tuple[float, float]
    overrides: tuple[str, ...] | None = None


def select(rows: Rows, **wanted: str | float) -> Rows:
    """Return the rows whose columns have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def column(rows: Rows, key: str) -> list[float]:
    """Return a column of numbers."""
    return [float(row[key]) for row in rows]


def distinct(rows: Rows, key: str) -> list[Any]:
    """Return the values of a column, each once, in the order in which they appear."""
    return list(dict.fromkeys(row[key] for row in rows))


def several(key: str, values: list[float]) -> list[float]:
    """Return the values of a setting that is a list.

    Raises:
        ConfigError: it is empty.
    """
    if not values:
        raise ConfigError(f"{key}=[]: expected at least one number, such as {key}=[0.01]")
    return values
