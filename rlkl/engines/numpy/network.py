"""The networks of a policy as perceptrons differentiated by hand, where they are of that kind."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import nn

from rlkl.engines.numpy.mlp import BY_HAND, Array, Perceptron
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.networks import ACTIVATIONS


class Head(Protocol):
    """What a perceptron's output becomes, and the way back of slopes."""

    def forward(self, outputs: Array) -> Array:
        """Return what the network puts out, `[B, P]`, for outputs `[B, O]` of the perceptron."""
        ...

    def backward(
        self, slopes: Array, into: Sequence[Array], *, stops_outward: bool = True
    ) -> Array:
        """Return slopes with respect to the perceptron's output, and write those of parameters.

        Args:
            slopes: with respect to what the network puts out, `[B, P]`.
            into: one array for each parameter of the network.
            stops_outward: whether what is at a bound or beyond it has no slope where descent
                leads further out; False is the transpose of `tangent`.
        """
        ...

    def tangent(self, change: Array, parameters: Sequence[Array]) -> Array:
        """Return the change of what the network puts out, `[B, P]`.

        Args:
            change: of the perceptron's output, `[B, O]`.
            parameters: changes of the network's parameters.
        """
        ...


class PlainHead:
    """The perceptron's output is the network's."""

    def forward(self, outputs: Array) -> Array:
        """Return the outputs."""
        return outputs

    def backward(
        self, slopes: Array, into: Sequence[Array], *, stops_outward: bool = True
    ) -> Array:
        """Return the slopes."""
        return slopes

    def tangent(self, change: Array, parameters: Sequence[Array]) -> Array:
        """Return the change."""
        return change


def _without_outward(slopes: Array, numbers: Array, lowest: float, highest: float) -> Array:
    """Return slopes, 0 where a number is at a bound or beyond and descent leads further out."""
    outward = ((numbers <= lowest) & (slopes > 0)) | ((numbers >= highest) & (slopes < 0))
    return np.where(outward, 0, slopes)


class FreeStdHead:
    """Means from the perceptron, and bounded log standard deviations that are parameters.

    At the bounds it has the gradient of `policy.GaussianHead`.

    Args:
        log_std: the parameters, `[D]`.
        place: theirs among the network's.
        lowest: the logarithms are clamped to at least this.
        highest: the logarithms are clamped to at most this.
    """

    def __init__(self, log_std: Array, place: int, lowest: float, highest: float) -> None:
        self.log_std, self.place = log_std, place
        self.lowest, self.highest = lowest, highest

    def forward(self, outputs: Array) -> Array:
        """Return means and log standard deviations, `[B, 2D]`."""
        size = len(self.log_std)
        parameters = np.empty((len(outputs), 2 * size), outputs.dtype)
        parameters[:, :size] = outputs
        parameters[:, size:] = np.minimum(np.maximum(self.log_std, self.lowest), self.highest)
        return parameters

    def backward(
        self, slopes: Array, into: Sequence[Array], *, stops_outward: bool = True
    ) -> Array:
        """Return the slopes of the means; those of the logarithms are summed over rows."""
        size = len(self.log_std)
        of_log_std = np.add.reduce(slopes[:, size:], 0)
        if stops_outward:
            of_log_std = _without_outward(of_log_std, self.log_std, self.lowest, self.highest)
        into[self.place][...] = of_log_std
        return np.ascontiguousarray(slopes[:, :size])

    def tangent(self, change: Array, parameters: Sequence[Array]) -> Array:
        """Return the changes of means and logarithms, `[B, 2D]`."""
        moved = np.broadcast_to(parameters[self.place], change.shape)
        return np.concatenate((change, moved), 1)


class StateStdHead:
    """Means and bounded log standard deviations, both from the perceptron.

    At the bounds it has the gradient of `policy.GaussianHead`.

    Args:
        log_std: added to the perceptron's output for the logarithms.
        lowest: the logarithms are clamped to at least this.
        highest: the logarithms are clamped to at most this.
    """

    def __init__(self, log_std: float, lowest: float, highest: float) -> None:
        self.start, self.lowest, self.highest = log_std, lowest, highest
        self._log_std: Array = np.empty((0, 0))

    def forward(self, outputs: Array) -> Array:
        """Return means and log standard deviations, `[B, 2D]`."""
        parameters, size = outputs.copy(), outputs.shape[1] // 2
        self._log_std = outputs[:, size:] + self.start
        np.clip(self._log_std, self.lowest, self.highest, out=parameters[:, size:])
        return parameters

    def backward(
        self, slopes: Array, into: Sequence[Array], *, stops_outward: bool = True
    ) -> Array:
        """Return the slopes."""
        slopes, size = slopes.copy(), slopes.shape[1] // 2
        if stops_outward:
            slopes[:, size:] = _without_outward(
                slopes[:, size:], self._log_std, self.lowest, self.highest
            )
        return slopes

    def tangent(self, change: Array, parameters: Sequence[Array]) -> Array:
        """Return the change."""
        return change


