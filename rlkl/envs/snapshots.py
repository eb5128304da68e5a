"""Save and restore the complete state of environments as plain data.

An environment or wrapper is supported if its exact class is known, or if it has methods
`get_state()` and `set_state(state)`. Other environments are recreated at checkpoints.
"""

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation

from rlkl.envs.checks import EnvChecker
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.errors import BrokenEnvironmentError
from rlkl.utils.validation import described

ATTRIBUTES = {
    "classic_control.cartpole.CartPoleEnv": ("state", "steps_beyond_terminated"),
    "classic_control.cartpole.CartPoleVectorEnv": ("state", "steps", "prev_done", "low", "high"),
    "classic_control.acrobot.AcrobotEnv": ("state",),
    "classic_control.mountain_car.MountainCarEnv": ("state",),
    "classic_control.continuous_mountain_car.Continuous_MountainCarEnv": ("state",),
    "classic_control.pendulum.PendulumEnv": ("state", "last_u"),
    "toy_text.frozen_lake.FrozenLakeEnv": ("s", "lastaction"),
    "toy_text.cliffwalking.CliffWalkingEnv": ("s", "lastaction"),
    "toy_text.taxi.TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
    "toy_text.blackjack.BlackjackEnv": ("dealer", "player"),
    "rlkl.envs.tasks.PoleCartPole": ("state", "steps_beyond_terminated"),
    "rlkl.envs.tasks.Recall": ("_step", "_cue"),
}
"""Attributes that change while a known environment runs, except its generator."""

WRAPPERS: dict[str, tuple[str, ...]] = {
    "TimeLimit": ("_elapsed_steps",),
    "TimeAwareObservation": ("timesteps",),
    "RecordEpisodeStatistics": ("episode_count", "episode_returns", "episode_lengths"),
    "RecordVideo": ("step_id", "episode_id"),
    **dict.fromkeys(
        (
            "ClipAction", "ClipReward", "DiscretizeAction", "DiscretizeObservation",
            "DtypeObservation", "FilterObservation", "FlattenObservation", "GrayscaleObservation",
            "OrderEnforcing", "PassiveEnvChecker", "RepeatAction", "RescaleAction",
            "RescaleObservation", "ReshapeObservation", "ResizeObservation",
        ),
        (),
    ),
}  # fmt: skip
"""Attributes of Gymnasium's wrappers that change while they run and that an episode depends on."""

DERIVED = ("xpos", "xipos")
"""What MuJoCo's environments read before the next step; MuJoCo's own state leaves it out, because a
step recomputes it."""


def state_of(envs: gym.vector.VectorEnv[Any, Any, Any]) -> list[Any] | None:
    """Return the state of N environments as plain data; None if it cannot be read."""
    if gives_state(type(envs)):
        return [{"given": _given(envs)}]
    states = [_state(env) for env in _parts(envs)]
    return None if None in states else states


def set_state(envs: gym.vector.VectorEnv[Any, Any, Any], states: list[Any]) -> None:
    """Restore a state that `state_of` returned; the environments must have been reset."""
    for env, state in zip(_parts(envs), states, strict=True):
        _set_state(env, state)


def _parts(envs: gym.vector.VectorEnv[Any, Any, Any]) -> list[Any]:
    """Return the sub-environments, or the whole where there are no single ones."""
    return envs.envs if isinstance(envs, SyncVectorEnv) else [envs]


def _state(env: Any) -> dict[str, Any] | None:
    """Return the state of a sub-environment and its wrappers; None if it cannot be read."""
    if isinstance(env, gym.Wrapper):
        inner = _state(env.env)
        own = None if inner is None else _state_of_wrapper(env)
        return None if own is None else {"own": own, "inner": inner}
    if gives_state(type(env)):
        generator = env.np_random
        is_numpy = isinstance(generator, np.random.Generator)
        state = packed(generator.bit_generator.state) if is_numpy else None
        return {"given": _given(env), "generator": state}
    kind = type(env)
    module = kind.__module__.removeprefix("gymnasium.envs.")
    attributes = ATTRIBUTES.get(f"{module}.{kind.__name__}")
    if attributes is not None:
        return _attributes(env, attributes)
    if module.startswith("mujoco.") and module != kind.__module__:
        return _attributes(env, ()) | {"mujoco": _mujoco_state(env)}
    return None


def _set_state(env: Any, state: dict[str, Any]) -> None:
    if isinstance(env, gym.Wrapper):
        _set_state(env.env, state["inner"])
        state = state["own"]
    for name, value in state.items():
        if name == "np_random":
            env.np_random.bit_generator.state = value
        elif name == "frames":
            env.obs_queue.extend(map(_unplain, value))
        elif name == "mujoco":
            _set_mujoco_state(env, value)
        elif name == "given":
            _restore_given(env, value)
        elif name != "generator":
            setattr(env, name, _unplain(value))
        elif value is not None:  # last: `set_state` may draw from it
            env.np_random.bit_generator.state = unpacked(value)


