"""Makes N copies of an environment by any backend: whichever steps them, the contract is one."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FilterObservation, FrameStackObservation

from rlkl.envs.arguments import unknown_argument, with_tuples
from rlkl.envs.checks import Guard
from rlkl.envs.envpool_env import Pool
from rlkl.envs.ids import find_spec
from rlkl.envs.shared_memory_env import SharedCopies
from rlkl.envs.spaces import FLAT, leaves
from rlkl.envs.sync_env import Copies
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.field_types import check_fields
from rlkl.utils.signals import STOPS
from rlkl.utils.validation import (
    ConfigError,
    check_choice,
    check_installed,
    check_range,
    check_text,
    one_line,
)

BACKENDS = ("auto", "native", "sync", "shared", "async", "envpool", "ale")

FEWEST_FOR_NATIVE = 6
"""A step of CartPole's vectorised form takes 100 µs for any number of copies; one of `sync` takes
33 µs for one copy and 15 for each further one."""

Made = tuple[gym.vector.VectorEnv[Any, Any, Any], Callable[[list[int]], Any]]
"""What a backend makes: the environments, and the form in which their reset takes N seeds."""


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, how many of it, and how they are stepped.

    Attributes:
        id: Gymnasium id; `my_package:MyEnv-v0` imports `my_package` first.
        num_envs: copies stepped together.
        backend: `native` is the environment's own vectorised form, `ale` that of Atari, `sync`
            steps copies one after the other, `shared` a part of them on each core, `async` each in
            a process of its own, `envpool` in threads of the package of that name; `auto` is ale
            for Atari, native where there is one and copies are at least six, else sync.
        frame_stack: last observations shown together; 1 shows the current one alone.
        observation_keys: the parts of a Dict or Tuple observation to use; empty for all.
        kwargs: passed to the environment's constructor.
    """

    id: str = "CartPole-v1"
    num_envs: int = 8
    backend: str = "auto"
    frame_stack: int = 1
    observation_keys: list[str] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "env.")
        check_text("env.id", self.id)
        check_range("env.num_envs", self.num_envs, at_least=1, at_most=65536)
        check_choice("env.backend", self.backend, BACKENDS)
        check_range("env.frame_stack", self.frame_stack, at_least=1, at_most=1024)


def make_vector_env(config: EnvConfig) -> VectorEnvironment:
    """Make the environments.

    Raises:
        ConfigError: an unknown id (with the nearest names), a missing package, arguments that the
            environment does not take, or an unsupported space or backend.
    """
    backend = choose_backend(config)
    with _explained(config, backend):
        envs, seeding = _MAKERS[backend](_with_tuples(config, backend))
    try:
        return VectorEnvironment(envs, backend, config.id, tuple(config.observation_keys), seeding)
    except ConfigError as error:
        envs.close()
        raise ConfigError(f"env.id={config.id}: {error}") from error


VECTORIZED = ("native", "ale")
"""Backends that make an environment's own vectorised form."""


def _with_tuples(config: EnvConfig, backend: str) -> EnvConfig:
    if backend == "envpool":
        return config
    spec = find_spec(config.id)
    kwargs = with_tuples(config.kwargs, spec, vectorized=backend in VECTORIZED)
    return replace(config, kwargs=kwargs)


