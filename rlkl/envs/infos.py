"""Numbers in the infos of environments, as rows of one array."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkl.envs.tensor_spaces import as_tensor
from rlkl.utils.errors import BrokenEnvironmentError

ROWS = "info_rows"  # key of the infos of `SyncVectorEnv`: a list of what `info_row` returns, `[N]`
FINAL = "final_info"  # key of vectorised infos: the infos of episode ends, with SAME_STEP autoreset


def info_row(info: Mapping[str, Any], keys: Sequence[str]) -> list[float]:
    """Return the numbers of the info of one step, NaN where there is none."""
    return [_number(info.get(key)) for key in keys]


def _number(value: Any) -> float:
    if isinstance(value, np.ndarray | np.generic | Tensor):
        value = value.item() if math.prod(value.shape) == 1 else None
    return float(value) if isinstance(value, bool | int | float) else np.nan


def info_rows(
    infos: Mapping[str, Any], keys: Sequence[str], ended: NDArray[np.bool_] | None, num_envs: int
) -> NDArray[np.float64]:
    """Return the numbers in the vectorised infos of one step, `[N, K]`, NaN where there is none.

    A mask `_key` says which sub-environments have a key, as in `gymnasium.vector`.

    Args:
        infos: of the vector environment.
        keys: of the K numbers.
        ended: where an episode ended and `infos` may be those of the reset, so that `final_info`
            counts if there is one, `[N]`; None with NEXT_STEP autoreset.
        num_envs: N.
    """
    if ROWS in infos:
        return np.array(infos[ROWS], np.float64)
    rows = np.stack([_column(infos, key, num_envs) for key in keys], 1)
    if ended is not None and FINAL in infos and ended.any():
        finals = infos[FINAL]
        if isinstance(finals, Mapping):
            of_ends = np.stack([_column(finals, key, num_envs) for key in keys], 1)
        else:  # one info for each sub-environment, or None
            of_ends = np.array([info_row(final or {}, keys) for final in finals], np.float64)
        rows[ended] = of_ends[ended]
    return rows


def _column(infos: Mapping[str, Any], key: str, num_envs: int) -> NDArray[np.float64]:
    values = np.asarray(infos.get(key))
    if values.dtype == object:
        column = np.array([_number(value) for value in np.atleast_1d(values)])
    elif values.dtype.kind in "biuf":
        column = np.array(values, np.float64)
    else:
        column = np.array(np.nan)
    if column.size not in (1, num_envs):
        column = np.array(np.nan)
    column = np.broadcast_to(column.reshape(-1), num_envs).copy()
    if (given := infos.get(f"_{key}")) is not None:
        column[~np.asarray(given, np.bool_)] = np.nan
    return column


def tensor_info_rows(
    infos: Mapping[str, Any], keys: Sequence[str], ended: Tensor | None, like: Tensor
) -> Tensor:
    """Return the same as `info_rows` for infos of tensors, float64 on the device.

    `like` is any tensor `[N]` on the device.
    """
    rows = torch.stack([_tensor_column(infos, key, like) for key in keys], 1)
    if ended is not None and isinstance(finals := infos.get(FINAL), Mapping):
        of_ends = torch.stack([_tensor_column(finals, key, like) for key in keys], 1)
        rows = torch.where(ended[:, None], of_ends, rows)
    return rows


def _tensor_column(infos: Mapping[str, Any], key: str, like: Tensor) -> Tensor:
    missing = torch.full_like(like, np.nan, dtype=torch.float64)
    value = infos.get(key)
    if isinstance(value, bool | int | float):
        return torch.full_like(missing, float(value))
    try:
        column = as_tensor(value, like.device).double()
    except (BrokenEnvironmentError, RuntimeError, TypeError, ValueError):
        return missing
    if column.numel() not in (1, missing.numel()):
        return missing
    column = column.reshape(-1).expand_as(missing)
    if (given := infos.get(f"_{key}")) is not None:
        given = as_tensor(given, like.device).bool().reshape(-1)
        column = torch.where(given, column, missing)
    return column
