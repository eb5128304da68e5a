"""The scale of returns: random play and a good policy, for environments where they are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from rlkl.tools.compare.settings import CompareConfig

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


def reference(env: str, returns: Sequence[float], config: CompareConfig) -> Reference | None:
    """Return an environment's scale; None if none is known and all runs have the same return."""
    if env in config.references:
        low, high = config.references[env]
        return Reference(low, high, "set by references=")
    if env in RANDOM_AND_GOOD and config.normalize == "references":
        low, high = RANDOM_AND_GOOD[env]
        known = gymnasium_threshold(env) == high
        good = "Gymnasium's reward threshold" if known else "a good policy"
        return Reference(low, high, f"random actions; {good}")
    if not returns or min(returns) == max(returns):
        return None
    return Reference(min(returns), max(returns), "worst and best of these runs", relative=True)


def threshold(env: str, config: CompareConfig) -> tuple[float, str] | None:
    """Return the return that counts as solved, and its source; None if there is none."""
    chosen = config.threshold_of(env)
    if chosen is not None:
        return chosen, "set by threshold="
    known = gymnasium_threshold(env)
    if known is not None:
        return known, "Gymnasium's reward threshold"
    if env in RANDOM_AND_GOOD:
        return RANDOM_AND_GOOD[env][1], "a good policy"
    return None


def gymnasium_threshold(env: str) -> float | None:
    """Return an environment's reward threshold, if Gymnasium itself registers one."""
    spec = gymnasium.registry.get(env)
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)
