"""Steps the environments with the current policy and fills a `Rollout`."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rlkl.normalization import ObservationNormalizer
from rlkl.policy import Policy
from rlkl.rollout import Episode, Rollout
from rlkl.spaces import ACTION_MASK, VECTOR, Observations, normalized
from rlkl.vector_environment import VectorEnvironment


class Collector:
    """Collects rollouts one after the other; episodes go on across their borders.

    Args:
        envs: stepped together; reset once, here.
        policy: acts as it stands at each call.
        rollout_steps: T, rows of a rollout (steps of each environment).
        generator: source of sampled actions.
        seeds: of the environments, one each.
        normalizer: of the vectors of observations, if any; it stands still while a rollout is
            collected.
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
        self._begins = np.ones(envs.num_envs, np.bool_)
        self._states = policy.initial_state(envs.num_envs)
        self._episode_returns = np.zeros(envs.num_envs, np.float64)
        self._episode_lengths = np.zeros(envs.num_envs, np.int64)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Step every environment T times with actions sampled from the policy."""
        steps, num_envs = self.rollout_steps, self.envs.num_envs
        observations = self._room(steps + 1)
        raw_vectors = None
        if self.normalizer is not None:
            raw_vectors = np.empty_like(observations[VECTOR][:-1])
        states = [self._states]
        actions: list[NDArray[np.generic]] = []
        rewards = np.empty((steps, num_envs), np.float64)
        terminated = np.empty((steps, num_envs), np.bool_)
        truncated = np.empty((steps, num_envs), np.bool_)
        is_transition = np.empty((steps, num_envs), np.bool_)
        begins = np.empty((steps + 1, num_envs), np.bool_)
        finals: list[Observations] = []
        final_states: list[Tensor] = []
        final_rows: list[NDArray[np.int64]] = []
        episodes: list[Episode] = []
        for t in range(steps):
            if raw_vectors is not None:
                raw_vectors[t] = self._observations[VECTOR]
            begins[t] = self._begins
            seen = self._write(observations, t)
            distribution, after = self.policy.step(self.policy.tensors(seen), self._states)
            actions.append(distribution.sample(self.generator).cpu().numpy())
            step = self.envs.step(self.policy.decoder(actions[t]))
            rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
            is_transition[t] = step.is_transition
            self._observations, self._begins = step.observations, step.begins
            self._states = self.policy.forget(after, step.begins)
            states.append(self._states)
            cut = ~step.terminated[step.final_envs]
            if cut.any():
                finals.append({key: rows[cut] for key, rows in step.final_observations.items()})
                final_states.append(after[torch.as_tensor(step.final_envs[cut])])
                final_rows.append(t * num_envs + step.final_envs[cut])
            episodes += self._count(step.rewards, step.is_transition, terminated[t] | truncated[t])
        begins[steps] = self._begins
        self._write(observations, steps)
        return Rollout(
            observations=observations,
            raw_vectors=raw_vectors,
            states=torch.stack(states),
            actions=np.stack(actions),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            is_transition=is_transition,
            begins=begins,
            final_observations=self._joined(finals),
            final_states=torch.cat([*final_states, self.policy.initial_state(0)]),
            final_rows=np.concatenate([*final_rows, np.empty(0, np.int64)]),
            episodes=tuple(episodes),
            env_steps=self.env_steps,
        )

    def _room(self, rows: int) -> Observations:
        room = self.envs.encoder.empty(rows, self.envs.num_envs)
        mask = self._observations.get(ACTION_MASK)
        if mask is not None:
            room[ACTION_MASK] = np.empty((rows, *mask.shape), np.bool_)
        return room

    def _write(self, room: Observations, t: int) -> Observations:
        """Put what the policy sees next into row t, normalised; return the row."""
        for key, rows in normalized(self._observations, self.normalizer).items():
            room[key][t] = rows
        return {key: rows[t] for key, rows in room.items()}

    def _joined(self, finals: Sequence[Observations]) -> Observations:
        joined = {
            key: np.concatenate([none, *(final[key] for final in finals)])
            for key, none in self.envs.encoder.empty(0).items()
        }
        return normalized(joined, self.normalizer)

    def _count(
        self,
        rewards: NDArray[np.float64],
        is_transition: NDArray[np.bool_],
        ended: NDArray[np.bool_],
    ) -> list[Episode]:
        """Add one step to the episodes under way, and return those that ended."""
        self.env_steps += int(is_transition.sum())
        self._episode_returns += rewards * is_transition
        self._episode_lengths += is_transition
        rows = np.flatnonzero(ended)
        episodes = [
            Episode(self.env_steps, float(self._episode_returns[i]), int(self._episode_lengths[i]))
            for i in rows
        ]
        self._episode_returns[rows] = 0
        self._episode_lengths[rows] = 0
        return episodes
