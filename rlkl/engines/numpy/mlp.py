"""MLPs with analytic gradients in NumPy, which share memory with their torch modules."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Arrays = Sequence[Array]

ROWS_AT_ONCE = 512
"""Larger batches are evaluated in parts of this size, which fit in the processor's cache."""


class Activation(NamedTuple):
    """An activation function, and its derivative as a function of the output."""

    apply: Callable[[Array, Array], object]  # writes to the second array, which may be the first
    derivative: Callable[[Array, Array], object]


def _tanh_derivative(outputs: Array, out: Array) -> None:
    np.multiply(outputs, outputs, out=out)
    np.subtract(1, out, out=out)


def _elu(inputs: Array, out: Array) -> None:
    np.maximum(inputs, np.expm1(np.minimum(inputs, 0)), out=out)


def _elu_derivative(outputs: Array, out: Array) -> None:
    np.minimum(outputs, 0, out=out)
    np.add(out, 1, out=out)


SUPPORTED_ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(np.tanh, _tanh_derivative),
    "relu": Activation(lambda inputs, out: np.maximum(inputs, 0, out=out), np.sign),
    "elu": Activation(_elu, _elu_derivative),
}
"""Activations whose derivative is a function of their output."""


class _Buffers(NamedTuple):
    """Buffers for passes over B rows, `[B, units]` of each layer."""

    outputs: list[Array]
    derivatives: list[Array]  # of the activations
    gradients: list[Array]  # ∂loss/∂outputs
    ones: Array  # [B]; a product with it is a sum over rows


class _Factors(NamedTuple):
    """A layer's part of `SecondMoment`; the narrower factor is multiplied elementwise."""

    gradients: Array  # [B, outputs]
    has_few_inputs: bool  # fewer than outputs
    narrow: Array  # the inputs if so, else the gradients
    wide: Array  # the other factor
    buffer: Array  # in the shape of `narrow`
    ones: Array  # one for each column of `narrow`; a product with it sums each row


class SecondMoment:
    """M = Σ_b g_b g_bᵀ, where g_b is the gradient of a scalar function of f(x) at row b.

    In each row, the gradient of a layer's weight is the outer product of output gradients and
    inputs. So M v takes two matrix products for each layer, half as many as a tangent and a
    backward pass.

    Args:
        layers: inputs of each layer, `[B, inputs]`, and the scalar's gradients with respect to its
            outputs before the activation, `[B, outputs]`.
    """

    def __init__(self, layers: Iterable[tuple[Array, Array]]) -> None:
        self._layers: list[_Factors] = []
        for below, gradients in layers:
            few = below.shape[1] < gradients.shape[1]
            narrow, wide = (below, gradients) if few else (gradients, below)
            buffer, ones = np.empty_like(narrow, order="C"), np.ones(narrow.shape[1], narrow.dtype)
            self._layers.append(_Factors(gradients, few, narrow, wide, buffer, ones))

    def write(self, weights: Arrays, biases: Arrays, to_weights: Arrays, to_biases: Arrays) -> None:
        """Write M v; v is given as each layer's weight and bias, and so is M v."""
        numbers: Array = np.zeros(len(self._layers[0].gradients), biases[0].dtype)
        for factors, weight, bias in zip(self._layers, weights, biases, strict=True):
            # Σ_ij gradients_i W_ij below_j
            np.dot(factors.wide, weight if factors.has_few_inputs else weight.T, out=factors.buffer)
            np.multiply(factors.buffer, factors.narrow, out=factors.buffer)
            numbers += np.dot(factors.buffer, factors.ones)
            numbers += np.dot(factors.gradients, bias)
        column = torch.from_numpy(numbers)[:, None]
        for factors, weight, bias in zip(self._layers, to_weights, to_biases, strict=True):
            narrow, buffer = map(torch.from_numpy, (factors.narrow, factors.buffer))
            torch.mul(narrow, column, out=buffer)  # faster than NumPy
            if factors.has_few_inputs:
                np.dot(factors.wide.T, factors.buffer, out=weight)
            else:
                np.dot(factors.buffer.T, factors.wide, out=weight)
            np.dot(numbers, factors.gradients, out=bias)


