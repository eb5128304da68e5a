"""Wrappers of sub-environments by name: Gymnasium's, registered ones, those of other packages."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from rlkl.envs.arguments import takes_tuple
from rlkl.envs.ids import import_named
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import nearest, one_line

Wrapper = Callable[..., gym.Env[Any, Any]]

REFUSED = {
    "NormalizeObservation": "its statistics would differ between sub-environments and start again "
    "in evaluations; use normalize_observations=true",
    "NormalizeReward": "its statistics would differ between sub-environments and start again in "
    "evaluations; use scale_rewards=true",
    "Autoreset": "rlkl resets environments itself; leave it out",
}
"""Wrappers of Gymnasium that would do damage, and what to do instead."""

GYMNASIUM = [name for name in gym.wrappers.__all__ if name[0].isupper()]
_registered: dict[str, Wrapper] = {}


def register_wrapper(name: str, wrapper: Wrapper) -> None:
    """Let `env.wrappers` contain a wrapper by name.

    Args:
        name: for `env.wrappers` and config.yaml.
        wrapper: a class, or a function, that takes an environment and arguments of plain data.

    Raises:
        ConfigError: Gymnasium or another wrapper has the name, or the wrapper cannot be called.
    """
    if not str(name).isidentifier():
        raise ConfigError(f"register_wrapper({name!r}, ...): expected a name of letters and digits")
    if not callable(wrapper):
        raise ConfigError(f"register_wrapper({name!r}, {wrapper!r}): expected a wrapper's class")
    if name in GYMNASIUM or _registered.setdefault(name, wrapper) is not wrapper:
        raise ConfigError(
            f"register_wrapper({name!r}, ...): a wrapper has this name already; choose another"
        )


def check_form(wrappers: list[Any]) -> None:
    """Check that each entry is a name, or a dict of one name and its arguments.

    Raises:
        ConfigError: an entry is neither.
    """
    for entry in wrappers:
        is_name = isinstance(entry, str)
        is_call = isinstance(entry, dict) and len(entry) == 1
        name, arguments = _parts(entry) if is_name or is_call else ("", None)
        keys = list(arguments) if isinstance(arguments, dict) else [None]
        if not isinstance(name, str) or not all(isinstance(key, str) for key in keys):
            raise ConfigError(
                f"env.wrappers: {entry!r} is no wrapper; expected a name, or a name with "
                "arguments, as in env.wrappers=[ClipAction,{TimeLimit:{max_episode_steps:200}}]"
            )


def _parts(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, str):
        return entry, {}
    ((name, arguments),) = entry.items()
    return name, {} if arguments is None else arguments


def found_wrappers(wrappers: list[Any]) -> list[tuple[Wrapper, dict[str, Any]]]:
    """Return the class and the arguments of each wrapper, the innermost first.

    Raises:
        ConfigError: a name is unknown, or an argument is unknown or missing.
    """
    return [_found(*_parts(entry)) for entry in wrappers]


def _found(name: str, arguments: dict[str, Any]) -> tuple[Wrapper, dict[str, Any]]:
    where = f"env.wrappers: {name}"
    if (last := name.rpartition(".")[2]) in REFUSED:
        raise ConfigError(f"{where}: {REFUSED[last]}")
    find = _packages_wrapper if "." in name else _gymnasium_wrapper
    wrapper = _registered.get(name) or find(name)
    parameters = list(inspect.signature(wrapper).parameters.values())[1:]
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    known = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for key, value in arguments.items():
        if key not in known and not takes_any:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigError(f"{where} has no argument {key!r}{nearest(key, known)}; {takes}")
        if callable(value):
            raise ConfigError(
                f"{where}.{key} is code, which config.yaml cannot hold; register a wrapper that "
                "has it: rlkl.register_wrapper"
            )
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in arguments:
            example = f"env.wrappers=[{{{name}:{{{key}:VALUE}}}}]"
            raise ConfigError(f"{where} needs the argument {key!r}, as in {example}")
    return wrapper, {key: _converted(value, known.get(key)) for key, value in arguments.items()}


def _converted(value: Any, parameter: inspect.Parameter | None) -> Any:
    """Return a list as the tuple or array that a wrapper takes in its place."""
    if isinstance(value, list) and parameter is not None:
        if takes_tuple(parameter):
            return tuple(value)
        if "ndarray" in str(parameter.annotation):
            return np.array(value)
    return value


def _gymnasium_wrapper(name: str) -> Wrapper:
    if name not in GYMNASIUM:
        own = f" and {', '.join(_registered)}" if _registered else ""
        alike = nearest(name, [*GYMNASIUM, *_registered])
        raise ConfigError(
            f"env.wrappers: there is no wrapper {name!r}{alike}; "
            f"expected one of gymnasium.wrappers{own}, or MODULE.CLASS; rlkl.register_wrapper "
            "adds your own"
        )
    try:
        wrapper: Wrapper = getattr(gym.wrappers, name)
    except ImportError as error:
        raise ConfigError(f"env.wrappers: {name} needs a package: {one_line(error)}") from error
    return wrapper


def _packages_wrapper(name: str) -> Wrapper:
    module, _, kind = name.rpartition(".")
    import_named(module, f"env.wrappers: {name}")
    wrapper: Any = getattr(sys.modules[module], kind, None)
    if not (inspect.isclass(wrapper) and issubclass(wrapper, gym.Wrapper)):
        raise ConfigError(
            f"env.wrappers: {name} is not a wrapper; expected MODULE.CLASS of a gymnasium.Wrapper"
        )
    return wrapper


def is_video(wrapper: Wrapper) -> bool:
    """Return whether a wrapper records videos."""
    return inspect.isclass(wrapper) and issubclass(wrapper, gym.wrappers.RecordVideo)


def without_videos(wrappers: list[Any]) -> list[Any]:
    """Return the wrappers that change episodes, for environments that must not write videos."""
    found = zip(wrappers, found_wrappers(wrappers), strict=True)
    return [entry for entry, (wrapper, _) in found if not is_video(wrapper)]
