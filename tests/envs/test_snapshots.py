"""Environments in a restored state give the same steps; unsupported ones have no state."""

import enum
import io
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments  # noqa: F401 (registers environments)
import torch
from gymnasium.envs.classic_control import PendulumEnv

from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.errors import BrokenEnvironmentError

KNOWN = [
    "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1",
    "FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1",
    "rlkl.tasks:rlkl/HiddenVelocityCartPole-v1", "rlkl.tasks:rlkl/Recall-v0",
    "rlkl.tasks:rlkl/PoleCartPole-v1",
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
    if (name, version) != ("Pusher", 4)  # its model needs an older MuJoCo
]


def made(env_id: str, seeds: list[int], **more: Any) -> VectorEnvironment:
    envs = make_vector_env(EnvConfig(env_id, len(seeds), **more))
    envs.reset(seeds)
    return envs


def steps_of(envs: VectorEnvironment, steps: int, seed: int) -> list[Any]:
    """Return all results of some steps."""
    envs.action_space.seed(seed)
    seen: list[Any] = []
    for _ in range(steps):
        actions = np.stack([envs.action_space.sample() for _ in range(envs.num_envs)])
        step = envs.step(actions)
        seen += [*step.observations.values(), *step.final_observations.values()]
        seen += [step.rewards, step.terminated, step.truncated, step.is_transition, step.begins]
    return seen


def assert_same_steps(original: VectorEnvironment, restored: VectorEnvironment, steps: int) -> None:
    first, second = steps_of(original, steps, 7), steps_of(restored, steps, 7)
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
    steps_of(original, 39, 5)  # with a limit of 9 all have just ended
    state = through_a_file(original.state())
    restored = made(env_id, [8, 9, 10], **more)
    steps_of(restored, 11, 6)
    restored.set_state(state)
    assert_same_steps(original, restored, steps)
    original.close()
    restored.close()


@pytest.mark.parametrize("env_id", KNOWN)
def test_restored_environment_gives_the_same_steps(env_id: str) -> None:
    check(env_id, backend="sync")


@pytest.mark.parametrize("env_id", ROBOTS)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_mujoco_is_restored(env_id: str) -> None:
    pytest.importorskip("mujoco")
    check(env_id)


def test_native_cartpole_and_frame_stack_are_restored() -> None:
    check("CartPole-v1", backend="native")
    check("CartPole-v1", backend="native", kwargs={"max_episode_steps": 9})
    check("Pendulum-v1", frame_stack=3)


def test_simple_wrappers_are_restored() -> None:
    rescale = {"RescaleAction": {"min_action": -1, "max_action": 1}}
    limit = {"TimeLimit": {"max_episode_steps": 9}}
    check("Pendulum-v1", wrappers=[rescale, limit, "TimeAwareObservation", "FlattenObservation"])
    check("CartPole-v1", backend="sync", wrappers=["RecordEpisodeStatistics", limit])


def test_time_limit_is_restored() -> None:
    original = made("Pendulum-v1", [1])
    steps_of(original, 150, 5)
    state = original.state()
    assert state is not None
    restored = made("Pendulum-v1", [2])
    restored.set_state(state)
    ends = [restored.step(np.zeros((1, 1), np.float32)).truncated[0] for _ in range(60)]
    assert ends.index(True) == 49  # step 200


class AnotherPendulum(PendulumEnv):
    """A subclass, which may have more state."""


def test_unknown_environments_have_no_state() -> None:
    gym.register("AnotherPendulum-v0", AnotherPendulum, max_episode_steps=200)
    sticky = gym.wrappers.StickyAction
    gym.register("WrappedPendulum-v0", lambda: sticky(gym.make("Pendulum-v1"), 0.5))
    try:
        for env_id in ("AnotherPendulum-v0", "WrappedPendulum-v0", "SmallCounter-v0"):
            envs = made(env_id, [1], backend="sync")
            assert envs.state() is None
            envs.close()
    finally:
        del gym.registry["AnotherPendulum-v0"], gym.registry["WrappedPendulum-v0"]
    envs = made("CartPole-v1", [1, 2], backend="async")
    assert envs.state() is None
    envs.close()


