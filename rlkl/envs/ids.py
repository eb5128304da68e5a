"""Find a registered environment by its id, or name the id, extra or package to use instead."""

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from rlkl.envs import own
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_installed, described

FAMILIES = {
    "box2d": ("gymnasium.envs.box2d", "Box2D"),
    "mujoco": ("gymnasium.envs.mujoco", "mujoco"),
}
"""Gymnasium's environments that need an extra: its name, their module, the package."""

REGISTERING = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "rlkl/": ("rlkl.tasks", ""),
}
"""Prefixes of ids whose module rlkl imports: the module, and its extra."""

ELSEWHERE = (
    (r"dm_control/", "'shimmy[dm-control]'", "shimmy"),
    (
        r"(Fetch|HandReach|HandManipulate|AntMaze|PointMaze|Adroit|FrankaKitchen)",
        "gymnasium-robotics",
        "gymnasium_robotics",
    ),
    (r"(highway|merge|roundabout|parking|intersection|racetrack)\b", "highway-env", "highway_env"),
    (r"Panda\w+-v\d", "panda-gym", "panda_gym"),
)
"""Ids without an extra of rlkl: a pattern, the package for pip, the module that registers them."""

ATARI = r"(?:ALE/)?(?P<game>[A-Za-z0-9]+?)(?P<old>NoFrameskip|Deterministic|-ram)*(?:-v\d+)?"
"""An Atari game's id in the old and new forms of Gym and ALE."""

GAMES = {
    "Asteroids", "BeamRider", "Breakout", "Enduro", "Freeway", "Frostbite", "Gravitar",
    "MontezumaRevenge", "MsPacman", "Pitfall", "Pong", "Qbert", "Seaquest", "SpaceInvaders",
}  # fmt: skip
"""Games of ALE that are recognised without its package."""


def find_spec(env_id: str) -> EnvSpec:
    """Return the spec of an environment without making it: of a registered id, or of a callable.

    Raises:
        ConfigError: for an unknown id, with the id, extra or package to use instead.
    """
    module, _, name = env_id.rpartition(":")
    if env_id in own.GIVEN:
        make = own.callable_of(env_id)
        assert make is not None
        return own.spec_of_callable(env_id, make)
    _check_not_lost(env_id)
    import_module_of(env_id)
    for prefix, (registering, extra) in REGISTERING.items():
        if name.startswith(prefix):
            if extra:
                check_installed(registering, extra, f"env.id={env_id}")
            _import_quietly(registering)
    try:
        spec = gym.spec(name)
    except gym.error.Error as error:
        if (make := own.callable_of(env_id)) is not None:
            return own.spec_of_callable(env_id, make)
        raise ConfigError(f"env.id={env_id}: {_suggestion(module, name)}") from error
    entry_point = spec.entry_point if isinstance(spec.entry_point, str) else ""
    for extra, (code, package) in FAMILIES.items():
        if entry_point.startswith(code):
            check_installed(package, extra, f"env.id={env_id}")
    _check_not_obsolete(env_id, spec)
    return spec


def import_module_of(env_id: str) -> None:
    """Import the module of an id such as `my_package:MyEnv-v0`, if the id names one.

    Raises:
        ConfigError: the module cannot be imported.
    """
    if module := env_id.rpartition(":")[0]:
        import_named(module, f"env.id={env_id}")


def import_named(module: str, setting: str) -> None:
    """Import a module that a setting names.

    The working directory is searched last, so that its files do not hide installed modules. It
    stays in `sys.path`, which child processes inherit.

    Raises:
        ConfigError: the module cannot be imported, or lies in a run's folder.
    """
    here = _search_here()
    _checked_places(module, setting)
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{setting}: {_import_failure(module, error, here)}") from error


def _search_here() -> str:
    """Add the working directory to `sys.path`, unless it lies in a run folder; return it."""
    here = os.getcwd()  # noqa: PTH109  a string, as in sys.path
    is_untrusted = any(_lies_in(here, folder) for folder in _run_folders)
    if not is_untrusted and not {"", here} & set(sys.path):
        sys.path.append(here)
    return here


_run_folders: set[Path] = set()  # no module may be imported from them


