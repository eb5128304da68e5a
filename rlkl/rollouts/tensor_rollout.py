"""A rollout of tensors on a device, and the batch made from it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlkl.engines.base import Engine
from rlkl.envs.tensor_spaces import TensorObservations
from rlkl.models.policy import Inputs
from rlkl.models.recurrent import Sequences
from rlkl.numerics.normalization import ValueNormalizer
from rlkl.numerics.tensor_advantages import generalized_advantages
from rlkl.numerics.tensor_normalization import TensorRewardScaler
from rlkl.rollouts.batch import Batch, sequences_of
from rlkl.rollouts.rollout import Episode


@dataclass(frozen=True)
class TensorRollout:
    """T steps of N sub-environments as tensors; the attributes of `Rollout`, masked.

    Attributes:
        observations: of the policy: encoded, normalized if training normalizes, and those after
            the last step, `[T + 1, N, ...]` each.
        raw_vectors: the first T vectors before normalization, `[T, N, D]`; None without it.
        states: memory states before each observation, `[T + 1, N, state_size]`.
        actions: as sampled, `[T, N, ...]`.
        rewards: raw, float64, `[T, N]`.
        terminated: whether the episode ended in a terminal state, `[T, N]`.
        truncated: whether it was cut off, `[T, N]`.
        is_transition: False for autoreset steps, `[T, N]`.
        begins: episode starts, `[T + 1, N]`.
        final_observations: observations after each step and before its autoreset, `[T, N, ...]`;
            they count in truncated rows only. Empty if `observations` show them (NEXT_STEP).
        final_states: memory states before those, `[T, N, state_size]`.
        skips_rows: whether some rows may be no transitions.
        episodes: that ended, in order.
        env_steps: of training at the end of this rollout.
        num_transitions: True values in `is_transition`.
        infos: numbers in infos, `[T, N, number of info_keys]`; None without `logger.info_keys`.
    """

    observations: TensorObservations
    raw_vectors: Tensor | None
    states: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    is_transition: Tensor
    begins: Tensor
    final_observations: TensorObservations
    final_states: Tensor
    skips_rows: bool
    episodes: tuple[Episode, ...]
    env_steps: int
    num_transitions: int
    infos: Tensor | None = None

    @property
    def ends(self) -> Tensor:
        """Episode ends, `[T, N]`: terminations and truncations."""
        return self.terminated | self.truncated

    @property
    def raw_transitions(self) -> Tensor | None:
        """The raw vectors of all transitions, `[B, D]`; None without normalization."""
        if self.raw_vectors is None:
            return None
        rows = self.raw_vectors.flatten(0, 1)
        return rows[self.is_transition.flatten()] if self.skips_rows else rows


@torch.no_grad()
def make_tensor_batch(
    rollout: TensorRollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: TensorRewardScaler | None = None,
    reward_clip: float | None = None,
    value_normalizer: ValueNormalizer | None = None,
) -> Batch:
    """Turn a rollout into a batch on its device; see `batch.make_batch`.

    All rows are transitions with SAME_STEP autoreset. With NEXT_STEP, rows are selected by an
    index, which waits for the device once; so does a policy with memory, to find its sequences.
    """
    policy, rows = engine.policy, _rows(rollout)
    settings = gamma, gae_lambda, reward_scaler, reward_clip, value_normalizer
    advantages, values = _advantages(rollout, engine, *settings)

    def flat(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)[rows]

    steps = len(rollout.rewards)
    observations = {key: flat(shown[:steps]) for key, shown in rollout.observations.items()}
    inputs = Inputs(policy.tensors(observations))
    if policy.state_size:
        inputs = inputs._replace(sequences=_sequences(rollout, engine))
    actions = policy.tensor(flat(rollout.actions))
    old = engine.distribution(inputs)
    return Batch(
        inputs,
        actions,
        policy.tensor(flat(advantages)),
        policy.tensor(flat(advantages + values)),
        old.parameters,
        old.log_prob(actions),
        policy.tensor(flat(values)),
    )


@torch.no_grad()
def recompute_tensor_advantages(
    batch: Batch,
    rollout: TensorRollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: TensorRewardScaler | None = None,
    reward_clip: float | None = None,
    value_normalizer: ValueNormalizer | None = None,
) -> Batch:
    """Return the batch with new advantages and returns; see `batch.recompute_advantages`."""
    policy, rows = engine.policy, _rows(rollout)
    settings = gamma, gae_lambda, reward_scaler, reward_clip, value_normalizer
    advantages, values = _advantages(rollout, engine, *settings)
    return replace(
        batch,
        advantages=policy.tensor(advantages.flatten()[rows]),
        returns=policy.tensor((advantages + values).flatten()[rows]),
    )


def _rows(rollout: TensorRollout) -> Tensor | slice:
    """Return which rows of the flattened steps are transitions."""
    if not rollout.skips_rows:
        return slice(None)
    return rollout.is_transition.flatten().nonzero().squeeze(-1)


def _advantages(
    rollout: TensorRollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: TensorRewardScaler | None,
    reward_clip: float | None,
    value_normalizer: ValueNormalizer | None,
) -> tuple[Tensor, Tensor]:
    """Return the advantages and the values of all steps in float64, `[T, N]` each."""
    values, next_values = _values(rollout, engine)
    if value_normalizer is not None:
        values, next_values = map(value_normalizer.denormalize, (values, next_values))
    rewards = rollout.rewards if reward_scaler is None else reward_scaler(rollout.rewards)
    if reward_clip is not None:
        rewards = rewards.clamp(-reward_clip, reward_clip)
    ends = rollout.terminated, rollout.truncated
    advantages = generalized_advantages(rewards, values, next_values, *ends, gamma, gae_lambda)
    return advantages, values


def _values(rollout: TensorRollout, engine: Engine) -> tuple[Tensor, Tensor]:
    """Return V(s) and V(s') of all steps in float64, `[T, N]`.

    s' of a truncated episode is its final observation. All rows are evaluated in one pass.
    """
    steps, num_envs = rollout.rewards.shape
    observations, states = rollout.observations, rollout.states
    if rollout.final_observations:
        finals = rollout.final_observations
        observations = {key: torch.cat((rows, finals[key])) for key, rows in observations.items()}
        states = torch.cat((states, rollout.final_states))
    inputs = Inputs(
        engine.policy.tensors({key: rows.flatten(0, 1) for key, rows in observations.items()})
    )
    values = engine.values(inputs, states.flatten(0, 1)).double().view(-1, num_envs)
    next_values = values[1 : steps + 1]
    if rollout.final_observations:
        is_cut = rollout.truncated & ~rollout.terminated
        next_values = values[steps + 1 :].where(is_cut, next_values)
    return values[:steps], next_values


def _sequences(rollout: TensorRollout, engine: Engine) -> Sequences:
    """Return the sequences of a policy with memory; they are found on the CPU."""
    marks = torch.stack((rollout.is_transition, rollout.begins[:-1])).cpu().numpy()
    return sequences_of(marks[0], marks[1], rollout.states, engine.policy)
