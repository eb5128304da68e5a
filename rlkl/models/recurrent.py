"""Recurrent memories, and the sequences of rows they process."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from rlkl.models.recurrent_passes import RecurrentPass, torchs_own

MEMORIES = ("none", "gru", "lstm")


@dataclass(frozen=True)
class Sequences:
    """The order of a batch's rows: S sequences of at most L rows.

    Attributes:
        cells: row index at each step of each sequence, `[L, S]`; any row after a sequence's end.
        lengths: `[S]`.
        states: of the whole policy before the first row of each sequence, `[S, M]`.
    """

    cells: Tensor
    lengths: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def is_row(self) -> Tensor:
        """Whether a cell is before its sequence's end, `[L, S]`."""
        steps = torch.arange(len(self.cells), device=self.cells.device)
        return steps.unsqueeze(-1) < self.lengths

    def take(self, chosen: Tensor) -> tuple[Tensor, Self]:
        """Return the rows of some sequences, `[B']`, and the sequences of a batch of these rows."""
        lengths = self.lengths[chosen]
        taken = type(self)(self.cells[: int(lengths.max()), chosen], lengths, self.states[chosen])
        is_row = taken.is_row
        rows = taken.cells[is_row]
        cells = torch.zeros_like(taken.cells)
        cells[is_row] = torch.arange(len(rows), device=rows.device)
        return rows, type(self)(cells, lengths, taken.states)


class Memory(nn.Module):
    """A recurrent layer, `gru` (Cho 2014) or `lstm` (Hochreiter & Schmidhuber 1997).

    Its state is one flat row of `state_size` numbers: H for GRU, 2H (hidden, then cell) for LSTM.
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.layer = (nn.GRU if kind == "gru" else nn.LSTM)(input_size, hidden_size)
        self.hidden_size = hidden_size
        self.state_size = hidden_size if kind == "gru" else 2 * hidden_size

    def forward(self, features: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Process S sequences of equal length, `[L, S, F]`, from states `[S, state_size]`.

        Returns:
            Outputs `[L, S, H]`, and the states after the last step, `[S, state_size]`.
        """
        parts: Any = states.chunk(self.state_size // self.hidden_size, -1)
        # By name, because `_flat_weights` misses parameters that `functional_call` replaces.
        weights: Any = [getattr(self.layer, name) for name in self.layer._flat_weights_names]
        if features.device.type == "cpu" and not torch.compiler.is_exporting():
            hidden, cell = parts if self.kind == "lstm" else (*parts, None)
            run: Any = RecurrentPass.apply
            outputs, last = run(self.kind, features, hidden, cell, *weights)
        else:
            # Fisher-vector products need tangents, which cuDNN's layers do not have.
            with torch.backends.cudnn.flags(enabled=False):
                outputs, last = torchs_own(self.kind, features.contiguous(), *parts, *weights)
        return outputs, outputs[-1] if last is None else torch.cat((outputs[-1], last), -1)

    def over(self, features: Tensor, sequences: Sequences, states: Tensor) -> Tensor:
        """Return outputs `[B, H]` for features `[B, F]` whose rows form sequences.

        `states` are those of this memory before each sequence, `[S, state_size]`.
        """
        outputs, _ = self(features[sequences.cells], states)
        is_row = sequences.is_row
        buffer: Tensor = outputs.new_empty(len(features), self.hidden_size)
        return buffer.index_put((sequences.cells[is_row],), outputs[is_row])
