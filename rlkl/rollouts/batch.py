"""The data of an update: `Batch`, `[B, ...]`, made from a rollout."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rlkl.engines.base import Engine
from rlkl.models.policy import Inputs, Policy
from rlkl.models.recurrent import Sequences
from rlkl.numerics.advantages import generalized_advantages, standardize
from rlkl.numerics.normalization import RewardScaler
from rlkl.rollouts.rollout import Rollout


@dataclass(frozen=True)
class Batch:
    """B transitions as tensors, evaluated by π_old and the old critic.

    Attributes:
        inputs: observations, and for a policy with memory the sequences they form.
        actions: as sampled, `[B]` or `[B, A]`.
        advantages: not standardized, `[B]`.
        returns: targets of the critic, advantages + old values, `[B]`.
        old_parameters: of the distributions π_old(·|s), `[B, P]`.
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
        """Number of parts that minibatches are made of: sequences if there are any, else rows."""
        sequences = self.inputs.sequences
        return len(self) if sequences is None else len(sequences)

    def standardized(self) -> Self:
        """Return the batch with its advantages standardized over it."""
        return replace(self, advantages=standardize(self.advantages))

    def take(self, chosen: Tensor) -> Self:
        """Return a part of the batch.

        Args:
            chosen: indices of sequences if there are any, else of rows.
        """
        rows, sequences = chosen, self.inputs.sequences
        if sequences is not None:
            rows, sequences = sequences.take(chosen)
        observations = {key: tensor[rows] for key, tensor in self.inputs.observations.items()}
        tensors = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "inputs"}
        return type(self)(inputs=Inputs(observations, sequences), **tensors)

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator[Self]:
        """Split the batch at random into minibatches of rows, or of whole sequences.

        Args:
            num_minibatches: at most one for each row or sequence is made.
            generator: source of the permutation.

        Yields:
            Minibatches; the batch itself if only one is requested.
        """
        for chosen in minibatches(self.num_parts, num_minibatches, generator):
            yield self.take(chosen) if num_minibatches > 1 else self

    def sample(self, fraction: float, generator: Generator) -> Self:
        """Return a random fraction of the rows or sequences, at least one."""
        chosen = next(minibatches(self.num_parts, 1, generator))
        return self.take(chosen[: max(1, round(fraction * self.num_parts))])


@torch.no_grad()
def make_batch(
    rollout: Rollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: RewardScaler | None = None,
    reward_clip: float | None = None,
) -> Batch:
    """Turn a rollout into a batch, before the policy changes.

    π_old, its log-probabilities and the values are computed here, in one pass over all rows.

    Args:
        rollout: collected by the current policy.
        engine: of π_old.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation.
        reward_scaler: scales the rewards for learning.
        reward_clip: clips the rewards for learning to ± this, after scaling.

    Returns:
        The transitions in time-major order, without autoreset steps.
    """
    policy = engine.policy
    steps, num_envs = rollout.rewards.shape
    observations = {key: _flat(array) for key, array in rollout.observations.items()}
    all_observations = policy.tensors(
        {
            key: np.concatenate((array, rollout.final_observations[key]))
            for key, array in observations.items()
            if key in rollout.final_observations
        }
    )
    states = torch.cat((rollout.states.flatten(0, 1), rollout.final_states))
    all_values = engine.values(Inputs(all_observations), states).cpu().numpy().astype(np.float64)
    values, final_values = np.split(all_values, [(steps + 1) * num_envs])
    values = values.reshape(steps + 1, num_envs)
    next_values = values[1:].copy()
    next_values.reshape(-1)[rollout.final_rows] = final_values
    rewards = rollout.rewards if reward_scaler is None else reward_scaler(rollout.rewards)
    if reward_clip is not None:
        rewards = rewards.clip(-reward_clip, reward_clip)
    advantages = generalized_advantages(
        rewards,
        values[:-1],
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
    old = engine.distribution(inputs)
    return Batch(
        inputs,
        actions,
        policy.tensor(advantages.reshape(-1)[rows]),
        policy.tensor((advantages + values[:-1]).reshape(-1)[rows]),
        old.parameters,
        old.log_prob(actions),
        policy.tensor(values[:-1].reshape(-1)[rows]),
    )


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _sequences(rollout: Rollout, rows: NDArray[np.int64], policy: Policy) -> Sequences:
    """Split each sub-environment's rows at episode starts and at the longest sequence length.

    Args:
        rollout: T steps of N sub-environments.
        rows: the transitions among the `[T * N]` rows.
        policy: its config has the longest sequence length.
    """
    steps, num_envs = rollout.rewards.shape
    batch_rows = np.full(steps * num_envs, -1)
    batch_rows[rows] = np.arange(len(rows))
    batch_rows = batch_rows.reshape(steps, num_envs)
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
            open_sequence.append(int(batch_rows[t, env]))
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
        num_minibatches: at most B are made.
        generator: source of the permutation.

    Yields:
        Indices of the rows of each minibatch.
    """
    permutation = torch.randperm(size, generator=generator, device=generator.device)
    yield from permutation.tensor_split(min(num_minibatches, size))
