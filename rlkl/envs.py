"""Vectorised Gymnasium environments behind one door: spaces checked, autoreset modes made alike."""

import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rlkl.validation import ConfigError, check_choice, check_range, nearest, one_line

BACKENDS = ("auto", "native", "sync", "async")


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, how many of it, and how they are stepped.

    Attributes:
        id: Gymnasium id; `my_package:MyEnv-v0` imports `my_package` first.
        num_envs: copies stepped together.
        backend: `native` is the environment's own vectorised form, `sync` steps copies one after
            the other, `async` each in a process of its own; `auto` is native where there is one,
            else sync.
        kwargs: passed to the environment's constructor.
    """

    id: str = "CartPole-v1"
    num_envs: int = 8
    backend: str = "auto"
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("env.num_envs", self.num_envs, at_least=1, at_most=65536)
        check_choice("env.backend", self.backend, BACKENDS)


class Step(NamedTuple):
    """One step of N environments.

    Attributes:
        observations: what the policy sees next, `[N, D]`.
        rewards: `[N]`.
        terminated: where the episode ended in a terminal state, `[N]`.
        truncated: where it was cut off, `[N]`.
        is_transition: where the row is a step of an episode; elsewhere the environment only reset
            itself, and action and reward mean nothing, `[N]`.
        final_observations: the true last observation of each episode that ended, by environment,
            where `observations` already shows the next episode (SAME_STEP autoreset only).
    """

    observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_transition: NDArray[np.bool_]
    final_observations: dict[int, NDArray[np.float32]]


class VectorEnvironment:
    """N copies of an environment with flat observations, and the door that actions pass.

    Actions are clipped to their bounds, shaped and shifted to the environment's own numbering here
    and nowhere else.

    Args:
        envs: Gymnasium's vector environment, with NEXT_STEP or SAME_STEP autoreset.
        backend: how it was made, for logs.

    Raises:
        ConfigError: a space or an autoreset mode that is not supported.
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any], backend: str = "sync") -> None:
        self._envs = envs
        self.backend = backend
        self.num_envs = envs.num_envs
        self.observation_space = _checked_observation_space(envs.single_observation_space)
        self.action_space = _checked_action_space(envs.single_action_space)
        self.observation_size = self.observation_space.shape[0]
        mode = envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ConfigError(
                f"autoreset mode {mode} is not supported: expected NEXT_STEP or SAME_STEP in the "
                "vector environment's metadata['autoreset_mode'], or use env.backend=sync"
            )
        self._resets_on_next_step = mode == AutoresetMode.NEXT_STEP
        self._resetting = np.zeros(self.num_envs, np.bool_)

    def reset(self, seeds: list[int]) -> NDArray[np.float32]:
        """Begin N episodes.

        Args:
            seeds: one for each environment; a native backend has one generator and takes the first.

        Returns:
            First observations, `[N, D]`.
        """
        self._resetting[:] = False
        # The native entry point is one environment to Gymnasium and takes one seed.
        observations, _ = self._envs.reset(
            seed=seeds[0] if self.backend == "native" else seeds  # type: ignore[arg-type]
        )
        return np.asarray(observations, np.float32)

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all environments.

        Args:
            actions: as sampled, `[N]` whole numbers from 0 or `[N, D]` unbounded.

        Returns:
            The step, alike for both autoreset modes but for the rows that only reset.
        """
        observations, rewards, terminated, truncated, infos = self._envs.step(
            admit(self.action_space, actions)
        )
        is_transition = ~self._resetting
        finals: dict[int, NDArray[np.float32]] = {}
        if self._resets_on_next_step:
            self._resetting = terminated | truncated
        elif "final_obs" in infos:
            finals = {
                int(i): np.asarray(infos["final_obs"][i], np.float32)
                for i in np.flatnonzero(infos["_final_obs"])
            }
        return Step(
            np.asarray(observations, np.float32),
            np.asarray(rewards, np.float64),
            terminated,
            truncated,
            is_transition,
            finals,
        )

    def close(self) -> None:
        """Close the environments, and their processes if they have any."""
        self._envs.close()


def admit(space: gym.spaces.Discrete | gym.spaces.Box, actions: NDArray[Any]) -> NDArray[Any]:
    """Turn actions as sampled into actions that an environment takes.

    Args:
        space: of one action.
        actions: `[N]` whole numbers from 0, or `[N, D]` unbounded.

    Returns:
        `[N]` in the environment's own numbering, or `[N, *shape]` clipped to the bounds.
    """
    if isinstance(space, gym.spaces.Discrete):
        return actions + space.start
    shaped = actions.reshape(len(actions), *space.shape)
    clipped: NDArray[Any] = np.clip(shaped, space.low, space.high).astype(space.dtype)
    return clipped


def make_vector_env(config: EnvConfig) -> VectorEnvironment:
    """Make the environments.

    Raises:
        ConfigError: an unknown id (with the nearest names), a missing package, arguments that the
            environment does not take, or an unsupported space or backend.
    """
    spec = find_spec(config.id)
    backend = config.backend
    if backend == "auto":
        backend = "native" if _has_native_form(spec) else "sync"
    if backend == "native" and not _has_native_form(spec):
        raise ConfigError(
            f"env.backend=native: {config.id} has no vectorised form of its own; "
            "use env.backend=sync"
        )
    arguments: dict[str, Any] = dict(config.kwargs)
    if backend == "native":
        mode = "vector_entry_point"
    else:
        mode = backend
        arguments |= {
            "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP},
            "disable_env_checker": True,
        }
    try:
        with _interrupts_ignored_by_children(backend == "async"):
            envs = gym.make_vec(config.id, config.num_envs, vectorization_mode=mode, **arguments)
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(f"env.id={config.id} needs a package: {one_line(error)}") from error
    except Exception as error:
        given = f" with env.kwargs={config.kwargs}" if config.kwargs else ""
        raise ConfigError(
            f"env.id={config.id}{given} could not be made: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    try:
        return VectorEnvironment(envs, backend)
    except ConfigError as error:
        envs.close()
        raise ConfigError(f"env.id={config.id}: {error}") from error


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """Find a registered environment without making one.

    Raises:
        ConfigError: there is none of that id; the message has the nearest ones.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"env.id={env_id}: the package {module!r} cannot be imported: {one_line(error)}"
            ) from error
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        hint = nearest(name, gym.registry)
        raise ConfigError(
            f"env.id={env_id}: no such environment is registered"
            f"{hint or '; gymnasium.pprint_registry() lists them'}"
        ) from error


def _has_native_form(spec: gym.envs.registration.EnvSpec) -> bool:
    # Gymnasium's phys2d forms are written in JAX and keep their state on its device.
    return spec.vector_entry_point is not None and spec.namespace != "phys2d"


def _checked_observation_space(space: gym.Space[Any]) -> gym.spaces.Box:
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return space
    raise ConfigError(
        f"observations {space} are not supported: expected a Box of one dimension; "
        "wrap the environment in gymnasium.wrappers.FlattenObservation"
    )


def _checked_action_space(space: gym.Space[Any]) -> gym.spaces.Discrete | gym.spaces.Box:
    if isinstance(space, gym.spaces.Discrete):
        return space
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return space
    raise ConfigError(f"actions {space} are not supported: expected Discrete or a Box of floats")


@contextmanager
def _interrupts_ignored_by_children(wanted: bool) -> Iterator[None]:
    """Let processes started within ignore Ctrl-C, which a terminal sends to every process.

    The trainer alone decides when to stop; workers that died first would make it fail.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