# As in torch, an overflow is no warning: what is not finite shows in the report.
_silently = np.errstate(all="ignore")


class HandNetwork:
    """A network evaluated and differentiated by hand, on its own parameters.

    Args:
        perceptron: most of it.
        places: of each layer's weight and bias among the network's parameters.
        head: the rest.
        parameters: the network's, whose gradient `backward` writes.
    """

    def __init__(
        self,
        perceptron: Perceptron,
        places: Sequence[tuple[int, int]],
        head: Head,
        parameters: FlatParameters,
    ) -> None:
        self.perceptron = perceptron
        self.head = head
        self.parameters = parameters
        self._weights, self._biases = zip(*places, strict=True)
        self._gradient = parameters.arrays(parameters.gradient)

    @_silently
    def __call__(self, vectors: Array) -> Array:
        """Return what the network puts out, `[B, I]` to `[B, P]`, in an array of its own."""
        return self.head.forward(self.perceptron(vectors))

    @_silently
    def forward(self, vectors: Array) -> Array:
        """Return what the network puts out, `[B, I]` to `[B, P]`, until the next call."""
        return self.head.forward(self.perceptron.forward(vectors))

    @_silently
    def backward(
        self, slopes: Array, into: Sequence[Array] | None = None, *, stops_outward: bool = True
    ) -> None:
        """Write the gradient of a loss at the last `forward`.

        Args:
            slopes: ∂loss/∂output, `[B, P]`.
            into: one array for each parameter; None for the parameters' own gradient.
            stops_outward: see `Head.backward`.
        """
        into = self._gradient if into is None else into
        slopes = self.head.backward(slopes, into, stops_outward=stops_outward)
        weights, biases = self._layers(into)
        self.perceptron.backward(slopes, weights, biases)

    @_silently
    def tangent(self, changes: Sequence[Array]) -> Array:
        """Return how the output changes at the last `forward`, `[B, P]`, to first order.

        Args:
            changes: of each parameter.
        """
        return self.head.tangent(self.perceptron.tangent(*self._layers(changes)), changes)

    @_silently
    def second_moment(self, slopes: Array) -> Callable[[Sequence[Array], Sequence[Array]], None]:
        """Return products with Σ_b g_b g_bᵀ, where g_b is the gradient of slopes_b · output_b.

        At the last `forward`, and until the next call of any other method.

        Args:
            slopes: of each row, `[B, P]`.

        Returns:
            A function that takes v and writes Σ_b g_b (g_b · v): one array for each parameter each.
        """
        assert isinstance(self.head, PlainHead), "a head with parameters has gradients of its own"
        gradients = self.perceptron.row_gradients(slopes)

        @_silently
        def product(vector: Sequence[Array], into: Sequence[Array]) -> None:
            weights, biases = self._layers(into)
            gradients.transposed_times(gradients.times(*self._layers(vector)), weights, biases)

        return product

    def _layers(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        return [arrays[i] for i in self._weights], [arrays[i] for i in self._biases]


class NotByHandError(Exception):
    """A network of another kind; the message says which."""


def hand_network(
    layers: Sequence[nn.Module], parameters: FlatParameters, head: Head
) -> HandNetwork:
    """Return a stack of linear layers and activations as a `HandNetwork`.

    Args:
        layers: linear layers with an activation between each two.
        parameters: theirs and the head's.
        head: on top.

    Raises:
        NotByHandError: an activation that is not among `BY_HAND`, or another device than the CPU.
    """
    if parameters.vector.device.type != "cpu":
        raise NotByHandError(f"a network on {parameters.vector.device}")
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    activations = {names[type(layer)] for layer in layers if not isinstance(layer, nn.Linear)}
    activation = activations.pop() if activations else "tanh"  # a single layer has none
    if activation not in BY_HAND:
        raise NotByHandError(f"the activation {activation}")
    place = {id(tensor): i for i, tensor in enumerate(parameters.tensors)}
    arrays = parameters.arrays(parameters.vector.data)
    places = [(place[id(layer.weight)], place[id(layer.bias)]) for layer in linear]
    perceptron = Perceptron(
        [arrays[weight] for weight, _ in places], [arrays[bias] for _, bias in places], activation
    )
    return HandNetwork(perceptron, places, head, parameters)
