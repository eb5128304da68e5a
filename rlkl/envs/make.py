"""Make N sub-environments with any backend."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import HumanRendering

from rlkl.envs.arguments import unknown_argument, with_tuples
from rlkl.envs.array_view import ArrayView
from rlkl.envs.backend_probe import is_shared_faster
from rlkl.envs.checks import quiet
from rlkl.envs.envpool_env import EnvPoolVectorEnv
from rlkl.envs.ids import find_spec
from rlkl.envs.jax_env import from_gymnasium
from rlkl.envs.own import GIVEN, name_of, names_callable
from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.single_env import makers
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.envs.torch_tasks import TORCH_TASKS
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.envs.wrappers import check_form, found_wrappers, is_video, without_videos
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.signals import children_ignore_signals
from rlkl.utils.validation import check_installed, check_text, one_line

BACKENDS = ("auto", "native", "sync", "shared", "async", "envpool", "ale", "tensor")
VECTORIZED = ("native", "ale", "tensor")  # these make an environment's own vectorised form
MIN_ENVS_FOR_NATIVE = 6  # from here on CartPole's vectorised form is faster than `sync`


@dataclass(frozen=True)
class EnvConfig:
    """The environment, the number of sub-environments, and the backend that steps them.

    Attributes:
        id: Gymnasium id; `my_package:MyEnv-v0` imports `my_package` first. Or a callable that
            makes an environment, also as `my_package.envs:make_env`; or, for one sub-environment,
            an environment, of which copies are made. Stored as a string.
        num_envs: sub-environments that are stepped together.
        backend: `native` is the environment's own vectorised form, `ale` that of Atari. `sync`
            steps the sub-environments one after the other, `shared` a part on each core, `async`
            each in its own process, `envpool` in threads of that package. `tensor` keeps the
            environments and the rollout on `device`. `auto` is `ale` for Atari, `native` if it
            exists and there are at least six sub-environments, else `sync`, or, in a training run,
            `shared` if it is measurably faster.
        frame_stack: number of stacked observations; 1 does not stack.
        observation_keys: the parts of a Dict or Tuple observation to use; empty for all.
        kwargs: passed to the environment's constructor.
        wrappers: of each sub-environment, the innermost first: names of Gymnasium's wrappers, of
            registered ones or of others (`MODULE.CLASS`), with arguments as
            `{TimeLimit: {max_episode_steps: 200}}`. RecordVideo wraps only the first one.
    """

    id: Any = "CartPole-v1"
    num_envs: int = limited(8, at_least=1, at_most=65536)
    backend: str = limited("auto", choices=BACKENDS)
    frame_stack: int = limited(1, at_least=1, at_most=1024)
    observation_keys: list[str] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_fields(self, "env.")
        if not isinstance(self.id, str):
            object.__setattr__(self, "id", name_of(self.id))
        check_text("env.id", self.id)
        check_form(self.wrappers)
        if isinstance(GIVEN.get(self.id), gym.Env) and self.num_envs > 1:
            raise ConfigError(
                f"env.num_envs={self.num_envs}: env.id={self.id} is one environment; use "
                "env.num_envs=1, or pass a callable that makes one"
            )


def make_training_env(
    config: EnvConfig, device: torch.device | str = "cpu", info_keys: Sequence[str] = ()
) -> VectorEnvironment | TensorEnvironment:
    """Make the environments of a run: on a device with `env.backend=tensor`, else as arrays.

    Where `env.backend=auto` means `sync`, it is `shared` if that is measurably faster. `info_keys`
    are the numbers in infos that steps have.

    Raises:
        ConfigError: as `make_vector_env`.
    """
    if config.backend != "tensor":
        return make_vector_env(_with_faster_backend(config), info_keys)
    choose_backend(config)
    with _config_errors(config, "tensor"):
        envs = _make_tensors(_with_tuples(config, "tensor"), device)
    keys = tuple(config.observation_keys)
    with _closed_if_unsupported(envs, config.id):
        return TensorEnvironment(envs, device, config.id, keys, info_keys)


@contextmanager
def _closed_if_unsupported(envs: Any, env_id: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        envs.close()
        raise ConfigError(f"env.id={env_id}: {error}") from error


def _with_faster_backend(config: EnvConfig) -> EnvConfig:
    if config.backend != "auto" or choose_backend(config) != "sync":
        return config
    if any(is_video(wrapper) for wrapper, _ in found_wrappers(config.wrappers)):
        return replace(config, backend="sync")  # the measurement would write videos
    is_faster = is_shared_faster(find_spec(config.id), makers(_with_tuples(config, "sync")))
    return replace(config, backend="shared" if is_faster else "sync")


def make_vector_env(config: EnvConfig, info_keys: Sequence[str] = ()) -> VectorEnvironment:
    """Make environments of NumPy arrays.

    With `env.backend=tensor` these are the ordinary environments of an id that rlkl has in torch,
    and else a view of the tensors as arrays.

    Raises:
        ConfigError: for an unknown id, a missing package, arguments that the environment does not
            accept, or an unsupported space or backend.
    """
    if config.backend == "tensor" and config.id in TORCH_TASKS:
        config = replace(config, backend="sync")
    backend = choose_backend(config)
    with _config_errors(config, backend):
        envs, seeding = _make(_with_tuples(config, backend), backend, info_keys)
    keys = tuple(config.observation_keys)
    with _closed_if_unsupported(envs, config.id):
        return VectorEnvironment(envs, backend, config.id, keys, seeding, info_keys)


def _with_tuples(config: EnvConfig, backend: str) -> EnvConfig:
    if backend == "envpool":
        return config
    spec = find_spec(config.id)
    kwargs = with_tuples(config.kwargs, spec, vectorized=backend in VECTORIZED)
    return replace(config, kwargs=kwargs)


@contextmanager
def _config_errors(config: EnvConfig, backend: str) -> Iterator[None]:
    """Turn exceptions of making an environment into a `ConfigError` of one line."""
    try:
        yield
    except ConfigError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(f"env.id={config.id} needs a package: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_failure(config, backend, error)) from error


def _failure(config: EnvConfig, backend: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in ("jax", "jaxlib", "flax"):
        return f"env.id={config.id} is written in JAX; pip install 'rlkl[jax]' (extra: jax)"
    if "unexpected keyword argument 'render_mode'" in str(error):
        return (
            f"env.id={config.id} cannot be rendered: it takes no argument render_mode; add one, "
            "and give it to the environment"
        )
    if backend != "envpool":
        spec, vectorized = find_spec(config.id), backend in VECTORIZED
        if why := unknown_argument(error, config.kwargs, spec, vectorized=vectorized):
            return why
    given = f" with env.kwargs={config.kwargs}" if config.kwargs else ""
    why = f"{type(error).__name__}: {one_line(error)}"
    method = multiprocessing.get_start_method(allow_none=True)
    if backend in ("async", "shared") and method in ("spawn", "forkserver"):
        why += (
            f"; with the start method {method} each process imports the script, so the script must "
            'train below: if __name__ == "__main__":'
        )
    return f"env.id={config.id}{given} could not be made: {why}"


def make_rendered_env(config: EnvConfig, render_mode: str) -> gym.Env[Any, Any]:
    """Make one environment that renders: `human` shows a window, `rgb_array` returns images.

    Raises:
        ConfigError: the environment cannot be made or rendered.
    """
    if find_spec(config.id).namespace == "ALE":
        raise ConfigError(
            f"env.id={config.id} cannot be rendered: Atari games run in ALE's own vector "
            "environment, which does not render"
        )
    with _config_errors(config, "sync"):
        config = _with_tuples(config, "sync")
        config = replace(config, num_envs=1, wrappers=without_videos(config.wrappers))
        plain = makers(config)[0]()
        modes = plain.metadata.get("render_modes") or []
        plain.close()
        # Gymnasium can show images in a window.
        if not {render_mode, "rgb_array"} & set(modes):
            offered = f"only {', '.join(map(str, modes))}" if modes else "no render modes"
            raise ConfigError(f"env.id={config.id} cannot be rendered: it offers {offered}")
        # Gymnasium does it for classes that list their modes, not for functions.
        shows = render_mode == "human" and "human" not in modes and names_callable(config.id)
        mode = "rgb_array" if shows else render_mode
        rendered = replace(config, kwargs=config.kwargs | {"render_mode": mode})
        env = makers(rendered)[0]()
        return HumanRendering(env) if shows else env


def choose_backend(config: EnvConfig) -> str:
    """Return `env.backend`, or the backend that `auto` means.

    `auto` is never `envpool`, which reimplements environments: a run should not depend on which
    packages are installed. docs/performance.md has the speed of each backend.

    Raises:
        ConfigError: the requested backend cannot make the environment.
    """
    backend = config.backend
    if config.wrappers and backend in (*VECTORIZED, "envpool"):
        raise ConfigError(
            f"env.backend={backend} has no single sub-environments, so env.wrappers cannot wrap "
            "them; use env.backend=auto, or leave env.wrappers out"
        )
    if backend == "envpool":
        check_installed("envpool", "envpool", "env.backend=envpool")
        return backend
    spec = find_spec(config.id)
    found_wrappers(config.wrappers)
    is_atari = spec.namespace == "ALE"
    # Gymnasium's phys2d forms are written in JAX and keep their state on its device.
    has_native = spec.vector_entry_point is not None and spec.namespace != "phys2d" and not is_atari
    if is_atari and config.wrappers:
        raise ConfigError(
            f"env.wrappers: {config.id} runs in ALE's own vector environment, which has the usual "
            "preprocessing and no single sub-environments to wrap; leave it out"
        )
    if backend == "auto":
        is_native_faster = config.num_envs >= MIN_ENVS_FOR_NATIVE and config.frame_stack == 1
        is_native_faster = is_native_faster and not config.wrappers
        return "ale" if is_atari else "native" if has_native and is_native_faster else "sync"
    if why := _why_not(config, spec, has_native=has_native):
        raise ConfigError(f"env.backend={backend}: {why}")
    return backend


def _why_not(config: EnvConfig, spec: EnvSpec, *, has_native: bool) -> str:
    """Return why an environment lacks what the requested backend steps; empty if it does not."""
    backend, stacks, is_atari = config.backend, config.frame_stack > 1, spec.namespace == "ALE"
    if is_atari and backend in ("sync", "shared", "async", "tensor"):
        return (
            "Atari games run in ALE's own vector environment, with the usual preprocessing; use "
            "env.backend=auto"
        )
    if backend == "native" and not has_native:
        instead = "env.backend=ale" if is_atari else "env.backend=sync"
        return f"{config.id} has no vectorised form; use {instead}"
    if backend == "native" and stacks:
        return (
            f"the vectorised form of {config.id} does not stack frames; use env.backend=sync or "
            "env.frame_stack=1"
        )
    if backend == "ale" and not is_atari:
        return f"{config.id} is not an Atari game of ALE (ALE/Pong-v5 is); use env.backend=auto"
    if backend == "tensor" and not (config.id in TORCH_TASKS or spec.vector_entry_point):
        return (
            f"{config.id} has no form that returns tensors; expected {', '.join(TORCH_TASKS)}, or "
            "an id with a vector_entry_point"
        )
    if backend == "tensor" and stacks:
        return "frames are not stacked; use env.frame_stack=1 or another backend"
    return ""


def _make_vectorized(config: EnvConfig, **defaults: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    kwargs = defaults | config.kwargs
    mode = "vector_entry_point"
    return gym.make_vec(config.id, config.num_envs, vectorization_mode=mode, **kwargs)


def _make_tensors(
    config: EnvConfig, device: torch.device | str
) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Make environments of tensors: rlkl's own on the device, or the vector form of the id."""
    if torch.device(device).type == "mps":
        raise ConfigError(
            "env.backend=tensor needs float64, which device=mps does not have; use device=cpu"
        )
    if config.id in TORCH_TASKS:
        return TORCH_TASKS[config.id](config.num_envs, device, **config.kwargs)
    # Gymnasium warns of its own Pendulum in JAX, which declares no autoreset mode;
    # `TensorEnvironment` checks the mode of what is used.
    with quiet():
        envs = _make_vectorized(config)
    return from_gymnasium(envs) if hasattr(envs, "func_env") else envs


