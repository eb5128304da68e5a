"""Rows of the NumPy engine: views of a batch, minibatches, and tensors again."""

import numpy as np
import pytest
import torch
from made_batches import batch_for, policy_of
from torch import Generator

from rlkl.engines.numpy.rows import Rows
from rlkl.envs.observations import ACTION_MASK, VECTOR


def seeded() -> Generator:
    return Generator().manual_seed(1)


@pytest.mark.parametrize("kind", ["masked", "gaussian"])
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("number", [1, 4, 50])
def test_minibatches_match_torch_engine(number: int, standardized: bool, kind: str) -> None:
    batch = batch_for(policy_of(kind), kind, 31)
    rows, generators = Rows.of(batch), [seeded(), seeded()]
    for _ in range(2):
        expected_parts = list(batch.minibatches(number, generators[0]))
        parts = list(rows.minibatches(number, generators[1]))
        assert len(parts) == min(number, 31)
        for of_torch, of_numpy in zip(expected_parts, parts, strict=True):
            expected = of_torch.standardized() if standardized else of_torch
            found = of_numpy.standardized() if standardized else of_numpy
            observations = expected.inputs.observations
            assert len(found) == len(expected)
            np.testing.assert_array_equal(found.vectors, observations["vector"])
            assert (found.masks is None) == (kind == "gaussian")
            if found.masks is not None:
                np.testing.assert_array_equal(found.masks, observations[ACTION_MASK])
            for name in ("actions", "advantages", "returns", "old_values", "old_log_prob"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            np.testing.assert_array_equal(found.old_parameters, expected.old_parameters)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_rows_are_views_of_their_batch() -> None:
    batch = batch_for(policy_of("masked"), "masked", 5)
    rows = Rows.of(batch)
    batch.advantages[2] = 7.0
    batch.inputs.observations[VECTOR][1, 0] = 9.0
    assert (rows.advantages[2], rows.vectors[1, 0]) == (7.0, 9.0)


def test_value_rows_have_only_what_critic_needs() -> None:
    rows = Rows.of_values(batch_for(policy_of("masked"), "masked", 5))
    assert (rows.masks, rows.actions, rows.advantages, rows.old_log_prob) == (None,) * 4
    (first, second) = rows.minibatches(2, seeded())
    assert (len(first), len(second), first.advantages) == (3, 2, None)


@pytest.mark.parametrize("kind", ["masked", "gaussian"])
def test_tensors_are_those_of_the_batch(kind: str) -> None:
    batch = batch_for(policy_of(kind), kind, 5)
    tensors = Rows.of(batch).tensors()
    assert tensors.inputs.observations.keys() == batch.inputs.observations.keys()
    for name, tensor in tensors.inputs.observations.items():
        assert torch.equal(tensor, batch.inputs.observations[name])
    assert torch.equal(tensors.old_parameters, batch.old_parameters)
