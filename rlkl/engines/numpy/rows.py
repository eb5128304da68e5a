"""A batch as NumPy arrays in the memory of its tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Generator

from rlkl.engines.base import TensorBatch
from rlkl.envs.observations import ACTION_MASK, VECTOR
from rlkl.models.policy import Inputs
from rlkl.numerics.advantages import standardize


@dataclass(slots=True)
class Rows:
    """B transitions; fields that are not needed are None.

    Attributes:
        vectors: the vectors of the observations, `[B, I]`.
        returns, old_values: `[B]`.
        masks: which actions are allowed, `[B, M]`; None where all are.
        actions, advantages, old_parameters, old_log_prob: as in a `TensorBatch`.
    """

    vectors: NDArray[Any]
    returns: NDArray[Any]
    old_values: NDArray[Any]
    masks: Any = None
    actions: Any = None
    advantages: Any = None
    old_parameters: Any = None
    old_log_prob: Any = None

    @classmethod
    def of(cls, batch: TensorBatch) -> "Rows":
        """Return all of a batch."""
        mask = batch.inputs.observations.get(ACTION_MASK)
        return replace(
            cls.of_values(batch),
            masks=None if mask is None else mask.numpy(),
            actions=batch.actions.numpy(),
            advantages=batch.advantages.numpy(),
            old_parameters=batch.old_parameters.numpy(),
            old_log_prob=batch.old_log_prob.numpy(),
        )

    @classmethod
    def of_values(cls, batch: TensorBatch) -> "Rows":
        """Return the critic's inputs and targets."""
        vectors = batch.inputs.observations[VECTOR]
        return cls(vectors.numpy(), batch.returns.numpy(), batch.old_values.numpy())

    def __len__(self) -> int:
        return len(self.returns)

    def _each(self, change: Callable[[Any], Any]) -> "Rows":
        def changed(field: Any) -> Any:
            return None if field is None else change(field)

        return Rows(
            change(self.vectors),
            change(self.returns),
            change(self.old_values),
            changed(self.masks),
            changed(self.actions),
            changed(self.advantages),
            changed(self.old_parameters),
            changed(self.old_log_prob),
        )

    @property
    def inputs(self) -> Inputs:
        """Inputs of the policy, as tensors."""
        observations = {VECTOR: torch.as_tensor(self.vectors)}
        if self.masks is not None:
            observations[ACTION_MASK] = torch.as_tensor(self.masks)
        return Inputs(observations)

    def tensors(self) -> "Rows":
        """Return the rows as tensors."""
        return self._each(torch.from_numpy)

    def standardized(self) -> "Rows":
        """Return the rows with standardized advantages."""
        advantages = standardize(torch.from_numpy(self.advantages)).numpy()
        return replace(self, advantages=advantages)

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator["Rows"]:
        """Split the rows as `Batch.minibatches` does, faster: shuffle once, then slice.

        Args:
            num_minibatches: at most one for each row is made.
            generator: source of the permutation.

        Yields:
            Minibatches; the rows themselves if only one is requested.
        """
        size = len(self)
        permutation = torch.randperm(size, generator=generator).numpy()
        if num_minibatches == 1:
            yield self
            return
        shuffled = self._each(itemgetter(permutation))
        start, parts = 0, min(num_minibatches, size)
        for part in range(parts):
            stop = start + size // parts + (part < size % parts)
            yield shuffled._each(itemgetter(slice(start, stop)))
            start = stop
