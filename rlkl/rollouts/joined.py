"""Join the rollouts of several ranks into the one that a single process would have collected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlkl.rollouts.rollout import Rollout


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Return the rollout of all sub-environments from those of successive groups, of the same T."""
    if len(parts) == 1:
        return parts[0]
    sizes = [part.rewards.shape[1] for part in parts]
    offsets = np.cumsum([0, *sizes[:-1]])
    # Row t · n + i of a part is row t · N + offset + i of the whole.
    rows = np.concatenate(
        [
            part.final_rows // size * sum(sizes) + offset + part.final_rows % size
            for part, size, offset in zip(parts, sizes, offsets, strict=True)
        ]
    )
    order = np.argsort(rows)

    def whole(name: str, axis: int = 1) -> Any:
        return together([getattr(part, name) for part in parts], axis)

    names = "actions", "rewards", "terminated", "truncated", "is_transition", "begins", "infos"
    finals = whole("final_observations", 0).items()
    return Rollout(
        **{name: whole(name) for name in (*names, "observations", "raw_vectors", "states")},
        final_observations={key: array[order] for key, array in finals},
        final_states=whole("final_states", 0)[torch.from_numpy(order)],
        final_rows=rows[order],
    )


def together(parts: Sequence[Any], axis: int = 0) -> Any:
    """Join lists, arrays or tensors, or dicts of them at any depth; None stays None."""
    first = parts[0]
    if first is None or len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {key: together([part[key] for part in parts], axis) for key in first}
    if isinstance(first, torch.Tensor):
        return torch.cat([part.to(first.device) for part in parts], axis)
    if isinstance(first, np.ndarray):
        return np.concatenate(parts, axis)
    return [entry for part in parts for entry in part]


def share_of_state(state: Any, share: slice) -> Any:
    """Return the part of a state, as `together` joins them, of some sub-environments."""
    if isinstance(state, dict):
        return {key: share_of_state(value, share) for key, value in state.items()}
    return state[share]
