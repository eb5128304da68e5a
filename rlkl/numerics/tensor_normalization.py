"""Normalize observations and rewards on a device; the same numbers as `normalization`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.numerics.tensor_advantages import linear_recurrence


class TensorMoments:
    """Mean and variance of all samples in float64, as `normalization.RunningMoments`.

    The count is a tensor too, so that an update never waits for the device.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)

    @property
    def variance(self) -> Tensor:
        """Population variance; 1 for fewer than two samples."""
        variance = self.squares / self.count.clamp(min=1)
        return torch.where(self.count > 1, variance, torch.ones_like(variance))

    def update(self, samples: Tensor, valid: Tensor | None = None) -> None:
        """Merge samples `[B, *shape]`; where a bool mask `[B]` is False, a sample is ignored."""
        samples = samples.double()
        if valid is None:
            count = torch.full_like(self.count, len(samples))
            weights = torch.ones_like(samples)
        else:
            weights = valid.view(-1, *(1,) * (samples.ndim - 1)).expand_as(samples).double()
            samples, count = samples.where(weights > 0, 0.0), valid.sum().double()
        mean = samples.sum(0) / count.clamp(min=1)
        distance = mean - self.mean
        total = (self.count + count).clamp(min=1)
        spread = (weights * (samples - mean).square()).sum(0)
        between = distance.square() * (self.count * count / total)
        self.squares = self.squares + spread + between
        self.mean = self.mean + distance * (count / total)
        self.count = self.count + count

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers and lists, in the format of `RunningMoments`."""
        count = int(self.count.item())
        return {"count": count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.count, self.mean, self.squares = (
            torch.tensor(state[key], dtype=torch.float64).to(self.mean.device)
            for key in ("count", "mean", "squares")
        )


class TensorObservationNormalizer:
    """Normalizes observations on a device, as `normalization.ObservationNormalizer`."""

    def __init__(
        self,
        shape: tuple[int, ...],
        device: torch.device,
        clip: float = 10.0,
        is_measured: NDArray[np.bool_] | None = None,
    ) -> None:
        self.moments = TensorMoments(shape, device)
        self.clip = clip
        self._arrays = ObservationNormalizer(shape, clip, is_measured)
        self.is_measured = torch.from_numpy(self._arrays.is_measured).to(device)
        self._refresh()

    def _refresh(self) -> None:
        scale = 1 / (self.moments.variance + 1e-8).sqrt()
        self.wide_mean = self.moments.mean.where(self.is_measured, 0.0)
        self.mean = self.wide_mean.float()
        self.scale = scale.where(self.is_measured, 1.0).float()

    def __call__(self, observations: Tensor) -> Tensor:
        """Normalize observations `[..., *shape]`, without changing the statistics."""
        is_narrow = observations.dtype == torch.float32
        centered = observations - (self.mean if is_narrow else self.wide_mean)
        return (centered.float() * self.scale).clamp(-self.clip, self.clip)

    def update(self, observations: Tensor, valid: Tensor | None = None) -> None:
        """Merge raw observations `[B, *shape]`, except where a bool mask `[B]` is False."""
        self.moments.update(observations, valid)
        self._refresh()

    def of_arrays(self) -> ObservationNormalizer:
        """Return the same normalizer for NumPy arrays, for an evaluation."""
        self._arrays.load_state_dict(self.state_dict())
        return self._arrays

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the clip."""
        return self.moments.state_dict() | {"clip": self.clip}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics; the clip stays that of the constructor."""
        self.moments.load_state_dict(state)
        self._refresh()


class TensorRewardScaler:
    """Rewards divided by the deviation of the return, as `normalization.RewardScaler`."""

    def __init__(
        self, num_envs: int, gamma: float, device: torch.device, clip: float = 10.0
    ) -> None:
        self.moments = TensorMoments((), device)
        self.gamma = gamma
        self.clip = clip
        self._returns = torch.zeros(num_envs, dtype=torch.float64, device=device)

    def __call__(self, rewards: Tensor) -> Tensor:
        """Scale rewards of any shape without changing the statistics."""
        scaled = rewards / (self.moments.variance + 1e-8).sqrt()
        return scaled.clamp(-self.clip, self.clip)

    def update(self, rewards: Tensor, ends: Tensor, valid: Tensor) -> None:
        """Merge raw rewards and episode ends `[T, N]`; `valid` is False for autoreset steps."""
        continues = torch.cat((torch.ones_like(ends[:1]), ~ends[:-1]))
        terms = rewards.where(valid, 0.0)
        returns = linear_recurrence(self.gamma * continues.double(), terms, self._returns)
        self._returns = returns[-1].masked_fill(ends[-1], 0)
        self.moments.update(returns.flatten(), valid.flatten())

    def reset_returns(self) -> None:
        """Reset the returns, because all environments were reset."""
        self._returns = torch.zeros_like(self._returns)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the current returns."""
        return self.moments.state_dict() | {"returns": self._returns.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.moments.load_state_dict(state)
        returns = torch.tensor(state["returns"], dtype=torch.float64)
        self._returns = returns.to(self._returns.device)
