"""Normalizes observations and rewards by running moments in float64."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkl.numerics.advantages import linear_recurrence

Floats = NDArray[np.floating[Any]]


class RunningMoments:
    """Mean and variance of all samples, merged batch by batch (Chan et al. 1979, eq. 2.1).

    The shape is that of one sample.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.mean = np.zeros(shape, np.float64)
        self.squares = np.zeros(shape, np.float64)  # sum of squared distances from the mean

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance; 1 for fewer than two samples."""
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
        within = np.square(samples - mean).sum(0)
        between = np.square(distance) * (self.count * count / total)
        self.squares = self.squares + within + between
        self.mean = self.mean + distance * (count / total)
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers and lists."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.count = int(state["count"])
        self.mean = np.asarray(state["mean"], np.float64)
        self.squares = np.asarray(state["squares"], np.float64)


class ValueNormalizer:
    """Values in units of returns: V = mean + std · z, where z is the critic's output.

    std = √(variance + 1e-5), as in rl_games. Before the first update, V = z.
    """

    def __init__(self) -> None:
        self.moments = RunningMoments()

    @property
    def mean(self) -> float:
        """Mean of the returns; 0 before the first update."""
        return float(self.moments.mean)

    @property
    def std(self) -> float:
        """Standard deviation of the returns; 1 before the first update."""
        return math.sqrt(self.moments.variance + 1e-5) if self.moments.count else 1.0

    def denormalize(self, outputs: Any) -> Any:
        """Return the values of outputs of the critic: arrays, tensors or numbers."""
        return self.mean + self.std * outputs

    def normalize(self, values: Any) -> Any:
        """Return what the critic's outputs should be for these values."""
        return (values - self.mean) / self.std

    def update(self, returns: Floats) -> tuple[float, float]:
        """Merge returns `[B]`.

        Returns:
            a and b with which a · z + b has the value that z had before.
        """
        mean, std = self.mean, self.std
        self.moments.update(returns)
        return std / self.std, (mean - self.mean) / self.std


class ObservationNormalizer:
    """Normalizes observations: o' = clip((o - mean) / √(variance + 1e-8), ±clip).

    Args:
        shape: of one observation.
        clip: in standard deviations.
        is_measured: mask of the entries to normalize, `[*shape]`; None for all.

    Attributes:
        mean: float32.
        wide_mean: the same in float64, subtracted from float64 observations, because float32 loses
            small changes of large numbers.
        scale: 1 / √(variance + 1e-8), float32.
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
        """Normalize observations `[..., *shape]` without changing the statistics."""
        normalized: NDArray[np.float32] = np.empty(observations.shape, np.float32)
        self.write(observations, normalized)
        return normalized

    def write(self, observations: Floats, out: NDArray[np.float32]) -> None:
        """Normalize observations into an array of the same shape."""
        mean = self.mean if observations.dtype == np.float32 else self.wide_mean
        np.subtract(observations, mean, out=out, casting="same_kind")
        np.multiply(out, self.scale, out=out)
        # Faster than np.clip.
        np.maximum(out, -self.clip, out=out)
        np.minimum(out, self.clip, out=out)

    def update(self, observations: Floats) -> None:
        """Merge raw observations `[B, *shape]` into the statistics."""
        self.moments.update(observations)
        self._refresh()

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the clip."""
        return self.moments.state_dict() | {"clip": self.clip}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics; the clip stays that of the constructor."""
        self.moments.load_state_dict(state)
        self._refresh()


class RewardScaler:
    """Rewards divided by the standard deviation of the running discounted return, clipped.

    R_t = γ · R_{t-1} · (1 - end_{t-1}) + r_t; r' = clip(r / √(Var[R] + 1e-8), ±clip), as in
    OpenAI's baselines (Engstrom 2020, section 3). No mean is subtracted: rewards keep their sign.
    """

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        self.moments = RunningMoments()
        self.gamma = gamma
        self.clip = clip
        self._returns = np.zeros(num_envs, np.float64)

    def __call__(self, rewards: Floats) -> NDArray[np.float64]:
        """Scale rewards of any shape without changing the statistics."""
        scaled = rewards / np.sqrt(self.moments.variance + 1e-8)
        return np.clip(scaled, -self.clip, self.clip)

    def update(self, rewards: Floats, ends: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Merge raw rewards and episode ends `[T, N]`; `valid` is False for autoreset steps."""
        # Returns were already set to 0 where the previous rollout ended an episode.
        continues = np.concatenate((np.ones((1, ends.shape[1]), np.bool_), ~ends[:-1]))
        returns = linear_recurrence(self.gamma * continues, rewards * valid, self._returns)
        self._returns = np.where(ends[-1], 0.0, returns[-1])
        self.moments.update(returns[valid])

    def reset_returns(self) -> None:
        """Reset the returns, because all environments were reset."""
        self._returns = np.zeros_like(self._returns)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the current returns."""
        return self.moments.state_dict() | {"returns": self._returns.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.moments.load_state_dict(state)
        self._returns = np.asarray(state["returns"], np.float64)
