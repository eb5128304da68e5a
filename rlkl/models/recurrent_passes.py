"""GRU and LSTM on a CPU in NumPy, where small steps have less overhead than in torch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

Array = NDArray[np.floating[Any]]


class RecurrentPass(torch.autograd.Function):
    """Outputs of `torch.gru` or `torch.lstm` with one layer, their gradients and tangents."""

    @staticmethod
    def forward(
        ctx: Any, kind: str, features: Tensor, hidden: Tensor, cell: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Process S sequences of L steps.

        Args:
            ctx: of torch.
            kind: `gru` or `lstm`.
            features: `[L, S, F]`.
            hidden: before the first step, `[S, H]`.
            cell: of an LSTM, `[S, H]`.
            weights: of the inputs `[G·H, F]` and of the hidden state `[G·H, H]`, and their biases.

        Returns:
            Outputs `[L, S, H]`, and the last cell of an LSTM.
        """
        run: Any = _GRU if kind == "gru" else _LSTM
        inputs = (features, hidden, cell, *weights)
        with np.errstate(all="ignore"):  # as in torch
            ctx.run = run(*(None if x is None else x.detach().numpy() for x in inputs))
        outputs = torch.from_numpy(ctx.run.hidden[1:])
        return outputs, None if cell is None else torch.from_numpy(ctx.run.cell[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *at_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the inputs of `forward`."""
        at_hidden, at_cell = (None if g is None else g.numpy() for g in at_outputs)
        with np.errstate(all="ignore"):
            features, hidden, *rest = map(torch.from_numpy, ctx.run.gradients(at_hidden, at_cell))
        no_cell = (None,) if isinstance(ctx.run, _GRU) else ()
        return None, features, hidden, *no_cell, *rest

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the tangents of the outputs, from those of the inputs of `forward`."""
        arrays = [0.0 if x is None else x.numpy() for x in tangents]
        with np.errstate(all="ignore"):
            hidden, cell = ctx.run.tangents(*arrays)
        return torch.from_numpy(hidden), None if cell is None else torch.from_numpy(cell)


def torchs_own(kind: str, features: Tensor, hidden: Tensor, *rest: Tensor) -> tuple[Tensor, Any]:
    """Return what `RecurrentPass` does, from torch's layers."""
    settings: Any = (True, 1, 0.0, False, False, False)
    if kind == "gru":
        return torch.gru(features, hidden[None].contiguous(), list(rest), *settings)[0], None
    cell, *weights = rest
    states = [hidden[None].contiguous(), cell[None].contiguous()]
    outputs, _, last = torch.lstm(features, states, weights, *settings)
    return outputs, last[0]


class _Steps:
    """The passes over L steps that GRU and LSTM share.

    Attributes:
        hidden: before the first step and after each, `[L + 1, S, H]`.
    """

    def __init__(
        self, features: Array, hidden: Array, of_input: Array, of_hidden: Array, bias: Array
    ) -> None:
        self.features, self.of_input, self.of_hidden = features, of_input, of_hidden
        self.size = hidden.shape[1]
        self.hidden = np.empty((len(features) + 1, *hidden.shape), features.dtype)
        self.hidden[0] = hidden
        rows = np.ascontiguousarray(features).reshape(-1, features.shape[2])
        self.inputs = (rows @ of_input.T + bias).reshape(*features.shape[:2], -1)

    def fixed_tangents(self, *tangents: Any) -> tuple[Array, Array]:
        """Return the gates' tangents, except for what the hidden state's tangent adds.

        They are `[L, S, G·H]` each: of the part from the features, and of that from the hidden
        state. The tangents are those of features, weights and biases, or 0.
        """
        features, of_input, of_hidden, input_bias, hidden_bias = tangents
        parts = []
        for rows, weights, bias in (
            (self.features, of_input, input_bias), (self.hidden[:-1], of_hidden, hidden_bias),
        ):  # fmt: skip
            flat = np.ascontiguousarray(rows).reshape(-1, rows.shape[2])
            parts.append((flat @ weights.T + bias).reshape(*rows.shape[:2], -1))
        if isinstance(features, np.ndarray):
            parts[0] += features @ self.of_input.T
        return parts[0], parts[1]

    def weight_gradients(self, at_inputs: Array, at_hidden: Array) -> list[Array]:
        """Return gradients with respect to features, weights and biases.

        Args:
            at_inputs: at the gates' part that comes from the features, `[L, S, G·H]`.
            at_hidden: at the part that comes from the hidden state.
        """
        from_inputs = at_inputs.reshape(-1, at_inputs.shape[2])
        from_hidden = at_hidden.reshape(from_inputs.shape)
        rows = np.ascontiguousarray(self.features).reshape(len(from_inputs), -1)
        before = self.hidden[:-1].reshape(len(from_inputs), -1)
        return [
            (from_inputs @ self.of_input).reshape(self.features.shape),
            from_inputs.T @ rows,
            from_hidden.T @ before,
            from_inputs.sum(0),
            from_hidden.sum(0),
        ]


class _GRU(_Steps):
    """r = σ(·), z = σ(·), n = tanh(W_n x + b + r · (U_n h + c)), h ← n + z · (h - n)."""

    def __init__(self, features: Array, hidden: Array, _: None, *weights: Array) -> None:
        of_input, of_hidden, input_bias, hidden_bias = weights
        super().__init__(features, hidden, of_input, of_hidden, input_bias)
        length, count, size = len(features), len(hidden), self.size
        self.gates = np.empty((length, count, 2 * size), features.dtype)  # r and z
        self.new = np.empty((length, count, size), features.dtype)  # n
        self.recurrent = np.empty_like(self.new)  # U_n h + c
        transposed = np.ascontiguousarray(of_hidden.T)
        product = np.empty((count, 3 * size), features.dtype)
        for t in range(length):
            before, gates, new = self.hidden[t], self.gates[t], self.new[t]
            np.matmul(before, transposed, out=product)
            product += hidden_bias
            np.add(self.inputs[t, :, : 2 * size], product[:, : 2 * size], out=gates)
            _sigmoid(gates)
            self.recurrent[t] = product[:, 2 * size :]
            np.multiply(gates[:, :size], self.recurrent[t], out=new)
            new += self.inputs[t, :, 2 * size :]
            np.tanh(new, out=new)
            after = self.hidden[t + 1]
            np.subtract(before, new, out=after)
            after *= gates[:, size:]
            after += new

    def gradients(self, at_outputs: Array | None, _: None) -> list[Array]:
        """Return gradients with respect to features, hidden state, weights and biases."""
        size = self.size
        r, z, new, before = self.gates[..., :size], self.gates[..., size:], self.new, self.hidden
        at_new = (1 - z) * (1 - new**2)
        at_z = (before[:-1] - new) * z * (1 - z)
        at_r = self.recurrent * r * (1 - r)
        at_inputs = np.empty((*new.shape[:2], 3 * size), new.dtype)
        at_hidden = np.empty_like(at_inputs)
        carried = np.zeros_like(new[0])
        for t in reversed(range(len(new))):
            if at_outputs is not None:
                carried += at_outputs[t]
            of_inputs, of_hidden = at_inputs[t], at_hidden[t]
            np.multiply(carried, at_new[t], out=of_inputs[:, 2 * size :])
            np.multiply(carried, at_z[t], out=of_inputs[:, size : 2 * size])
            np.multiply(of_inputs[:, 2 * size :], at_r[t], out=of_inputs[:, :size])
            of_hidden[:, : 2 * size] = of_inputs[:, : 2 * size]
            np.multiply(of_inputs[:, 2 * size :], r[t], out=of_hidden[:, 2 * size :])
            carried *= z[t]
            carried += of_hidden @ self.of_hidden
        features, *rest = self.weight_gradients(at_inputs, at_hidden)
        return [features, carried, *rest]

    def tangents(self, features: Any, hidden: Any, _: Any, *weights: Any) -> tuple[Array, None]:
        """Return the tangents of the outputs `[L, S, H]`, from those of all inputs or 0."""
        from_input, from_hidden = self.fixed_tangents(features, *weights)
        size, new, before = self.size, self.new, self.hidden[:-1]
        r, z = self.gates[..., :size], self.gates[..., size:]
        to_gates, to_new = self.gates * (1 - self.gates), 1 - new**2
        transposed = np.ascontiguousarray(self.of_hidden.T)
        outputs, at = np.empty_like(new), np.zeros_like(new[0]) + hidden
        for t in range(len(new)):
            part = from_hidden[t] + at @ transposed
            gates = to_gates[t] * (from_input[t, :, : 2 * size] + part[:, : 2 * size])
            inner = gates[:, :size] * self.recurrent[t] + r[t] * part[:, 2 * size :]
            at_new = to_new[t] * (from_input[t, :, 2 * size :] + inner)
            at = at_new + gates[:, size:] * (before[t] - new[t]) + z[t] * (at - at_new)
            outputs[t] = at
        return outputs, None


class _LSTM(_Steps):
    """i, f, o = σ(·), g = tanh(·), c ← f · c + i · g, h ← o · tanh(c)."""

    def __init__(self, features: Array, hidden: Array, cell: Array, *weights: Array) -> None:
        of_input, of_hidden, input_bias, hidden_bias = weights
        super().__init__(features, hidden, of_input, of_hidden, input_bias + hidden_bias)
        size = self.size
        self.cell = np.empty_like(self.hidden)
        self.cell[0] = cell
        self.bounded = np.empty_like(self.hidden[1:])  # tanh(c)
        self.gates = self.inputs  # i, f, g, o
        transposed = np.ascontiguousarray(of_hidden.T)
        for t in range(len(features)):
            gates = self.gates[t]
            gates += self.hidden[t] @ transposed
            _sigmoid(gates[:, : 2 * size])
            np.tanh(gates[:, 2 * size : 3 * size], out=gates[:, 2 * size : 3 * size])
            _sigmoid(gates[:, 3 * size :])
            i, f, g, o = (gates[:, k * size : (k + 1) * size] for k in range(4))
            np.multiply(f, self.cell[t], out=self.cell[t + 1])
            self.cell[t + 1] += i * g
            np.tanh(self.cell[t + 1], out=self.bounded[t])
            np.multiply(o, self.bounded[t], out=self.hidden[t + 1])

    def gradients(self, at_outputs: Array | None, at_last_cell: Array | None) -> list[Array]:
        """Return gradients with respect to features, hidden state, cell, weights and biases."""
        size, bounded = self.size, self.bounded
        i, f, g, o = (self.gates[..., k * size : (k + 1) * size] for k in range(4))
        at_o = bounded * o * (1 - o)
        to_cell = o * (1 - bounded**2)
        from_cell = np.concatenate(
            (g * i * (1 - i), self.cell[:-1] * f * (1 - f), i * (1 - g**2)), -1
        )
        at_gates = np.empty_like(self.gates)
        carried = np.zeros_like(bounded[0])
        at_cell = np.zeros_like(carried) if at_last_cell is None else at_last_cell.copy()
        for t in reversed(range(len(bounded))):
            if at_outputs is not None:
                carried += at_outputs[t]
            at_cell += carried * to_cell[t]
            np.multiply(np.tile(at_cell, 3), from_cell[t], out=at_gates[t, :, : 3 * size])
            np.multiply(carried, at_o[t], out=at_gates[t, :, 3 * size :])
            at_cell *= f[t]
            carried = at_gates[t] @ self.of_hidden
        features, *rest = self.weight_gradients(at_gates, at_gates)
        return [features, carried, at_cell, *rest]

    def tangents(self, features: Any, hidden: Any, cell: Any, *weights: Any) -> tuple[Array, Array]:
        """Return the tangents of outputs `[L, S, H]` and last cell, from those of inputs or 0."""
        from_input, from_hidden = self.fixed_tangents(features, *weights)
        size, bounded, before = self.size, self.bounded, self.cell[:-1]
        i, f, g, o = (self.gates[..., k * size : (k + 1) * size] for k in range(4))
        slopes = self.gates * (1 - self.gates)
        slopes[..., 2 * size : 3 * size] = 1 - g**2
        to_hidden = o * (1 - bounded**2)
        transposed = np.ascontiguousarray(self.of_hidden.T)
        outputs = np.empty_like(bounded)
        at, at_cell = np.zeros_like(bounded[0]) + hidden, np.zeros_like(bounded[0]) + cell
        for t in range(len(bounded)):
            gates = slopes[t] * (from_input[t] + from_hidden[t] + at @ transposed)
            at_i, at_f, at_g, at_o = (gates[:, k * size : (k + 1) * size] for k in range(4))
            at_cell = at_f * before[t] + f[t] * at_cell + at_i * g[t] + i[t] * at_g
            at = at_o * bounded[t] + to_hidden[t] * at_cell
            outputs[t] = at
        return outputs, at_cell


def _sigmoid(array: Array) -> None:
    """Write σ(x) = (1 + tanh(x / 2)) / 2, which does not overflow."""
    array *= 0.5
    np.tanh(array, out=array)
    array += 1
    array *= 0.5
