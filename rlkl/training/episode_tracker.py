"""Track the returns and lengths of training episodes."""

import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from rlkl.rollouts.rollout import Episode


class EpisodeTracker:
    """Counts training episodes, and stores the returns and lengths of the last 100.

    Attributes:
        count: episodes so far.
        return_best: best mean return of the last 100 episodes at the end of an iteration.
    """

    def __init__(self) -> None:
        self.count = 0
        self.return_best = -math.inf
        self._returns: deque[float] = deque(maxlen=100)
        self._lengths: deque[int] = deque(maxlen=100)

    @property
    def return_mean(self) -> float:
        """Mean training return of the last 100 episodes; NaN before the first."""
        return _mean(self._returns)

    @property
    def longest(self) -> int:
        """Length of the longest of the last 100 episodes; 0 before the first."""
        return max(self._lengths, default=0)

    def add(self, episodes: Sequence[Episode]) -> None:
        """Add the episodes that ended in an iteration."""
        self.count += len(episodes)
        self._returns.extend(episode.reward_sum for episode in episodes)
        self._lengths.extend(episode.length for episode in episodes)
        if self._returns:
            self.return_best = max(self.return_best, self.return_mean)

    def metrics(self) -> dict[str, float]:
        """Return the scalars of the report, by tag."""
        return {
            "return/train": self.return_mean,
            "episode/length": _mean(self._lengths),
            "episode/count": float(self.count),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data, for `load_state_dict`."""
        return {
            "episodes": self.count,
            "recent_returns": list(self._returns),
            "recent_lengths": list(self._lengths),
            "return_best": self.return_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; other keys of the state are ignored."""
        self.count = int(state["episodes"])
        self._returns.extend(state["recent_returns"])
        self._lengths.extend(state["recent_lengths"])
        self.return_best = float(state["return_best"])


def _mean(numbers: Collection[float]) -> float:
    """Return the mean, NaN if there are no numbers; for a few numbers faster than NumPy."""
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
