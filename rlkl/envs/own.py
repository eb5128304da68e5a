"""Environments that a callable makes: its name for files, and the callable of a name."""

import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial, wraps
from importlib import import_module
from inspect import isclass, isfunction
from itertools import chain, count
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import described, nearest

GIVEN: dict[str, Any] = {}  # callables and environments that were passed in this process, by name


def name_of(made_by: Any) -> str:
    """Return the `env.id` of a callable that makes environments, or of an environment.

    It is `module:attribute` if importing the module gives the same callable in any process. Other
    names contain `<` or `__main__`, and are known to this process only.

    Raises:
        ConfigError: it is neither.
    """
    is_env = isinstance(made_by, gym.Env)
    if not (is_env or callable(made_by)):
        raise ConfigError(
            f"env.id={made_by!r}: expected an id, a callable that makes an environment, or an "
            "environment"
        )
    owner: Any = made_by
    if is_env or not hasattr(made_by, "__qualname__"):
        owner = type(made_by.unwrapped if is_env else made_by)
    name = f"{owner.__module__}:{owner.__qualname__}"
    if attribute_of(name) is made_by:
        GIVEN[name] = made_by
        return name
    if can_be_found(name):
        name = f"{owner.__module__}:<{owner.__qualname__}>"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(free for free in names if GIVEN.setdefault(free, made_by) == made_by)


def names_callable(env_id: str) -> bool:
    """Return whether an id has the form of a callable's name, and is not a registered id."""
    module, _, name = env_id.rpartition(":")
    is_id = re.search(r"-v\d+$", name) or "/" in name or name in gym.registry
    return bool(module) and not is_id


def can_be_found(env_id: str) -> bool:
    """Return whether another process can import the callable of a name."""
    module, _, name = env_id.rpartition(":")
    return module != "__main__" and all(part.isidentifier() for part in name.split("."))


def attribute_of(env_id: str) -> Any:
    """Return what `module:attribute` names; None if there is no such attribute."""
    module, _, name = env_id.rpartition(":")
    if not module or not can_be_found(env_id):
        return None
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def callable_of(env_id: str) -> Callable[..., Any] | None:
    """Return the callable of a name; None if neither this process nor the module has it.

    Raises:
        ConfigError: the module's attribute cannot be called.
    """
    found = GIVEN.get(env_id)
    if isinstance(found, gym.Env):
        return partial(_copied, found, env_id)
    if found is None:
        found = attribute_of(env_id)
    if found is not None and not callable(found):
        raise ConfigError(
            f"env.id={env_id} is of type {type(found).__name__}; expected a callable that makes an "
            "environment"
        )
    result: Callable[..., Any] | None = found
    return result


def _copied(env: gym.Env[Any, Any], name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Return a copy of an environment, as it was when it was passed."""
    mode = kwargs.pop("render_mode", env.render_mode)
    if kwargs:
        raise ConfigError(
            f"env.kwargs.{next(iter(kwargs))}: env.id={name} is an environment that exists "
            "already; pass a callable that makes it from its arguments"
        )
    if mode != env.render_mode:
        raise ConfigError(
            f"env.id={name} was made with render_mode={env.render_mode}; make it with "
            f"render_mode={mode!r}, or pass a callable that takes render_mode"
        )
    try:
        return deepcopy(env)
    except Exception as error:
        raise ConfigError(
            f"env.id={name} cannot be copied ({described(error)}), and "
            "training and evaluation step copies of it; pass a callable that makes it"
        ) from error


def spec_of_callable(env_id: str, make: Callable[..., Any]) -> EnvSpec:
    """Return the spec of the environments that a callable makes."""
    entry_point = make
    if not isclass(make) and not isfunction(make):
        # Gymnasium copies specs deeply, but not the functions in them.
        @wraps(make, assigned=(), updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            return make(*args, **kwargs)

        entry_point = call
    return EnvSpec(re.sub(r"[^\w:.-]", "_", env_id), entry_point)


def suggested(module: str, name: str) -> str:
    """Return ` (did you mean ...?)` with callables of an imported module, or an empty string."""
    found = vars(import_module(module))
    return nearest(name, [key for key in found if callable(found[key]) and key[0] != "_"])
