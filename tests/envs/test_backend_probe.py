"""`env.backend=auto` takes `shared` only where that is measurably faster and changes no result."""

import multiprocessing
from typing import Any

import gymnasium as gym
import pytest
import small_environments  # noqa: F401 (registers environments)
from test_sync_env import HAS_MUJOCO, made

from rlkl.envs import backend_probe
from rlkl.envs.make import EnvConfig, make_training_env, make_vector_env
from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.sync_env import SyncVectorEnv

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture(autouse=True)
def gain(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the measured gain, and say that all steps are long and there are two cores."""
    gains = [2.0]
    monkeypatch.setattr(backend_probe, "_gain", lambda *_: gains[0])
    monkeypatch.setattr(backend_probe, "WORTHWHILE", 0.0)
    for name, value in (("has_another_core", True), ("usable_cores", 2)):
        monkeypatch.setattr(backend_probe, name, lambda value=value: value)
    return gains


def chosen(env_id: str, num_envs: int = 2, **more: Any) -> str:
    envs = make_training_env(EnvConfig(env_id, num_envs, **more))
    envs.close()
    return envs.backend


@pytest.mark.parametrize(
    "env_id", ["Acrobot-v1", "Taxi-v4", pytest.param("HalfCheetah-v5", marks=HAS_MUJOCO)]
)
def test_auto_is_shared_where_faster(env_id: str, gain: list[float]) -> None:
    assert chosen(env_id) == "shared"
    gain[0] = 1.1
    assert chosen(env_id) == "sync"


def test_other_backends_are_never_changed() -> None:
    assert chosen("Acrobot-v1", backend="sync") == "sync"
    assert chosen("CartPole-v1", 8) == "native"
    assert chosen("Acrobot-v1", 1) == "sync"
    envs = make_vector_env(EnvConfig("Acrobot-v1", 2))  # as for an evaluation
    assert envs.backend == "sync"
    envs.close()


class Counted(gym.Env[Any, Any]):
    """Counts how often it was made, which a second process would not see."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return self.observation_space.sample(), 0.0, False, False, {}


class Complete(Counted):
    """The same, but its state is complete."""

    made = 0
    fails = False

    def __init__(self) -> None:
        super().__init__()
        if self.fails:
            raise SystemExit(3)

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


def test_unknown_environment_is_not_made_twice() -> None:
    for kind in (Counted, Complete):
        gym.register(f"{kind.__name__}-v0", kind)
    try:
        assert chosen("Counted-v0") == "sync"
        assert Counted.made == 2
        assert chosen("Complete-v0") == "shared"
        makers = [made("Complete-v0")] * 2
        Complete.fails = True
        assert not backend_probe.is_shared_faster(gym.spec("Complete-v0"), makers)
    finally:
        Complete.fails = False
        del gym.registry["Counted-v0"], gym.registry["Complete-v0"]


def test_short_steps_and_slow_makers_stay_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_probe, "WORTHWHILE", 1e9)
    assert chosen("Acrobot-v1") == "sync"
    monkeypatch.setattr(backend_probe, "WORTHWHILE", 0.0)
    monkeypatch.setattr(backend_probe, "SECONDS_TO_MAKE", 0.0)
    assert chosen("Acrobot-v1") == "sync"


@pytest.mark.parametrize("reason", ["one core", "child process", "spawn"])
def test_no_measurement_without_free_cores(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "one core":
        monkeypatch.setattr(backend_probe, "has_another_core", lambda: False)
    elif reason == "spawn":
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    else:
        monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert chosen("Acrobot-v1") == "sync"


@pytest.mark.parametrize("speed", [0.5, 3.0])
def test_gain_is_the_median_ratio(speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    seen: list[Any] = []

    def seconds(envs: Any, steps: int) -> float:
        seen.append((type(envs), envs.num_envs, steps))
        is_first = len(seen) < 5  # a disturbance
        return 9.0 if is_first else speed if isinstance(envs, SyncVectorEnv) else 1.0

    monkeypatch.setattr(backend_probe, "_seconds", seconds)
    monkeypatch.setattr(backend_probe, "SECONDS", 0.0)
    assert backend_probe._gain([made("Acrobot-v1")] * 3, 0.002) == speed
    assert seen == [(SyncVectorEnv, 3, 5), (SharedMemoryVectorEnv, 3, 5)] * 5
    assert not multiprocessing.active_children()
