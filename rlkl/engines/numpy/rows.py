"""A batch as NumPy arrays that share memory with its tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Generator, Tensor

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
        actions, advantages, old_parameters, old_log_prob, reference_parameters: as in a
            `rollouts.batch.Batch`.
    """

    vectors: Any
    returns: Any
    old_values: Any
    masks: Any = None
    actions: Any = None
    advantages: Any = None
    old_parameters: Any = None
    old_log_prob: Any = None
    reference_parameters: Any = None

    @classmethod
    def of(cls, batch: Any) -> "Rows":
        """Return all of a `Batch`."""
        names = (name for name in cls.__slots__ if name not in ("vectors", "masks"))
        observations = batch.inputs.observations
        vectors, masks = observations[VECTOR], observations.get(ACTION_MASK)
        tensors = cls(vectors, masks=masks, **{name: getattr(batch, name) for name in names})
        return tensors._each(Tensor.numpy)

    @classmethod
    def of_values(cls, batch: Any) -> "Rows":
        """Return the critic's inputs and targets."""
        vectors = batch.inputs.observations[VECTOR]
        return cls(vectors.numpy(), batch.returns.numpy(), batch.old_values.numpy())

    def __len__(self) -> int:
        return len(self.returns)

    def _each(self, change: Callable[[Any], Any]) -> "Rows":
        values = _values(self)
        return Rows(*[None if value is None else change(value) for value in values])

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
        """Split the rows as `Batch.minibatches` does, faster: shuffle once, then slice."""
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


_values = attrgetter(*Rows.__slots__)