def _state_of_wrapper(env: Any) -> dict[str, Any] | None:
    if gives_state(type(env)):
        return {"given": _given(env)}
    if type(env) is EnvChecker:
        return {}
    kind = type(env)
    if kind.__module__.startswith("gymnasium.wrappers.") and kind.__name__ in WRAPPERS:
        return {name: _plain(getattr(env, name)) for name in WRAPPERS[kind.__name__]}
    if type(env) is FrameStackObservation and isinstance(env.env.observation_space, gym.spaces.Box):
        return {"frames": [_plain(frame) for frame in env.obs_queue]}
    return None


def gives_state(kind: Any) -> bool:
    """Return whether a class has `get_state()` and `set_state(state)`; MuJoCo's takes more."""
    methods = getattr(kind, "get_state", None), getattr(kind, "set_state", None)
    return all(
        callable(method) and _takes(method, count) for count, method in enumerate(methods, 1)
    )


def _takes(method: Any, count: int) -> bool:
    """Return whether a method takes so many arguments, self included."""
    try:
        inspect.signature(method).bind(*range(count))
    except TypeError:
        return False
    return True


def _given(env: Any) -> Any:
    """Return the result of `get_state` in a form for checkpoints."""
    name = f"get_state() of {type(env).__name__}"
    try:
        return packed(env.get_state())
    except NotPlainError as error:
        raise BrokenEnvironmentError(
            f"{name} returned {error}; expected numbers, texts, arrays and tensors, and lists, "
            "tuples and dicts of them"
        ) from None
    except Exception as error:
        raise BrokenEnvironmentError(f"{name} failed: {described(error)}") from error


def _restore_given(env: Any, state: Any) -> None:
    try:
        env.set_state(unpacked(state))
    except Exception as error:
        raise BrokenEnvironmentError(
            f"set_state() of {type(env).__name__} failed on what its get_state() returned: "
            f"{described(error)}"
        ) from error


class NotPlainError(Exception):
    """A value that no checkpoint can contain: its type and place."""


# Types that a checkpoint contains unchanged; their subclasses are not allowed.
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def packed(value: Any, path: str = "") -> Any:
    """Return a copy of plain data in a form for checkpoints.

    Lists and values of the types in `PLAIN` stay as they are; others are marked with their type.
    A value of another type raises `NotPlainError` with the path to it.
    """
    kind, where = type(value), f" at {path}" if path else ""
    if kind in PLAIN:
        return value
    if kind in (list, tuple):
        parts = [packed(part, f"{path}[{i}]") for i, part in enumerate(value)]
        return parts if kind is list else {"tuple": parts}
    if kind is dict and all(type(key) in PLAIN for key in value):
        parts = [packed(part, f"{path}[{key!r}]") for key, part in value.items()]
        return {"keys": list(value), "values": parts}
    if isinstance(value, torch.Tensor):
        return {"tensor": value.detach().clone()}
    if kind is np.ndarray or isinstance(value, np.generic):
        try:
            array = torch.from_numpy(np.array(value))
        except (TypeError, ValueError):
            raise NotPlainError(f"an array of {value.dtype}{where}") from None
        return {"array": array} if kind is np.ndarray else {"number": array}
    raise NotPlainError(f"an object of {kind.__module__}.{kind.__qualname__}{where}")


def unpacked(state: Any) -> Any:
    """Undo `packed`."""
    if isinstance(state, list):
        return [unpacked(part) for part in state]
    if not isinstance(state, dict):
        return state
    if "keys" in state:
        return dict(zip(state["keys"], map(unpacked, state["values"]), strict=True))
    ((mark, content),) = state.items()
    if mark == "tuple":
        return tuple(map(unpacked, content))
    # A copy, since the same state may be restored again.
    if mark == "tensor":
        return content.clone()
    array = content.numpy().copy()
    return array if mark == "array" else array[()]


def _mujoco_state(env: Any) -> dict[str, Any]:
    import mujoco  # noqa: PLC0415

    every = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, every))
    mujoco.mj_getState(env.model, env.data, state, every)
    return {"state": _plain(state)} | {key: _plain(getattr(env.data, key)) for key in DERIVED}


def _set_mujoco_state(env: Any, state: dict[str, Any]) -> None:
    import mujoco  # noqa: PLC0415

    every = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(env.model, env.data, _unplain(state["state"]), every)
    for key in DERIVED:
        getattr(env.data, key)[...] = _unplain(state[key])


def _attributes(env: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return attributes of an environment and the state of its generator."""
    attributes = {name: _plain(getattr(env, name)) for name in names}
    return attributes | {"np_random": env.np_random.bit_generator.state}


def _plain(value: Any) -> Any:
    """Return NumPy arrays and numbers as tensors, which a checkpoint can contain."""
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    return value


def _unplain(value: Any) -> Any:
    """Undo `_plain`, with the same types, since arithmetic depends on them."""
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()[()]
    if isinstance(value, list | tuple):
        return type(value)(_unplain(part) for part in value)
    return value
