"""A rollout of tensors on a device, and its steps that a batch is made from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkl.engines.base import Engine
from rlkl.models.policy import Inputs
from rlkl.numerics.tensor_advantages import generalized_advantages
from rlkl.rollouts.batch import sequences_of
from rlkl.rollouts.rollout import BaseRollout


@dataclass(frozen=True, kw_only=True)
class TensorRollout(BaseRollout[Tensor]):
    """Steps as tensors, with `[T, N, ...]` in `final_observations` and `final_states`.

    Those count in truncated rows only, and there are no such observations if `observations` show
    them (NEXT_STEP).

    Attributes:
        skips_rows: whether some rows may be no transitions.
        num_transitions: True values in `is_transition`.
    """

    skips_rows: bool
    num_transitions: int

    @property
    def raw_transitions(self) -> Tensor | None:
        """The raw vectors of all transitions, `[B, D]`; None without normalization."""
        if self.raw_vectors is None:
            return None
        rows = self.raw_vectors.flatten(0, 1)
        return rows[self.is_transition.flatten()] if self.skips_rows else rows


class TensorSteps:
    """The steps of a rollout of tensors; see `ArraySteps`.

    All rows are transitions with SAME_STEP autoreset. With NEXT_STEP, rows are selected by an
    index, which waits for the device once; so does a policy with memory, to find its sequences.
    """

    estimate = staticmethod(generalized_advantages)

    def __init__(self, rollout: TensorRollout, engine: Engine) -> None:
        self.rollout, self.engine = rollout, engine
        self._rows: Tensor | slice = slice(None)
        if rollout.skips_rows:
            self._rows = rollout.is_transition.flatten().nonzero().squeeze(-1)

    def values(self) -> tuple[Tensor, Tensor]:
        """Return V(s) and V(s') of all steps in float64, `[T, N]`.

        s' of a truncated episode is its final observation. All rows are evaluated in one pass.
        """
        rollout, engine = self.rollout, self.engine
        steps, num_envs = rollout.rewards.shape
        shown, finals, states = rollout.observations, rollout.final_observations, rollout.states
        if finals:
            shown = {key: torch.cat((rows, finals[key])) for key, rows in shown.items()}
            states = torch.cat((states, rollout.final_states))
        flat = {key: rows.flatten(0, 1) for key, rows in shown.items()}
        inputs = Inputs(engine.policy.tensors(flat))
        values = engine.values(inputs, states.flatten(0, 1)).double().view(-1, num_envs)
        next_values = values[1 : steps + 1]
        if finals:
            is_cut = rollout.truncated & ~rollout.terminated
            next_values = values[steps + 1 :].where(is_cut, next_values)
        return values[:steps], next_values

    def flat(self, tensor: Tensor) -> Tensor:
        """Return the rows of all transitions, `[T, N, ...]` to `[B, ...]`."""
        return self.engine.policy.tensor(tensor.flatten(0, 1)[self._rows])

    def inputs(self) -> Inputs:
        """Return the policy's inputs at all transitions; sequences are found on the CPU."""
        rollout, policy, steps = self.rollout, self.engine.policy, len(self.rollout.rewards)
        shown = rollout.observations.items()
        inputs = Inputs({key: self.flat(rows[:steps]) for key, rows in shown})
        if not policy.state_size:
            return inputs
        marks = torch.stack((rollout.is_transition, rollout.begins[:-1])).cpu().numpy()
        sequences = sequences_of(marks[0], marks[1], rollout.states, policy)
        return inputs._replace(sequences=sequences)
