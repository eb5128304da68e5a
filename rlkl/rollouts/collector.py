"""Steps the environments with the current policy and fills a `Rollout`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rlkl.envs.spaces import ACTION_MASK, VECTOR, Observations, normalized
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.rollouts.rollout import Episode, Rollout


class Collector:
    """Collects rollouts one after the other; episodes go on across their borders.

    Args:
        envs: stepped together; reset here.
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
        self.policy = policy
        self.rollout_steps = rollout_steps
        self.generator = generator
        self.normalizer = normalizer
        self.env_steps = 0
        self.begin_anew(envs, seeds)

    def begin_anew(self, envs: VectorEnvironment, seeds: list[int]) -> None:
        """Begin an episode in every environment; those under way are never counted.

        Args:
            envs: of the same kind as before.
            seeds: of the environments, one each.
        """
        self.envs, num_envs = envs, envs.num_envs
        self._observations = envs.reset(seeds)
        self._begins = np.ones(num_envs, np.bool_)
        self._states = self.policy.initial_state(num_envs)
        self._returns_under_way = np.zeros(num_envs, np.float64)
        self._lengths_under_way = np.zeros(num_envs, np.int64)

    def collect(self) -> Rollout:
        """Return the next rollout that has a transition: a short one may be of resets alone."""
        while True:
            rollout = self._collect()
            if rollout.is_transition.any():
                return rollout

    @torch.no_grad()
    def _collect(self) -> Rollout:
        """Step every environment T times with actions sampled from the policy.

        What can be done once for all T steps is done before or after the loop, which is the part of
        training that Python itself takes most time of: noise is drawn before, episodes are counted
        after, and values are no business of it (`make_batch` computes them).
        """
        steps, num_envs, policy = self.rollout_steps, self.envs.num_envs, self.policy
        act = policy.acting(policy.noise(steps, num_envs, self.generator))
        observations = self._room(steps + 1)
        raw_vectors = None
        if self.normalizer is not None:
            raw_vectors = np.empty_like(observations[VECTOR][:-1], self.envs.encoder.dtype)
        none = self._states  # without a memory there is nothing to keep
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
        for t in range(steps):
            if raw_vectors is not None:
                raw_vectors[t] = self._observations[VECTOR]
            begins[t] = self._begins
            chosen, after = act(t, self._write(observations, t), self._states)
            actions.append(chosen)
            step = self.envs.step(policy.decoder(chosen))
            rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
            is_transition[t] = step.is_transition
            self._observations, self._begins = step.observations, step.begins
            if policy.state_size:
                self._states = policy.forget(after, step.begins)
                states.append(self._states)
            if len(step.final_envs):
                cut = ~step.terminated[step.final_envs]
                finals.append({key: rows[cut] for key, rows in step.final_observations.items()})
                final_states.append(after[torch.as_tensor(step.final_envs[cut])])
                final_rows.append(t * num_envs + step.final_envs[cut])
        begins[steps] = self._begins
        self._write(observations, steps)
        episodes = self._counted(rewards * is_transition, is_transition, terminated | truncated)
        return Rollout(
            observations=observations,
            raw_vectors=raw_vectors,
            states=torch.stack(states) if policy.state_size else none.expand(steps + 1, -1, -1),
            actions=np.stack(actions),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            is_transition=is_transition,
            begins=begins,
            final_observations=self._joined(finals),
            final_states=torch.cat([*final_states, policy.initial_state(0)]),
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
        seen = {key: rows[t] for key, rows in room.items()}
        for key, rows in self._observations.items():
            if key == VECTOR and self.normalizer is not None:
                self.normalizer.write(rows, seen[key])
            else:
                seen[key][...] = rows
        return seen

    def _joined(self, finals: Sequence[Observations]) -> Observations:
        empty = self.envs.encoder.empty(0)
        joined = {
            key: np.concatenate([none, *(final[key] for final in finals)])
            for key, none in empty.items()
        }
        seen = normalized(joined, self.normalizer)
        return {key: rows.astype(empty[key].dtype, copy=False) for key, rows in seen.items()}

    def _counted(
        self,
        rewards: NDArray[np.float64],
        is_transition: NDArray[np.bool_],
        ended: NDArray[np.bool_],
    ) -> list[Episode]:
        """Add the steps of a rollout to the episodes under way, and return those that ended.

        Args:
            rewards: 0 where a row is no transition, `[T, N]`.
            is_transition: `[T, N]`.
            ended: `[T, N]`.
        """
        env_steps = self.env_steps + is_transition.sum(1).cumsum()
        start = np.zeros(len(self._returns_under_way), np.int64)
        episodes = []
        for t, i in np.argwhere(ended):
            rows = slice(start[i], t + 1)
            start[i] = t + 1
            episodes.append(
                Episode(
                    int(env_steps[t]),
                    float(self._returns_under_way[i] + rewards[rows, i].sum()),
                    int(self._lengths_under_way[i] + is_transition[rows, i].sum()),
                )
            )
            self._returns_under_way[i] = self._lengths_under_way[i] = 0
        for i, first in enumerate(start):
            self._returns_under_way[i] += rewards[first:, i].sum()
            self._lengths_under_way[i] += is_transition[first:, i].sum()
        self.env_steps = int(env_steps[-1])
        return episodes

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, as plain data.

        `under_way` is None where the environments' state cannot be read: they must be recreated.
        """
        environments = self.envs.state()
        under_way = environments and {
            "environments": environments,
            "observations": {
                key: torch.from_numpy(np.array(rows)) for key, rows in self._observations.items()
            },
            "begins": self._begins.tolist(),
            "states": self._states,
            "returns": self._returns_under_way.tolist(),
            "lengths": self._lengths_under_way.tolist(),
        }
        return {
            "env_steps": self.env_steps,
            "generator": self.generator.get_state(),
            "under_way": under_way,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.env_steps = int(state["env_steps"])
        self.generator.set_state(state["generator"])
        under_way = state["under_way"]
        if under_way is not None:
            self.envs.set_state(under_way["environments"])
            self._observations = {
                key: rows.numpy().copy() for key, rows in under_way["observations"].items()
            }
            self._begins = np.array(under_way["begins"], np.bool_)
            self._states = under_way["states"].to(self._states)
            self._returns_under_way = np.array(under_way["returns"], np.float64)
            self._lengths_under_way = np.array(under_way["lengths"], np.int64)
