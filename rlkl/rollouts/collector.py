"""Steps the environments with the current policy and fills a `Rollout`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rlkl.engines.base import Engine
from rlkl.envs.observations import ACTION_MASK, VECTOR, Observations, normalized
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.rollouts.joined import joined, share_of_state, together
from rlkl.rollouts.rollout import Episode, Rollout
from rlkl.utils.ranks import ALONE, Ranks


class BaseCollector(ABC):
    """Collects successive rollouts of T steps; episodes continue from one to the next.

    It resets the environments. Observation vectors are normalized with `normalizer`, which is not
    updated here. Environments and normalizer are of arrays or of tensors, and so are the rollouts.
    """

    def __init__(
        self,
        envs: Any,
        engine: Engine,
        rollout_steps: int,
        generator: Generator,
        seeds: list[int],
        normalizer: Any = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.engine = engine
        self.policy = engine.policy
        self.rollout_steps = rollout_steps
        self.generator = generator
        self.normalizer = normalizer
        self.ranks = ranks
        self.env_steps = 0
        self.restart(envs, seeds)

    @abstractmethod
    def restart(self, envs: Any, seeds: list[int]) -> None:
        """Reset all sub-environments; episodes in progress are not counted."""

    def collect(self) -> Any:
        """Return the next rollout with a transition; a short one may have autoreset steps only."""
        while True:
            rollout = self._collect()
            if rollout.num_transitions:
                return rollout

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from, as plain data.

        `under_way` is None if the environments' state cannot be saved: they must be recreated.
        """
        return {
            "env_steps": self.env_steps,
            "generator": self.generator.get_state(),
            "under_way": self._under_way(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self.env_steps = int(state["env_steps"])
        self.generator.set_state(state["generator"])
        if state["under_way"] is not None:
            self._continue(state["under_way"])

    @abstractmethod
    def _collect(self) -> Any: ...

    @abstractmethod
    def _under_way(self) -> dict[str, Any] | None: ...

    @abstractmethod
    def _continue(self, under_way: dict[str, Any]) -> None: ...


class Collector(BaseCollector):
    """Collects rollouts of arrays, those of several ranks joined."""

    normalizer: ObservationNormalizer | None

    def restart(self, envs: VectorEnvironment, seeds: list[int]) -> None:
        """Reset this rank's sub-environments, with the seeds of those of all ranks."""
        self.envs, self._num_envs = envs, len(seeds)
        self._share = self.ranks.share(len(seeds))
        self._begins = np.ones(envs.num_envs, np.bool_)
        self._states = self.policy.initial_state(envs.num_envs)
        self._returns_under_way = np.zeros(len(seeds), np.float64)
        self._lengths_under_way = np.zeros(len(seeds), np.int64)

        def reset() -> dict[str, Any] | None:
            self._observations = envs.reset(seeds[self._share])
            return self._state_for_others()

        self._states_of_ranks = self.ranks.together(reset)

    def _collect(self) -> Rollout:
        """Return the rollout of all ranks."""
        noise = self.policy.noise(self.rollout_steps, self._num_envs, self.generator)
        parts = self.ranks.together(
            lambda: (self._step(noise[:, self._share]), self._state_for_others())
        )
        self._states_of_ranks = [state for _, state in parts]
        rollout = joined([part for part, _ in parts])
        episodes = tuple(self._episodes(rollout))
        return replace(rollout, episodes=episodes, env_steps=self.env_steps)

    @torch.no_grad()
    def _step(self, noise: Tensor) -> Rollout:
        """Step this rank's sub-environments T times; the loop does only what each step needs."""
        steps, num_envs, policy = self.rollout_steps, self.envs.num_envs, self.policy
        act = self.engine.act(noise)
        observations = self._buffers(steps + 1)
        raw_vectors = None
        if self.normalizer is not None:
            raw_vectors = np.empty_like(observations[VECTOR][:-1], self.envs.encoder.dtype)
        actions: list[NDArray[np.generic]] = []
        rewards = np.empty((steps, num_envs), np.float64)
        terminated, truncated, is_transition = np.empty((3, steps, num_envs), np.bool_)
        infos = np.empty((steps, num_envs, len(keys))) if (keys := self.envs.info_keys) else None
        states = self._states.new_empty((steps + 1, *self._states.shape))
        begins = np.empty((steps + 1, num_envs), np.bool_)
        states[0], begins[0] = self._states, self._begins
        finals: list[Observations] = []
        final_states, final_rows = [policy.initial_state(0)], [np.empty(0, np.int64)]
        for t in range(steps):
            if raw_vectors is not None:
                raw_vectors[t] = self._observations[VECTOR]
            chosen, after = act(t, self._write(observations, t), self._states)
            actions.append(chosen)
            step = self.envs.step(policy.decoder(chosen))
            rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
            is_transition[t] = step.is_transition
            if infos is not None:
                infos[t] = step.infos
            self._observations = step.observations
            self._begins = begins[t + 1] = step.begins
            if policy.state_size:
                self._states = states[t + 1] = policy.forget(after, step.begins)
            if len(step.final_envs):
                cut = ~step.terminated[step.final_envs]
                finals.append({key: rows[cut] for key, rows in step.final_observations.items()})
                final_states.append(after[torch.as_tensor(step.final_envs[cut])])
                final_rows.append(t * num_envs + step.final_envs[cut])
        self.envs.rest()
        self._write(observations, steps)
        return Rollout(
            observations=observations,
            raw_vectors=raw_vectors,
            states=states,
            actions=np.stack(actions),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            is_transition=is_transition,
            begins=begins,
            final_observations=self._join(finals),
            final_states=torch.cat(final_states),
            final_rows=np.concatenate(final_rows),
            infos=infos,
        )

    def _buffers(self, rows: int) -> Observations:
        buffers = self.envs.encoder.empty(rows, self.envs.num_envs)
        mask = self._observations.get(ACTION_MASK)
        if mask is not None:
            buffers[ACTION_MASK] = np.empty((rows, *mask.shape), np.bool_)
        return buffers

    def _write(self, buffers: Observations, t: int) -> Observations:
        """Write the current observations, normalized, into row t; return the row."""
        written = {key: rows[t] for key, rows in buffers.items()}
        for key, rows in self._observations.items():
            if key == VECTOR and self.normalizer is not None:
                self.normalizer.write(rows, written[key])
            else:
                written[key][...] = rows
        return written

    def _join(self, finals: Sequence[Observations]) -> Observations:
        empty = self.envs.encoder.empty(0)
        joined = {
            key: np.concatenate([no_rows, *(final[key] for final in finals)])
            for key, no_rows in empty.items()
        }
        joined = normalized(joined, self.normalizer)
        return {key: rows.astype(empty[key].dtype, copy=False) for key, rows in joined.items()}

    def _episodes(self, rollout: Rollout) -> list[Episode]:
        """Add a rollout to the episodes in progress; return those that ended."""
        is_transition = rollout.is_transition
        rewards = rollout.rewards * is_transition
        env_steps = self.env_steps + is_transition.sum(1).cumsum()
        start = np.zeros(len(self._returns_under_way), np.int64)
        episodes = []
        for t, i in np.argwhere(rollout.ends):
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

    def _under_way(self) -> dict[str, Any] | None:
        parts = self._states_of_ranks if self.ranks.size > 1 else [self._state()]
        if any(part is None for part in parts):
            return None
        episodes = {
            "returns": self._returns_under_way.tolist(),
            "lengths": self._lengths_under_way.tolist(),
        }
        state: dict[str, Any] = together(parts) | episodes
        return state

    def _state(self) -> dict[str, Any] | None:
        """Return the state of this rank's sub-environments, and what the policy sees of them."""
        environments = self.envs.state()
        return environments and {
            "environments": environments,
            "observations": {
                key: torch.from_numpy(np.array(rows)) for key, rows in self._observations.items()
            },
            "begins": self._begins.tolist(),
            "states": self._states,
        }

    def _state_for_others(self) -> dict[str, Any] | None:
        """Return the state that rank 0 needs for a checkpoint."""
        return self._state() if self.ranks.size > 1 else None

    def _continue(self, under_way: dict[str, Any]) -> None:
        self._returns_under_way = np.array(under_way["returns"], np.float64)
        self._lengths_under_way = np.array(under_way["lengths"], np.int64)
        own = under_way if self.ranks.size == 1 else share_of_state(under_way, self._share)
        self.envs.set_state(own["environments"])
        self._observations = {key: rows.numpy().copy() for key, rows in own["observations"].items()}
        self._begins = np.array(own["begins"], np.bool_)
        self._states = own["states"].to(self._states)
        self._states_of_ranks = self.ranks.gather(self._state_for_others())
