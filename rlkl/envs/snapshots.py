"""The state of environments as plain data, where it is known to be all there is to them.

A copy is known by its exact class, or gives its state itself, by methods `get_state()` and
`set_state(state)`; so is every wrapper around it. Else a run that is to be resumed exactly
recreates its environments.
"""

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.wrappers import FrameStackObservation, OrderEnforcing, TimeLimit

from rlkl.envs.checks import Guard
from rlkl.envs.sync_env import Copies
from rlkl.utils.validation import BrokenEnvironmentError, one_line

ATTRIBUTES = {
    "classic_control.cartpole.CartPoleEnv": ("state", "steps_beyond_terminated"),
    "classic_control.acrobot.AcrobotEnv": ("state",),
    "classic_control.mountain_car.MountainCarEnv": ("state",),
    "classic_control.continuous_mountain_car.Continuous_MountainCarEnv": ("state",),
    "classic_control.pendulum.PendulumEnv": ("state", "last_u"),
    "toy_text.frozen_lake.FrozenLakeEnv": ("s", "lastaction"),
    "toy_text.cliffwalking.CliffWalkingEnv": ("s", "lastaction"),
    "toy_text.taxi.TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
    "toy_text.blackjack.BlackjackEnv": ("dealer", "player"),
}
"""What changes while an environment of Gymnasium runs, but for its generator and what it draws."""

NATIVE = ("state", "steps", "prev_done", "low", "high")
"""The same of the vectorised CartPole."""

DERIVED = ("xpos", "xipos")
"""What MuJoCo's environments read of the last step before they take the next; no part of the state
as MuJoCo defines it, because a step computes it anew."""


def state_of(envs: gym.vector.VectorEnv[Any, Any, Any]) -> list[Any] | None:
    """Return the state of N environments as plain data; None where it cannot be read."""
    if type(envs) is CartPoleVectorEnv:
        return [_attributes(envs, NATIVE) | _generator(envs)]
    if not isinstance(envs, Copies):
        return None
    states = [_state(env) for env in envs.envs]
    return None if None in states else states


def set_state(envs: gym.vector.VectorEnv[Any, Any, Any], states: list[Any]) -> None:
    """Put environments that were reset into the state that `state_of` returned."""
    if isinstance(envs, Copies):
        for env, state in zip(envs.envs, states, strict=True):
            _set_state(env, state)
    else:
        _set_attributes(envs, states[0])


def _state(env: Any) -> dict[str, Any] | None:
    """Return the state of a copy and of what it is wrapped in."""
    if isinstance(env, gym.Wrapper):
        inner = _state(env.env)
        own = None if inner is None else _state_of_wrapper(env)
        return None if own is None else {"own": own, "inner": inner}
    if _gives_state(env):
        return {"given": _given(env), "generator": _generator_of(env)}
    kind = type(env)
    module = kind.__module__.removeprefix("gymnasium.envs.")
    attributes = ATTRIBUTES.get(f"{module}.{kind.__name__}")
    if attributes is not None:
        return _attributes(env, attributes) | _generator(env)
    if module.startswith("mujoco.") and module != kind.__module__:
        return _generator(env) | {"mujoco": _mujoco_state(env)}
    return None


def _set_state(env: Any, state: dict[str, Any]) -> None:
    if isinstance(env, gym.Wrapper):
        _set_state(env.env, state["inner"])
        own = state["own"]
    else:
        own = state
    others = ("frames", "mujoco", "given", "generator")
    _set_attributes(env, {key: value for key, value in own.items() if key not in others})
    if "frames" in own:
        env.obs_queue.extend(_plain_back(frame) for frame in own["frames"])
    if "mujoco" in own:
        _set_mujoco_state(env, own["mujoco"])
    if "given" in own:
        _give_back(env, own["given"])
    if own.get("generator") is not None:
        env.np_random.bit_generator.state = _unpacked(own["generator"])


def _state_of_wrapper(env: Any) -> dict[str, Any] | None:
    if _gives_state(env):
        return {"given": _given(env)}
    if type(env) in (Guard, OrderEnforcing):
        return {}
    if type(env) is TimeLimit:
        return _attributes(env, ("_elapsed_steps",))
    if type(env) is FrameStackObservation and isinstance(env.env.observation_space, gym.spaces.Box):
        return {"frames": [_plain(frame) for frame in env.obs_queue]}
    return None


def _gives_state(env: Any) -> bool:
    """Whether an environment or wrapper gives its state itself.

    The class must have both methods, to be called without and with one argument: MuJoCo's
    environments have a `set_state` of positions and velocities.
    """
    methods = getattr(type(env), "get_state", None), getattr(type(env), "set_state", None)
    return all(
        callable(method) and _takes(method, count) for count, method in enumerate(methods, 1)
    )