def check_module(env_id: str, run_dir: Path, *, is_confirmed: bool = False) -> str:
    """Return a message on which module a run's `env.id` will import from where; empty if none.

    A callable that the folder names is called only if the user named it too (`is_confirmed`).

    Raises:
        ConfigError: the module lies in the run folder, or a callable is not confirmed.
    """
    if env_id in own.GIVEN:
        return check_place("", "", run_dir)
    _check_not_lost(env_id)
    if own.names_callable(env_id) and not is_confirmed:
        raise ConfigError(
            f"env.id={env_id} is code that {run_dir} names; it is run only if you name it too: "
            f"env.id={env_id} on the command line, env={env_id!r} or env=CALLABLE in Python"
        )
    return check_place(env_id.rpartition(":")[0], f"env.id={env_id}", run_dir)


def check_place(module: str, setting: str, run_dir: Path) -> str:
    """Return a message on from where a module of a setting will be imported; empty if from nowhere.

    A run folder may come from someone else, so no code in it is imported, by any path.

    Raises:
        ConfigError: the module lies in the run folder.
    """
    _run_folders.add(run_dir.resolve())
    if not module:
        return ""
    _search_here()
    places = _checked_places(module, setting)
    return f"{setting} imports {module} from {places[-1]}" if places else ""


def _checked_places(module: str, setting: str) -> list[str]:
    """Return where a module will be imported from; raise if that is a run's folder."""
    places = list(_places(module))
    for place in places:
        if any(_lies_in(place, folder) for folder in _run_folders):
            raise ConfigError(
                f"{setting}: {place} lies in the run's folder, from which no code is run; "
                "if you trust it, move it elsewhere"
            )
    return places


def _check_not_lost(env_id: str) -> None:
    if own.names_callable(env_id) and not own.can_be_found(env_id):
        raise ConfigError(
            f"env.id={env_id} was a callable that cannot be imported by this name; pass it again: "
            "env=CALLABLE in Python, env.id=module:function on the command line"
        )


def substitute(recorded: str, made_by: Any) -> None:
    """Let an id, a callable or an environment stand for the recorded `env.id` of a resumed run.

    Raises:
        ConfigError: it is another id than the run's, or it is no callable.
    """
    name = made_by if isinstance(made_by, str) else own.name_of(made_by)
    if name == recorded:
        return
    if not own.names_callable(recorded):
        raise ConfigError(
            f"env.id={name}: a resumed run keeps env.id={recorded}; leave it out, or start a new "
            "run"
        )
    import_module_of(name)
    found = own.GIVEN.get(name) or own.callable_of(name)
    if found is None:
        raise ConfigError(f"env.id={name}: expected a callable, as module:function")
    own.GIVEN[recorded] = found


