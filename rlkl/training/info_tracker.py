"""Track the numbers that `logger.info_keys` asks for."""

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rlkl.utils.errors import ConfigError

SUCCESS = "is_success"  # a key whose share of episode ends is `info/success_rate`

_ENTRY = re.compile(r"([\w.-]+(?:/[\w.-]+)*)(?::(mean|last))?", re.ASCII)


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
