"""GRU and LSTM on a CPU in NumPy: torch spends most of its time on the overhead of small steps."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating[Any]]


class RecurrentPass(torch.autograd.Function):
    """Outputs of `torch.gru` or `torch.lstm` with one layer, and their gradients.

    A graph that is differentiated again, as in Fisher-vector products, is torch's own.
    """

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
        ctx.kind = kind
        ctx.save_for_backward(features, hidden, *([] if cell is None else [cell]), *weights)
        run: Any = _GRU if kind == "gru" else _LSTM
        arrays = [x.detach().numpy() for x in (features, hidden, *weights)]
        with np.errstate(all="ignore"):  # as in torch
            ctx.run = run(*arrays, None if cell is None else cell.detach().numpy())
        outputs = torch.from_numpy(ctx.run.hidden[1:])
        return outputs, None if cell is None else torch.from_numpy(ctx.run.cell[-1])

    @staticmethod
    def backward(ctx: Any, *at_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the inputs of `forward`."""
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            outputs = torchs_own(ctx.kind, *inputs)
            pairs = [(o, g) for o, g in zip(outputs, at_outputs, strict=True) if g is not None]
            gradients = torch.autograd.grad(
                [output for output, _ in pairs],
                [x for x in inputs if x.requires_grad],
                [gradient for _, gradient in pairs],
                create_graph=True,
                allow_unused=True,
            )
            found = iter(gradients)
            every = [next(found) if x.requires_grad else None for x in inputs]
        else:
            at_hidden, at_cell = (None if g is None else g.numpy() for g in at_outputs)
            with np.errstate(all="ignore"):
                every = [torch.from_numpy(g) for g in ctx.run.gradients(at_hidden, at_cell)]
        if ctx.kind == "gru":
            every.insert(2, None)
        return None, *every


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
        self, features: Array, hidden: Array, of_input: Array, of_hidden: Array, *biases: Array
    ) -> None:
        self.features, self.of_input, self.of_hidden = features, of_input, of_hidden
        self.size = hidden.shape[1]
        self.hidden = np.empty((len(features) + 1, *hidden.shape), features.dtype)
        self.hidden[0] = hidden
        rows = np.ascontiguousarray(features).reshape(-1, features.shape[2])
        self.inputs = (rows @ of_input.T + biases[0]).reshape(*features.shape[:2], -1)

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

    def __init__(
        self,
        features: Array,
        hidden: Array,
        of_input: Array,
        of_hidden: Array,
        input_bias: Array,
        hidden_bias: Array,
        _: None,
    ) -> None:
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


class _LSTM(_Steps):
    """i, f, o = σ(·), g = tanh(·), c ← f · c + i · g, h ← o · tanh(c)."""

    def __init__(
        self,
        features: Array,
        hidden: Array,
        of_input: Array,
        of_hidden: Array,
        input_bias: Array,
        hidden_bias: Array,
        cell: Array,
    ) -> None:
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


def _sigmoid(array: Array) -> None:
    """Write σ(x) = (1 + tanh(x / 2)) / 2, which does not overflow."""
    array *= 0.5
    np.tanh(array, out=array)
    array += 1
    array *= 0.5
