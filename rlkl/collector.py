"""Steps the environments with the current policy and fills a `Rollout`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from rlkl.envs import VectorEnvironment
from rlkl.normalization import ObservationNormalizer
from rlkl.policy import Policy
from rlkl.rollout import Episode, Rollout


class Collector:
    """Collects rollouts one after the other; episodes go on across their borders.

    Args:
        envs: stepped together; reset once, here.
        policy: acts as it stands at each call.
        rollout_steps: T, rows of a rollout (steps of each environment).
        generator: source of sampled actions.
        seeds: of the environments, one each.
        normalizer: of observations, if any; it stands still while a rollout is collected.
    """

    def __init__(
        self,
        envs: VectorEnvironment,
        policy: Policy,
        rollout_steps: int,
        generator: Generator,
        seeds: list[int],
        normalizer: ObservationNormalizer | None = None,
    ) -> None:
        self.envs = envs
        self.policy = policy
        self.rollout_steps = rollout_steps
        self.generator = generator
        self.normalizer = normalizer
        self.env_steps = 0
        self._observations = envs.reset(seeds)
        self._episode_returns = np.zeros(envs.num_envs, np.float64)
        self._episode_lengths = np.zeros(envs.num_envs, np.int64)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Step every environment T times with actions sampled from the policy."""
        shape = (self.rollout_steps, self.envs.num_envs)
        observations = np.empty((*shape, self.envs.observation_size), np.float32)
        raw_observations = observations if self.normalizer is None else np.empty_like(observations)
        actions: list[NDArray[np.generic]] = []
        rewards = np.empty(shape, np.float64)
        terminated = np.empty(shape, np.bool_)
        truncated = np.empty(shape, np.bool_)
        is_transition = np.empty(shape, np.bool_)
        finals: dict[int, NDArray[np.float32]] = {}
        episodes: list[Episode] = []
        for t in range(self.rollout_steps):
            raw_observations[t] = self._observations
            observations[t] = self._normalized(self._observations)
            distribution = self.policy.distribution(self.policy.tensor(observations[t]))
            actions.append(distribution.sample(self.generator).cpu().numpy())
            step = self.envs.step(actions[t])
            self._observations = step.observations
            rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
            is_transition[t] = step.is_transition
            self.env_steps += int(step.is_transition.sum())
            self._episode_returns += step.rewards * step.is_transition
            self._episode_lengths += step.is_transition
            ended = np.flatnonzero(step.terminated | step.truncated)
            for i in map(int, ended):
                episodes.append(
                    Episode(
                        self.env_steps,
                        float(self._episode_returns[i]),
                        int(self._episode_lengths[i]),
                    )
                )
                if i in step.final_observations and not step.terminated[i]:
                    finals[t * self.envs.num_envs + i] = step.final_observations[i]
            self._episode_returns[ended] = 0
            self._episode_lengths[ended] = 0
        final_observations = np.zeros((len(finals), self.envs.observation_size), np.float32)
        for row, observation in enumerate(finals.values()):
            final_observations[row] = observation
        return Rollout(
            observations=observations,
            raw_observations=raw_observations,
            last_observations=self._normalized(self._observations),
            actions=np.stack(actions),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            is_transition=is_transition,
            final_observations=self._normalized(final_observations),
            final_rows=np.array(list(finals), np.int64),
            episodes=tuple(episodes),
            env_steps=self.env_steps,
        )

    def _normalized(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return observations if self.normalizer is None else self.normalizer(observations)
