"""Choose between arrays and tensors: the collector, the normalizers and the batch."""

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from rlkl.engines.base import Engine
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.numerics.normalization import ObservationNormalizer, RewardScaler, ValueNormalizer
from rlkl.numerics.tensor_normalization import TensorObservationNormalizer, TensorRewardScaler
from rlkl.rollouts.batch import ArraySteps, Batch
from rlkl.rollouts.collector import BaseCollector, Collector
from rlkl.rollouts.rollout import Rollout
from rlkl.rollouts.tensor_collector import TensorCollector
from rlkl.rollouts.tensor_rollout import TensorRollout, TensorSteps
from rlkl.utils.errors import ConfigError
from rlkl.utils.ranks import ALONE, Ranks

AnyEnvironment = VectorEnvironment | TensorEnvironment
AnyRollout = Rollout | TensorRollout


def make_collector(
    envs: Any,
    engine: Engine,
    rollout_steps: int,
    generator: Generator,
    seeds: list[int],
    normalizer: Any = None,
    ranks: Ranks = ALONE,
) -> BaseCollector:
    """Return the collector for environments of arrays or of tensors; see `Collector`."""
    kind = TensorCollector if isinstance(envs, TensorEnvironment) else Collector
    return kind(envs, engine, rollout_steps, generator, seeds, normalizer, ranks)


def make_normalizer(envs: AnyEnvironment, name: str = "the environment") -> Any:
    """Return the normalizer of the environments' observations.

    Raises:
        ConfigError: naming the environment, if there is nothing to normalize.
    """
    if not envs.encoder.is_measured.any():
        raise ConfigError(
            f"normalize_observations=true: {name} has nothing to normalize, only images (see "
            "policy.pixel_scale) or one-hot codes; leave it out"
        )
    shape, is_measured = (envs.encoder.vector_size,), envs.encoder.is_measured
    if isinstance(envs, TensorEnvironment):
        return TensorObservationNormalizer(shape, envs.device, is_measured=is_measured)
    return ObservationNormalizer(shape, is_measured=is_measured)


def make_reward_scaler(envs: AnyEnvironment, num_envs: int, gamma: float) -> Any:
    """Return the scaler of the rewards of all ranks' sub-environments."""
    if isinstance(envs, TensorEnvironment):
        return TensorRewardScaler(num_envs, gamma, envs.device)
    return RewardScaler(num_envs, gamma)


@torch.no_grad()
def make_batch(
    rollout: AnyRollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: Any = None,
    reward_clip: float | None = None,
    value_normalizer: ValueNormalizer | None = None,
) -> Batch:
    """Turn a rollout into a batch, before the policy changes.

    π_old, its log-probabilities and the values are computed here, in one pass over all rows. For
    learning, rewards are scaled and then clipped to ± `reward_clip`. With a value normalizer, old
    values and returns are what the critic's outputs are fitted to.

    Returns:
        The transitions in time-major order, without autoreset steps.
    """
    settings = gamma, gae_lambda, reward_scaler, reward_clip, value_normalizer
    steps, advantages, returns, old_values = _estimated(rollout, engine, *settings)
    inputs, actions = steps.inputs(), steps.flat(rollout.actions)
    old = engine.distribution(inputs)
    log_prob = old.log_prob(actions)
    return Batch(inputs, actions, advantages, returns, old.parameters, log_prob, old_values)


@torch.no_grad()
def recompute_advantages(batch: Batch, *arguments: Any) -> Batch:
    """Return a batch with advantages and returns from the current critic.

    The arguments after the batch are those of `make_batch`, which made it. The policy must have no
    memory: the stored states are those of the old critic.
    """
    _, advantages, returns, _ = _estimated(*arguments)
    return replace(batch, advantages=advantages, returns=returns)


def _estimated(
    rollout: Any,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: Any = None,
    reward_clip: float | None = None,
    value_normalizer: ValueNormalizer | None = None,
) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Return the steps, and advantages, returns and values of all transitions, `[B]` each."""
    make: Any = TensorSteps if isinstance(rollout, TensorRollout) else ArraySteps
    steps = make(rollout, engine)
    values, next_values = steps.values()
    if value_normalizer is not None:
        values, next_values = map(value_normalizer.denormalize, (values, next_values))
    rewards = rollout.rewards if reward_scaler is None else reward_scaler(rollout.rewards)
    if reward_clip is not None:
        rewards = rewards.clip(-reward_clip, reward_clip)
    ends = rollout.terminated, rollout.truncated
    advantages = steps.estimate(rewards, values, next_values, *ends, gamma, gae_lambda)
    returns, old_values = steps.flat(advantages + values), steps.flat(values)
    if value_normalizer is not None:
        returns, old_values = map(value_normalizer.normalize, (returns, old_values))
    return steps, steps.flat(advantages), returns, old_values


def for_arrays(normalizer: Any) -> ObservationNormalizer | None:
    """Return the same normalizer for NumPy arrays; None without one."""
    if isinstance(normalizer, TensorObservationNormalizer):
        return normalizer.of_arrays()
    arrays: ObservationNormalizer | None = normalizer
    return arrays
