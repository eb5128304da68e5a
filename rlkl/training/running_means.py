"""Means over training episodes, and over numbers in infos, for the report of an iteration."""

import math
import re
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rlkl.rollouts.rollout import Episode
from rlkl.utils.errors import ConfigError

SUCCESS = "is_success"  # a key whose share of episode ends is `info/success_rate`

_ENTRY = re.compile(r"([\w.-]+(?:/[\w.-]+)*)(?::(mean|last))?", re.ASCII)


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


class InfoNumber(NamedTuple):
    """A number to track: its key in infos, whether at episode ends only, and its tag."""

    key: str
    is_last: bool
    tag: str


def info_numbers(entries: Sequence[str]) -> list[InfoNumber]:
    """Return the numbers that entries such as `speed`, `speed:mean` or `success:last` mean.

    Raises:
        ConfigError: an entry is no key, or two of them have the same tag.
    """
    numbers: list[InfoNumber] = []
    for entry in entries:
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ConfigError(
                f"logger.info_keys={entry}: expected a key of infos, such as speed, speed:mean or "
                "success:last"
            )
        key, is_last = found[1], found[2] == "last"
        tag = f"info/{key}" + "_last" * is_last
        if entry == SUCCESS:
            is_last, tag = True, "info/success_rate"
        if any(tag == number.tag for number in numbers):
            raise ConfigError(f"logger.info_keys={entry}: {tag} is there already; leave one out")
        numbers.append(InfoNumber(key, is_last, tag))
    return numbers


class InfoTracker:
    """Averages numbers in infos: over the steps of an iteration, or over episode ends.

    `keys` are in the order of the last dimension of a rollout's `infos`.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.numbers = info_numbers(entries)
        self.keys = tuple(number.key for number in self.numbers)
        self._ends = {
            number.tag: deque[float](maxlen=100) for number in self.numbers if number.is_last
        }
        self._unseen = dict.fromkeys(self.keys)

    def add(self, rollout: Any) -> dict[str, float]:
        """Add a rollout; return the report's scalars, NaN where no info had a number.

        `KEY` and `KEY:mean` are means over the transitions of the rollout, `KEY:last` over the last
        100 episodes, of the info of their last step.
        """
        if not self.numbers:
            return {}
        parts = rollout.infos, rollout.is_transition, rollout.ends
        infos, is_transition, ends = (torch.as_tensor(part).numpy(force=True) for part in parts)
        scalars = {}
        for number, values in zip(self.numbers, np.moveaxis(infos, -1, 0), strict=True):
            if not np.isnan(values[is_transition]).all():
                self._unseen.pop(number.key, None)
            found = values[is_transition & ends if number.is_last else is_transition]
            found = found[~np.isnan(found)]
            if number.is_last:
                self._ends[number.tag].extend(found.tolist())
                found = np.array(self._ends[number.tag])
            scalars[number.tag] = float(found.mean()) if len(found) else np.nan
        return scalars

    def warning(self, env_id: str) -> str:
        """Return, once, a line about keys that were in no info; else an empty string."""
        keys = ", ".join(self._unseen)
        self._unseen.clear()
        text = f"logger.info_keys: no info of {env_id} has had a number with the key {keys} so far"
        return text if keys else ""

    def state_dict(self) -> dict[str, list[float]]:
        """Return the numbers of the last 100 episode ends, by tag."""
        return {tag: list(values) for tag, values in self._ends.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Load what `state_dict` returned; tags that are not tracked are ignored."""
        for tag, values in self._ends.items():
            values.extend(state.get(tag, ()))
