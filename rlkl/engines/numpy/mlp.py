"""Perceptrons differentiated by hand, in NumPy, on the very memory of their torch modules."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# For rows of 64 units and minibatches of 64 rows, one pass forward and back takes 78 µs here,
# 140 µs as the same calls of torch and 420 µs by autograd: what counts at these sizes is the
# overhead of a call. Larger batches are evaluated in parts, which stay in the processor's cache.
ROWS_AT_ONCE = 512


class Activation(NamedTuple):
    """A function applied to each unit, and its derivative from its own output.

    Attributes:
        apply: writes the outputs for inputs to the second argument, which may be the same array.
        derivative: of outputs, written to the second argument.
    """

    apply: Callable[[Array, Array], object]
    derivative: Callable[[Array, Array], object]


def _tanh_derivative(outputs: Array, out: Array) -> None:
    np.multiply(outputs, outputs, out=out)
    np.subtract(1, out, out=out)


def _elu(inputs: Array, out: Array) -> None:
    np.maximum(inputs, np.expm1(np.minimum(inputs, 0)), out=out)


def _elu_derivative(outputs: Array, out: Array) -> None:
    np.minimum(outputs, 0, out=out)
    np.add(out, 1, out=out)


BY_HAND: dict[str, Activation] = {
    "tanh": Activation(np.tanh, _tanh_derivative),
    "relu": Activation(lambda inputs, out: np.maximum(inputs, 0, out=out), np.sign),
    "elu": Activation(_elu, _elu_derivative),
}
"""Activations whose derivative follows from their output alone."""


class Room(NamedTuple):
    """Where passes over B rows write.

    Attributes:
        outputs: of each layer, `[B, units]`.
        derivatives: of the activation at those outputs.
        slopes: ∂loss/∂outputs.
        ones: `[B]`; a product with it is a sum over rows.
    """

    outputs: list[Array]
    derivatives: list[Array]
    slopes: list[Array]
    ones: Array


class RowGradients:
    """G, `[B, n]`: each row the gradient of a number that one input's f makes, as its factors.

    A row of a layer's part is the outer product of slopes and inputs. So G v and Gᵀ u take one
    product of matrices for each layer, half of what a directional derivative and a backward pass
    take, and G is never formed.

    Args:
        below: inputs of each layer, `[B, inputs]`.
        slopes: of that number with respect to each layer's outputs before the activation,
            `[B, outputs]`.
    """

    def __init__(self, below: Sequence[Array], slopes: Sequence[Array]) -> None:
        self._layers = [_Factors.of(*pair) for pair in zip(below, slopes, strict=True)]

    def times(self, weights: Sequence[Array], biases: Sequence[Array]) -> Array:
        """Return G v, `[B]`, for v given as the parts of each layer."""
        total: Array = np.zeros(len(self._layers[0].slopes), biases[0].dtype)
        for factors, weight, bias in zip(self._layers, weights, biases, strict=True):
            # Σ_ij slopes_i W_ij below_j
            np.dot(factors.wide, weight if factors.is_fed_by_few else weight.T, out=factors.room)
            np.multiply(factors.room, factors.narrow, out=factors.room)
            total += np.dot(factors.room, factors.ones)
            total += np.dot(factors.slopes, bias)
        return total

    def transposed_times(
        self, numbers: Array, weights: Sequence[Array], biases: Sequence[Array]
    ) -> None:
        """Write Gᵀ u.

        Args:
            numbers: u, `[B]`.
            weights: where its part of each layer's weight goes.
            biases: where its part of each layer's bias goes.
        """
        column = torch.from_numpy(numbers)[:, None]
        for factors, weight, bias in zip(self._layers, weights, biases, strict=True):
            # NumPy takes twice the time to multiply rows of 64 by a number each.
            torch.mul(torch.from_numpy(factors.narrow), column, out=torch.from_numpy(factors.room))
            if factors.is_fed_by_few:
                np.dot(factors.wide.T, factors.room, out=weight)
            else:
                np.dot(factors.room.T, factors.wide, out=weight)
            np.dot(numbers, factors.slopes, out=bias)


class _Factors(NamedTuple):
    """A layer's part of `RowGradients`: what is multiplied elementwise is the narrower factor.

    Attributes:
        slopes: `[B, outputs]`.
        is_fed_by_few: whether the layer has fewer inputs than outputs.
        narrow: the inputs if so, else the slopes.
        wide: the other.
        room: as large as `narrow`, to write to.
        ones: as many as `narrow` has columns; a product with them is a sum over rows.
    """

    slopes: Array
    is_fed_by_few: bool
    narrow: Array
    wide: Array
    room: Array
    ones: Array

    @classmethod
    def of(cls, below: Array, slopes: Array) -> Self:
        few = below.shape[1] < slopes.shape[1]
        narrow, wide = (below, slopes) if few else (slopes, below)
        ones = np.ones(narrow.shape[1], narrow.dtype)
        return cls(slopes, few, narrow, wide, np.empty_like(narrow, order="C"), ones)


class Perceptron:
    """f(x) = W_L φ(… φ(W_1 x + b_1) …) + b_L, its gradients and its directional derivatives.

    All numbers of rows share one room, as large as the largest; what `forward` returns holds until
    the next call.

    Args:
        weights: of each layer, `[outputs, inputs]`.
        biases: of each layer, `[outputs]`.
        activation: behind each layer but the last, a name of `BY_HAND`.
    """

    def __init__(self, weights: Sequence[Array], biases: Sequence[Array], activation: str) -> None:
        self.weights = list(weights)
        self.biases = list(biases)
        self.activation = BY_HAND[activation]
        self._transposed = [weight.T for weight in self.weights]
        self._inputs: Array = np.empty((0, 0))
        self._whole = self._room = self._made_room(0)
        self._rooms: dict[int, Room] = {}
        self._derivatives_stand = False
        self._changes: list[Array] = []
        self._products: list[Array] = []

    @property
    def num_inputs(self) -> int:
        """I, columns of the inputs."""
        return int(self.weights[0].shape[1])

    def _made_room(self, rows: int) -> Room:
        outputs, derivatives, slopes = (self._outputs_for(rows) for _ in range(3))
        return Room(outputs, derivatives, slopes, np.ones(rows, self.biases[0].dtype))

    def _outputs_for(self, rows: int) -> list[Array]:
        return [np.empty((rows, len(bias)), bias.dtype) for bias in self.biases]

    def _room_for(self, rows: int) -> Room:
        room = self._rooms.get(rows)
        if room is None:
            if rows > len(self._whole.ones) or len(self._rooms) > 100:
                self._whole = self._made_room(max(rows, len(self._whole.ones)))
                self._rooms.clear()
            outputs, derivatives, slopes = (
                [array[:rows] for array in arrays] for arrays in self._whole[:3]
            )
            ones = self._whole.ones[:rows]
            room = self._rooms[rows] = Room(outputs, derivatives, slopes, ones)
        return room

    def __call__(self, inputs: Array) -> Array:
        """Return f(x), `[B, I]` to `[B, O]`, in an array of its own."""
        outputs = np.empty((len(inputs), len(self.biases[-1])), self.biases[-1].dtype)
        room = self._outputs_for(min(len(inputs), ROWS_AT_ONCE))
        for start in range(0, len(inputs), ROWS_AT_ONCE):
            part = inputs[start : start + ROWS_AT_ONCE]
            outputs[start : start + len(part)] = self._pass(part, [o[: len(part)] for o in room])
        return outputs

    def fixed(self, rows: int) -> Callable[[Array], Array]:
        """Return f for B rows as a function of its own, for the parameters' present memory.

        It looks nothing up and makes nothing, for the step after step of a rollout. What it returns
        holds until its next call.
        """
        layers = zip(self._transposed, self.biases, self._outputs_for(rows), strict=True)
        *hidden, (last_weight, last_bias, outputs) = layers
        dot, add, apply = np.dot, np.add, self.activation.apply

        def f(units: Array) -> Array:
            for weight, bias, room in hidden:
                dot(units, weight, room)
                add(room, bias, room)
                apply(room, room)
                units = room
            dot(units, last_weight, outputs)
            return add(outputs, last_bias, outputs)

        return f

    def forward(self, inputs: Array) -> Array:
        """Return f(x), `[B, I]` to `[B, O]`, and keep what `backward` and `tangent` need."""
        self._inputs, self._room = inputs, self._room_for(len(inputs))
        self._derivatives_stand = False
        return self._pass(inputs, self._room.outputs)

    def _pass(self, inputs: Array, room: list[Array]) -> Array:
        units, last = inputs, len(room) - 1
        for layer, outputs in enumerate(room):
            np.dot(units, self._transposed[layer], out=outputs)
            np.add(outputs, self.biases[layer], out=outputs)
            if layer < last:
                self.activation.apply(outputs, outputs)
            units = outputs
        return units

    def backward(self, slopes: Array, weights: Sequence[Array], biases: Sequence[Array]) -> None:
        """Write the gradient of a loss at the last `forward`.

        Args:
            slopes: ∂loss/∂f of each row, `[B, O]`.
            weights: where ∂loss/∂W goes, for each layer.
            biases: where ∂loss/∂b goes, for each layer.
        """
        for layer, below, at_outputs in self._backward(slopes):
            np.dot(at_outputs.T, below, out=weights[layer])
            np.dot(self._room.ones, at_outputs, out=biases[layer])

    def row_gradients(self, slopes: Array) -> RowGradients:
        """Return the gradient of Σ_o slopes_o · f_o(x) for each row of the last `forward`.

        They hold until the next call of any other method.

        Args:
            slopes: `[B, O]`.
        """
        layers = list(self._backward(slopes))[::-1]
        return RowGradients([below for _, below, _ in layers], [of for _, _, of in layers])

    def _backward(self, slopes: Array) -> Iterator[tuple[int, Array, Array]]:
        """Yield each layer from the last down, its inputs and the slopes at its outputs."""
        room, derivatives = self._room, self._derivatives()
        for layer in reversed(range(len(room.outputs))):
            yield layer, room.outputs[layer - 1] if layer else self._inputs, slopes
            if layer:
                np.dot(slopes, self.weights[layer], out=room.slopes[layer - 1])
                slopes = room.slopes[layer - 1]
                np.multiply(slopes, derivatives[layer - 1], out=slopes)

    def _derivatives(self) -> list[Array]:
        """Return those of the last `forward`: computed once, however many passes follow."""
        room = self._room
        if not self._derivatives_stand:
            for outputs, derivatives in zip(room.outputs[:-1], room.derivatives, strict=False):
                self.activation.derivative(outputs, derivatives)
            self._derivatives_stand = True
        return room.derivatives

    def tangent(self, weights: Sequence[Array], biases: Sequence[Array]) -> Array:
        """Return how f changes at the last `forward` if the parameters move, `[B, O]`.

        df = Σ_layers (∂f/∂W) dW + (∂f/∂b) db, to first order; it holds until the next call.

        Args:
            weights: dW of each layer.
            biases: db of each layer.
        """
        room, derivatives, below = self._room, self._derivatives(), self._inputs
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
            below = room.outputs[layer]
        return self._changes[-1]
