"""Adam on one vector, against torch.optim.Adam."""

import io
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from rlkl.models.adam import Adam, mean_of
from rlkl.models.flat_parameters import FlatParameters


def vector_of(size: int = 40, dtype: torch.dtype = torch.float64) -> FlatParameters:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    return FlatParameters([nn.Parameter(start)])


def gradients(steps: int, size: int = 40) -> Iterator[Tensor]:
    """Yield gradients with norms far below to far above 1, and some elements exactly 0."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        gradient = torch.randn(size, generator=generator, dtype=torch.float64)
        gradient[step % size] = gradient[-1] = 0
        yield gradient * 10 ** (step % 7 - 4.0)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 30.0])
def test_adam_matches_torch_adam(max_grad_norm: float | None) -> None:
    flat, theirs = vector_of(), nn.Parameter(vector_of().vector.detach().clone())
    adam = Adam(flat, 1e-2, 1e-5)
    reference = torch.optim.Adam([theirs], 1e-2, eps=1e-5, foreach=False, fused=False)
    for number, gradient in enumerate(gradients(50)):
        adam.learning_rate = reference.param_groups[0]["lr"] = 1e-2 * (1 - number / 60)
        flat.gradient.copy_(gradient)
        theirs.grad = gradient.clone()
        norm = adam.step(max_grad_norm)
        limit = 1e30 if max_grad_norm is None else max_grad_norm
        expected_norm = float(nn.utils.clip_grad_norm_([theirs], limit))
        reference.step()
        assert float(norm) == pytest.approx(expected_norm, rel=1e-12)
        torch.testing.assert_close(flat.gradient, theirs.grad, rtol=1e-12, atol=0)
        torch.testing.assert_close(flat.vector.detach(), theirs.detach(), rtol=1e-12, atol=1e-14)
    assert (flat.vector - vector_of().vector).abs().max() > 0.05


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.0)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_matches_torch_adamw(betas: tuple[float, float], weight_decay: float) -> None:
    flat, theirs = vector_of(), nn.Parameter(vector_of().vector.detach().clone())
    adam = Adam(flat, 1e-2, 1e-5, betas, weight_decay)
    reference = torch.optim.AdamW(
        [theirs], 1e-2, betas, eps=1e-5, weight_decay=weight_decay, foreach=False, fused=False
    )
    for number, gradient in enumerate(gradients(30)):
        adam.learning_rate = reference.param_groups[0]["lr"] = 1e-2 * (1 - number / 60)
        flat.gradient.copy_(gradient)
        theirs.grad = gradient.clone()
        adam.step()
        reference.step()
        torch.testing.assert_close(flat.vector.detach(), theirs.detach(), rtol=1e-12, atol=1e-14)


def test_weight_decay_shrinks_parameters_without_gradient() -> None:
    flat = vector_of(3)
    before = flat.vector.detach().clone()
    flat.gradient.zero_()
    Adam(flat, 0.1, 1e-5, weight_decay=0.5).step()
    torch.testing.assert_close(flat.vector.detach(), 0.95 * before, rtol=1e-12, atol=0)


def test_gradient_within_norm_is_unchanged() -> None:
    flat = vector_of()
    gradient = torch.linspace(-1, 1, 40, dtype=torch.float64)
    for max_grad_norm in (None, 2 * float(gradient.norm()), 1e9):
        flat.gradient.copy_(gradient)
        Adam(flat, 1e-3, 1e-5).step(max_grad_norm)
        assert torch.equal(flat.gradient, gradient)


def test_clipping_reports_unclipped_norm() -> None:
    flat = vector_of(2)
    flat.gradient.copy_(torch.tensor([3.0, 4.0]))
    assert Adam(flat, 1e-3, 1e-5).step(0.5) == 5.0
    torch.testing.assert_close(flat.gradient, torch.tensor([0.3, 0.4]).double())


def test_first_step_has_length_of_learning_rate() -> None:
    flat = vector_of(3)
    before = flat.vector.detach().clone()
    flat.gradient.copy_(torch.tensor([5.0, -0.01, 0.0]))
    Adam(flat, 0.1, 1e-12).step()
    expected = torch.tensor([-0.1, 0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(flat.vector.detach() - before, expected, rtol=1e-9, atol=0)


def test_zero_learning_rate_changes_only_moments() -> None:
    flat = vector_of()
    adam, before = Adam(flat, 0.0, 1e-5), flat.vector.detach().clone()
    flat.gradient.fill_(1)
    adam.step()
    assert torch.equal(flat.vector, before)
    assert adam.first_moment.ne(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_restored_adam_continues_identically(dtype: torch.dtype) -> None:
    first, second = vector_of(dtype=dtype), vector_of(dtype=dtype)
    adam, resumed = Adam(first, 1e-2, 1e-5), Adam(second, 1e-2, 1e-5)
    steps = list(gradients(20))
    for gradient in steps[:10]:
        first.gradient.copy_(gradient)
        adam.step(0.5)
    file = io.BytesIO()
    torch.save(adam.state_dict(), file)
    file.seek(0)
    second.vector.data.copy_(first.vector.data)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for gradient in steps[10:]:
        for flat, optimizer in ((first, adam), (second, resumed)):
            flat.gradient.copy_(gradient)
            optimizer.step(0.5)
        assert torch.equal(first.vector, second.vector)
    # A loaded state is a copy.
    other = Adam(vector_of(dtype=dtype), 1e-2, 1e-5)
    other.load_state_dict(adam.state_dict())
    adam.step()
    assert int(other.num_steps) == 20
    assert int(adam.num_steps) == 21


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nonfinite_gradient_shows_in_norm_and_parameters(
    number: float, max_grad_norm: float | None
) -> None:
    flat = vector_of()
    flat.gradient.fill_(1)
    flat.gradient[3] = number
    norm = float(Adam(flat, 1e-2, 1e-5).step(max_grad_norm))
    assert math.isnan(norm) if math.isnan(number) else norm == math.inf
    assert flat.vector[3].isnan()
    if math.isnan(number) and max_grad_norm is not None:
        assert flat.vector.isnan().all()


def test_mean_of_numbers_or_tensors_or_nothing() -> None:
    assert mean_of([1.0, 2.0, 6.0]) == 3.0
    assert mean_of([torch.tensor(1.0), torch.tensor(2.0), torch.tensor(6.0)]) == 3.0
    assert math.isnan(mean_of([]))
