"""A copy put into the state of another lives the same life; what is unknown has no state."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments  # registers its environments
import torch

from rlkl.envs import EnvConfig, make_vector_env
from rlkl.vector_environment import VectorEnvironment

KNOWN = [
    "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1",
    "FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1",
]  # fmt: skip
MUJOCO = [
    "HalfCheetah", "Ant", "Hopper", "Walker2d", "Humanoid", "HumanoidStandup", "Swimmer", "Reacher",
    "Pusher", "InvertedPendulum", "InvertedDoublePendulum",
]  # fmt: skip
ROBOTS = [
    pytest.param(
        f"{name}-v{version}",
        marks=() if name in ("HalfCheetah", "Ant") and version == 5 else pytest.mark.slow,
    )
    for name in MUJOCO
    for version in (4, 5)
    if (name, version) != ("Pusher", 4)  # its model wants an older MuJoCo
]


assert small_environments


def made(env_id: str, seeds: list[int], **more: Any) -> VectorEnvironment:
    envs = make_vector_env(EnvConfig(env_id, len(seeds), **more))
    envs.reset(seeds)
    return envs


def life(envs: VectorEnvironment, steps: int, seed: int) -> list[Any]:
    """Return all that is seen of some steps."""
    envs.action_space.seed(seed)
    seen: list[Any] = []
    for _ in range(steps):
        actions = np.stack([envs.action_space.sample() for _ in range(envs.num_envs)])
        step = envs.step(actions)
        seen += [*step.observations.values(), *step.final_observations.values()]
        seen += [step.rewards, step.terminated, step.truncated, step.is_transition, step.begins]
    return seen


def assert_same_life(original: VectorEnvironment, restored: VectorEnvironment, steps: int) -> None:
    first, second = life(original, steps, 7), life(restored, steps, 7)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def check(env_id: str, steps: int = 300, **more: Any) -> None:
    original = made(env_id, [1, 2, 3], **more)
    life(original, 39, 5)  # with a limit of 9 the step in which all have just ended
    state = through_a_file(original.state())
    restored = made(env_id, [8, 9, 10], **more)
    life(restored, 11, 6)
    restored.set_state(state)
    assert_same_life(original, restored, steps)
    original.close()
    restored.close()


@pytest.mark.parametrize("env_id", KNOWN)
def test_a_copy_in_the_state_of_another_lives_the_same_life(env_id: str) -> None:
    check(env_id, backend="sync")


@pytest.mark.parametrize("env_id", ROBOTS)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_so_does_a_robot(env_id: str) -> None:
    pytest.importorskip("mujoco")
    check(env_id)


def test_so_does_the_vectorised_cartpole_and_a_stack_of_frames() -> None:
    check("CartPole-v1", backend="native")
    check("CartPole-v1", backend="native", kwargs={"max_episode_steps": 9})
    check("Pendulum-v1", frame_stack=3)


def test_a_time_limit_is_kept() -> None:
    original = made("Pendulum-v1", [1])
    life(original, 150, 5)
    state = original.state()
    assert state is not None
    restored = made("Pendulum-v1", [2])
    restored.set_state(state)
    ends = [restored.step(np.zeros((1, 1), np.float32)).truncated[0] for _ in range(60)]
    assert ends.index(True) == 49  # the two hundredth step


class AnotherPendulum(gym.envs.classic_control.PendulumEnv):
    """Gymnasium's own but for its class: nobody knows what else it keeps."""


def test_what_is_not_known_has_no_state() -> None:
    gym.register("AnotherPendulum-v0", AnotherPendulum, max_episode_steps=200)
    gym.register("WrappedPendulum-v0", lambda: gym.wrappers.ClipAction(gym.make("Pendulum-v1")))
    try:
        for env_id in ("AnotherPendulum-v0", "WrappedPendulum-v0", "SmallCounter-v0"):
            envs = made(env_id, [1], backend="sync")
            assert envs.state() is None
            envs.close()
    finally:
        del gym.registry["AnotherPendulum-v0"], gym.registry["WrappedPendulum-v0"]
    for backend in ("async", "shared"):
        envs = made("CartPole-v1", [1, 2], backend=backend)
        assert envs.state() is None
        envs.close()
