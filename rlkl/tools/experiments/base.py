"""What all experiments share: settings, rows of numbers, a table and a figure."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from rlkl.tools.experiments.drawing import Figure
from rlkl.tools.rows import Rows
from rlkl.training.config import TrainConfig
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields

Tell = Callable[[str], None]
"""Reports progress in one line."""


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings of every experiment.

    Attributes:
        output: folder for the figure and its numbers; null creates one below runs/show.
    """

    output: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for key in (each.name for each in fields(self)):
            if getattr(self, key) == []:
                raise ConfigError(f"{key}=[]: expected at least one number, such as {key}=[0.01]")


@dataclass(frozen=True)
class TrainingExperimentConfig(ExperimentConfig):
    """Settings of every experiment that trains.

    Attributes:
        train: the training config; its keys on the command line are those of `rlkl train`.
    """

    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Experiment:
    """An experiment and its functions.

    Attributes:
        purpose: one line for the help text.
        config: dataclass of the settings.
        calculate: returns the rows that table and figure are made from.
        tabulate: returns the rows that are printed.
        draw: draws rows into an empty figure.
        inches: width and height of the figure.
        overrides: of `rlkl train`, before the user's; None if the experiment trains nothing.
    """

    purpose: str
    config: type[ExperimentConfig]
    calculate: Callable[[Any, Tell], Rows]
    tabulate: Callable[[Rows], Rows]
    draw: Callable[[Figure, Rows], None]
    inches: tuple[float, float]
    overrides: tuple[str, ...] | None = None
