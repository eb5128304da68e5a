"""What was collected, `Rollout` [T, N, ...], and what is learned from it, `Batch` [B, ...]."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rlkl.advantages import generalized_advantages
from rlkl.normalization import RewardScaler
from rlkl.policy import Policy


class Episode(NamedTuple):
    """A finished training episode.

    Attributes:
        env_steps: how many environment steps training had made at its end.
        reward_sum: its return: the sum of raw rewards, undiscounted.
        length: in environment steps.
    """

    env_steps: int
    reward_sum: float
    length: int


@dataclass(frozen=True)
class Rollout:
    """T rows of N environments, as they were met.

    Attributes:
        observations: what the policy saw, normalised if training normalises, `[T, N, D]`.
        raw_observations: the same before normalisation.
        last_observations: what the policy sees next, `[N, D]`.
        actions: as sampled, `[T, N, ...]`.
        rewards: raw, `[T, N]`.
        terminated: where the episode ended in a terminal state, `[T, N]`.
        truncated: where it was cut off, `[T, N]`.
        is_transition: False where a row is only an environment resetting itself, `[T, N]`.
        final_observations: true last observations of truncated episodes where the next row shows
            the following episode already, `[K, D]`.
        final_rows: which rows of the flattened `[T * N]` they belong to, `[K]`.
        episodes: that ended, in order.
        env_steps: made since training began, at the end of this rollout.
    """

    observations: NDArray[np.float32]
    raw_observations: NDArray[np.float32]
    last_observations: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_transition: NDArray[np.bool_]
    final_observations: NDArray[np.float32]
    final_rows: NDArray[np.int64]
    episodes: tuple[Episode, ...]
    env_steps: int

    @property
    def ends(self) -> NDArray[np.bool_]:
        """Where an episode ended, whatever ended it, `[T, N]`."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Batch:
    """B transitions, and what π_old and the old critic said of them. All tensors, one row each.

    Attributes:
        observations: `[B, D]`.
        actions: as sampled, `[B]` or `[B, A]`.
        advantages: not standardised, `[B]`.
        returns: what the critic learns, advantages + old values, `[B]`.
        old_parameters: of the distributions π_old(·|s), `[B, P]`: the one anchor of an update.
        old_log_prob: log π_old(a|s), `[B]`.
        old_values: `[B]`.
    """

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    old_parameters: Tensor
    old_log_prob: Tensor
    old_values: Tensor

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, rows: Tensor) -> Self:
        """Return the batch of some rows, given by their indices."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@torch.no_grad()
def make_batch(
    rollout: Rollout,
    policy: Policy,
    gamma: float,
    gae_lambda: float,
    reward_scaler: RewardScaler | None = None,
) -> Batch:
    """Turn a rollout into a batch, before the policy moves.

    One pass of the actor and the critic over all rows gives π_old, its log-probabilities and the
    values; nothing of it need be computed while collecting.

    Args:
        rollout: collected by `policy` as it stands.
        policy: π_old.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation.
        reward_scaler: scales the rewards that are learned from, if any.

    Returns:
        The transitions in time-major order; rows that only reset an environment are left out.
    """
    steps, num_envs = rollout.rewards.shape
    observations = policy.tensor(rollout.observations.reshape(steps * num_envs, -1))
    ahead = np.concatenate((rollout.last_observations, rollout.final_observations))
    values = policy.values(torch.cat((observations, policy.tensor(ahead))))
    every_value = values.cpu().numpy().astype(np.float64)
    grid, finals = np.split(every_value, [(steps + 1) * num_envs])
    grid = grid.reshape(steps + 1, num_envs)
    next_values = grid[1:].copy()
    next_values.reshape(-1)[rollout.final_rows] = finals
    advantages = generalized_advantages(
        rollout.rewards if reward_scaler is None else reward_scaler(rollout.rewards),
        grid[:-1],
        next_values,
        rollout.terminated,
        rollout.truncated,
        gamma,
        gae_lambda,
    )
    rows = torch.as_tensor(np.flatnonzero(rollout.is_transition), device=policy.device)
    actions = policy.tensor(rollout.actions.reshape(steps * num_envs, *rollout.actions.shape[2:]))
    old = policy.distribution(observations)
    batch = Batch(
        observations,
        actions,
        policy.tensor(advantages.reshape(-1)),
        policy.tensor((advantages + grid[:-1]).reshape(-1)),
        old.parameters,
        old.log_prob(actions),
        values[: steps * num_envs],
    )
    return batch if rollout.is_transition.all() else batch[rows]


def minibatches(size: int, num_minibatches: int, generator: Generator) -> Iterator[Tensor]:
    """Split the rows of a batch at random into minibatches that differ by one row at most.

    Args:
        size: B, rows of the batch.
        num_minibatches: how many; at most B are made.
        generator: source of the permutation.

    Yields:
        Indices of the rows of each minibatch.
    """
    permutation = torch.randperm(size, generator=generator, device=generator.device)
    yield from permutation.tensor_split(min(num_minibatches, size))
