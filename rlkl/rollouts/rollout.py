"""The data of one iteration as collected: `Rollout`, `[T, N, ...]`."""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", NDArray[Any], Tensor)


class Episode(NamedTuple):
    """A finished training episode.

    Attributes:
        env_steps: environment steps of training at its end.
        reward_sum: the return, undiscounted, of raw rewards.
        length: in environment steps.
    """

    env_steps: int
    reward_sum: float
    length: int


@dataclass(frozen=True, kw_only=True)
class BaseRollout(Generic[Array]):
    """T steps of N sub-environments, as arrays or as tensors.

    Attributes:
        observations: of the policy: encoded, normalized if training normalizes, and those after
            the last step, `[T + 1, N, ...]` each.
        raw_vectors: the first T vectors before normalization, `[T, N, D]`; None without it.
        states: memory states before each observation, `[T + 1, N, state_size]`.
        actions: as sampled, `[T, N, ...]`.
        rewards: raw, `[T, N]`.
        terminated, truncated: episode ends in a terminal state, and other ends, `[T, N]`.
        is_transition: False for autoreset steps, `[T, N]`.
        begins: episode starts, `[T + 1, N]`.
        final_observations: last observations of truncated episodes where the next row already
            shows the following episode.
        final_states: memory states before those.
        episodes: that ended, in order.
        env_steps: of training at the end of this rollout.
        infos: numbers in infos, `[T, N, number of info_keys]`, NaN where there is none; None
            without `logger.info_keys`.
    """

    observations: dict[str, Array]
    raw_vectors: Array | None
    states: Tensor
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    is_transition: Array
    begins: Array
    final_observations: dict[str, Array]
    final_states: Tensor
    episodes: tuple[Episode, ...] = ()
    env_steps: int = 0
    infos: Array | None = None

    @property
    def ends(self) -> Array:
        """Episode ends, `[T, N]`: terminations and truncations."""
        ends: Array = self.terminated | self.truncated
        return ends


@dataclass(frozen=True, kw_only=True)
class Rollout(BaseRollout[NDArray[Any]]):
    """Steps as arrays, with K rows in `final_observations` and `final_states`.

    Attributes:
        final_rows: rows of the flattened `[T * N]` that led to those, `[K]`.
    """

    final_rows: NDArray[np.int64]

    @property
    def raw_transitions(self) -> NDArray[np.floating[Any]] | None:
        """The raw vectors of all transitions, `[B, D]`; None without normalization."""
        return None if self.raw_vectors is None else self.raw_vectors[self.is_transition]

    @property
    def num_transitions(self) -> int:
        """Number of transitions."""
        return int(self.is_transition.sum())
