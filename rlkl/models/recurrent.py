"""Recurrent memories, and the sequences of rows that they run over."""

import contextlib
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

MEMORIES = ("none", "gru", "lstm")


@dataclass(frozen=True)
class Sequences:
    """Which rows of a batch follow each other: S sequences of at most L rows.

    Attributes:
        cells: the row in each place of each sequence, `[L, S]`; behind a sequence's end, any row.
        lengths: `[S]`.
        states: of all memories of a policy before the first row of each sequence, `[S, M]`.
    """

    cells: Tensor
    lengths: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def is_row(self) -> Tensor:
        """Which places hold a row, `[L, S]`."""
        places = torch.arange(len(self.cells), device=self.cells.device)
        return places.unsqueeze(-1) < self.lengths

    def take(self, chosen: Tensor) -> tuple[Tensor, Self]:
        """Return some of the sequences.

        Args:
            chosen: their indices.

        Returns:
            Their rows in the old batch `[B']`, and the sequences as they stand in the new one.
        """
        lengths = self.lengths[chosen]
        taken = type(self)(self.cells[: int(lengths.max()), chosen], lengths, self.states[chosen])
        is_row = taken.is_row
        rows = taken.cells[is_row]
        cells = torch.zeros_like(taken.cells)
        cells[is_row] = torch.arange(len(rows), device=rows.device)
        return rows, type(self)(cells, lengths, taken.states)


class Memory(nn.Module):
    """A recurrent layer whose state is one flat row.

    Args:
        kind: `gru` (Cho 2014) or `lstm` (Hochreiter & Schmidhuber 1997).
        input_size: F.
        hidden_size: H.

    Attributes:
        state_size: H for GRU, 2H (hidden, then cell) for LSTM.
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layer = (nn.GRU if kind == "gru" else nn.LSTM)(input_size, hidden_size)
        self.hidden_size = hidden_size
        self.state_size = hidden_size if kind == "gru" else 2 * hidden_size

    def forward(self, features: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Run over sequences.

        Args:
            features: `[L, S, F]`.
            states: before the first of them, `[S, state_size]`.

        Returns:
            Outputs `[L, S, H]`, and the states after the last, `[S, state_size]`.
        """
        parts = tuple(
            part.unsqueeze(0).contiguous()
            for part in states.chunk(self.state_size // self.hidden_size, -1)
        )
        # Products with the Fisher matrix differentiate twice, which cuDNN's layers cannot.
        by_torch = torch.backends.cudnn.flags(enabled=False)
        with by_torch if features.is_cuda else contextlib.nullcontext():
            outputs, after = self.layer(features, parts if len(parts) > 1 else parts[0])
        return outputs, torch.cat(after, -1)[0] if isinstance(after, tuple) else after[0]

    def over(self, features: Tensor, sequences: Sequences, states: Tensor) -> Tensor:
        """Return outputs `[B, H]` for features `[B, F]` whose rows form sequences.

        Args:
            features: `[B, F]`.
            sequences: which rows follow each other.
            states: of this memory before the first row of each, `[S, state_size]`.
        """
        outputs, _ = self(features[sequences.cells], states)
        is_row = sequences.is_row
        room: Tensor = outputs.new_empty(len(features), self.hidden_size)
        return room.index_put((sequences.cells[is_row],), outputs[is_row])
