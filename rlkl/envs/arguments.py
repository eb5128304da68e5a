"""Find the arguments of environments' constructors, and which of them are tuples."""

import inspect
import re
from typing import Any

from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlkl.utils.validation import nearest, one_line


def with_tuples(kwargs: dict[str, Any], spec: EnvSpec, *, vectorized: bool) -> dict[str, Any]:
    """Convert lists to tuples where the constructor takes tuples.

    The command line and YAML have only lists, and some constructors accept only tuples.
    `vectorized` selects the constructor of the environment's vectorised form.
    """
    if not any(isinstance(value, list) for value in kwargs.values()):
        return kwargs
    parameters = _parameters(spec, vectorized)[0]
    return {
        key: tuple(value)
        if isinstance(value, list)
        and (isinstance(spec.kwargs.get(key), tuple) or takes_tuple(parameters.get(key)))
        else value
        for key, value in kwargs.items()
    }


def takes_tuple(parameter: inspect.Parameter | None) -> bool:
    """Return whether a parameter has a tuple as its default or annotation, and no list."""
    if parameter is None:
        return False
    hint = str(parameter.annotation).lower()
    return isinstance(parameter.default, tuple) or ("tuple" in hint and "list" not in hint)


def _parameters(spec: EnvSpec, vectorized: bool) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters of a constructor by name, and whether it accepts others too."""
    entry_point = spec.vector_entry_point if vectorized else spec.entry_point
    if entry_point is None:
        return {}, True
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    found: dict[str, inspect.Parameter] = {}
    # A class usually passes **kwargs to its base class.
    for code in inspect.getmro(creator) if inspect.isclass(creator) else (creator,):
        try:
            parameters = inspect.signature(code).parameters
        except (TypeError, ValueError):
            return found, True
        accepts_others = False
        for name, parameter in parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:
                accepts_others = True
            elif parameter.kind != parameter.VAR_POSITIONAL:
                found.setdefault(name, parameter)
        if not accepts_others:
            return found, False
    return found, True


def unknown_argument(
    error: BaseException, kwargs: dict[str, Any], spec: EnvSpec, *, vectorized: bool
) -> str:
    """Return a message about an argument that a constructor does not accept; empty if none."""
    match = re.search(r"unexpected keyword argument '(\w+)'", one_line(error))
    if not isinstance(error, TypeError) or match is None or match[1] not in kwargs:
        return ""
    name = match[1]
    parameters, accepts_others = _parameters(spec, vectorized)
    names = dict.fromkeys([*parameters, "max_episode_steps", "render_mode"])
    known = [key for key in names if key not in ("self", "num_envs", "game")]
    if accepts_others or name in known:
        return ""
    return (
        f"env.kwargs.{name}={kwargs[name]}: the constructor of {spec.id} has no argument "
        f"{name!r}{nearest(name, known)}; it has {', '.join(known)}"
    )
