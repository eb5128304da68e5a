"""Steps environments of tensors with the current policy, without waiting for the device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkl.envs.observations import VECTOR
from rlkl.envs.tensor_env import TensorEnvironment, TensorStep
from rlkl.envs.tensor_spaces import TensorDecoder, TensorObservations
from rlkl.numerics.tensor_normalization import TensorObservationNormalizer
from rlkl.rollouts.collector import BaseCollector
from rlkl.rollouts.rollout import Episode
from rlkl.rollouts.tensor_rollout import TensorRollout
from rlkl.utils.errors import BrokenEnvironmentError


class TensorCollector(BaseCollector):
    """Collects rollouts on a device, which is also that of the engine.

    Its state has the same keys as that of `Collector`.
    """

    normalizer: TensorObservationNormalizer | None

    def restart(self, envs: TensorEnvironment, seeds: list[int]) -> None:
        """Reset all sub-environments; episodes in progress are not counted."""
        self.envs, num_envs = envs, envs.num_envs
        self._decode = TensorDecoder(self.policy.decoder, envs.device)
        self._observations = envs.reset(seeds)
        self._begins = torch.ones(num_envs, dtype=torch.bool, device=envs.device)
        self._states = self.policy.initial_state(num_envs)
        self._returns = torch.zeros(num_envs, dtype=torch.float64, device=envs.device)
        self._lengths = torch.zeros_like(self._returns)

    @torch.no_grad()
    def _collect(self) -> TensorRollout:
        """Step every sub-environment T times with actions sampled from the policy."""
        steps, num_envs, policy = self.rollout_steps, self.envs.num_envs, self.policy
        noise = policy.noise(steps, num_envs, self.generator)
        record = _Record(steps, self.envs, self._observations)
        for t in range(steps):
            record.begin(t, self._observations, self._begins, self._states)
            seen = {key: rows[t] for key, rows in record.observations.items()}
            seen = policy.tensors(self._normalized(seen))
            distribution, after = self.engine.step(seen, self._states)
            samples = distribution.draw(noise[t])
            step = self.envs.step(self._decode(samples))
            returns = self._returns + step.rewards.where(step.is_transition, 0.0)
            lengths = self._lengths + step.is_transition
            record.end(t, samples, after, step, returns, lengths)
            is_over = step.terminated | step.truncated
            self._returns = returns.masked_fill(is_over, 0)
            self._lengths = lengths.masked_fill(is_over, 0)
            self._observations, self._begins = step.observations, step.begins
            if policy.state_size:
                self._states = after.masked_fill(step.begins[:, None], 0)
        record.begin(steps, self._observations, self._begins, self._states)
        episodes, num_transitions = self._read(record)
        rows, raw_vectors = record.rows, None
        if self.normalizer is not None and VECTOR in record.observations:
            raw_vectors = record.observations[VECTOR][:steps]
        return TensorRollout(
            observations=self._normalized(record.observations),
            raw_vectors=raw_vectors,
            states=torch.stack(record.states),
            actions=torch.stack(record.actions),
            rewards=rows["rewards"],
            terminated=rows["terminated"],
            truncated=rows["truncated"],
            is_transition=rows["is_transition"],
            begins=record.begins,
            final_observations=self._normalized(record.finals),
            final_states=torch.stack(record.final_states),
            skips_rows=self.envs.skips_rows,
            episodes=episodes,
            env_steps=self.env_steps,
            num_transitions=num_transitions,
            infos=torch.stack(record.infos) if record.infos else None,
        )

    def _normalized(self, observations: TensorObservations) -> TensorObservations:
        if self.normalizer is None or VECTOR not in observations:
            return observations
        return observations | {VECTOR: self.normalizer(observations[VECTOR])}

    def _read(self, record: "_Record") -> tuple[tuple[Episode, ...], int]:
        """Read what the CPU needs of a rollout, in one transfer from the device.

        Returns:
            The episodes that ended, and the number of transitions.

        Raises:
            BrokenEnvironmentError: a reward or an observation is not finite.
        """
        on_cpu = record.summary().cpu().numpy()
        for row, what in zip(on_cpu[:2], ("the reward", "an observation"), strict=True):
            if row.any():
                self.envs.close()
                raise BrokenEnvironmentError(
                    f"{self.envs.where}: {what} of sub-environment {int(row.argmax())} was not "
                    "finite, or outside its space, in the last rollout"
                )
        is_transition, is_over, returns, lengths = on_cpu[2:].reshape(4, self.rollout_steps, -1)
        env_steps = self.env_steps + is_transition.sum(1).cumsum()
        self.env_steps = int(env_steps[-1])
        rows = np.nonzero(is_over)
        columns = env_steps[rows[0]], returns[rows], lengths[rows]
        episodes = tuple(
            Episode(int(end), reward_sum, int(length))
            for end, reward_sum, length in zip(*(c.tolist() for c in columns), strict=True)
        )
        return episodes, int(is_transition.sum())

    def _under_way(self) -> dict[str, Any] | None:
        environments = self.envs.state()
        return environments and {
            "environments": environments,
            "observations": {key: rows.clone() for key, rows in self._observations.items()},
            "begins": self._begins.tolist(),
            "states": self._states,
            "returns": self._returns.tolist(),
            "lengths": [int(length) for length in self._lengths.tolist()],
        }

    def _continue(self, under_way: dict[str, Any]) -> None:
        device = self.envs.device
        self.envs.set_state(under_way["environments"])
        self._observations = {
            key: rows.to(device) for key, rows in under_way["observations"].items()
        }
        self._begins = torch.tensor(under_way["begins"], device=device)
        self._states = under_way["states"].to(self._states)
        self._returns = torch.tensor(under_way["returns"], dtype=torch.float64).to(device)
        self._lengths = torch.tensor(under_way["lengths"], dtype=torch.float64).to(device)


class _Record:
    """Buffers of a rollout. Results are copied: environments may reuse their tensors.

    The observations are those of the first step, for their shapes.
    """

    def __init__(
        self, steps: int, envs: TensorEnvironment, observations: TensorObservations
    ) -> None:
        self.observations = {
            key: rows.new_empty((steps + 1, *rows.shape)) for key, rows in observations.items()
        }
        self.finals: TensorObservations = {}
        if not envs.skips_rows:
            shown = self.observations.items()
            self.finals = {key: torch.empty_like(rows[1:]) for key, rows in shown}
        flags = "terminated", "truncated", "is_transition"
        numbers = "rewards", "returns", "lengths"
        kinds = dict.fromkeys(flags, torch.bool) | dict.fromkeys(numbers, torch.float64)
        shape = (steps, envs.num_envs)
        self.rows = {
            key: torch.empty(shape, dtype=kind, device=envs.device) for key, kind in kinds.items()
        }
        self.begins = torch.empty((steps + 1, envs.num_envs), dtype=torch.bool, device=envs.device)
        self.states: list[Tensor] = []
        self.final_states: list[Tensor] = []
        self.actions: list[Tensor] = []
        self.infos: list[Tensor] = []

    def begin(
        self, t: int, observations: TensorObservations, begins: Tensor, states: Tensor
    ) -> None:
        """Write what is known before step t."""
        for key, rows in observations.items():
            self.observations[key][t] = rows
        self.begins[t] = begins
        self.states.append(states)

    def end(
        self,
        t: int,
        samples: Tensor,
        after: Tensor,
        step: TensorStep,
        returns: Tensor,
        lengths: Tensor,
    ) -> None:
        """Write the results of step t.

        `after` are the memory's states after it, `returns` and `lengths` those so far of the
        episodes in progress, `[N]`.
        """
        self.actions.append(samples)
        self.final_states.append(after)
        if step.infos is not None:
            self.infos.append(step.infos)
        written = {"rewards": step.rewards, "terminated": step.terminated}
        written |= {"truncated": step.truncated, "is_transition": step.is_transition}
        for key, row in (written | {"returns": returns, "lengths": lengths}).items():
            self.rows[key][t] = row
        for key, rows in (step.final_observations or {}).items():
            self.finals[key][t] = rows

    def summary(self) -> Tensor:
        """Return what the CPU needs, float64, `[2 + 4 T, N]`.

        Two rows tell whether rewards and observations of a sub-environment are not finite. Then
        come transitions, episode ends, returns and lengths, T rows each.
        """
        rows = self.rows
        is_over = rows["terminated"] | rows["truncated"]
        broken_rewards = ~rows["rewards"].isfinite()
        broken = torch.zeros_like(self.begins)
        if VECTOR in self.observations:
            broken = ~self.observations[VECTOR].float().isfinite().all(-1)
        if VECTOR in self.finals:
            finals = ~self.finals[VECTOR].float().isfinite().all(-1)
            broken = torch.cat((broken, finals & is_over))
        tops = torch.stack((broken_rewards.any(0), broken.any(0)))
        several = tops, rows["is_transition"], is_over, rows["returns"], rows["lengths"]
        return torch.cat([part.double() for part in several])
