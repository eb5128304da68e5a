"""Settings of a comparison."""

import math
from dataclasses import dataclass, field
from typing import Any

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, check_range


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `rlkl compare`.

    Attributes:
        output: folder of the report; null creates one below runs/compare.
        statistic: over seeds: `iqm`, the interquartile mean, or `mean`.
        score: of a run: `train`, its training return (mean of the last 100 episodes), or `eval`,
            its last evaluation.
        steps: environment steps at which runs are compared; null for the smallest budget of a
            finished run of each environment.
        threshold: return that counts as solved, a number or {ENV: number}; null for Gymnasium's.
        normalize: meaning of 0 and 1: `references`, or the worst and best of the `runs`.
        references: {ENV: [LOW, HIGH]}, returns that are 0 and 1, instead of the known ones.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """

    output: str | None = None
    statistic: str = "iqm"
    score: str = "train"
    steps: int | None = None
    threshold: Any = None
    normalize: str = "references"
    references: dict[str, Any] = field(default_factory=dict)
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("statistic", self.statistic, ("iqm", "mean"))
        check_choice("score", self.score, ("train", "eval"))
        check_choice("normalize", self.normalize, ("references", "runs"))
        if self.steps is not None:
            check_range("steps", self.steps, at_least=1)
        by_env = isinstance(self.threshold, dict)
        thresholds = list(self.threshold.values()) if by_env else [self.threshold]
        if not all(map(_is_number, thresholds)) and self.threshold is not None:
            raise ConfigError(
                f"threshold={self.threshold}: expected a return, such as threshold=475, "
                "or one for each environment: threshold={CartPole-v1: 475}"
            )
        for env, pair in self.references.items():
            numbers = isinstance(pair, list) and all(map(_is_number, pair))
            if not numbers or len(pair) != 2 or not pair[0] < pair[1]:
                raise ConfigError(
                    f"references={{{env}: {pair}}}: expected two returns [LOW, HIGH] with "
                    "LOW < HIGH, whose scores are 0 and 1"
                )
        check_range("resamples", self.resamples, at_least=100, at_most=1_000_000)
        check_range("seed", self.seed, at_least=0)

    def threshold_of(self, env: str) -> float | None:
        """Return the threshold that was set for an environment, or None."""
        if isinstance(self.threshold, dict):
            return self.threshold.get(env)
        return None if self.threshold is None else float(self.threshold)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
