"""GRU and LSTM in NumPy compared with torch's layers and with finite differences."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from rlkl.models.recurrent import Memory
from rlkl.models.recurrent_passes import RecurrentPass

LENGTH, COUNT, FEATURES, SIZE = 6, 4, 5, 7
KINDS = pytest.mark.parametrize("kind", ["gru", "lstm"])


def case(kind: str, dtype: torch.dtype = torch.float64) -> tuple[Memory, nn.Module, list[Tensor]]:
    """Return a memory, torch's layer with its weights, and features and states for both."""
    torch.manual_seed(3)
    memory = Memory(kind, FEATURES, SIZE).to(dtype)
    layer = (nn.GRU if kind == "gru" else nn.LSTM)(FEATURES, SIZE).to(dtype)
    layer.load_state_dict(memory.layer.state_dict())
    generator = Generator().manual_seed(4)
    features = torch.randn(LENGTH, COUNT, FEATURES, dtype=dtype, generator=generator)
    states = torch.randn(COUNT, memory.state_size, dtype=dtype, generator=generator)
    return memory, layer, [features.requires_grad_(), states.requires_grad_()]


def torchs(layer: nn.Module, features: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs and the last states of torch's layer."""
    parts = [part[None].contiguous() for part in states.split(SIZE, -1)]
    outputs, last = layer(features, tuple(parts) if len(parts) > 1 else parts[0])
    return outputs, torch.cat(last, -1)[0] if isinstance(last, tuple) else last[0]


def weighted(results: tuple[Tensor, Tensor], parts: tuple[int, ...]) -> Tensor:
    """Return a scalar that depends on some of the results, each entry with its own weight."""
    numbers = [results[part].flatten() for part in parts]
    total = torch.cat(numbers)
    return total @ torch.linspace(-1, 2, len(total), dtype=total.dtype) + (total**2).sum()


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_equal_torchs(kind: str, dtype: torch.dtype) -> None:
    memory, layer, inputs = case(kind, dtype)
    for ours, theirs in zip(memory(*inputs), torchs(layer, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@KINDS
@pytest.mark.parametrize("parts", [(0,), (1,), (0, 1)], ids=["outputs", "states", "both"])
def test_gradients_equal_torchs(kind: str, parts: tuple[int, ...]) -> None:
    memory, layer, inputs = case(kind)
    ours = torch.autograd.grad(
        weighted(memory(*inputs), parts), [*inputs, *memory.layer.parameters()]
    )
    theirs = torch.autograd.grad(
        weighted(torchs(layer, *inputs), parts), [*inputs, *layer.parameters()]
    )
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-12, atol=1e-13)


@KINDS
def test_tangents_match_finite_differences(kind: str) -> None:
    memory, _, (features, states) = case(kind)
    leaves = [features.detach(), *states.detach().split(SIZE, -1), *memory.layer.parameters()]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]

    def outputs(features: Tensor, *others: Tensor) -> Any:
        hidden, *rest = others
        cell, weights = (rest[0], rest[1:]) if kind == "lstm" else (None, rest)
        passed = RecurrentPass.apply(kind, features, hidden, cell, *weights)
        return passed if kind == "lstm" else passed[0]

    assert torch.autograd.gradcheck(
        outputs, leaves, check_forward_ad=True, check_backward_ad=False, fast_mode=True
    )
    total = memory(features, states)[0].square().sum()
    (gradient,) = torch.autograd.grad(total, features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@KINDS
def test_a_step_equals_a_step_of_a_sequence(kind: str) -> None:
    memory, _, (features, states) = case(kind)
    with torch.no_grad():
        whole, last = memory(features, states)
        for t in range(LENGTH):
            outputs, states = memory(features[t : t + 1], states)
            torch.testing.assert_close(outputs[0], whole[t], rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(states, last, rtol=1e-13, atol=1e-14)


@KINDS
def test_large_numbers_saturate_silently(kind: str) -> None:
    memory, layer, (features, states) = case(kind, torch.float32)
    large = features.detach() * 1e30
    for ours, theirs in zip(memory(large, states), torchs(layer, large, states), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs)
