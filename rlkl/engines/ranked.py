"""The torch engine on several ranks: each evaluates a share of the rows; results are reduced."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkl.engines.base import Array, Objective
from rlkl.engines.torch import TorchEngine
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics.distributions import Distribution
from rlkl.utils.ranks import Ranks


class Part(NamedTuple):
    """A rank's part of B rows: its inputs, its rows, 1 or 0 for none, and B."""

    inputs: Inputs
    rows: Tensor
    weight: float
    size: int


class RankedEngine(TorchEngine):
    """Splits every pass over rows among the ranks; see `Engine`.

    All ranks hold the same batch and the same parameters, and call the same methods. Means over
    rows become sums of weighted means of the shares, so the results are those of one process up to
    the order of summation, and are bit-for-bit identical on all ranks.
    """

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        super().__init__(policy, f"{ranks.size} ranks")
        self.ranks = ranks

    def distribution(self, inputs: Inputs, dtype: torch.dtype | None = None) -> Distribution:
        """Return π(·|s) of each row; see `Engine.distribution`."""
        part = self._part(inputs)
        parameters = super().distribution(part.inputs, dtype).parameters
        return self.policy.family(self._joined(parameters, part))

    def values(self, inputs: Inputs, states: Tensor | None = None) -> Tensor:
        """Return V(s) of each row, `[B]`."""
        part = self._part(inputs)
        of_rows = None if states is None else states[part.rows]
        return self._joined(super().values(part.inputs, of_rows), part)

    def _chosen(self, count: int) -> tuple[Tensor, bool]:
        """Return the indices of this rank's share, and whether there are any.

        A rank without a share evaluates item 0 with weight 0, to take part in each reduction.
        """
        share = self.ranks.share(count)
        chosen = torch.arange(share.start, share.stop, device=self.policy.device)
        return (chosen, True) if len(chosen) else (chosen.new_zeros(1), False)

    def _part(self, inputs: Inputs) -> Part:
        sequences, size = inputs.sequences, len(next(iter(inputs.observations.values())))
        rows, is_any = self._chosen(size if sequences is None else len(sequences))
        if sequences is not None:
            rows, sequences = sequences.take(rows)
        observations = {key: tensor[rows] for key, tensor in inputs.observations.items()}
        return Part(Inputs(observations, sequences), rows, float(is_any), size)

    def _joined(self, results: Tensor, part: Part) -> Tensor:
        """Return the results of all rows, from those of each rank's part."""
        joined = results.new_zeros(part.size, *results.shape[1:])
        if part.weight:
            joined[part.rows] = results
        return self.ranks.sum(joined)

    def _share(self, rows: Any) -> tuple[Any, float]:
        """Return this rank's share of a minibatch, and its fraction of the rows."""
        chosen, is_any = self._chosen(rows.num_parts)
        share = rows.take(chosen)
        return share, len(share) / len(rows) if is_any else 0.0

    def policy_gradient(self, objective: Objective, rows: Any) -> Any:
        """Write the actor's gradient; return the loss."""
        share, weight = self._share(rows)
        self._mean = lambda numbers: self.ranks.sum(weight * numbers.mean())
        loss = super().policy_gradient(objective, share)
        return self._reduced(self.policy.actor_parameters.gradient, loss, weight)

    def value_gradient(
        self, rows: Any, value_clip: float | None, huber_delta: float | None = None
    ) -> Any:
        """Write the critic's gradient; return the loss."""
        share, weight = self._share(rows)
        loss = super().value_gradient(share, value_clip, huber_delta)
        return self._reduced(self.policy.critic_parameters.gradient, loss, weight)

    def _reduced(self, gradient: Tensor, loss: Tensor, weight: float) -> Tensor:
        """Sum the shares' gradients in place, and return the sum of their losses."""
        both = self.ranks.sum(weight * torch.cat((gradient, loss.reshape(1).to(gradient))))
        gradient.copy_(both[:-1])
        return both[-1]

    def fisher_product(self, rows: Any, damping: float) -> Callable[[Array], Array]:
        """Return products with F, the Hessian of the mean KL(π_old ‖ π_θ) at θ_old."""
        share, weight = self._share(rows)
        product = super().fisher_product(share, 0.0)
        return lambda vector: self.ranks.sum(weight * product(vector)) + damping * vector