def episode_limit(config: EnvConfig) -> int:
    """Return the time limit of an episode in environment steps; 0 if there is none."""
    registered = gym.registry.get(config.id.rpartition(":")[2])
    own = config.kwargs.get("max_episode_steps") or (registered and registered.max_episode_steps)
    found, time_limit = found_wrappers(config.wrappers), gym.wrappers.TimeLimit
    limits = [kwargs["max_episode_steps"] for kind, kwargs in found if kind is time_limit]
    return min((limit for limit in (own, *limits) if limit), default=0)


def _make(
    config: EnvConfig, backend: str, info_keys: Sequence[str]
) -> tuple[gym.vector.VectorEnv[Any, Any, Any], Callable[[list[int]], Any]]:
    """Return the environments, and the conversion of N seeds for their reset."""
    if backend == "native":
        return _make_vectorized(config), itemgetter(0)
    if backend == "tensor":
        return ArrayView(_make_tensors(config, "cpu")), itemgetter(0)
    if backend == "ale":
        # The trainer clips rewards (clip_rewards), so that it can report the raw ones.
        stack = config.frame_stack
        return _make_vectorized(config, reward_clipping=False, stack_num=stack), np.array
    if backend == "envpool":
        shape = config.num_envs, config.frame_stack
        return EnvPoolVectorEnv(config.id, *shape, config.kwargs, info_keys), list
    if backend == "sync":
        return SyncVectorEnv(makers(config), info_keys), list
    with children_ignore_signals():
        if backend == "shared":
            return SharedMemoryVectorEnv(makers(config), info_keys=info_keys), list
        return _make_async(config), list


def _make_async(config: EnvConfig) -> gym.vector.VectorEnv[Any, Any, Any]:
    make = partial(AsyncVectorEnv, makers(config), autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        return make()
    except ValueError as error:
        # Shared memory cannot hold some part of the observations, perhaps an unused one.
        if not isinstance(error.__cause__, gym.error.CustomSpaceError):
            raise
        return make(shared_memory=False)
