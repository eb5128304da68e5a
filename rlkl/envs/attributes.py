"""Read, set and call attributes of sub-environments, in the process in which they run."""

from typing import Any

from gymnasium.vector import AsyncVectorEnv

from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.snapshots import NotPlainError, packed
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.errors import ConfigError


def check_backend(envs: Any, backend: str) -> None:
    """Raise ConfigError unless there are single sub-environments."""
    if not isinstance(envs, SyncVectorEnv | SharedMemoryVectorEnv | AsyncVectorEnv):
        raise ConfigError(
            f"env.backend={backend} has no single sub-environments with attributes to read or set; "
            "use env.backend=sync"
        )


def set_attributes(envs: Any, attributes: dict[str, Any] | None) -> None:
    """Set attributes that `set_attr` of other environments has set."""
    for name, values in (attributes or {}).items():
        # Older checkpoints have a list where one value was set.
        is_one = isinstance(values, list) and len(set(map(str, values))) == 1
        envs.set_attr(name, values[0] if envs.ranks > 1 and is_one else values)


def as_list(name: str, values: Any, num_envs: int, ranks: int = 1) -> list[Any]:
    """Return one value for each sub-environment, from one for all or a list of N.

    Raises:
        ConfigError: the list has another length, there are several ranks, or a value is no plain
            data.
    """
    if ranks > 1 and isinstance(values, list | tuple):
        raise ConfigError(
            f"set_attr({name!r}, ...): got a list, but the sub-environments are split among "
            f"{ranks} ranks; expected one value for all, set on every rank"
        )
    found = list(values) if isinstance(values, list | tuple) else [values] * num_envs
    if len(found) != num_envs:
        raise ConfigError(
            f"set_attr({name!r}, ...): got {len(found)} values for {num_envs} sub-environments; "
            "expected one value for all, or a list of one for each"
        )
    try:
        packed(found)
    except NotPlainError as error:
        raise ConfigError(
            f"set_attr({name!r}, ...): got {error}; expected numbers, texts, arrays and tensors, "
            "and lists, tuples and dicts of them, which a checkpoint can hold"
        ) from None
    return found
