"""What was collected, `Rollout` [T, N, ...], and what is learned from it, `Batch` [B, ...]."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rlkl.envs.spaces import ACTION_MASK, VECTOR, Observations
from rlkl.models.policy import Inputs, Policy
from rlkl.models.recurrent import Sequences
from rlkl.numerics.advantages import generalized_advantages
from rlkl.numerics.normalization import RewardScaler


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
        observations: encoded, what the policy saw, normalised if training normalises, and behind
            them what it sees next, `[T + 1, N, ...]` each.
        raw_vectors: the vectors of the first T before normalisation, `[T, N, D]`; None if there are
            none.
        states: what the policy remembered before each of the T + 1, `[T + 1, N, state_size]`.
        actions: as sampled, `[T, N, ...]`.
        rewards: raw, `[T, N]`.
        terminated: where the episode ended in a terminal state, `[T, N]`.
        truncated: where it was cut off, `[T, N]`.
        is_transition: False where a row is only an environment resetting itself, `[T, N]`.
        begins: where a row is the first of an episode, `[T + 1, N]`.
        final_observations: true last observations of truncated episodes where the next row shows
            the following episode already, K rows.
        final_states: what the policy remembered before those, `[K, state_size]`.
        final_rows: which rows of the flattened `[T * N]` led to them, `[K]`.
        episodes: that ended, in order.
        env_steps: made since training began, at the end of this rollout.
    """

    observations: Observations
    raw_vectors: NDArray[np.floating[Any]] | None
    states: Tensor
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_transition: NDArray[np.bool_]
    begins: NDArray[np.bool_]
    final_observations: Observations
    final_states: Tensor
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
        inputs: observations, and for a policy with memory the sequences they form.
        actions: as sampled, `[B]` or `[B, A]`.
        advantages: not standardised, `[B]`.
        returns: what the critic learns, advantages + old values, `[B]`.
        old_parameters: of the distributions π_old(·|s), `[B, P]`: the one anchor of an update.
        old_log_prob: log π_old(a|s), `[B]`.
        old_values: `[B]`.
    """

    inputs: Inputs
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    old_parameters: Tensor
    old_log_prob: Tensor
    old_values: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def num_parts(self) -> int:
        """How many parts can be dealt out: sequences where rows form them, else rows."""
        sequences = self.inputs.sequences
        return len(self) if sequences is None else len(sequences)

    def rows(self) -> "Rows":
        """Return the batch as NumPy arrays, of a policy without images and memory on the CPU."""
        observations = self.inputs.observations
        mask = observations.get(ACTION_MASK)
        return Rows(
            observations[VECTOR].numpy(),
            None if mask is None else mask.numpy(),
            self.actions.numpy(),
            self.advantages.numpy(),
            self.returns.numpy(),
            self.old_parameters.numpy(),
            self.old_log_prob.numpy(),
            self.old_values.numpy(),
        )

    def targets(self) -> "Targets":
        """Return what the critic learns from as NumPy arrays, of such a policy."""
        vectors = self.inputs.observations[VECTOR]
        return Targets(vectors.numpy(), self.returns.numpy(), self.old_values.numpy())

    def take(self, chosen: Tensor) -> Self:
        """Return a part of the batch.

        Args:
            chosen: indices of rows, or of sequences where the rows form them.
        """
        rows, sequences = chosen, self.inputs.sequences
        if sequences is not None:
            rows, sequences = sequences.take(chosen)
        observations = {key: rows_of[rows] for key, rows_of in self.inputs.observations.items()}
        tensors = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "inputs"}
        return type(self)(inputs=Inputs(observations, sequences), **tensors)

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator[Self]:
        """Split the batch at random into minibatches of rows, or of whole sequences.

        Args:
            num_minibatches: how many; at most as many as there are rows or sequences are made.
            generator: source of the permutation.

        Yields:
            Minibatches, the batch itself if there is one.
        """
        for chosen in minibatches(self.num_parts, num_minibatches, generator):
            yield self.take(chosen) if num_minibatches > 1 else self

    def sample(self, fraction: float, generator: Generator) -> Self:
        """Return a random share of the rows, or of the sequences: at least one."""
        chosen = next(minibatches(self.num_parts, 1, generator))
        return self.take(chosen[: max(1, round(fraction * self.num_parts))])


_Arrays = TypeVar("_Arrays", "Rows", "Targets")


class Rows(NamedTuple):
    """A batch whose rows are independent, as NumPy arrays that share its memory.

    Attributes:
        vectors: the vectors of the observations, `[B, I]`.
        masks: which actions are allowed, `[B, M]`; None where all are.
        actions, advantages, returns, old_parameters, old_log_prob, old_values: as in `Batch`.
    """

    vectors: NDArray[Any]
    masks: NDArray[np.bool_] | None
    actions: NDArray[Any]
    advantages: NDArray[Any]
    returns: NDArray[Any]
    old_parameters: NDArray[Any]
    old_log_prob: NDArray[Any]
    old_values: NDArray[Any]

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator["Rows"]:
        """Split the batch as `Batch.minibatches` does."""
        return _pieces(self, num_minibatches, generator)


class Targets(NamedTuple):
    """What the critic learns from in such a batch.

    Attributes:
        vectors, returns, old_values: as in `Rows`.
    """

    vectors: NDArray[Any]
    returns: NDArray[Any]
    old_values: NDArray[Any]

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator["Targets"]:
        """Split the batch as `Batch.minibatches` does."""
        return _pieces(self, num_minibatches, generator)


def _pieces(arrays: _Arrays, num_minibatches: int, generator: Generator) -> Iterator[_Arrays]:
    """Put the rows in a random order, once, and yield pieces of that; the arrays if one is asked.

    Args:
        arrays: a row for each transition; None has none.
        num_minibatches: as in `Batch.minibatches`.
        generator: source of the order.
    """

    def take(rows: Any, source: tuple[Any, ...]) -> _Arrays:
        return type(arrays)._make(None if array is None else array[rows] for array in source)

    size = len(arrays.vectors)
    permutation = torch.randperm(size, generator=generator).numpy()
    if num_minibatches == 1:
        yield arrays
        return
    shuffled = take(permutation, arrays)
    start, parts = 0, min(num_minibatches, size)
    for part in range(parts):
        end = start + size // parts + (part < size % parts)
        yield take(slice(start, end), shuffled)
        start = end


@torch.no_grad()
def make_batch(
    rollout: Rollout,
    policy: Policy,
    gamma: float,
    gae_lambda: float,
    reward_scaler: RewardScaler | None = None,
    reward_clip: float | None = None,
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
        reward_clip: the rewards that are learned from lie within ± this, if given.

    Returns:
        The transitions in time-major order; rows that only reset an environment are left out.
    """
    steps, num_envs = rollout.rewards.shape
    observations = {key: _flat(array) for key, array in rollout.observations.items()}
    every = policy.tensors(
        {
            key: np.concatenate((array, rollout.final_observations[key]))
            for key, array in observations.items()
            if key in rollout.final_observations
        }
    )
    states = torch.cat((rollout.states.flatten(0, 1), rollout.final_states))
    every_value = policy.values(Inputs(every), states).cpu().numpy().astype(np.float64)
    grid, finals = np.split(every_value, [(steps + 1) * num_envs])
    grid = grid.reshape(steps + 1, num_envs)
    next_values = grid[1:].copy()
    next_values.reshape(-1)[rollout.final_rows] = finals
    rewards = rollout.rewards if reward_scaler is None else reward_scaler(rollout.rewards)
    if reward_clip is not None:
        rewards = rewards.clip(-reward_clip, reward_clip)
    advantages = generalized_advantages(
        rewards,
        grid[:-1],
        next_values,
        rollout.terminated,
        rollout.truncated,
        gamma,
        gae_lambda,
    )
    rows = np.flatnonzero(rollout.is_transition)
    inputs = Inputs(
        policy.tensors({key: array[rows] for key, array in observations.items()}),
        _sequences(rollout, rows, policy) if policy.state_size else None,
    )
    actions = policy.tensor(_flat(rollout.actions)[rows])
    old = policy.distribution(inputs)
    return Batch(
        inputs,
        actions,
        policy.tensor(advantages.reshape(-1)[rows]),
        policy.tensor((advantages + grid[:-1]).reshape(-1)[rows]),
        old.parameters,
        old.log_prob(actions),
        policy.tensor(grid[:-1].reshape(-1)[rows]),
    )


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _sequences(rollout: Rollout, rows: NDArray[np.int64], policy: Policy) -> Sequences:
    """Cut each environment's rows where an episode begins, and where a sequence is long enough.

    Args:
        rollout: T rows of N environments.
        rows: the transitions among the `[T * N]` rows.
        policy: knows how long a sequence may be.
    """
    steps, num_envs = rollout.rewards.shape
    place = np.full(steps * num_envs, -1)
    place[rows] = np.arange(len(rows))
    place = place.reshape(steps, num_envs)
    starts: list[int] = []
    sequences: list[list[int]] = []
    for env in range(num_envs):
        open_sequence: list[int] | None = None
        for t in range(steps):
            if not rollout.is_transition[t, env]:
                open_sequence = None
                continue
            full = open_sequence is not None and len(open_sequence) == policy.config.sequence_length
            if open_sequence is None or full or rollout.begins[t, env]:
                open_sequence = []
                sequences.append(open_sequence)
                starts.append(t * num_envs + env)
            open_sequence.append(int(place[t, env]))
    lengths = [len(sequence) for sequence in sequences]
    cells = np.zeros((max(lengths), len(sequences)), np.int64)
    for column, sequence in enumerate(sequences):
        cells[: len(sequence), column] = sequence
    return Sequences(
        torch.as_tensor(cells, device=policy.device),
        torch.as_tensor(lengths, device=policy.device),
        rollout.states.flatten(0, 1)[torch.as_tensor(starts, device=policy.device)],
    )


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
