"""The state of environments as plain data, where it is known to be all there is to them.

A copy is known by its exact class: what a class of the user keeps is for nobody here to know. Such
environments have no state, and a run that is to be resumed exactly begins them anew instead.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.wrappers import FrameStackObservation, OrderEnforcing, TimeLimit

from rlkl.copies import Copies
from rlkl.guard import Guard

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
    """Return the state of N environments as plain data; None where it cannot be had."""
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
        own = _state_of_wrapper(env)
        return None if inner is None or own is None else {"own": own, "inner": inner}
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
        if isinstance(env, FrameStackObservation):
            env.obs_queue.extend(_plain_back(frame) for frame in state["own"]["frames"])
        else:
            _set_attributes(env, state["own"])
        return
    _set_attributes(env, {key: value for key, value in state.items() if key != "mujoco"})
    if "mujoco" in state:
        _set_mujoco_state(env, state["mujoco"])


def _state_of_wrapper(env: Any) -> dict[str, Any] | None:
    if type(env) in (Guard, OrderEnforcing):
        return {}
    if type(env) is TimeLimit:
        return _attributes(env, ("_elapsed_steps",))
    if type(env) is FrameStackObservation and isinstance(env.env.observation_space, gym.spaces.Box):
        return {"frames": [_plain(frame) for frame in env.obs_queue]}
    return None


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
