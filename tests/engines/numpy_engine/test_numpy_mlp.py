"""MLPs of the NumPy engine compared with torch's modules: outputs, gradients and tangents."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.autograd.functional import jvp
from torch.func import functional_call

from rlkl.engines.numpy.mlp import ROWS_AT_ONCE, SUPPORTED_ACTIVATIONS, Perceptron
from rlkl.models.networks import ACTIVATIONS, mlp

INPUTS, OUTPUTS = 3, 2
HIDDEN: list[list[int]] = [[], [5], [5, 4], [5, 4, 6]]
EVERY_DEPTH = pytest.mark.parametrize("hidden", HIDDEN, ids=len)
EVERY_ACTIVATION = pytest.mark.parametrize("activation", SUPPORTED_ACTIVATIONS)
BOTH_TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
BATCHES = (1, 7, 600)
PARTS = ("weight", "bias")


def module_of(
    hidden: list[int], activation: str = "tanh", dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """Make an MLP of torch modules with large weights, so that some units saturate."""
    module = mlp(INPUTS, hidden, OUTPUTS, activation).to(dtype)
    generator = Generator().manual_seed(len(hidden))
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


def perceptron_of(module: nn.Sequential, activation: str = "tanh") -> Perceptron:
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().numpy() for layer in linear]
    return Perceptron(weights, [layer.bias.detach().numpy() for layer in linear], activation)


def rows_of(size: int, dtype: torch.dtype = torch.float64, columns: int = INPUTS) -> Tensor:
    generator = Generator().manual_seed(size + columns)
    return torch.randn(size, columns, generator=generator, dtype=torch.float64).to(dtype)


def empty_like(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    return [np.full_like(array, np.nan) for array in arrays]


def changes_of(module: nn.Sequential) -> dict[str, Tensor]:
    generator = Generator().manual_seed(3)
    return {
        name: torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        for name, parameter in module.named_parameters()
    }


def directional_derivative(
    module: nn.Sequential, inputs: Tensor, changes: dict[str, Tensor]
) -> Tensor:
    names, parameters = zip(*module.named_parameters(), strict=True)

    def outputs(*at: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, at, strict=True)), (inputs,))

    change: Tensor = jvp(outputs, parameters, tuple(changes[name] for name in names))[1]
    return change


def assert_close(found: NDArray[Any], expected: Tensor) -> None:
    """Compare up to a few rounding errors of the largest number."""
    expected = expected.detach()
    assert found.dtype == expected.numpy().dtype
    scale = float(expected.abs().max()) + 1
    atol = scale * (1e-13 if expected.dtype == torch.float64 else 1e-5)
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=atol)


def test_batch_sizes_include_several_parts() -> None:
    assert BATCHES[-1] > ROWS_AT_ONCE > BATCHES[-2]


@BOTH_TYPES
@EVERY_ACTIVATION
@EVERY_DEPTH
def test_outputs_gradients_and_directional_derivatives_match_torch(
    hidden: list[int], activation: str, dtype: torch.dtype
) -> None:
    module = module_of(hidden, activation, dtype)
    perceptron = perceptron_of(module, activation)
    parameters = dict(module.named_parameters())
    names_of_weights = [name for name in parameters if name.endswith("weight")]
    names_of_biases = [name for name in parameters if name.endswith("bias")]
    # From the largest to the smallest and back, so each size reuses buffers of another.
    for size in (*BATCHES[::-1], *BATCHES):
        inputs, output_gradients = rows_of(size, dtype), rows_of(size, dtype, OUTPUTS)
        outputs = module(inputs)
        assert_close(perceptron(inputs.numpy()), outputs)
        assert_close(perceptron.forward(inputs.numpy()), outputs)

        gradients = torch.autograd.grad(outputs, list(parameters.values()), output_gradients)
        expected = dict(zip(parameters, gradients, strict=True))
        weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
        before = output_gradients.clone()
        perceptron.backward(output_gradients.numpy(), weights, biases)
        assert torch.equal(output_gradients, before)
        for name, array in zip(names_of_weights + names_of_biases, weights + biases, strict=True):
            assert_close(array, expected[name])

        changes = changes_of(module)
        expected_change = directional_derivative(module, inputs, changes)
        found = perceptron.tangent(
            [changes[name].numpy() for name in names_of_weights],
            [changes[name].numpy() for name in names_of_biases],
        )
        assert_close(found, expected_change)


# OpenBLAS's kernels for short rows also compute with the memory after them and discard the results.
# If it contains NaN, NumPy warns; `NumpyNetwork` suppresses that warning.
@pytest.mark.filterwarnings("ignore:invalid value encountered in dot:RuntimeWarning")
@BOTH_TYPES
@EVERY_ACTIVATION
@EVERY_DEPTH
def test_second_moment_matches_torch(
    hidden: list[int], activation: str, dtype: torch.dtype
) -> None:
    module, size = module_of(hidden, activation, dtype), 7
    perceptron = perceptron_of(module, activation)
    inputs, output_gradients = rows_of(size, dtype), rows_of(size, dtype, OUTPUTS)
    parameters = list(module.parameters())
    rows = []
    for x, output_gradient in zip(inputs, output_gradients, strict=True):
        gradients = torch.autograd.grad(module(x) @ output_gradient, parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    dense = torch.stack(rows)
    perceptron.forward(inputs.numpy())
    moment = perceptron.second_moment(output_gradients.numpy())

    changes = [change.numpy() for change in changes_of(module).values()]
    vector = torch.cat([torch.as_tensor(change).flatten() for change in changes])
    weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
    for _ in range(2):
        moment.write(changes[::2], changes[1::2], weights, biases)
        parts = [part for pair in zip(weights, biases, strict=True) for part in pair]
        found = np.concatenate([part.ravel() for part in parts])
        assert_close(found, dense.T @ (dense @ vector))


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_activation_derivative_at_zero_matches_torch(activation: str) -> None:
    module = module_of([1], activation)
    for parameter in module.parameters():
        parameter.data.fill_(1)
    perceptron = perceptron_of(module, activation)
    inputs = torch.tensor([[-1.0, 0.0, 0.0]], dtype=torch.float64)
    outputs = module(inputs)
    assert outputs.eq(1).all()
    expected = torch.autograd.grad(outputs.sum(), list(module.parameters()))
    perceptron.forward(inputs.numpy())
    weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
    perceptron.backward(np.ones((1, OUTPUTS)), weights, biases)
    for found, gradient in zip((weights[0], biases[0]), expected[:2], strict=True):
        np.testing.assert_array_equal(found, gradient)


@EVERY_ACTIVATION
def test_large_inputs_do_not_overflow(activation: str) -> None:
    module = module_of([5, 4], activation, torch.float32)
    perceptron = perceptron_of(module, activation)
    inputs = 1e4 * rows_of(50, torch.float32)
    outputs = module(inputs)
    assert_close(perceptron.forward(inputs.numpy()), outputs)
    gradients = torch.autograd.grad(outputs.sum(), list(module.parameters()))
    weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
    perceptron.backward(np.ones((50, OUTPUTS), np.float32), weights, biases)
    for found, expected in zip(weights, gradients[::2], strict=True):
        assert_close(found, expected)


@EVERY_ACTIVATION
def test_nonfinite_inputs_show_in_outputs(activation: str) -> None:
    perceptron = perceptron_of(module_of([5], activation), activation)
    inputs = rows_of(4)
    inputs[2, 1] = np.nan
    for outputs in (perceptron(inputs.numpy()), perceptron.forward(inputs.numpy())):
        assert np.isnan(outputs).any(1).tolist() == [False, False, True, False]


@EVERY_DEPTH
def test_call_returns_new_array_forward_returns_buffer(
    hidden: list[int],
) -> None:
    perceptron = perceptron_of(module_of(hidden))
    inputs, others = rows_of(9).numpy(), rows_of(10).numpy()[:9]
    new, buffer = perceptron(inputs), perceptron.forward(inputs)
    copy = new.copy()
    np.testing.assert_array_equal(buffer, new)
    second_buffer = perceptron.forward(others)
    perceptron(rows_of(600).numpy())
    np.testing.assert_array_equal(new, copy)
    assert np.shares_memory(buffer, second_buffer)
    assert not np.array_equal(buffer, new)
    assert not np.shares_memory(new, buffer)


@EVERY_ACTIVATION
def test_earlier_passes_leave_no_trace(activation: str) -> None:
    module = module_of([5, 4], activation)
    perceptron = perceptron_of(module, activation)
    names = [name for name, _ in module.named_parameters()]
    weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
    for number in range(3):
        inputs = rows_of(8 + number)[:8]
        output_gradients = rows_of(8 + number, columns=OUTPUTS)[:8]
        outputs = module(inputs)
        perceptron.forward(inputs.numpy())
        # Fisher-vector products use one forward pass many times.
        for scale in (1.0, -2.0):
            changes = {name: scale * change for name, change in changes_of(module).items()}
            found = perceptron.tangent(
                *([changes[n].numpy() for n in names if n.endswith(part)] for part in PARTS)
            )
            assert_close(found, directional_derivative(module, inputs, changes))
            expected = torch.autograd.grad(
                outputs, list(module.parameters()), scale * output_gradients, retain_graph=True
            )
            perceptron.backward((scale * output_gradients).numpy(), weights, biases)
            for array, gradient in zip(
                weights + biases, expected[::2] + expected[1::2], strict=True
            ):
                assert_close(array, gradient)
        for parameter in module.parameters():
            parameter.data.mul_(-0.7)  # the next pass has another function and other rows


def test_all_batch_sizes_share_one_buffer() -> None:
    perceptron = perceptron_of(module_of([5]))
    for size in (7, 600):
        perceptron.forward(rows_of(size).numpy())
    largest = perceptron.forward(rows_of(600).numpy())
    for size in (7, 599, 1):
        assert np.shares_memory(perceptron.forward(rows_of(size).numpy()), largest)


def test_call_keeps_gradient_of_last_forward() -> None:
    module = module_of([5, 4])
    perceptron = perceptron_of(module)
    inputs, output_gradients = rows_of(20), rows_of(20, columns=OUTPUTS)
    expected = torch.autograd.grad(module(inputs), list(module.parameters()), output_gradients)
    perceptron.forward(inputs.numpy())
    for size in (600, 20, 7):
        perceptron(rows_of(size).numpy())
    weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
    perceptron.backward(output_gradients.numpy(), weights, biases)
    for found, gradient in zip(weights, expected[::2], strict=True):
        assert_close(found, gradient)


def test_many_batch_sizes_give_correct_results() -> None:
    module = module_of([5, 4])
    perceptron = perceptron_of(module)
    for size in [*range(1, 130), 3, 129, 1]:
        inputs = rows_of(size)
        outputs = module(inputs)
        assert_close(perceptron.forward(inputs.numpy()), outputs)
        expected = torch.autograd.grad(outputs.sum(), list(module.parameters()))
        weights, biases = empty_like(perceptron.weights), empty_like(perceptron.biases)
        perceptron.backward(np.ones((size, OUTPUTS)), weights, biases)
        assert_close(biases[0], expected[1])


def test_changed_weights_take_effect_at_once() -> None:
    module = module_of([5, 4])
    perceptron = perceptron_of(module)
    inputs = rows_of(7)
    before = perceptron(inputs.numpy())
    for parameter in module.parameters():
        parameter.data.mul_(0.5)
    assert not np.allclose(before, perceptron(inputs.numpy()))
    assert_close(perceptron(inputs.numpy()), module(inputs))
    assert_close(perceptron.forward(inputs.numpy()), module(inputs))


def test_inputs_are_cast_to_dtype_of_weights() -> None:
    module = module_of([5])
    perceptron = perceptron_of(module)
    inputs = rows_of(7, torch.float32)
    assert_close(perceptron(inputs.numpy()), module(inputs.double()))
    assert_close(perceptron.forward(inputs.numpy()), module(inputs.double()))


def test_empty_batch_gives_empty_output() -> None:
    perceptron = perceptron_of(module_of([5]))
    assert perceptron(np.empty((0, INPUTS))).shape == (0, OUTPUTS)


def test_gelu_and_silu_are_not_supported() -> None:
    assert set(SUPPORTED_ACTIVATIONS) == set(ACTIVATIONS) - {"gelu", "silu"}
