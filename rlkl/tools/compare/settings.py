"""Settings of a comparison, and the scale and the threshold that they choose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited

RANDOM_AND_GOOD: dict[str, tuple[float, float]] = {
    "CartPole-v1": (22.0, 475.0),
    "Acrobot-v1": (-500.0, -100.0),
    "Pendulum-v1": (-1227.0, -170.0),
    "LunarLander-v3": (-180.0, 200.0),
    "InvertedPendulum-v5": (5.0, 950.0),
    "InvertedDoublePendulum-v5": (48.0, 9100.0),
    "Reacher-v5": (-43.0, -3.75),
    "Swimmer-v5": (-3.0, 360.0),
    "Hopper-v5": (19.0, 3800.0),
    "HalfCheetah-v5": (-286.0, 4800.0),
    "Walker2d-v5": (2.0, 3500.0),
    "Ant-v5": (-54.0, 6000.0),
}
"""Mean return of uniformly random actions; Gymnasium's threshold or, if there is none, a return
that is considered good."""


@dataclass(frozen=True)
class Reference:
    """The returns whose scores are 0 and 1, where they come from, and whether from these runs."""

    low: float
    high: float
    source: str
    relative: bool = False

    @property
    def range(self) -> float:
        """Difference between the two returns."""
        return self.high - self.low

    def normalized(self, value: Any) -> Any:
        """Return the score of a return, or of an array: (value - low) / (high - low)."""
        return (value - self.low) / self.range


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
    statistic: str = limited("iqm", choices=("iqm", "mean"))
    score: str = limited("train", choices=("train", "eval"))
    steps: int | None = limited(None, at_least=1)
    threshold: Any = None
    normalize: str = limited("references", choices=("references", "runs"))
    references: dict[str, Any] = field(default_factory=dict)
    resamples: int = limited(2000, at_least=100, at_most=1_000_000)
    seed: int = limited(0, at_least=0)

    def __post_init__(self) -> None:
        check_fields(self)
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

    def reference_of(self, env: str, returns: Sequence[float]) -> Reference | None:
        """Return an environment's scale; None if it is unknown and all returns are the same."""
        if env in self.references:
            low, high = self.references[env]
            return Reference(low, high, "set by references=")
        if env in RANDOM_AND_GOOD and self.normalize == "references":
            low, high = RANDOM_AND_GOOD[env]
            known = gymnasium_threshold(env) == high
            good = "Gymnasium's reward threshold" if known else "a good policy"
            return Reference(low, high, f"random actions; {good}")
        if not returns or min(returns) == max(returns):
            return None
        return Reference(min(returns), max(returns), "worst and best of these runs", relative=True)

    def threshold_of(self, env: str) -> tuple[float, str] | None:
        """Return the return that counts as solved, and its source; None if there is none."""
        if isinstance(self.threshold, dict):
            if env in self.threshold:
                return self.threshold[env], "set by threshold="
        elif self.threshold is not None:
            return float(self.threshold), "set by threshold="
        if (known := gymnasium_threshold(env)) is not None:
            return known, "Gymnasium's reward threshold"
        if env in RANDOM_AND_GOOD:
            return RANDOM_AND_GOOD[env][1], "a good policy"
        return None


def gymnasium_threshold(env: str) -> float | None:
    """Return an environment's reward threshold, if Gymnasium itself registers one."""
    spec = gymnasium.registry.get(env)
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
