"""Arguments of environments' constructors: which there are, and which of them are tuples."""

import inspect
import re
from typing import Any

from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlkl.utils.validation import nearest, one_line

OF_MAKE = ("max_episode_steps", "render_mode")
"""Arguments that `gymnasium.make` takes itself."""


def with_tuples(kwargs: dict[str, Any], spec: EnvSpec, *, vectorized: bool) -> dict[str, Any]:
    """Return arguments with lists as tuples where the constructor's own default is a tuple.

    A command line and YAML have lists alone, and some constructors take tuples alone.

    Args:
        kwargs: of the constructor.
        spec: of the environment.
        vectorized: whether it is the constructor of the environment's vectorised form.
    """
    if not any(isinstance(value, list) for value in kwargs.values()):
        return kwargs
    parameters = _parameters(spec, vectorized)[0]
    return {
        key: tuple(value)
        if isinstance(value, list)
        and (isinstance(spec.kwargs.get(key), tuple) or _takes_tuple(parameters.get(key)))
        else value
        for key, value in kwargs.items()
    }


def _takes_tuple(parameter: inspect.Parameter | None) -> bool:
    if parameter is None:
        return False
    said = "" if parameter.annotation is parameter.empty else str(parameter.annotation).lower()
    return isinstance(parameter.default, tuple) or ("tuple" in said and "list" not in said)


def _parameters(spec: EnvSpec, vectorized: bool) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters of a constructor by name, and whether it takes others too."""
    entry_point = spec.vector_entry_point if vectorized else spec.entry_point
    if entry_point is None:
        return {}, True
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    found: dict[str, inspect.Parameter] = {}
    # What a class takes as **kwargs it usually hands on to the one it inherits from.
    for code in inspect.getmro(creator) if inspect.isclass(creator) else (creator,):
        try:
            parameters = inspect.signature(code).parameters
        except (TypeError, ValueError):
            return found, True
        kinds = {parameter.kind for parameter in parameters.values()}
        named = {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        found |= {name: named[name] for name in named if name not in found}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return found, False
    return found, True


def unknown_argument(
    error: Exception, kwargs: dict[str, Any], spec: EnvSpec, *, vectorized: bool
) -> str:
    """Return which argument a constructor does not take, and which ones it does; else nothing.

    Args:
        error: that making the environment ended with.
        kwargs: that it was made with.
        spec: of the environment.
        vectorized: whether its vectorised form was made.
    """
    said = re.search(r"unexpected keyword argument '(\w+)'", one_line(error))
    if not isinstance(error, TypeError) or said is None or said[1] not in kwargs:
        return ""
    name = said[1]
    parameters, takes_others = _parameters(spec, vectorized)
    known = [*dict.fromkeys([*parameters, *OF_MAKE])]
    known = [key for key in known if key not in ("self", "num_envs", "game")]
    if takes_others or name in known:
        return ""
    return (
        f"env.kwargs.{name}={kwargs[name]}: the constructor of {spec.id} has no argument "
        f"{name!r}{nearest(name, known)}; it has {', '.join(known)}"
    )