@contextmanager
def _explained(config: EnvConfig, backend: str) -> Iterator[None]:
    """Turn whatever goes wrong while an environment is made into one line."""
    try:
        yield
    except ConfigError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(f"env.id={config.id} needs a package: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_why_not_made(config, backend, error)) from error


def _advice(backend: str) -> str:
    """Return what Python itself says where a script starts processes as they import it."""
    method = multiprocessing.get_start_method(allow_none=True)
    if backend not in ("async", "shared") or method not in ("spawn", "forkserver"):
        return ""
    return (
        f"; with the start method {method} each process imports the script, so the script must "
        'train below: if __name__ == "__main__":'
    )


def _why_not_made(config: EnvConfig, backend: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in ("jax", "jaxlib", "flax"):
        return (
            f"env.id={config.id} is written in JAX, which rlkl has no extra for; "
            f"pip install 'gymnasium[jax]'"
        )
    if backend != "envpool":
        vectorized = backend in VECTORIZED
        spec = find_spec(config.id)
        if isinstance(error, Exception) and (
            why := unknown_argument(error, config.kwargs, spec, vectorized=vectorized)
        ):
            return why
    given = f" with env.kwargs={config.kwargs}" if config.kwargs else ""
    why = f"{type(error).__name__}: {one_line(error)}{_advice(backend)}"
    return f"env.id={config.id}{given} could not be made: {why}"


def make_rendered_env(config: EnvConfig, render_mode: str) -> gym.Env[Any, Any]:
    """Make one copy, as `sync` makes each, that shows itself.

    Args:
        config: of the environments; how many, and their backend, do not matter.
        render_mode: `human` for a window, `rgb_array` for pictures.

    Raises:
        ConfigError: it cannot be made, or cannot be rendered.
    """
    if find_spec(config.id).namespace == "ALE":
        raise ConfigError(
            f"env.id={config.id} cannot be rendered: Atari games are stepped by ALE's own vector "
            "environment, which draws nothing"
        )
    with _explained(config, "sync"):
        config = _with_tuples(config, "sync")
        plain = _makers(config)[0]()
        modes = plain.metadata.get("render_modes") or []
        plain.close()
        # Gymnasium itself makes a window of pictures.
        if not {render_mode, "rgb_array"} & set(modes):
            offered = f"only {', '.join(map(str, modes))}" if modes else "no render modes"
            raise ConfigError(f"env.id={config.id} cannot be rendered: it offers {offered}")
        shown = replace(config, kwargs=config.kwargs | {"render_mode": render_mode})
        return _makers(shown)[0]()


def choose_backend(config: EnvConfig) -> str:
    """Return the backend that `env.backend` names, or what `auto` stands for.

    `auto` is `ale` for Atari, `native` where the environment has a vectorised form of its own and
    there are enough copies for it to pay, else `sync`: what was fastest for every environment
    measured (docs/environments.md has the numbers). `async` pays only where a step takes a
    millisecond or more and cores are idle, `shared` only where nothing else needs the cores.
    EnvPool is often the fastest, but what it calls by the same name is its own code, and a run
    should not depend on which packages happen to be installed.

    Raises:
        ConfigError: the environment cannot be made by the backend that was asked for.
    """
    backend = config.backend
    if backend == "envpool":
        check_installed("envpool", "envpool", "env.backend=envpool")
        return backend
    spec = find_spec(config.id)
    is_atari = spec.namespace == "ALE"
    # Gymnasium's phys2d forms are written in JAX and keep their state on its device.
    has_native_form = (
        spec.vector_entry_point is not None and spec.namespace != "phys2d" and not is_atari
    )
    plain = config.frame_stack == 1
    if is_atari and backend in ("sync", "shared", "async"):
        raise ConfigError(
            f"env.backend={backend}: Atari games are stepped by ALE's own vector environment, "
            "with the usual preprocessing; use env.backend=auto"
        )
    if backend == "auto":
        pays = plain and config.num_envs >= FEWEST_FOR_NATIVE
        return "ale" if is_atari else "native" if has_native_form and pays else "sync"
    if backend == "native" and not has_native_form:
        instead = "env.backend=ale" if is_atari else "env.backend=sync"
        raise ConfigError(
            f"env.backend=native: {config.id} has no vectorised form of its own; use {instead}"
        )
    if backend == "native" and not plain:
        raise ConfigError(
            f"env.backend=native: the vectorised form of {config.id} stacks no frames; "
            "use env.backend=sync or env.frame_stack=1"
        )
    if backend == "ale" and not is_atari:
        raise ConfigError(
            f"env.backend=ale: {config.id} is not an Atari game of ALE (ALE/Pong-v5 is); "
            "use env.backend=auto"
        )
    return backend


def _make_native(config: EnvConfig) -> Made:
    envs = gym.make_vec(
        config.id, config.num_envs, vectorization_mode="vector_entry_point", **config.kwargs
    )
    return envs, lambda seeds: seeds[0]


def _make_ale(config: EnvConfig) -> Made:
    # Rewards are clipped in learning (clip_rewards), so that raw ones can be reported.
    arguments = {"reward_clipping": False, "stack_num": config.frame_stack} | config.kwargs
    envs = gym.make_vec(
        config.id, config.num_envs, vectorization_mode="vector_entry_point", **arguments
    )
    return envs, np.array


def _make_pool(config: EnvConfig) -> Made:
    return Pool(config.id, config.num_envs, config.frame_stack, config.kwargs), list


def _wrappers(config: EnvConfig) -> list[Callable[[Any], Any]]:
    """Return what every copy is wrapped in, innermost first."""
    # A stack keeps observations; so does Gymnasium's worker, over the next reset.
    copies = config.frame_stack > 1 or config.backend == "async"
    wrappers: list[Callable[[Any], Any]] = [partial(Guard, copies=copies)]
    if config.frame_stack > 1:
        wrappers.append(partial(_with_chosen_parts, keys=config.observation_keys))
        wrappers.append(partial(FrameStackObservation, stack_size=config.frame_stack))
    return wrappers


def _with_chosen_parts(env: gym.Env[Any, Any], keys: list[str]) -> gym.Env[Any, Any]:
    """Leave out what is not used of an observation, if any of it cannot be stacked."""
    space: Any = env.observation_space
    used = {key.partition("/")[0] for key in keys}
    odd = [leaf for leaf in leaves(space) if not isinstance(leaf.space, FLAT)]
    if not used or not any(str(leaf.path[0]) not in used for leaf in odd if leaf.path):
        return env
    if isinstance(space, gym.spaces.Tuple):
        return FilterObservation(env, [i for i in range(len(space)) if str(i) in used])
    return FilterObservation(env, [key for key in space if key in used])


def _makers(config: EnvConfig) -> list[Callable[[], gym.Env[Any, Any]]]:
    spec = find_spec(config.id)  # other processes may not know the id

    def make() -> gym.Env[Any, Any]:
        env = gym.make(spec, disable_env_checker=True, **config.kwargs)
        for wrapper in _wrappers(config):
            env = wrapper(env)
        return env

    return [make] * config.num_envs


def _make_copies(config: EnvConfig) -> Made:
    return Copies(_makers(config)), list


def _make_shared(config: EnvConfig) -> Made:
    with _interrupts_ignored_by_children():
        return SharedCopies(_makers(config)), list


def _make_processes(config: EnvConfig) -> Made:
    make = partial(
        gym.make_vec,
        config.id,
        config.num_envs,
        vectorization_mode="async",
        wrappers=_wrappers(config),
        disable_env_checker=True,
        **config.kwargs,
    )
    vector_kwargs: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    with _interrupts_ignored_by_children():
        try:
            envs = make(vector_kwargs=vector_kwargs)
        except ValueError as error:
            # A part of the observations has no place in shared memory. It may be one not used.
            if not isinstance(error.__cause__, gym.error.CustomSpaceError):
                raise
            envs = make(vector_kwargs=vector_kwargs | {"shared_memory": False})
    return envs, list


_MAKERS: dict[str, Callable[[EnvConfig], Made]] = {
    "native": _make_native,
    "ale": _make_ale,
    "envpool": _make_pool,
    "sync": _make_copies,
    "shared": _make_shared,
    "async": _make_processes,
}


@contextmanager
def _interrupts_ignored_by_children() -> Iterator[None]:
    """Let processes started within ignore the signals that ask a whole group to end.

    A terminal sends Ctrl-C to every process, `timeout` and Slurm SIGTERM. The trainer alone decides
    when to stop; workers that died first would make it fail. They end when it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