def _places(module: str) -> Iterator[str]:
    """Yield the files and folders that importing a module would read, without importing it."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # a loaded module without a spec, such as `__main__`
        return
    for part in rest:
        if spec is None:
            return
        path = list(spec.submodule_search_locations or [])
        if spec.origin is not None:
            yield spec.origin
        spec = PathFinder.find_spec(part, path)  # by its last name, so that no parent is imported
    if spec is not None:
        yield from [spec.origin] if spec.origin else spec.submodule_search_locations or []


def _lies_in(place: str, folder: Path) -> bool:
    # As spelled, and with links followed.
    spelled = Path(os.path.abspath(place))  # noqa: PTH100  follows no links
    return any(
        path.is_relative_to(inside)
        for path in (spelled, Path(place).resolve())
        for inside in (Path(os.path.abspath(folder)), folder.resolve())  # noqa: PTH100
    )


def _import_failure(module: str, error: BaseException, here: str) -> str:
    text = f"the package {module!r} cannot be imported: {described(error)}"
    top = module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == top:
        if packages := [package for _, package, known in ELSEWHERE if top == known]:
            return f"{text}; pip install {packages[0]}"
        if module.endswith(".py") or "-" in module:
            return f"{text}; did you mean {module.removesuffix('.py').replace('-', '_')}?"
        return f"{text}; expected {top}.py or {top}/ in {here}, or an installed package"
    return text


def _import_quietly(module: str) -> None:
    imported: Any = importlib.import_module(module)
    if module == "ale_py":  # it prints a greeting to standard error
        imported.ALEInterface.setLoggerMode(imported.LoggerMode.Error)


def _check_not_obsolete(env_id: str, spec: EnvSpec) -> None:
    """Raise for registered ids that should not be used: old ones of MuJoCo and Atari."""
    code = spec.entry_point
    if getattr(code, "__module__", "") == "gymnasium.envs" and spec.id != newest_id(spec.id):
        raise ConfigError(
            f"env.id={env_id}: Gymnasium no longer has v2 and v3 of MuJoCo; "
            f"use env.id={newest_id(spec.id)} (extra: mujoco)"
        )
    # ale_py registers them, and they have no preprocessing.
    is_old_atari = isinstance(code, str) and code.startswith("ale_py") and spec.namespace is None
    if is_old_atari and env_id == spec.id:
        raise ConfigError(f"env.id={env_id}: {_suggestion('', env_id)}")


def newest_id(env_id: str) -> str:
    """Return the id with its newest registered version; unchanged if there is none."""
    wanted = _stem(env_id).lower()
    same = [known for known in gym.registry if _stem(known).lower() == wanted]
    return max(same, key=lambda known: gym.registry[known].version or 0, default=env_id)


def _stem(env_id: str) -> str:
    """Return an id without its version."""
    return re.sub(r"-v\d+$", "", env_id)


def _suggestion(module: str, name: str) -> str:
    """Return what is wrong with an unregistered id, and what to use instead."""
    if module:
        return _suggestion_of_module(module, name)
    for pattern, install, registering in ELSEWHERE:
        if re.match(pattern, name):
            return (
                f"rlkl has no extra for it; pip install {install}, then env.id={registering}:{name}"
            )
    if game := _atari_game(name):
        return (
            f"Atari games run in ALE's vector environment, with the usual preprocessing; "
            f"use env.id=ALE/{game}-v5 (extra: atari)"
        )
    what = "no such environment is registered"
    newest = newest_id(name)
    if hint := newest if newest != name else _nearest_id(name):
        return f"{what} (did you mean {hint}?)"
    return (
        f"{what}; gymnasium.pprint_registry() lists Gymnasium's; for one of another package use "
        f"env.id=MODULE:{name} with the module that registers it"
    )


def _suggestion_of_module(module: str, name: str) -> str:
    ids = [known for known, spec in gym.registry.items() if _is_from(module, spec)]
    found = f"{module} ({getattr(sys.modules[module], '__file__', None) or 'built in'})"
    alike = own.suggested(module, name)
    if name.isidentifier() and (not ids or alike):
        return f"{found} has no callable {name!r}{alike}, and registers no such environment"
    if not ids:
        return f"no such environment is registered: {found} registers none"
    newest = newest_id(name)
    hint = newest if newest in ids else _nearest_id(name, ids) or ", ".join(ids[:5])
    return (
        f"no such environment is registered by {found} "
        f"(did you mean {module}:{hint.replace(' or ', f' or {module}:')}?)"
    )


def _is_from(module: str, spec: EnvSpec) -> bool:
    code = spec.entry_point or spec.vector_entry_point
    where = code.partition(":")[0] if isinstance(code, str) else getattr(code, "__module__", "")
    return where.partition(".")[0] == module.partition(".")[0]


def _atari_game(name: str) -> str:
    """Return the Atari game of an id, in ALE's spelling; empty if there is none."""
    found = re.fullmatch(ATARI, name)
    if found is None:
        return ""
    known = GAMES
    if importlib.util.find_spec("ale_py") is not None:
        _import_quietly("ale_py")
        known = {_stem(env_id)[4:] for env_id in gym.registry if env_id.startswith("ALE/")}
    elif found["old"]:
        return str(found["game"])
    return {game.lower(): game for game in known}.get(found["game"].lower(), "")


def _nearest_id(name: str, among: list[str] | None = None) -> str:
    """Return the newest ids with similar names; empty if there are none."""
    among = list(gym.registry) if among is None else among
    stems = {_stem(known).lower(): newest_id(known) for known in among}
    close = difflib.get_close_matches(_stem(name).lower(), stems, n=2, cutoff=0.75)
    return " or ".join(stems[stem] for stem in close)
