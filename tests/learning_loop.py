"""The shortest loop that trains a policy: what the tests of algorithms and probes run."""

from dataclasses import fields
from typing import Any

from gymnasium.spaces import Box, Discrete

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import AlgoConfig, Metrics
from rlkl.collector import Collector
from rlkl.critic import CriticConfig, CriticFit
from rlkl.envs import EnvConfig, make_vector_env
from rlkl.normalization import ObservationNormalizer
from rlkl.policy import Policy, PolicyConfig
from rlkl.randomness import RandomStreams
from rlkl.rollout import Batch, make_batch


def config_of(name: str, **settings: Any) -> AlgoConfig:
    """Return an algorithm's config with those of the settings that it knows."""
    known = {field.name for field in fields(ALGORITHMS[name].config)}
    return ALGORITHMS[name].config(**{k: v for k, v in settings.items() if k in known})


def small_policy(observation_size: int, space: Box | Discrete, seed: int = 0) -> Policy:
    """Make a policy with small networks whose actions differ from state to state."""
    config = PolicyConfig([16], [16], actor_gain=0.5, log_std=-0.3)
    return Policy(config, observation_size, space, RandomStreams(seed).torch("policy"))


class Loop:
    """Collects, makes a batch, updates the actor, fits the critic and moves the normalizer."""

    def __init__(
        self,
        algo: AlgoConfig,
        env: EnvConfig,
        *,
        rollout_steps: int = 64,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        normalize: bool = False,
        critic: CriticConfig | None = None,
        seed: int = 0,
    ) -> None:
        streams = RandomStreams(seed)
        self.envs = make_vector_env(env)
        size = self.envs.observation_size
        self.policy = small_policy(size, self.envs.action_space, seed)
        self.normalizer = ObservationNormalizer((size,)) if normalize else None
        self.collector = Collector(
            self.envs,
            self.policy,
            rollout_steps,
            streams.torch("actions"),
            streams.integers("envs", env.num_envs),
            self.normalizer,
        )
        self.optimizer = make_policy_optimizer(algo, self.policy, streams.torch("algo"))
        self.critic_fit = CriticFit(critic or CriticConfig(), self.policy, streams.torch("critic"))
        self.gamma, self.gae_lambda = gamma, gae_lambda

    def collect(self) -> Batch:
        """Collect one batch, after which the normalizer may move."""
        rollout = self.collector.collect()
        batch = make_batch(rollout, self.policy, self.gamma, self.gae_lambda)
        if self.normalizer is not None:
            self.normalizer.update(rollout.raw_observations[rollout.is_transition])
        return batch

    def iterate(self, times: int = 1) -> Metrics:
        """Train for some iterations and return the metrics of the last update."""
        metrics: Metrics = {}
        for _ in range(times):
            batch = self.collect()
            metrics = self.optimizer.update(batch, 0.0)
            self.critic_fit.update(batch, 0.0)
        return metrics
