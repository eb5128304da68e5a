"""Choose between arrays and tensors: the collector, the normalizers and the batch."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

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

AnyEnvironment = VectorEnvironment | TensorEnvironment
AnyRollout = Rollout | TensorRollout


def collector_for(envs: AnyEnvironment) -> type[BaseCollector]:
    """Return the class that collects rollouts of arrays, or of tensors."""
    return TensorCollector if isinstance(envs, TensorEnvironment) else Collector


def make_normalizer(envs: AnyEnvironment, name: str = "the environment", clip: float = 10.0) -> Any:
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
        return TensorObservationNormalizer(shape, envs.device, clip, is_measured)
    return ObservationNormalizer(shape, clip, is_measured)


def make_reward_scaler(envs: AnyEnvironment, num_envs: int, gamma: float) -> Any:
    """Return the scaler of the rewards of all ranks' sub-environments."""
    if isinstance(envs, TensorEnvironment):
        return TensorRewardScaler(num_envs, gamma, envs.device)
    return RewardScaler(num_envs, gamma)


class BatchMaker:
    """Turns a rollout into a batch, before the policy changes.

    Args:
        rollout: of arrays or of tensors. It is copied to the device once.
        engine: of the policy.
        gamma, gae_lambda: of the advantages.
        reward_scaler, reward_clip: for learning, rewards are scaled and then clipped to
            ± `reward_clip`.
        value_normalizer: with it, old values and returns are what the critic's outputs are fitted
            to.
        bootstrap_truncated: whether truncated episodes have a value after their end.
    """

    def __init__(
        self,
        rollout: AnyRollout,
        engine: Engine,
        gamma: float,
        gae_lambda: float,
        reward_scaler: Any = None,
        reward_clip: float | None = None,
        value_normalizer: ValueNormalizer | None = None,
        bootstrap_truncated: bool = True,
    ) -> None:
        self.rollout, self.engine, self.value_normalizer = rollout, engine, value_normalizer
        self.coefficients = gamma, gae_lambda
        ended, truncated = rollout.terminated, rollout.truncated
        self.ends = (ended if bootstrap_truncated else ended | truncated), truncated
        make: Any = TensorSteps if isinstance(rollout, TensorRollout) else ArraySteps
        self.steps = make(rollout, engine)
        rewards = rollout.rewards if reward_scaler is None else reward_scaler(rollout.rewards)
        self.rewards = rewards if reward_clip is None else rewards.clip(-reward_clip, reward_clip)

    @torch.no_grad()
    def make(self) -> Batch:
        """Return the transitions in time-major order, without autoreset steps.

        π_old, its log-probabilities and the values are computed here, in one pass over all rows.
        """
        advantages, returns, old_values = self._estimate()
        inputs, actions = self.steps.inputs(), self.steps.flat(self.rollout.actions)
        old = self.engine.distribution(inputs)
        log_prob = old.log_prob(actions)
        return Batch(inputs, actions, advantages, returns, old.parameters, log_prob, old_values)

    @torch.no_grad()
    def recompute(self, batch: Batch) -> Batch:
        """Return the batch with advantages and returns from the current critic.

        The policy must have no memory: the stored states are those of the old critic.
        """
        advantages, returns, _ = self._estimate()
        return replace(batch, advantages=advantages, returns=returns)

    def _estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return advantages, returns and values of all transitions, `[B]` each."""
        values, next_values = self.steps.values()
        if self.value_normalizer is not None:
            values, next_values = map(self.value_normalizer.denormalize, (values, next_values))
        advantages = self.steps.estimate(
            self.rewards, values, next_values, *self.ends, *self.coefficients
        )
        returns, old_values = self.steps.flat(advantages + values), self.steps.flat(values)
        if self.value_normalizer is not None:
            returns, old_values = map(self.value_normalizer.normalize, (returns, old_values))
        return self.steps.flat(advantages), returns, old_values


def make_batch(*arguments: Any, **named: Any) -> Batch:
    """Turn a rollout into a batch; the arguments are those of `BatchMaker`."""
    return BatchMaker(*arguments, **named).make()


def for_arrays(normalizer: Any) -> ObservationNormalizer | None:
    """Return the same normalizer for NumPy arrays; None without one."""
    if isinstance(normalizer, TensorObservationNormalizer):
        return normalizer.of_arrays()
    arrays: ObservationNormalizer | None = normalizer
    return arrays
