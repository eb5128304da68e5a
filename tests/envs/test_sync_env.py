"""SyncVectorEnv gives bit-for-bit the results of Gymnasium's."""

import importlib.util
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation
from small_environments import Counter

from rlkl.envs.checks import EnvChecker
from rlkl.envs.spaces import FLAT
from rlkl.envs.sync_env import SyncVectorEnv

HAS_MUJOCO = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="needs the extra mujoco"
)


class Odd(gym.Space[Any]):
    """A user's space, unknown to Gymnasium."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return ("odd", int(self.np_random.integers(9)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Odd()"  # for test names that are equal in all processes


class Sampled(gym.Env[Any, Any]):
    """Observes samples of a space, has masks at times, and records its calls."""

    def __init__(self, shows: gym.Space[Any], takes: gym.Space[Any] | None = None) -> None:
        self.observation_space = shows
        self.action_space = Discrete(2) if takes is None else takes
        self.calls: list[Any] = []

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        gives_mask = self.np_random.random() < 0.5
        mask = self.np_random.integers(0, 2, 3, np.int8)
        return self.observation_space.sample(), {"action_mask": mask} if gives_mask else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.calls.append(("reset", seed, options))
        return self._shown()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.calls.append(action)
        is_over, is_cut = self.np_random.random(2) < 0.1
        return self._shown()[0], self.np_random.normal(), is_over, is_cut, self._shown()[1]


def made(env_id: str, frames: int = 1, **kwargs: Any) -> Callable[[], gym.Env[Any, Any]]:
    """Return a maker of sub-environments as for `env.backend=sync`."""

    def make() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = EnvChecker(gym.make(env_id, disable_env_checker=True, **kwargs))
        return FrameStackObservation(env, frames) if frames > 1 else env

    return make


def assert_same(found: Any, expected: Any) -> None:
    """Compare nested observations or actions, including types and bits."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        expected, found = tuple(expected.values()), tuple(found.values())
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for part, other in zip(found, expected, strict=True):
            assert_same(part, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
    else:
        assert found == expected


def assert_infos_same(found: dict[str, Any], expected: dict[str, Any], ended: Any) -> None:
    """Compare final observations and masks."""
    assert ("final_obs" in found) == ("final_obs" in expected) == ended.any()
    for i in np.flatnonzero(ended):
        assert_same(found["final_obs"][i], expected["final_obs"][i])
    assert ("action_mask" in found) == ("action_mask" in expected)
    if "action_mask" in expected:
        assert_same(found["_action_mask"], expected["_action_mask"])
        for i in np.flatnonzero(expected["_action_mask"]):
            assert_same(found["action_mask"][i], expected["action_mask"][i])


def assert_episodes_same(
    found: Any, expected: Any, steps: int, dtype: Any = None, pause: float = 0.0
) -> int:
    """Compare two vector environments; return the number of episodes that ended."""
    expected.action_space.seed(0)
    ends = 0
    for start in (5, 11):
        seed = list(range(start, start + expected.num_envs))
        first, infos = found.reset(seed=seed, options={"a": 1})
        other, other_infos = expected.reset(seed=seed, options={"a": 1})
        assert_same(first, other)
        assert_infos_same(infos, other_infos, np.zeros(expected.num_envs, np.bool_))
        kept = []
        for _ in range(steps):
            actions = expected.action_space.sample()
            actions = actions if dtype is None else actions.astype(dtype)
            kept.append((found.step(actions), expected.step(actions)))
            time.sleep(pause)
        # Compare after all steps: no step may change earlier results.
        for step, other_step in kept:
            for part, other_part in zip(step[:4], other_step[:4], strict=True):
                assert_same(part, other_part)
            ended = step[2] | step[3]
            assert_infos_same(step[4], other_step[4], ended)
            ends += ended.sum()
    return ends


def assert_gym_equal(
    make: Callable[[], gym.Env[Any, Any]], steps: int, ends: int, num_envs: int = 3
) -> tuple[SyncVectorEnv, gym.vector.SyncVectorEnv]:
    makers, mode = [make] * num_envs, AutoresetMode.SAME_STEP
    found, expected = SyncVectorEnv(makers), gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    for name in ("num_envs", "single_observation_space", "single_action_space", "action_space",
                 "observation_space", "render_mode", "metadata"):  # fmt: skip
        assert getattr(found, name) == getattr(expected, name)
    assert assert_episodes_same(found, expected, steps) >= ends
    return found, expected


@pytest.mark.parametrize(
    ("make", "steps", "ends"),
    [
        (made("CartPole-v1"), 300, 20),
        (made("CartPole-v1", max_episode_steps=7), 100, 60),
        (made("CartPole-v1", frames=3), 150, 10),
        (made("Pendulum-v1", max_episode_steps=40), 200, 20),
        (made("Taxi-v4", max_episode_steps=50), 200, 20),
        (made("FrozenLake-v1"), 300, 20),
        (made("Blackjack-v1"), 100, 100),
        (partial(Counter, "vector", "info"), 200, 100),
        (partial(Counter, "dict", "info"), 200, 100),
        (lambda: EnvChecker(Counter("image", "method")), 200, 100),
        pytest.param(
            made("HalfCheetah-v5", max_episode_steps=60), 200, 15, marks=HAS_MUJOCO, id="cheetah"
        ),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_episodes_equal_gymnasium(
    make: Callable[[], gym.Env[Any, Any]], steps: int, ends: int, num_envs: int
) -> None:
    assert_gym_equal(make, steps, ends // 3 if num_envs == 1 else ends, num_envs)


SPACES: list[gym.Space[Any]] = [
    Box(-1, 1, (2, 3), np.float64),
    Box(-1, 1, ()),
    Box(0, 255, (4, 3), np.uint8),
    Discrete(4, start=-2),
    MultiDiscrete(np.array([[2, 3], [4, 5]])),
    MultiBinary([2, 2]),
    Dict(a=Box(-1, 1, (2,)), b=Dict(c=Discrete(3), d=Text(4))),
    Tuple([Discrete(3), Tuple([MultiBinary(2)]), Dict(e=Box(-1, 1, (1,)))]),
    Text(5),
    Sequence(Discrete(4)),
    OneOf([Discrete(3), Text(3)]),
    Dict(odd=Odd(), number=Discrete(2)),
    Odd(),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_observations_are_batched_like_gymnasium(space: gym.Space[Any]) -> None:
    assert_gym_equal(lambda: Sampled(deepcopy(space)), 60, 30)


@pytest.mark.parametrize("space", [s for s in SPACES if isinstance(s, FLAT)], ids=str)
def test_actions_of_all_spaces_reach_their_environment(space: gym.Space[Any]) -> None:
    found, expected = assert_gym_equal(lambda: Sampled(Discrete(2), deepcopy(space)), 30, 15)
    for env, other in zip(found.envs, expected.envs, strict=True):
        assert len(env.calls) > 60
        assert_same(tuple(env.calls), tuple(other.calls))


class Reusing(gym.Env[Any, Any]):
    """Returns the same arrays for all observations and masks; episodes have 3 steps."""

    observation_space = Dict(a=Box(-9, 9, (2,)))
    action_space = Discrete(2)
    shown, mask = np.zeros(2, np.float32), np.ones(2, np.int8)
    number = 7

    def _show(self, number: int) -> tuple[Any, dict[str, Any]]:
        self.t = number
        self.shown[:] = self.number, number
        self.mask[:] = self.number, 1
        return {"a": self.shown}, {"action_mask": self.mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.number = self.number if seed is None else seed
        return self._show(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, info = self._show(self.t + 1)
        return observation, 0.0, self.t == 3, False, info


def test_reused_arrays_are_copied() -> None:
    # All sub-environments share their arrays; a first observation overwrites the last one.
    envs = SyncVectorEnv([Reusing] * 2)
    first, _ = envs.reset(seed=[0, 1])
    steps = [envs.step(np.zeros(2, np.int64)) for _ in range(3)]
    assert first["a"].tolist() == [[0, 0], [1, 0]]
    assert [step[0]["a"][:, 1].tolist() for step in steps] == [[1, 1], [2, 2], [0, 0]]
    finals = [observation["a"].tolist() for observation in steps[2][4]["final_obs"]]
    assert finals == [[0, 3], [1, 3]]
    assert [mask.tolist() for mask in steps[0][4]["action_mask"]] == [[0, 1], [1, 1]]


def test_steps_do_not_change_earlier_results() -> None:
    envs = SyncVectorEnv([made("Pendulum-v1", max_episode_steps=2)] * 2)
    envs.reset(seed=[1, 2])
    steps = [envs.step(np.ones((2, 1), np.float32)) for _ in range(4)]
    for part in range(4):
        arrays = [step[part] for step in steps]
        assert not any(np.shares_memory(a, b) for a, b in pairwise(arrays))
    assert [step[3].tolist() for step in steps] == [[False] * 2, [True] * 2] * 2


def test_close_reaches_sub_environments() -> None:
    closed: list[Any] = []

    class Closing(Reusing):
        def close(self) -> None:
            closed.append(self)

    envs = SyncVectorEnv([Closing] * 2)
    assert not envs.closed
    envs.close()
    assert closed == envs.envs
    assert envs.closed


def test_failed_construction_closes_the_others() -> None:
    closed: list[Any] = []

    class Closing(Reusing):
        def close(self) -> None:
            closed.append(self)

    def broken() -> Any:
        raise ValueError("no place")

    with pytest.raises(ValueError, match="no place"):
        SyncVectorEnv([Closing, broken])
    assert len(closed) == 1


def test_different_spaces_are_refused() -> None:
    two, three = Discrete(2), Discrete(3)
    for spaces in ([(two, two), (three, two)], [(two, two), (two, three)]):
        with pytest.raises(RuntimeError, match=r"differ in .*: Discrete\(3\) is not Discrete\(2\)"):
            SyncVectorEnv([partial(Sampled, *pair) for pair in spaces])


def test_wrong_numbers_of_seeds_or_actions_are_refused() -> None:
    envs = SyncVectorEnv([made("CartPole-v1")] * 2)
    for seeds in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match="zip"):
            envs.reset(seed=seeds)
    envs.reset()
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            envs.step(np.zeros(count, np.int64))


def test_non_numeric_rewards_are_refused() -> None:
    class Rewarding(Reusing):
        reward: Any = "much"

        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, self.reward, *rest

    env = Rewarding()
    envs = SyncVectorEnv([lambda: env])
    envs.reset(seed=[0])
    with pytest.raises(ValueError, match="much"):
        envs.step(np.zeros(1, np.int64))
    env.reward = np.array(2)
    assert envs.step(np.zeros(1, np.int64))[1].tolist() == [2.0]