def _takes(method: Any, count: int) -> bool:
    """Whether a method can be called with so many arguments, the object itself among them."""
    try:
        inspect.signature(method).bind(*range(count))
    except TypeError:
        return False
    return True


def _given(env: Any) -> Any:
    """Return what `get_state` returns, in the form of a checkpoint.

    Raises:
        BrokenEnvironmentError: it fails, or returns what no checkpoint may hold.
    """
    name = f"get_state() of {type(env).__name__}"
    try:
        return _packed(env.get_state(), "")
    except _NotPlainError as error:
        raise BrokenEnvironmentError(
            f"{name} returned {error}; expected numbers, texts, arrays and tensors, and lists, "
            "tuples and dicts of them"
        ) from None
    except Exception as error:
        raise BrokenEnvironmentError(
            f"{name} failed: {type(error).__name__}: {one_line(error)}"
        ) from error


def _give_back(env: Any, packed: Any) -> None:
    """Hand to `set_state` what `get_state` returned.

    Raises:
        BrokenEnvironmentError: it fails.
    """
    try:
        env.set_state(_unpacked(packed))
    except Exception as error:
        raise BrokenEnvironmentError(
            f"set_state() of {type(env).__name__} failed on what its get_state() returned: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def _generator_of(env: Any) -> Any:
    """Return the state of an environment's `np_random`, if that is a generator of NumPy."""
    generator = env.np_random
    if not isinstance(generator, np.random.Generator):
        return None
    return _packed(generator.bit_generator.state, "")


class _NotPlainError(Exception):
    """Something that no checkpoint may hold: what, and where."""


PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Types that a checkpoint may hold as they are; classes made from them it may not."""


def _packed(value: Any, path: str) -> Any:
    """Return a copy of plain data in a form that a checkpoint may hold.

    Lists and what is in `PLAIN` stay; the others are marked, so that each comes back as what it
    was.

    Args:
        value: of numbers, texts, arrays and tensors, and lists, tuples and dicts of them.
        path: to it within the whole.

    Raises:
        _NotPlainError: something in it is of another type.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple):
        parts = [_packed(part, f"{path}[{i}]") for i, part in enumerate(value)]
        return parts if kind is list else {"tuple": parts}
    if kind is dict and all(type(key) in PLAIN for key in value):
        parts = [_packed(part, f"{path}[{key!r}]") for key, part in value.items()]
        return {"keys": list(value), "values": parts}
    if isinstance(value, torch.Tensor):
        return {"tensor": value.detach().clone()}
    if kind is np.ndarray or isinstance(value, np.generic):
        try:
            array = torch.from_numpy(np.array(value))
        except (TypeError, ValueError):
            raise _NotPlainError(f"an array of {value.dtype}{_at(path)}") from None
        return {"array": array} if kind is np.ndarray else {"number": array}
    raise _NotPlainError(f"an object of {kind.__module__}.{kind.__qualname__}{_at(path)}")


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _unpacked(packed: Any) -> Any:
    """Return what `_packed` was given."""
    if isinstance(packed, list):
        return [_unpacked(part) for part in packed]
    if not isinstance(packed, dict):
        return packed
    if "keys" in packed:
        return dict(zip(packed["keys"], map(_unpacked, packed["values"]), strict=True))
    ((mark, content),) = packed.items()
    if mark == "tuple":
        return tuple(map(_unpacked, content))
    # Of its own: what is read from a file may be read again.
    if mark == "tensor":
        return content.clone()
    array = content.numpy().copy()
    return array if mark == "array" else array[()]


def _mujoco_state(env: Any) -> dict[str, Any]:
    import mujoco  # type: ignore[import-untyped]  # noqa: PLC0415

    every = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, every))
    mujoco.mj_getState(env.model, env.data, state, every)
    return {"state": _plain(state)} | {key: _plain(getattr(env.data, key)) for key in DERIVED}


def _set_mujoco_state(env: Any, state: dict[str, Any]) -> None:
    import mujoco  # noqa: PLC0415

    every = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(env.model, env.data, _plain_back(state["state"]), every)
    for key in DERIVED:
        getattr(env.data, key)[...] = _plain_back(state[key])


def _generator(env: Any) -> dict[str, Any]:
    return {"np_random": env.np_random.bit_generator.state}


def _attributes(env: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _plain(getattr(env, name)) for name in names}


def _set_attributes(env: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if name == "np_random":
            env.np_random.bit_generator.state = value
        else:
            setattr(env, name, _plain_back(value))


def _plain(value: Any) -> Any:
    """Return arrays and numbers of NumPy as tensors, which a checkpoint may hold."""
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    return value


def _plain_back(value: Any) -> Any:
    """Return what `_plain` was given: the same types, since arithmetic depends on them."""
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()[()]
    if isinstance(value, list | tuple):
        return type(value)(_plain_back(part) for part in value)
    return value
