"""Running moments of observations and returns, in float64, that move between iterations only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkl.numerics.advantages import linear_recurrence

Floats = NDArray[np.floating[Any]]


class RunningMoments:
    """Mean and variance of all that was seen, merged batch by batch (Chan et al. 1979, eq. 2.1).

    Args:
        shape: of one sample.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.mean = np.zeros(shape, np.float64)
        self.squares = np.zeros(shape, np.float64)  # sum of squared distances from the mean

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance; 1 until two samples were seen."""
        return self.squares / self.count if self.count > 1 else np.ones_like(self.squares)

    def update(self, samples: Floats) -> None:
        """Merge samples `[B, *shape]`."""
        count = len(samples)
        if count == 0:
            return
        samples = samples.astype(np.float64)
        mean = samples.mean(0)
        distance = mean - self.mean
        total = self.count + count
        self.squares = (
            self.squares
            + np.square(samples - mean).sum(0)
            + np.square(distance) * (self.count * count / total)
        )
        self.mean = self.mean + distance * (count / total)
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, as plain numbers and lists."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.count = int(state["count"])
        self.mean = np.asarray(state["mean"], np.float64)
        self.squares = np.asarray(state["squares"], np.float64)


class ObservationNormalizer:
    """Observations to mean 0 and variance 1, clipped.

    o' = clip((o - mean) / √(variance + 1e-8), ±clip). The statistics stand still while a rollout is
    collected and learned from; `update` moves them between iterations.

    Args:
        shape: of one observation.
        clip: in standard deviations.
        is_measured: the parts that are normalised, of the same shape; None for all. One-hot codes
            are best left as they are.

    Attributes:
        mean, scale: what is subtracted, and what the difference is multiplied by, float32.
        wide_mean: the mean in float64, subtracted from observations of that type: a small change of
            a large number is lost in float32.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        clip: float = 10.0,
        is_measured: NDArray[np.bool_] | None = None,
    ) -> None:
        self.moments = RunningMoments(shape)
        self.clip = clip
        self.is_measured = np.ones(shape, np.bool_) if is_measured is None else is_measured
        self._refresh()

    def _refresh(self) -> None:
        scale = 1 / np.sqrt(self.moments.variance + 1e-8)
        self.wide_mean = np.where(self.is_measured, self.moments.mean, 0)
        self.mean = self.wide_mean.astype(np.float32)
        self.scale = np.where(self.is_measured, scale, 1).astype(np.float32)

    def __call__(self, observations: Floats) -> NDArray[np.float32]:
        """Normalise observations `[..., *shape]`, without touching the statistics."""
        normalized: NDArray[np.float32] = np.empty(observations.shape, np.float32)
        self.write(observations, normalized)
        return normalized

    def write(self, observations: Floats, room: NDArray[np.float32]) -> None:
        """Normalise observations into an array of the same shape."""
        mean = self.mean if observations.dtype == np.float32 else self.wide_mean
        np.subtract(observations, mean, out=room, casting="same_kind")
        np.multiply(room, self.scale, out=room)
        # np.clip takes longer than both together.
        np.maximum(room, -self.clip, out=room)
        np.minimum(room, self.clip, out=room)

    def update(self, observations: Floats) -> None:
        """Merge raw observations `[B, *shape]`; the next call normalises by the new statistics."""
        self.moments.update(observations)
        self._refresh()

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return self.moments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the statistics."""
        self.moments.load_state_dict(state)
        self._refresh()


class RewardScaler:
    """Rewards divided by the standard deviation of the running discounted return, clipped.

    R_t = γ · R_{t-1} · (1 - end_{t-1}) + r_t; r' = clip(r / √(Var[R] + 1e-8), ±clip), as in
    OpenAI's baselines (Engstrom 2020, section 3). The sign of a reward is kept: its mean is not
    subtracted.

    Args:
        num_envs: N.
        gamma: discount factor.
        clip: of the scaled reward.
    """

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        self.moments = RunningMoments()
        self.gamma = gamma
        self.clip = clip
        self._returns = np.zeros(num_envs, np.float64)

    def __call__(self, rewards: Floats) -> NDArray[np.float64]:
        """Scale rewards of any shape, without touching the statistics."""
        scaled = rewards / np.sqrt(self.moments.variance + 1e-8)
        return np.clip(scaled, -self.clip, self.clip)

    def update(self, rewards: Floats, ends: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Merge one rollout.

        Args:
            rewards: raw, `[T, N]`.
            ends: where an episode ended, `[T, N]`.
            valid: where a row is a transition and not a reset, `[T, N]`.
        """
        # The return under way was set to 0 where an episode ended with the last rollout.
        goes_on = np.concatenate((np.ones((1, ends.shape[1]), np.bool_), ~ends[:-1]))
        returns = linear_recurrence(self.gamma * goes_on, rewards * valid, self._returns)
        self._returns = np.where(ends[-1], 0.0, returns[-1])
        self.moments.update(returns[valid])

    def begin_anew(self) -> None:
        """Forget the returns under way: all episodes were cut."""
        self._returns = np.zeros_like(self._returns)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the returns under way."""
        return self.moments.state_dict() | {"returns": self._returns.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.moments.load_state_dict(state)
        self._returns = np.asarray(state["returns"], np.float64)
