"""Studies with a learner that only counts steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import rlkl
from rlkl.tools.tuning.space import Choice, Interval, Space
from rlkl.tools.tuning.study import Study, Trial, TuneConfig
from rlkl.tools.tuning.training import Stop

SPACE: Space = {
    "gamma": Interval(0.5, 0.9),
    "rollout_steps": Interval(2, 8, step=2),
    "algo.clip_ratio": Choice(("0.1", "0.2", "0.3")),
}


def configure(values: dict[str, str]) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        algo=rlkl.PPOClipConfig(clip_ratio=float(values.get("algo.clip_ratio", 0.2))),
        gamma=float(values.get("gamma", 0.5)),
        rollout_steps=int(values.get("rollout_steps", 4)),
        total_env_steps=1000,
        seed=5,
    )


class FakeLearner:
    """100 steps per iteration; the return is γ · steps, minus 10 for the second seed."""

    made: list["FakeLearner"]
    curve: Callable[[rlkl.TrainConfig, int], float]

    def __init__(self, config: rlkl.TrainConfig) -> None:
        self.config, self.env_steps, self.closed = config, 0, False
        self.tracker = self  # its `return_mean`
        FakeLearner.made.append(self)

    def close(self) -> None:
        self.closed = True

    def iterate(self) -> None:
        self.env_steps += 100

    @property
    def return_mean(self) -> float:
        return FakeLearner.curve(self.config, self.env_steps)


def failing_curve(number: int, message: str) -> Callable[[rlkl.TrainConfig, int], float]:
    """Return a curve of which the learner of this number fails."""

    def curve(config: rlkl.TrainConfig, steps: int) -> float:
        if len(FakeLearner.made) == number:
            raise ValueError(message)
        return 0.5 * steps + len(FakeLearner.made)

    return curve


def study_in(folder: Path, space: Space = SPACE, first: Any = None, **settings: Any) -> Study:
    folder.mkdir(exist_ok=True)
    settings = {"trials": 4, "startup_trials": 2, "reports": 10} | settings
    return Study(folder, TuneConfig(**settings), space, 5, configure, first)


def never() -> bool:
    return False


def run(study: Study, stop: Stop = never) -> list[Trial]:
    study.run(stop, lambda trial, best: None)
    return study.trials


def timeless(trials: list[Trial]) -> list[Trial]:
    """Return trials without their durations."""
    return [replace(trial, seconds=0.0) for trial in trials]
