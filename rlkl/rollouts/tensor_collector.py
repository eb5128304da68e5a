"""Steps environments of tensors with the current policy, without waiting for the device."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkl.envs.observations import VECTOR, normalized
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
        steps, policy = self.rollout_steps, self.policy
        noise = policy.noise(steps, self.envs.num_envs, self.generator)
        shown = {
            key: rows.new_empty((steps + 1, *rows.shape))
            for key, rows in self._observations.items()
        }
        finals: TensorObservations = {}
        if not self.envs.skips_rows:
            finals = {key: torch.empty_like(rows[1:]) for key, rows in shown.items()}
        record = defaultdict[str, list[Tensor]](list)
        for t in range(steps + 1):
            for key, rows in self._observations.items():
                shown[key][t] = rows
            record["begins"].append(self._begins)
            record["states"].append(self._states)
            if t < steps:
                seen = normalized({key: rows[t] for key, rows in shown.items()}, self.normalizer)
                step = self._step(policy.tensors(seen), noise[t], record)
                for key, rows in (step.final_observations or {}).items():
                    finals[key][t] = rows
        stacked = {key: torch.stack(rows) for key, rows in record.items()}
        returns, lengths = stacked.pop("returns"), stacked.pop("lengths")
        broken = _broken(stacked, shown, finals)
        episodes, num_transitions = self._read(stacked, broken, returns, lengths)
        is_normalized = self.normalizer is not None and VECTOR in shown
        return TensorRollout(
            **stacked,
            observations=normalized(shown, self.normalizer),
            raw_vectors=shown[VECTOR][:steps] if is_normalized else None,
            final_observations=normalized(finals, self.normalizer),
            skips_rows=self.envs.skips_rows,
            episodes=episodes,
            env_steps=self.env_steps,
            num_transitions=num_transitions,
        )

    def _step(
        self, seen: TensorObservations, noise: Tensor, record: defaultdict[str, list[Tensor]]
    ) -> TensorStep:
        """Make one step, and record all but its observations."""
        distribution, after = self.engine.step(seen, self._states)
        samples = distribution.draw(noise)
        step = self.envs.step(self._decode(samples))
        returns = self._returns + step.rewards.where(step.is_transition, 0.0)
        lengths = self._lengths + step.is_transition
        row = {"actions": samples, "final_states": after, "is_transition": step.is_transition}
        row |= {"returns": returns, "lengths": lengths}
        if step.infos is not None:
            row["infos"] = step.infos
        # Copies: environments may reuse their tensors.
        row |= {"rewards": step.rewards.clone(), "terminated": step.terminated.clone()}
        row["truncated"] = step.truncated.clone()
        for key, tensor in row.items():
            record[key].append(tensor)
        is_over = step.terminated | step.truncated
        self._returns = returns.masked_fill(is_over, 0)
        self._lengths = lengths.masked_fill(is_over, 0)
        self._observations, self._begins = step.observations, step.begins
        if self.policy.state_size:
            self._states = after.masked_fill(step.begins[:, None], 0)
        return step

    def _read(
        self, rows: dict[str, Tensor], broken: Tensor, *sums: Tensor
    ) -> tuple[tuple[Episode, ...], int]:
        """Read what the CPU needs of a rollout, in one transfer from the device.

        `sums` are returns and lengths so far of the episodes in progress, `[T, N]`. The episodes
        that ended and the number of transitions are returned.

        Raises:
            BrokenEnvironmentError: a reward or an observation is not finite.
        """
        ends = rows["terminated"] | rows["truncated"]
        parts = broken, rows["is_transition"], ends, *sums
        on_cpu = torch.cat([part.double() for part in parts]).cpu().numpy()
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
        at = np.nonzero(is_over)
        columns = env_steps[at[0]], returns[at], lengths[at]
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


def _broken(
    rows: dict[str, Tensor], shown: TensorObservations, finals: TensorObservations
) -> Tensor:
    """Return whether rewards and observations of a sub-environment are not finite, `[2, N]`."""
    rewards, observations = (~rows["rewards"].isfinite()).any(0), torch.zeros_like(rows["begins"])
    if VECTOR in shown:
        observations = ~shown[VECTOR].float().isfinite().all(-1)
    if VECTOR in finals:
        ends = rows["terminated"] | rows["truncated"]
        observations = torch.cat((observations, ~finals[VECTOR].float().isfinite().all(-1) & ends))
    return torch.stack((rewards, observations.any(0)))
