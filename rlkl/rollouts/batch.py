"""The data of an update: `Batch`, `[B, ...]`, and the steps of a rollout that it is made from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from rlkl.engines.base import Engine
from rlkl.models.policy import Inputs, Policy
from rlkl.models.recurrent import Sequences
from rlkl.numerics.advantages import generalized_advantages, standardize
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
        old_log_prob, old_values: log π_old(a|s) and the old critic's values, `[B]`.
        reference_parameters: of π_ref(·|s), `[B, P]`; None without a reference.
    """

    inputs: Inputs
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    old_parameters: Tensor
    old_log_prob: Tensor
    old_values: Tensor
    reference_parameters: Tensor | None = None

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
        """Return a part of the batch, by indices of sequences if there are any, else of rows."""
        rows, sequences = chosen, self.inputs.sequences
        if sequences is not None:
            rows, sequences = sequences.take(chosen)
        observations = {key: tensor[rows] for key, tensor in self.inputs.observations.items()}
        every = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "inputs"}
        tensors = {key: tensor[rows] for key, tensor in every.items() if tensor is not None}
        return type(self)(inputs=Inputs(observations, sequences), **tensors)

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator[Self]:
        """Yield random minibatches of rows or of whole sequences; the batch itself if only one."""
        for chosen in minibatches(self.num_parts, num_minibatches, generator):
            yield self.take(chosen) if num_minibatches > 1 else self

    def sample(self, fraction: float, generator: Generator) -> Self:
        """Return a random fraction of the rows or sequences, at least one."""
        chosen = next(minibatches(self.num_parts, 1, generator))
        return self.take(chosen[: max(1, round(fraction * self.num_parts))])


class ArraySteps:
    """The steps of a rollout of arrays, as `rollouts.make` turns them into a batch.

    The observations of the T + 1 steps and the final ones are copied to the device once, for the
    values and for the update.
    """

    estimate = staticmethod(generalized_advantages)

    def __init__(self, rollout: Rollout, engine: Engine) -> None:
        self.rollout, self.engine = rollout, engine
        self._rows = np.flatnonzero(rollout.is_transition)
        finals, policy = rollout.final_observations, engine.policy
        self._observations = {
            key: _to_device([_flat(array), *([finals[key]] if key in finals else [])], policy)
            for key, array in rollout.observations.items()
        }

    def values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values of each step's observation and of the one after it, `[T, N]` each."""
        rollout = self.rollout
        observations = {key: self._observations[key] for key in rollout.final_observations}
        states = torch.cat((rollout.states.flatten(0, 1), rollout.final_states))
        found = self.engine.values(Inputs(observations), states)
        shape = rollout.begins.shape
        values, final_values = np.split(found.cpu().numpy().astype(np.float64), [math.prod(shape)])
        values = values.reshape(shape)
        next_values = values[1:].copy()
        next_values.reshape(-1)[rollout.final_rows] = final_values
        return values[:-1], next_values

    def flat(self, array: NDArray[Any]) -> Tensor:
        """Return the rows of all transitions on the device, `[T, N, ...]` to `[B, ...]`."""
        return self.engine.policy.tensor(_flat(array)[self._rows])

    def inputs(self) -> Inputs:
        """Return the policy's inputs at all transitions."""
        rollout, policy, count = self.rollout, self.engine.policy, len(self._rows)
        is_all = count == rollout.is_transition.size
        chosen = slice(count) if is_all else policy.tensor(self._rows)
        return Inputs(
            {key: tensor[chosen] for key, tensor in self._observations.items()},
            sequences_of(rollout.is_transition, rollout.begins, rollout.states, policy)
            if policy.state_size
            else None,
        )


def _to_device(parts: Sequence[NDArray[Any]], policy: Policy) -> Tensor:
    """Join arrays and copy them to the policy's device in their own type, at once.

    CUDA copies from memory that is pinned, which torch keeps for the next rollout.
    """
    if policy.device.type != "cuda":
        return policy.tensor(np.concatenate(parts))
    shape = sum(map(len, parts)), *parts[0].shape[1:]
    kind = torch.from_numpy(parts[0]).dtype
    pinned = torch.empty(shape, dtype=kind, pin_memory=True)
    np.concatenate(parts, out=pinned.numpy())
    return policy.tensor(pinned.to(policy.device, non_blocking=True))


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def sequences_of(
    is_transition: NDArray[np.bool_], begins: NDArray[np.bool_], states: Tensor, policy: Policy
) -> Sequences:
    """Split each sub-environment's rows at episode starts and at the longest sequence length.

    Args:
        is_transition: `[T, N]`.
        begins: episode starts, at least T rows `[T, N]`.
        states: memory states before each observation, at least T rows `[T, N, state_size]`.
        policy: its config has the longest sequence length.
    """
    steps, num_envs = is_transition.shape
    # From here on rows of one sub-environment are adjacent, `[N, T]`.
    is_row, t = is_transition.T, np.arange(steps)
    is_first = begins[:steps].T | (t == 0)
    is_first[:, 1:] |= ~is_row[:, :-1]
    age = t - np.maximum.accumulate(np.where(is_first, t, 0), axis=1)
    starts = is_row & (age % policy.config.sequence_length == 0)
    batch_rows = is_transition.ravel().cumsum().reshape(steps, num_envs).T - 1
    sequences = np.split(batch_rows[is_row], np.flatnonzero(starts[is_row])[1:])
    rows = np.arange(steps * num_envs).reshape(steps, num_envs).T
    return Sequences(
        pad_sequence([torch.from_numpy(sequence) for sequence in sequences]).to(policy.device),
        torch.as_tensor([len(sequence) for sequence in sequences], device=policy.device),
        states.flatten(0, 1)[torch.as_tensor(rows[starts], device=policy.device)],
    )


def minibatches(size: int, num_minibatches: int, generator: Generator) -> Iterator[Tensor]:
    """Yield the row numbers of random minibatches that differ by one row at most."""
    permutation = torch.randperm(size, generator=generator, device=generator.device)
    yield from permutation.tensor_split(min(num_minibatches, size))
