"""Numbers in infos, of every backend: those of the step, also at the end of an episode."""

import importlib.util
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from informed_tensors import InformedTensors

from rlkl.envs.infos import info_row, info_rows, tensor_info_rows
from rlkl.envs.make import EnvConfig, make_training_env
from rlkl.envs.tensor_env import TensorEnvironment

nan = np.nan
KEYS = ("speed", "is_success", "late", "text")


def test_only_single_numbers_count() -> None:
    info = {
        "a": 1, "b": True, "c": np.float32(0.5), "d": np.array([3]), "e": torch.tensor(4.0),
        "f": "5", "g": np.zeros(2), "h": None, "i": {"a": 1}, "j": torch.zeros(2),
    }  # fmt: skip
    expected = [1, 1, 0.5, 3, 4, nan, nan, nan, nan, nan, nan]
    np.testing.assert_array_equal(info_row(info, [*info, "missing"]), expected)


ENDED = np.array([False, True, True])


def test_masks_and_final_infos_of_vectors() -> None:
    infos = {
        "a": np.array([1.0, 2.0, 3.0]),
        "_a": np.array([True, True, False]),
        "b": np.array([True, False, True]),
        "c": np.array([None, "x", 2], object),
        "final_info": {"a": np.array([0, 20, 30]), "_a": np.array([False, True, False])},
    }
    keys = ("a", "b", "c", "d")
    found = info_rows(infos, keys, ENDED, 3)
    expected = [[1, 1, nan, nan], [20, nan, nan, nan], [nan, nan, nan, nan]]
    np.testing.assert_array_equal(found, expected)
    # With NEXT_STEP autoreset the infos are those of the step.
    found = info_rows(infos, keys, None, 3)
    expected = [[1, 1, nan, nan], [2, 0, nan, nan], [nan, 1, 2, nan]]
    np.testing.assert_array_equal(found, expected)


def test_final_infos_may_be_a_list() -> None:
    infos = {"a": np.array([1, 2, 3]), "final_info": [None, {"a": 20}, {"b": 1}]}
    np.testing.assert_array_equal(info_rows(infos, ("a",), ENDED, 3), [[1], [20], [nan]])


def test_odd_infos_of_vectors_are_no_numbers() -> None:
    infos = {"a": np.zeros((3, 2)), "b": np.array([[1], [2], [3]]), "c": 7, "d": "abc", "e": {}}
    found = info_rows(infos, tuple("abcde"), ENDED, 3)
    np.testing.assert_array_equal(found, [[nan, i, 7, nan, nan] for i in (1, 2, 3)])


def test_tensors_have_masks_and_final_infos() -> None:
    infos = {
        "a": torch.tensor([1.0, 2.0, 3.0]),
        "_a": torch.tensor([True, True, False]),
        "b": torch.tensor([[True], [False], [True]]),
        "c": 7,
        "d": "text",
        "e": torch.zeros(3, 2),
    }
    ended = torch.tensor(ENDED)
    found = tensor_info_rows(infos, tuple("abcdef"), ended, ended)
    expected = np.array([[1, 1, 7, *[nan] * 3], [2, 0, 7, *[nan] * 3], [nan, 1, 7, *[nan] * 3]])
    np.testing.assert_array_equal(found, expected)
    infos["final_info"] = {"a": torch.tensor([0, 20, 30])}
    found = tensor_info_rows(infos, ("a", "b"), ended, ended)
    np.testing.assert_array_equal(found, [[1, 1], [20, nan], [30, nan]])


class Informed(gym.Env[Any, Any]):
    """Episodes of 3 steps; the infos of resets have other numbers."""

    observation_space = Box(-1, 1, (1,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, "f4"), {"speed": -99.0, "late": -99.0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        info: dict[str, Any] = {"speed": 10.0 * self.steps, "text": "slow"}
        if self.steps == 2:
            info["late"] = np.float32(0.5)
        if ended := self.steps == 3:
            info["is_success"] = True
        return np.zeros(1, "f4"), 1.0, ended, False, info


gym.register("SmallInformed-v0", entry_point=Informed)
for mode in ("next", "same"):
    chosen = AutoresetMode.NEXT_STEP if mode == "next" else AutoresetMode.SAME_STEP
    gym.register(
        f"SmallInformed_{mode}-v0",
        vector_entry_point=lambda num_envs, mode=chosen: gym.vector.SyncVectorEnv(
            [Informed] * num_envs, autoreset_mode=mode
        ),
    )

EPISODE = [[10, nan, nan, nan], [20, nan, 0.5, nan], [30, 1, nan, nan]]


@pytest.mark.parametrize(
    ("env_id", "backend"),
    [
        ("SmallInformed-v0", "sync"),
        ("SmallInformed-v0", "shared"),
        ("SmallInformed-v0", "async"),
        ("SmallInformed_next-v0", "native"),
        ("SmallInformed_same-v0", "native"),
    ],
)
def test_every_backend_has_the_numbers_of_the_step(env_id: str, backend: str) -> None:
    envs = make_training_env(EnvConfig(env_id, 3, backend), "cpu", KEYS)
    with closing(envs):
        envs.reset([0, 1, 2])
        rows: list[Any] = []
        while len(rows) < 6:
            step = envs.step(np.zeros(3, np.int64))
            assert step.infos.shape == (3, 4)
            if step.is_transition.all():
                rows.append(step.infos[1])
                np.testing.assert_array_equal(step.infos[0], step.infos[2])
    np.testing.assert_array_equal(rows, EPISODE + EPISODE)


def test_nothing_is_gathered_without_keys() -> None:
    envs = make_training_env(EnvConfig("SmallInformed-v0", 2, "sync"))
    with closing(envs):
        envs.reset([0, 1])
        assert envs.step(np.zeros(2, np.int64)).infos is None


@pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="needs the extra envpool")
def test_envpool_has_its_numbers() -> None:
    config = EnvConfig("Pendulum-v1", 2, "envpool", kwargs={"max_episode_steps": 2})
    with closing(make_training_env(config, "cpu", ("elapsed_step", "speed"))) as envs:
        envs.reset([0, 1])
        rows = [envs.step(np.zeros((2, 1), "f4")).infos for _ in range(2)]
    np.testing.assert_array_equal(rows, [[[1, nan]] * 2, [[2, nan]] * 2])


@pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="needs the extra atari")
def test_atari_has_its_numbers() -> None:
    config = EnvConfig("ALE/Breakout-v5", 2, "ale", kwargs={"noop_max": 0})
    with closing(make_training_env(config, "cpu", ("lives",))) as envs:
        envs.reset([0, 1])
        assert envs.step(np.zeros(2, np.int64)).infos.tolist() == [[5.0], [5.0]]


def test_tensors_have_the_numbers_of_the_step() -> None:
    envs = TensorEnvironment(InformedTensors(), info_keys=KEYS[:2])
    envs.reset([0, 1])
    rows = []
    for _ in range(4):
        step = envs.step(torch.zeros(2, dtype=torch.int64))
        assert step.infos is not None
        rows.append(step.infos[0].tolist())
    np.testing.assert_array_equal(rows, [[10, nan], [20, nan], [30, 1], [10, nan]])