class Saved(gym.Env[Any, Any]):
    """A random walk with state of many types, which it returns except its generator."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.place = np.zeros((1, 2), np.float32)
        self.speed = np.float32(self.np_random.random())
        self.count = np.array(0)
        self.memory: dict[Any, Any] = {0: [], "last": (None, 0.5)}
        self.weight = torch.zeros(2)
        return self._look(), {}

    def _look(self) -> Any:
        last = self.memory["last"][1]
        sums = [*self.place[0], self.speed, self.count, len(self.memory[0]) + last, self.weight[0]]
        return np.array(sums, np.float32)

    def step(self, action: Any) -> Any:
        self.speed = self.speed * np.float32(0.9) + np.float32(self.np_random.normal())
        self.place[0, action] += self.speed
        self.count[...] += 1
        self.weight[0] += float(self.speed) ** 2
        self.memory = {0: [*self.memory[0], int(action)], "last": (int(action), float(self.speed))}
        ended = bool(self.np_random.random() < 0.05)
        return self._look(), float(self.place.sum()), ended, False, {}

    def get_state(self) -> Any:
        names = ("place", "speed", "count", "memory", "weight")
        return {name: getattr(self, name) for name in names}

    def set_state(self, state: Any) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Fading(gym.Wrapper[Any, Any, Any, Any]):
    """Divides the reward by the number of all steps so far."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) / self.steps, *rest


class SavedFading(Fading):
    def get_state(self) -> int:
        return self.steps

    def set_state(self, state: int) -> None:
        self.steps = state


