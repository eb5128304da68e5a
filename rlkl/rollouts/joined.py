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
    first = parts[0]
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

    def side_by_side(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts], 1)

    names = "actions", "rewards", "terminated", "truncated", "is_transition", "begins"

    finals = {
        key: np.concatenate([part.final_observations[key] for part in parts])[order]
        for key in first.final_observations
    }
    device = first.states.device
    return Rollout(
        observations={
            key: np.concatenate([part.observations[key] for part in parts], 1)
            for key in first.observations
        },
        infos=None if first.infos is None else side_by_side("infos"),
        raw_vectors=None if first.raw_vectors is None else side_by_side("raw_vectors"),
        states=torch.cat([part.states.to(device) for part in parts], 1),
        **{name: side_by_side(name) for name in names},
        final_observations=finals,
        final_states=torch.cat([part.final_states.to(device) for part in parts])[
            torch.as_tensor(order, device=device)
        ],
        final_rows=rows[order],
    )


def joined_states(parts: Sequence[Any]) -> Any:
    """Return the state of all sub-environments.

    The parts are dicts, at any depth, of lists and tensors with an entry for each.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {key: joined_states([part[key] for part in parts]) for key in first}
    if isinstance(first, torch.Tensor):
        return torch.cat([part.to(first.device) for part in parts])
    return [entry for part in parts for entry in part]


def share_of_state(state: Any, share: slice) -> Any:
    """Return the part of a state, as in `joined_states`, of some sub-environments."""
    if isinstance(state, dict):
        return {key: share_of_state(value, share) for key, value in state.items()}
    return state[share]
