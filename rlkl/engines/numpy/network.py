"""An MLP and its head as one network with analytic gradients."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlkl.engines.numpy.mlp import Array, Arrays, Perceptron
from rlkl.models.flat_parameters import FlatParameters


class Head:
    """Maps the output of an MLP to the output of the network; this one changes nothing."""

    def forward(self, outputs: Array) -> Array:
        """Return the network's output, `[B, P]`, for outputs `[B, O]` of the MLP."""
        return outputs

    def backward(self, gradients: Array, into: Arrays, *, stops_outward: bool = True) -> Array:
        """Return gradients with respect to the MLP's output, and write those of parameters.

        Args:
            gradients: with respect to the network's output, `[B, P]`.
            into: one array for each parameter of the network.
            stops_outward: whether the gradient at or beyond a bound is 0 where descent leads
                further out; False makes this the transpose of `tangent`.
        """
        return gradients

    def tangent(self, change: Array, parameters: Arrays) -> Array:
        """Return the tangent of the network's output, `[B, P]`, for that of the MLP's, `[B, O]`."""
        return change


def _without_outward(gradients: Array, numbers: Array, lowest: float, highest: float) -> Array:
    """Return gradients, 0 where a number is at or beyond a bound and descent leads further out."""
    outward = ((numbers <= lowest) & (gradients > 0)) | ((numbers >= highest) & (gradients < 0))
    return np.where(outward, 0, gradients)


class FreeStdHead(Head):
    """Means from the MLP, and bounded log standard deviations that are parameters, `[D]`.

    These are at a place among the network's parameters. At the bounds it has the gradient of
    `models.heads.GaussianHead`.
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

    def backward(self, gradients: Array, into: Arrays, *, stops_outward: bool = True) -> Array:
        """Return the gradients of the means; write those of `log_std`, summed over rows."""
        size = len(self.log_std)
        of_log_std = np.add.reduce(gradients[:, size:], 0)
        if stops_outward:
            of_log_std = _without_outward(of_log_std, self.log_std, self.lowest, self.highest)
        into[self.place][...] = of_log_std
        return np.ascontiguousarray(gradients[:, :size])

    def tangent(self, change: Array, parameters: Arrays) -> Array:
        """Return the tangents of means and log standard deviations, `[B, 2D]`."""
        of_log_std = np.broadcast_to(parameters[self.place], change.shape)
        return np.concatenate((change, of_log_std), 1)


class StateStdHead(Head):
    """Means and bounded log standard deviations, both from the MLP; `log_std` is added to these.

    At the bounds it has the gradient of `models.heads.GaussianHead`.
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

    def backward(self, gradients: Array, into: Arrays, *, stops_outward: bool = True) -> Array:
        """Return the gradients."""
        gradients, size = gradients.copy(), gradients.shape[1] // 2
        if stops_outward:
            gradients[:, size:] = _without_outward(
                gradients[:, size:], self._log_std, self.lowest, self.highest
            )
        return gradients


# No warnings about overflow, as in torch: the report shows nonfinite numbers.
silently = np.errstate(all="ignore")


class NumpyNetwork:
    """A network with analytic gradients, which shares memory with its parameters.

    The places are the indices of each layer's weight and bias among the parameters; `columns` are
    those of the observations' vectors that it reads, None for all.
    """

    def __init__(
        self,
        perceptron: Perceptron,
        places: Sequence[tuple[int, int]],
        head: Head,
        parameters: FlatParameters,
        columns: NDArray[np.int64] | None = None,
    ) -> None:
        self.perceptron, self.head, self.parameters = perceptron, head, parameters
        self._columns = columns
        self._weights, self._biases = zip(*places, strict=True)
        self._gradient = parameters.arrays(parameters.gradient)

    @silently
    def __call__(self, vectors: Array) -> Array:
        """Return the output, `[B, I]` to `[B, P]`, in a new array."""
        return self.head.forward(self.perceptron(self._seen(vectors)))

    @silently
    def forward(self, vectors: Array) -> Array:
        """Return the output, `[B, I]` to `[B, P]`, valid until the next call."""
        return self.head.forward(self.perceptron.forward(self._seen(vectors)))

    def fixed(self, rows: int) -> Callable[[Array], Array]:
        """Return the MLP of `Perceptron.fixed` for vectors `[rows, I]`."""
        evaluate, columns = self.perceptron.fixed(rows), self._columns
        if columns is None:
            return evaluate
        return lambda vectors: evaluate(vectors.take(columns, 1))

    def _seen(self, vectors: Array) -> Array:
        return vectors if self._columns is None else vectors.take(self._columns, 1)

    @silently
    def backward(
        self, gradients: Array, into: Arrays | None = None, *, stops_outward: bool = True
    ) -> None:
        """Write the gradient of a loss at the last `forward`, from ∂loss/∂output, `[B, P]`.

        The arguments are those of `Head.backward`; `into` None is the parameters' own gradient.
        """
        into = self._gradient if into is None else into
        gradients = self.head.backward(gradients, into, stops_outward=stops_outward)
        weights, biases = self._layers(into)
        self.perceptron.backward(gradients, weights, biases)

    @silently
    def tangent(self, changes: Arrays) -> Array:
        """Return the tangent of the output `[B, P]` at the last `forward`, for the parameters'."""
        return self.head.tangent(self.perceptron.tangent(*self._layers(changes)), changes)

    @silently
    def second_moment(self, gradients: Array) -> Callable[[Arrays, Arrays], None]:
        """Return a function that takes v and writes Σ_b g_b (g_b · v), one array per parameter.

        g_b is the gradient of gradients_b · output_b at the last `forward`, for gradients `[B, P]`.
        The function is valid until the next call of any other method.
        """
        assert type(self.head) is Head, "gradients of a head's parameters are not included"
        moment, layers = self.perceptron.second_moment(gradients), self._layers
        return silently(lambda vector, into: moment.write(*layers(vector), *layers(into)))

    def _layers(self, arrays: Arrays) -> tuple[list[Array], list[Array]]:
        return [arrays[i] for i in self._weights], [arrays[i] for i in self._biases]
