"""EnvChecker passes declared data, and names undeclared data in an exception."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from rlkl.envs.checks import EnvChecker
from rlkl.utils.errors import BrokenEnvironmentError


class Given(gym.Env[Any, Any]):
    """Observes what it is given."""

    action_space = Discrete(2)

    def __init__(self, space: gym.Space[Any], first: Any, then: Any) -> None:
        self.observation_space, self.first, self.then = space, first, then
        self.options: Any = None

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.options = (seed, options)
        return self.first, {"a": 1}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.then, action, False, True, {"b": 2}


class Masked(Given):
    """Has a method that returns another mask at each call."""

    calls = 0

    def action_masks(self) -> Any:
        self.calls += 1
        return [[True, False], (np.ones(2), np.zeros(3)), np.array([False, True])][self.calls - 1]


GOOD = np.zeros(2, np.float32)


def test_declared_data_passes_unchanged() -> None:
    env = Given(Box(-1, 1, (2,)), GOOD, GOOD)
    checker = EnvChecker(env)
    observation, info = checker.reset(seed=3, options={"x": 1})
    assert observation is GOOD
    assert info == {"a": 1}
    assert env.options == (3, {"x": 1})
    assert checker.step(7) == (GOOD, 7, False, True, {"b": 2})


@pytest.mark.parametrize(
    ("space", "bad", "words"),
    [
        (Box(-1, 1, (2,)), np.zeros(1, np.float32), r"shape \(1,\) and type float32"),
        (Box(-1, 1, (2,)), np.zeros((1, 2), np.float32), r"shape \(1, 2\)"),
        (Box(-1, 1, (2,)), np.zeros(2, np.complex128), "type complex128"),
        (Box(-1, 1, (2,)), None, "type object"),
        (Box(0, 255, (2,), np.uint8), np.zeros(2, np.float32), "type float32"),
        (Discrete(3), 1.5, "type float64"),
        (Discrete(3), np.array([1]), r"shape \(1,\)"),
        (MultiDiscrete([2, 2]), np.array([1]), r"shape \(1,\)"),
        (MultiBinary(2), np.array([1, 0, 0], np.int8), r"shape \(3,\)"),
        (Dict(a=Tuple([Box(-1, 1, (2,))])), {"a": (np.zeros(3, np.float32),)}, "of 'a/0' has"),
        (Dict(a=Discrete(2), b=Discrete(2)), {"a": 1}, "KeyError: 'b'"),
    ],
)
def test_undeclared_observations_are_refused(space: gym.Space[Any], bad: Any, words: str) -> None:
    with pytest.raises(BrokenEnvironmentError, match=words):
        EnvChecker(Given(space, bad, space.sample())).reset()
    checker = EnvChecker(Given(space, space.sample(), bad))
    checker.reset()
    with pytest.raises(BrokenEnvironmentError, match=words):
        checker.step(0)


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (Box(-1, 1, (2,)), [0.5, 1]),
        (Box(-1, 1, (2,), np.float32), np.zeros(2, np.float64)),
        (Box(-9, 9, (), np.float32), 3),
        (Discrete(3), np.uint8(2)),
        (Tuple([Discrete(2), Text(5)]), (True, "texts are not checked" * 9)),
    ],
)
def test_castable_types_pass(space: gym.Space[Any], observation: Any) -> None:
    checker = EnvChecker(Given(space, observation, observation))
    assert checker.reset()[0] is observation
    assert checker.step(0)[0] is observation


def test_accepted_type_does_not_admit_others() -> None:
    env = Given(Box(-1, 1, (2,)), GOOD, GOOD.astype(np.float64))
    checker = EnvChecker(env)
    checker.reset()
    for dtype in (np.float64, np.float32, np.int8):
        env.then = GOOD.astype(dtype)
        for _ in range(2):
            assert checker.step(0)[0] is env.then
    env.then = GOOD.astype(np.complex64)
    for _ in range(2):
        with pytest.raises(BrokenEnvironmentError, match="type complex64"):
            checker.step(0)
    env.then = np.zeros(3, np.int8)
    with pytest.raises(BrokenEnvironmentError, match=r"shape \(3,\) and type int8"):
        checker.step(0)


def test_mask_method_is_called_after_each_step() -> None:
    checker = EnvChecker(Masked(Box(-1, 1, (2,)), GOOD, GOOD))
    assert checker.reset()[1] == {"a": 1, "action_mask": [True, False]}
    # The masks of several dimensions may differ in length.
    first, second = checker.step(0)[4]["action_mask"]
    assert (first.tolist(), second.tolist()) == ([1, 1], [0, 0, 0])
    assert checker.step(0)[4]["action_mask"].tolist() == [False, True]


def test_mask_method_behind_wrapper_is_found() -> None:
    wrapped = gym.wrappers.TimeLimit(Masked(Box(-1, 1, (2,)), GOOD, GOOD), 5)
    assert EnvChecker(wrapped).reset()[1]["action_mask"] == [True, False]


@pytest.mark.parametrize("error", [ValueError("two\nlines"), KeyError("x"), AssertionError()])
def test_exceptions_become_one_line_with_cause(error: Exception) -> None:
    class Raising(Given):
        def step(self, action: Any) -> Any:
            raise error

    checker = EnvChecker(Raising(Box(-1, 1, (2,)), GOOD, GOOD))
    checker.reset()
    with pytest.raises(BrokenEnvironmentError) as caught:
        checker.step(0)
    assert str(caught.value).startswith(f"{type(error).__name__}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_keyboard_interrupt_passes() -> None:
    class Interrupted(Given):
        def step(self, action: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EnvChecker(Interrupted(Box(-1, 1, (2,)), GOOD, GOOD)).step(0)


class Result(gym.Env[Any, Any]):
    """Returns given results from reset and step."""

    observation_space, action_space = Box(-9, 9, (2,)), Discrete(2)

    def __init__(self, reset: Any = None, step: Any = None) -> None:
        self.results = reset, step

    def reset(self, **given: Any) -> Any:
        return self.results[0]

    def step(self, action: Any) -> Any:
        return self.results[1]


SHOWN = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("reward", "end"),
    [
        (0.5, True),
        (np.float32(0.5), np.True_),
        (np.array([0.5]), np.array([True])),
        (np.array(0.5), np.int64(1)),
        (np.array([[0.5]], np.float32), 1),
    ],
)
def test_arrays_of_one_number_become_numbers(reward: Any, end: Any) -> None:
    found = EnvChecker(Result(step=(SHOWN, reward, end, False, {}))).step(0)
    assert found[1:4] == (0.5, True, False)
    assert [
        isinstance(part, kind) for part, kind in zip(found[1:4], (float, bool, bool), strict=True)
    ]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ((SHOWN, "1.0", False, False, {}), "the reward is '1.0'; expected a number"),
        ((SHOWN, np.zeros(2), False, False, {}), r"the reward is array.* of shape \(2,\)"),
        ((SHOWN, None, False, False, {}), "the reward is None"),
        ((SHOWN, 1.0, "False", False, {}), "terminated is 'False'; expected True or False"),
        ((SHOWN, 1.0, False, None, {}), "truncated is None; expected True or False"),
        ((SHOWN, 1.0, False, np.zeros(2, bool), {}), "truncated is array"),
        ((SHOWN, 1.0, 0.5, False, {}), "terminated is 0.5"),
        ((SHOWN, 1.0, False, False, None), "the info is None; expected a dict"),
        ((SHOWN, 1.0, False, {}), "it returned 4 values; expected 5: .* old Gym has 4"),
    ],
)
def test_wrong_step_results_are_named(step: Any, words: str) -> None:
    with pytest.raises(BrokenEnvironmentError, match=words):
        EnvChecker(Result(step=step)).step(0)


@pytest.mark.parametrize(
    ("reset", "words"),
    [
        (SHOWN, "old Gym returns only the observation"),
        ((SHOWN, None), "the info is None; expected a dict"),
    ],
)
def test_wrong_reset_results_are_named(reset: Any, words: str) -> None:
    with pytest.raises(BrokenEnvironmentError, match=words):
        EnvChecker(Result(reset=reset)).reset()


def test_copied_observations_do_not_change() -> None:
    shown = {"a": np.zeros(2, np.float32), "b": (np.ones(1, np.float32), "text")}
    space = Dict(a=Box(-9, 9, (2,)), b=Tuple((Box(-9, 9, (1,)), Text(4))))
    checker = EnvChecker(Given(space, shown, shown), copy_observations=True)
    first, then = checker.reset()[0], checker.step(0)[0]
    shown["a"][:] = 7
    shown["b"][0][:] = 7
    for kept in (first, then):
        assert (kept["a"].tolist(), kept["b"][0].tolist(), kept["b"][1]) == ([0, 0], [1], "text")


def test_masks_come_from_attributes_and_plural_infos() -> None:
    class Attribute(Given):
        @property
        def action_masks(self) -> Any:
            return [True, False]

    checker = EnvChecker(Attribute(Discrete(3), 0, 1))
    assert checker.reset()[1]["action_mask"] == checker.step(0)[4]["action_mask"] == [True, False]
    plural = Result(
        (SHOWN, {"action_masks": [1, 0]}), (SHOWN, 0.0, False, False, {"action_masks": [0, 1]})
    )
    checker = EnvChecker(plural)
    assert (checker.reset()[1]["action_mask"], checker.step(0)[4]["action_mask"]) == (
        [1, 0],
        [0, 1],
    )