class Perceptron:
    """MLP f(x) = W_L φ(… φ(W_1 x + b_1) …) + b_L, with its gradients and tangents.

    All batch sizes share one set of buffers; the result of `forward` is valid until the next call.

    Args:
        weights: of each layer, `[outputs, inputs]`.
        biases: of each layer, `[outputs]`.
        activation: φ, a name of `SUPPORTED_ACTIVATIONS`.
    """

    def __init__(self, weights: Arrays, biases: Arrays, activation: str) -> None:
        self.weights = list(weights)
        self.biases = list(biases)
        self.activation = SUPPORTED_ACTIVATIONS[activation]
        self._transposed = [weight.T for weight in self.weights]
        self._inputs: Array = np.empty((0, 0))
        self._whole = self._buffers = self._new_buffers(0)
        self._buffers_by_rows: dict[int, _Buffers] = {}
        self._has_derivatives = False
        self._changes: list[Array] = []
        self._products: list[Array] = []

    def _new_buffers(self, rows: int) -> _Buffers:
        outputs, derivatives, gradients = (self._outputs_for(rows) for _ in range(3))
        return _Buffers(outputs, derivatives, gradients, np.ones(rows, self.biases[0].dtype))

    def _outputs_for(self, rows: int) -> list[Array]:
        return [np.empty((rows, len(bias)), bias.dtype) for bias in self.biases]

    def _buffers_for(self, rows: int) -> _Buffers:
        buffers = self._buffers_by_rows.get(rows)
        if buffers is None:
            if rows > len(self._whole.ones) or len(self._buffers_by_rows) > 100:
                self._whole = self._new_buffers(max(rows, len(self._whole.ones)))
                self._buffers_by_rows.clear()
            outputs, derivatives, gradients = (
                [array[:rows] for array in arrays] for arrays in self._whole[:3]
            )
            buffers = _Buffers(outputs, derivatives, gradients, self._whole.ones[:rows])
            self._buffers_by_rows[rows] = buffers
        return buffers

    def __call__(self, inputs: Array) -> Array:
        """Return f(x), `[B, I]` to `[B, O]`, in a new array."""
        outputs = np.empty((len(inputs), len(self.biases[-1])), self.biases[-1].dtype)
        buffers = self._outputs_for(min(len(inputs), ROWS_AT_ONCE))
        for start in range(0, len(inputs), ROWS_AT_ONCE):
            part = inputs[start : start + ROWS_AT_ONCE]
            outputs[start : start + len(part)] = self._pass(part, [o[: len(part)] for o in buffers])
        return outputs

    def fixed(self, rows: int) -> Callable[[Array], Array]:
        """Return f for a fixed number of rows; its result is valid until its next call."""
        layers = zip(self._transposed, self.biases, self._outputs_for(rows), strict=True)
        *hidden, (last_weight, last_bias, outputs) = layers
        dot, add, apply = np.dot, np.add, self.activation.apply

        def f(units: Array) -> Array:  # faster than `_pass`
            for weight, bias, buffers in hidden:
                dot(units, weight, buffers)
                add(buffers, bias, buffers)
                apply(buffers, buffers)
                units = buffers
            dot(units, last_weight, outputs)
            return add(outputs, last_bias, outputs)

        return f

    def forward(self, inputs: Array) -> Array:
        """Return f(x), `[B, I]` to `[B, O]`, and store what `backward` and `tangent` need."""
        self._inputs, self._buffers = inputs, self._buffers_for(len(inputs))
        self._has_derivatives = False
        return self._pass(inputs, self._buffers.outputs)

    def _pass(self, inputs: Array, buffers: list[Array]) -> Array:
        units = inputs
        for weight, bias, outputs in zip(self._transposed, self.biases, buffers, strict=True):
            if units is not inputs:
                self.activation.apply(units, units)
            np.dot(units, weight, outputs)
            np.add(outputs, bias, outputs)
            units = outputs
        return units

    def backward(self, gradients: Array, weights: Arrays, biases: Arrays) -> None:
        """Write ∂loss/∂W and ∂loss/∂b of each layer, given ∂loss/∂f at the last `forward`."""
        for layer, below, at_outputs in self._backward(gradients):
            np.dot(at_outputs.T, below, out=weights[layer])
            np.dot(self._buffers.ones, at_outputs, out=biases[layer])

    def second_moment(self, gradients: Array) -> SecondMoment:
        """Return Σ_b g_b g_bᵀ, where g_b is the gradient of Σ_o gradients_bo · f_o(x_b).

        It is that of the last `forward`, and valid until the next call of any other method.
        """
        layers = [(below, at_outputs) for _, below, at_outputs in self._backward(gradients)]
        return SecondMoment(reversed(layers))

    def _backward(self, gradients: Array) -> Iterator[tuple[int, Array, Array]]:
        """Yield each layer from the last down, its inputs and the gradients at its outputs."""
        buffers, derivatives = self._buffers, self._derivatives()
        for layer in reversed(range(len(buffers.outputs))):
            yield layer, buffers.outputs[layer - 1] if layer else self._inputs, gradients
            if layer:
                np.dot(gradients, self.weights[layer], out=buffers.gradients[layer - 1])
                gradients = buffers.gradients[layer - 1]
                np.multiply(gradients, derivatives[layer - 1], out=gradients)

    def _derivatives(self) -> list[Array]:
        """Return the activations' derivatives at the last `forward`; computed once."""
        buffers = self._buffers
        if not self._has_derivatives:
            for outputs, into in zip(buffers.outputs[:-1], buffers.derivatives, strict=False):
                self.activation.derivative(outputs, into)
            self._has_derivatives = True
        return buffers.derivatives

    def tangent(self, weights: Arrays, biases: Arrays) -> Array:
        """Return Σ_layers (∂f/∂W) dW + (∂f/∂b) db at the last `forward`, until the next call."""
        buffers, derivatives, below = self._buffers, self._derivatives(), self._inputs
        if not self._changes or len(self._changes[0]) != len(below):
            self._changes, self._products = (self._outputs_for(len(below)) for _ in range(2))
        for layer, change in enumerate(self._changes):
            np.dot(below, weights[layer].T, out=change)
            if layer:
                product = self._products[layer]
                np.dot(self._changes[layer - 1], self._transposed[layer], out=product)
                np.add(change, product, out=change)
            np.add(change, biases[layer], out=change)
            if layer < len(weights) - 1:
                np.multiply(change, derivatives[layer], out=change)
            below = buffers.outputs[layer]
        return self._changes[-1]
