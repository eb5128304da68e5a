"""The shortest loop that trains a policy: what the tests of algorithms and probes run."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import AlgoConfig, Metrics, full_batch_kl
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.spaces import VECTOR, ObservationEncoder
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.models.policy import Inputs, Policy, PolicyConfig
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.rollout import Batch, make_batch
from rlkl.utils.seeding import RandomStreams


def config_of(name: str, **settings: Any) -> AlgoConfig:
    """Return an algorithm's config with those of the settings that it knows."""
    known = {field.name for field in fields(ALGORITHMS[name].config)}
    return ALGORITHMS[name].config(**{k: v for k, v in settings.items() if k in known})


def vector_encoder(size: int) -> ObservationEncoder:
    """Make the encoder of observations that are vectors already."""
    return ObservationEncoder(Box(-np.inf, np.inf, (size,), np.float32))


def seen(vectors: Tensor | NDArray[Any]) -> Inputs:
    """Return vectors `[B, D]` as a policy takes them."""
    return Inputs({VECTOR: torch.as_tensor(vectors)})


def vectors_of(batch: Batch) -> Tensor:
    """Return the vectors that a batch was acted on."""
    return batch.inputs.observations[VECTOR]


def small_policy(
    observations: int | ObservationEncoder,
    space: Space[Any],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Policy:
    """Make a policy with small networks whose actions differ from state to state."""
    encoder = vector_encoder(observations) if isinstance(observations, int) else observations
    settings = {"actor_gain": 0.5, "log_std": -0.3} | settings
    settings = {"actor_hidden_sizes": [16], "critic_hidden_sizes": [16]} | settings
    generator = RandomStreams(seed).torch("policy")
    return Policy(PolicyConfig(**settings), encoder, space, generator, dtype=dtype)


class Loop:
    """Collects, makes a batch, updates the actor, fits the critic and moves the normalizer."""

    def __init__(
        self,
        algo: AlgoConfig,
        env: EnvConfig | VectorEnvironment,
        *,
        rollout_steps: int = 64,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        normalize: bool = False,
        critic: CriticConfig | None = None,
        seed: int = 0,
        **policy: Any,
    ) -> None:
        streams = RandomStreams(seed)
        self.envs = env if isinstance(env, VectorEnvironment) else make_vector_env(env)
        encoder = self.envs.encoder
        self.policy = small_policy(encoder, self.envs.action_space, seed, **policy)
        self.normalizer = None
        if normalize:
            self.normalizer = ObservationNormalizer(
                (encoder.vector_size,), is_measured=encoder.is_measured
            )
        self.collector = Collector(
            self.envs,
            self.policy,
            rollout_steps,
            streams.torch("actions"),
            streams.integers("envs", self.envs.num_envs),
            self.normalizer,
        )
        self.optimizer = make_policy_optimizer(algo, self.policy, streams.torch("algo"))
        self.critic_fit = CriticFit(critic or CriticConfig(), self.policy, streams.torch("critic"))
        self.gamma, self.gae_lambda = gamma, gae_lambda

    def collect(self) -> Batch:
        """Collect one batch, after which the normalizer may move."""
        rollout = self.collector.collect()
        batch = make_batch(rollout, self.policy, self.gamma, self.gae_lambda)
        if self.normalizer is not None and rollout.raw_vectors is not None:
            self.normalizer.update(rollout.raw_vectors[rollout.is_transition])
        return batch

    def iterate(self, times: int = 1) -> Metrics:
        """Train for some iterations and return the metrics of the last update."""
        metrics: Metrics = {}
        for _ in range(times):
            batch = self.collect()
            metrics = self.optimizer.update(batch, 0.0)
            self.optimizer.adapt(full_batch_kl(self.policy, batch))
            self.critic_fit.update(batch, 0.0)
        return metrics
