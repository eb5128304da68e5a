"""Recorded episodes: `Demonstrations`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlkl.envs.actions import ActionDecoder
from rlkl.envs.observations import ObservationEncoder, Observations
from rlkl.envs.spaces import describe_space
from rlkl.models.policy import Policy
from rlkl.numerics.advantages import linear_recurrence
from rlkl.utils.errors import ConfigError
from rlkl.utils.seeding import RandomStreams

INSIDE = 1 - 1e-3
"""Actions at a bound, where a squashed or a beta density has no sample, count as this far out, in
half-ranges from the middle."""


@dataclass(frozen=True)
class Demonstrations:
    """E episodes of B transitions in all, one episode after the other.

    Attributes:
        observations: encoded but not normalized, with action masks if there are any, `[B, ...]`.
        final_observations: the observation after the last action of each episode, `[E, ...]`.
        actions: as samples of the policy's distribution, `[B]` or `[B, A]`.
        rewards: raw, `[B]`.
        lengths: transitions of each episode, `[E]`.
        terminated: whether each episode ended in a terminal state; the others were cut, `[E]`.
        parameters: of the distributions that the actions were sampled from, `[B, P]`; P is 0 if
            they are not known.
    """

    observations: Observations
    final_observations: Observations
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    parameters: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Whether a transition is the last of its episode, `[B]`."""
        last = np.zeros(len(self), np.bool_)
        last[np.cumsum(self.lengths) - 1] = True
        return last

    def take(self, episodes: NDArray[np.int64]) -> Self:
        """Return some of the episodes, by their numbers."""
        ends = np.cumsum(self.lengths)
        rows = np.concatenate([np.arange(ends[e] - self.lengths[e], ends[e]) for e in episodes])
        return type(self)(
            {key: array[rows] for key, array in self.observations.items()},
            {key: array[episodes] for key, array in self.final_observations.items()},
            self.actions[rows],
            self.rewards[rows],
            self.lengths[episodes],
            self.terminated[episodes],
            self.parameters[rows],
        )

    def split(self, held_out: float, seed: int) -> tuple[Self, Self]:
        """Return the episodes to fit and a random share of them that is held out, at least one.

        Raises:
            ConfigError: there are fewer than two episodes.
        """
        count = len(self.lengths)
        if count < 2:
            raise ConfigError(
                f"held_out={held_out:g}: the data has {count} episode, and none is left to fit if "
                "it is held out; expected at least two: use more data"
            )
        order = np.array(RandomStreams(seed).integers("clone held out", count)).argsort(
            kind="stable"
        )
        number = min(max(1, round(held_out * count)), count - 1)
        return self.take(np.sort(order[number:])), self.take(np.sort(order[:number]))

    def discounted_returns(
        self, rewards: NDArray[np.float64], gamma: float, *, bootstrap_truncated: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return R and w, `[B]` each, with which R + w · V(s_T) is a transition's return.

        R_t = Σ_k γᵏ r_{t+k} to the episode's end T, and w_t = γ^{T-t}, or 0 where s_T is terminal,
        which truncated ends are too without `bootstrap_truncated`.
        """
        last = self.is_last
        decay = gamma * ~last[::-1, None]
        weights = np.zeros(len(self))
        weights[last] = gamma * (bootstrap_truncated & ~self.terminated)
        sums, weights = (
            linear_recurrence(decay, terms[::-1, None], np.zeros(1))[::-1, 0]
            for terms in (rewards, weights)
        )
        return sums, weights


def joined(parts: Sequence[Demonstrations]) -> Demonstrations:
    """Return the episodes of all parts, at least one."""

    def whole(*values: Any) -> Any:
        if isinstance(values[0], dict):
            return {key: np.concatenate([v[key] for v in values]) for key in values[0]}
        return np.concatenate(values)

    contents = [vars(part).values() for part in parts]
    return Demonstrations(*map(whole, *contents))


def samples_of(decoder: ActionDecoder, actions: NDArray[Any]) -> NDArray[Any]:
    """Return the samples `[B]` or `[B, A]` that a decoder turns into actions `[B, *shape]`.

    Clipping cannot be undone: an action at a bound is the sample at the bound.
    """
    space = decoder.space
    flat = actions.reshape(len(actions), *([] if space.shape == () else [-1]))
    if not decoder.is_continuous:
        first = np.broadcast_to(getattr(space, "start", 0), space.shape).reshape(flat.shape[1:])
        choices: NDArray[np.int64] = flat.astype(np.int64) - first
        return choices
    samples = flat.astype(np.float64)
    if decoder.squashes:
        low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
        units = 2 * (samples - low) / np.where(high > low, high - low, 1) - 1
        samples = np.arctanh(units.clip(-INSIDE, INSIDE))
    else:
        if decoder.half_range is not None:
            middle, half = map(np.ravel, (decoder.middle, decoder.half_range))
            samples = (samples - middle) / np.where(half > 0, half, 1)
        if not decoder.is_gaussian:
            samples = samples.clip(-INSIDE, INSIDE)
    return samples.astype(np.float32)


def have_same_samples(one: ActionDecoder, other: ActionDecoder) -> bool:
    """Return whether two decoders of the same actions have the same distributions and samples."""
    return not one.is_continuous or (
        one.family is other.family
        and np.array_equal(one.middle, other.middle)
        and np.array_equal(one.half_range, other.half_range)
    )


def check_spaces(
    name: str, encoder: ObservationEncoder, action_space: gym.Space[Any], policy: Policy
) -> None:
    """Raise `ConfigError` unless the spaces of demonstrations are those of a policy."""
    ours = policy.encoder
    for part, theirs, wanted in (
        ("observations", encoder.space, ours.space),
        ("actions", action_space, policy.decoder.space),
    ):
        if describe_space(theirs) != describe_space(wanted):
            raise ConfigError(
                f"{name} has {part} {theirs}, but the environment has {wanted}; expected the "
                "environment of the data: see env.id, env.kwargs and env.frame_stack"
            )
    if encoder.keys != ours.keys:
        raise ConfigError(
            f"{name} was made with env.observation_keys={list(encoder.keys)}, but here they are "
            f"{list(ours.keys)}; leave them out"
        )