class OldGenerator(Saved):
    """Uses another kind of generator, which is part of its state."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if seed is not None:
            self.np_random = np.random.RandomState(seed)  # type: ignore[assignment]
        return super().reset()

    def get_state(self) -> Any:
        return super().get_state() | {"generator": self.np_random.get_state()}  # type: ignore[attr-defined]

    def set_state(self, state: Any) -> None:
        self.np_random.set_state(state.pop("generator"))  # type: ignore[attr-defined]
        super().set_state(state)


class OnlySetState(Saved):
    get_state = None  # type: ignore[assignment]


class OtherSetState(Saved):
    def set_state(self, positions: Any, velocities: Any) -> None:  # type: ignore[override]
        pass


class OtherGetState(Saved):
    def get_state(self, of: Any) -> Any:  # type: ignore[override]
        return super().get_state()


@pytest.fixture
def registered() -> Iterator[None]:
    made = {
        "Saved": Saved,
        "SavedFading": lambda: SavedFading(Saved()),
        "HiddenFading": lambda: Fading(Saved()),
        "OldGenerator": OldGenerator,
        "OnlySetState": OnlySetState,
        "OtherSetState": OtherSetState,
        "OtherGetState": OtherGetState,
        "FadingPendulum": lambda: SavedFading(gym.make("Pendulum-v1", disable_env_checker=True)),
    }
    for name, maker in made.items():
        gym.register(f"{name}-v0", maker, max_episode_steps=60)
    yield
    for name in made:
        del gym.registry[f"{name}-v0"]


@pytest.mark.usefixtures("registered")
def test_user_environments_with_state_are_restored() -> None:
    for env_id in ("Saved-v0", "SavedFading-v0", "OldGenerator-v0", "FadingPendulum-v0"):
        check(env_id)
    check("SavedFading-v0", frame_stack=2)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("env_id", ["Taxi-v4", "Saved-v0", "SavedFading-v0"])
def test_sync_and_shared_restore_each_others_state(env_id: str) -> None:
    for saves, restores in (("sync", "shared"), ("shared", "sync")):
        original = made(env_id, [1, 2, 3], backend=saves)
        steps_of(original, 70, 3)  # into the second episode
        state = through_a_file(original.state())
        restored = made(env_id, [4, 5, 6], backend=restores)
        steps_of(restored, 5, 4)
        restored.set_state(state)
        assert str(restored.state()) == str(state)
        assert_same_steps(original, restored, 130)
        for envs in (original, restored):
            envs.close()


@pytest.mark.usefixtures("registered")
def test_state_of_a_dead_worker_is_none() -> None:
    envs = made("Saved-v0", [1, 2], backend="shared")
    (worker,) = envs._envs.processes
    worker.kill()
    worker.join()
    assert envs.state() is None
    with pytest.raises(BrokenEnvironmentError, match="step failed: the process of a sub-env"):
        envs.step(np.zeros(2, np.int64))
    assert envs.state() is None


@pytest.mark.usefixtures("registered")
def test_user_state_keeps_types_and_is_copied() -> None:
    original, restored = made("Saved-v0", [1]), made("Saved-v0", [2])
    steps_of(original, 9, 3)
    state = original.state()
    restored.set_state(through_a_file(state))
    first, second = (envs._envs.envs[0].unwrapped for envs in (original, restored))
    ours, theirs = first.get_state(), second.get_state()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert type(value) is type(theirs[name])
        assert str(value) == str(theirs[name])
    assert theirs["count"].shape == ()
    assert theirs["place"].dtype == np.float32
    theirs_weight = float(theirs["weight"][0])
    # Further steps of either environment do not change a saved state.
    steps_of(original, 5, 3)
    restored.set_state(state)
    steps_of(restored, 5, 3)
    restored.set_state(state)
    assert second.get_state()["count"] == theirs["count"] == 9
    assert second.get_state()["weight"][0] == theirs_weight


@pytest.mark.usefixtures("registered")
def test_wrapper_without_state_makes_none() -> None:
    for name in ("HiddenFading", "OnlySetState", "OtherSetState", "OtherGetState"):
        envs = made(f"{name}-v0", [1])
        assert envs.state() is None, name
        envs.close()
    envs = made("HiddenFading-v0", [1, 2], backend="shared")
    assert envs.state() is None
    envs.close()


class Colour(enum.IntEnum):
    RED = 1


class Settings(dict[str, int]):
    pass


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ({"seen": [1, {2}]}, r"an object of builtins\.set at \['seen'\]\[1\]; expected numbers"),
        (np.array([object()]), "an array of object; expected"),
        ((1, np.str_("x")), r"an array of <U1 at \[1\]; expected"),
        (np.ma.array([1]), r"numpy\.ma\.\S*MaskedArray; expected"),
        (Colour.RED, r"Colour; expected"),
        (Settings(a=1), r"Settings; expected"),
        ({Colour.RED: 1}, r"builtins\.dict; expected"),
        (np.random.default_rng(0), r"numpy\.random\._generator\.Generator; expected"),
        (ITSELF, "failed: RecursionError"),
    ],
)
def test_unsupported_state_types_are_named(
    returned: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = made("Saved-v0", [1])
    monkeypatch.setattr(Saved, "get_state", lambda self: returned)
    start = r"^env\.id=Saved-v0: get_state\(\) of Saved .*"
    with pytest.raises(BrokenEnvironmentError, match=start + words) as error:
        envs.state()
    assert "\n" not in str(error.value)
    envs.close()


@pytest.mark.usefixtures("registered")
def test_failing_state_methods_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Saved, *state: Any) -> Any:
        raise KeyError("lost\nkey")

    envs = made("Saved-v0", [1])
    state = envs.state()
    assert state is not None
    monkeypatch.setattr(Saved, "set_state", fails)
    with pytest.raises(BrokenEnvironmentError, match=r"set_state\(\) of Saved failed.*KeyError"):
        envs.set_state(state)
    monkeypatch.setattr(Saved, "get_state", fails)
    with pytest.raises(BrokenEnvironmentError, match=r"get_state\(\) of Saved failed: KeyError"):
        envs.state()
    envs.close()
