"""Minibatches are a partition of the batch."""

import pytest
import torch

from rlkl.rollout import minibatches


@pytest.mark.parametrize(("size", "parts"), [(16, 4), (17, 4), (3, 8), (1, 1)])
def test_every_row_is_in_exactly_one_minibatch_and_sizes_differ_by_one_at_most(
    size: int, parts: int
) -> None:
    made = list(minibatches(size, parts, torch.Generator().manual_seed(0)))
    assert len(made) == min(parts, size)
    assert torch.equal(torch.cat(made).sort().values, torch.arange(size))
    sizes = [len(rows) for rows in made]
    assert max(sizes) - min(sizes) <= 1


def test_each_pass_is_in_another_order() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat(list(minibatches(64, 4, generator))) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(64))
