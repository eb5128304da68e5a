"""A minimal training loop, and small policies, for tests."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import AlgoConfig, Metrics
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import VECTOR, ObservationEncoder
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.models.policy import Inputs, Policy, PolicyConfig
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.make import make_batch
from rlkl.rollouts.rollout import Rollout
from rlkl.training.learner import Learner
from rlkl.training.report import Report
from rlkl.utils.seeding import RandomStreams

CORE = {"vanilla_pg", "ppo_clip", "ppo_kl", "ppo_kl_fixed", "trpo", "npg"}
"""The algorithms that large matrices of tests try in full; the others meet a part of them."""


def config_of(name: str, **settings: Any) -> AlgoConfig:
    """Return the config of an algorithm, without the settings that it lacks."""
    known = {field.name for field in fields(ALGORITHMS[name].config)}
    return ALGORITHMS[name].config(**{k: v for k, v in settings.items() if k in known})


def vector_encoder(size: int) -> ObservationEncoder:
    """Make an encoder of vector observations."""
    return ObservationEncoder(Box(-np.inf, np.inf, (size,), np.float32))


def as_inputs(vectors: Tensor | NDArray[Any]) -> Inputs:
    """Return vectors `[B, D]` as inputs of a policy."""
    return Inputs({VECTOR: torch.as_tensor(vectors)})


def vectors_of(batch: Batch) -> Tensor:
    """Return the observation vectors of a batch."""
    return batch.inputs.observations[VECTOR]


def small_policy(
    observations: int | ObservationEncoder,
    space: Space[Any],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Policy:
    """Make a policy with small networks and actions that depend on the state."""
    encoder = vector_encoder(observations) if isinstance(observations, int) else observations
    settings = {"actor_gain": 0.5, "log_std": -0.3} | settings
    settings = {"actor_hidden_sizes": [16], "critic_hidden_sizes": [16]} | settings
    generator = RandomStreams(seed).torch("policy")
    return Policy(PolicyConfig(**settings), encoder, space, generator, dtype=dtype)


def iterate(learner: Learner) -> tuple[Rollout, Report]:
    """Iterate a learner once; return the rollout as well as the report."""
    found: list[Rollout] = []
    collect = learner.collector.collect

    def recorded() -> Rollout:
        found.append(collect())
        return found[-1]

    learner.collector.collect = recorded  # type: ignore[method-assign]
    try:
        report = learner.iterate()
    finally:
        learner.collector.collect = collect  # type: ignore[method-assign]
    return found[-1], report


class Loop:
    """Collects batches, and updates actor, critic and normalizer."""

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
        self.engine = make_engine(self.policy)
        self.collector = Collector(
            self.envs,
            self.engine,
            rollout_steps,
            streams.torch("actions"),
            streams.integers("envs", self.envs.num_envs),
            self.normalizer,
        )
        self.optimizer = make_policy_optimizer(algo, self.engine, streams.torch("algo"))
        self.critic_fit = CriticFit(critic or CriticConfig(), self.engine, streams.torch("critic"))
        self.gamma, self.gae_lambda = gamma, gae_lambda

    def collect(self) -> Batch:
        """Collect one batch and update the normalizer."""
        rollout = self.collector.collect()
        batch = make_batch(rollout, self.engine, self.gamma, self.gae_lambda)
        if self.normalizer is not None and rollout.raw_vectors is not None:
            self.normalizer.update(rollout.raw_vectors[rollout.is_transition])
        return batch

    def iterate(self, times: int = 1) -> Metrics:
        """Run some iterations and return the metrics of the last update."""
        metrics: Metrics = {}
        for _ in range(times):
            batch = self.collect()
            metrics = self.optimizer.update(batch, 0.0).metrics
            self.optimizer.adapt(float(self.engine.state_kl(batch).mean()))
            self.critic_fit.update(batch, 0.0)
        return metrics
