"""Decode samples of a policy's distribution to actions, and read action masks."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor

from rlkl.envs.spaces import FLOAT32_MAX
from rlkl.numerics.beta import Beta
from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

BOX_DISTRIBUTIONS = {"gaussian": DiagonalGaussian, "tanh_gaussian": TanhGaussian, "beta": Beta}


class ActionDecoder:
    """The distribution for an action space, and the conversion of its samples to actions.

    Discrete uses `Categorical`, MultiDiscrete `MultiCategorical`, MultiBinary `Bernoulli`. A Box
    uses a `DiagonalGaussian`, whose samples u become a = u, or with `scale` and finite bounds
    a = (low + high) / 2 + u · (high - low) / 2, clipped to the bounds unless `clip` is false; or
    a `TanhGaussian`, which is squashed: a = low + (high - low) · (tanh(u) + 1) / 2; or a `Beta`,
    whose samples are within (-1, 1): a = (low + high) / 2 + u · (high - low) / 2.

    Attributes:
        middle, half_range: of a = middle + half_range · u; None if that changes nothing.
        log_half_range: Σ_d log((high - low) / 2) of a `TanhGaussian` and a `Beta`: the entropy of
            the actions minus that of tanh(u) or u; else 0.
        is_continuous: whether the space is a Box.
        is_gaussian, squashes: whether the distribution is a Gaussian, and a squashed one.
        family: from a network's output `[B, P]` to distributions.
        parameter_size: P.

    Raises:
        ConfigError: for an unsupported space, or one without the bounds to squash into or clip to.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        box_distribution: str = "gaussian",
        clip: bool = True,
        scale: bool = False,
    ) -> None:
        check_action_space(space)
        if not clip and not isinstance(space, Box):
            raise ConfigError(
                f"policy.clip_actions=false: changes nothing, actions {space} have no bounds that "
                "samples could leave; leave it out"
            )
        self.clips = clip
        self.space: Any = space
        self.middle: Any = None
        self.half_range: Any = None
        self.log_half_range = 0.0
        self.is_continuous = isinstance(space, Box)
        self.is_gaussian = self.is_continuous and box_distribution != "beta"
        self.squashes = self.is_continuous and box_distribution == "tanh_gaussian"
        self._is_shifted = bool(np.any(getattr(space, "start", 0)))
        self._shape: tuple[int, ...] = space.shape or ()
        self.family: Callable[[Tensor], Distribution]
        if isinstance(space, Discrete):
            self.family, self.parameter_size = Categorical, int(space.n)
        elif isinstance(space, MultiDiscrete):
            sizes = tuple(int(n) for n in space.nvec.ravel())
            self.family, self.parameter_size = partial(MultiCategorical, sizes=sizes), sum(sizes)
        elif isinstance(space, MultiBinary):
            self.family, self.parameter_size = Bernoulli, math.prod(self._shape)
        else:
            self.family = BOX_DISTRIBUTIONS[box_distribution]
            self.parameter_size = 2 * math.prod(self._shape)
            self._set_bounds(scale, box_distribution)

    def _set_bounds(self, scale: bool, box_distribution: str) -> None:
        box = self.space
        needs_bounds = box_distribution != "gaussian"
        if needs_bounds and not (np.isfinite(box.low) & np.isfinite(box.high)).all():
            raise ConfigError(
                f"policy.box_distribution={box_distribution}: actions {box} have no finite bounds "
                "to lie within; use policy.box_distribution=gaussian"
            )
        self._low, self._high = _bound(box.low), _bound(box.high)
        # In float64 high - low does not overflow, and low + (high - low) reaches the upper bound.
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        if self.squashes:
            self._squash_low, self._squash_span = low, high - low
        if needs_bounds:
            with np.errstate(divide="ignore"):  # low == high
                self.log_half_range = float(np.log((high - low) / 2).sum())
        if not self.squashes and (scale or needs_bounds):
            # The largest number of a type means no bound.
            bounded = np.maximum(np.abs(low), np.abs(high)) < FLOAT32_MAX
            middle, half = np.zeros(low.shape), np.ones(low.shape)
            middle[bounded] = (low[bounded] + high[bounded]) / 2
            half[bounded] = (high[bounded] - low[bounded]) / 2
            if middle.any() or (half != 1).any():
                self.middle, self.half_range = _bound(middle), _bound(half)

    def is_out_of_reach(self, distance: float) -> bool:
        """Return whether samples within ± a distance all miss the bounds of some dimension."""
        if self.family is not DiagonalGaussian:
            return False
        middle, half = (0, 1) if self.half_range is None else (self.middle, self.half_range)
        above = self.space.low - middle > distance * half
        return bool((above | (self.space.high - middle < -distance * half)).any())

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return the environment's actions for samples of the distribution.

        Args:
            samples: `[N]` integers from 0, `[N, D]` integers from 0, or `[N, D]` unbounded numbers.

        Returns:
            `[N]` or `[N, *shape]` in the numbering, bounds and type of the action space.
        """
        if samples.shape[1:] != self._shape:
            samples = samples.reshape(len(samples), *self._shape)
        if not self.is_continuous:
            if self._is_shifted:
                samples = samples + self.space.start
            return samples.astype(self.space.dtype, copy=False)
        if self.squashes:
            samples = self._squash_low + self._squash_span * (np.tanh(samples) + 1) / 2
        elif self.half_range is not None:
            samples = self.middle + self.half_range * samples
        if self.clips:  # faster than np.clip
            samples = np.maximum(samples, self._low)
            np.minimum(samples, self._high, out=samples)
        return samples.astype(self.space.dtype, copy=False)


def _bound(bounds: NDArray[np.floating[Any]]) -> Any:
    """Return equal bounds as one number, which is faster to compare."""
    return bounds.flat[0] if bounds.size and (bounds == bounds.flat[0]).all() else bounds


def check_action_space(space: gym.Space[Any]) -> None:
    """Raise a `ConfigError` unless the action space is supported."""
    is_float_box = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
    if not (isinstance(space, Discrete | MultiDiscrete | MultiBinary) or is_float_box):
        raise ConfigError(
            f"actions {space} are not supported: expected Discrete, MultiDiscrete, MultiBinary or "
            "a Box of floats"
        )


def mask_rows(
    space: gym.Space[Any], masks: Any, ignored: NDArray[np.bool_], where: str = "the environment"
) -> NDArray[np.bool_]:
    """Return which actions are allowed, `[N, M]`, in the form that distributions take.

    Args:
        space: of one action.
        masks: of N environments, each as the environment returns it. Discrete: `[A]`.
            MultiDiscrete: the masks of all dimensions, side by side or in a tuple. MultiBinary: for
            each bit 0 (it must be 0), 1 (it must be 1) or 2 (either), or the pairs (may be 0, may
            be 1).
        ignored: rows whose mask is ignored: all actions are allowed, `[N]`.
        where: the start of an error message.

    Raises:
        BrokenEnvironmentError: for a mask of the wrong size, or one that allows nothing.
    """
    if isinstance(space, Discrete) and all(
        isinstance(mask, np.ndarray) and mask.shape == (space.n,) for mask in masks
    ):
        # All at once is faster than row by row.
        stacked = np.array(masks)
        allowed: NDArray[np.bool_] = (stacked != 0) | ignored[:, None]
        if allowed.any(1).all() and _has_valid_entries(stacked[~ignored], 1):
            return allowed
    if isinstance(space, MultiBinary):
        groups = [2] * math.prod(space.shape)
    elif isinstance(space, Discrete | MultiDiscrete):
        groups = np.ravel(space.n if isinstance(space, Discrete) else space.nvec).tolist()
    else:
        raise BrokenEnvironmentError(
            f"{where}: an action mask for actions {space}, which have none"
        )
    allowed = np.ones((len(ignored), sum(groups)), np.bool_)
    start = f"{where}: the action mask of sub-environment"
    for i in np.flatnonzero(~ignored):
        allowed[i] = _mask_row(space, masks[i], groups, f"{start} {i}")
    starts = np.cumsum([0, *groups[:-1]])
    possible = np.logical_or.reduceat(allowed, starts, axis=1)
    if not possible.all():
        raise BrokenEnvironmentError(f"{start} {np.argmin(possible.all(1))} allows no action")
    return allowed


def _mask_row(space: gym.Space[Any], mask: Any, groups: list[int], where: str) -> NDArray[np.bool_]:
    row = _side_by_side(mask)
    # 0, 1 or 2 for each bit, instead of pairs.
    has_choices = isinstance(space, MultiBinary) and len(row) == len(groups)
    if len(row) != sum(groups) and not has_choices:
        raise BrokenEnvironmentError(f"{where} has {len(row)} entries; expected {sum(groups)}")
    if not _has_valid_entries(row, 2 if has_choices else 1):
        raise BrokenEnvironmentError(
            f"{where} contains other numbers than 1 (allowed) and 0 (not allowed)"
        )
    if has_choices:
        row = np.stack((row != 1, row != 0), -1).ravel()
    return row.astype(np.bool_)


def _has_valid_entries(mask: NDArray[Any], maximum: int) -> bool:
    """Return whether a mask has bools, or only integers from 0 to a maximum."""
    if mask.dtype == np.bool_:
        return True
    return mask.dtype.kind in "iuf" and bool(np.isin(mask, np.arange(maximum + 1)).all())


def _side_by_side(mask: Any) -> NDArray[Any]:
    if isinstance(mask, tuple | list):
        return np.concatenate([_side_by_side(part) for part in mask])
    return np.ravel(mask)
