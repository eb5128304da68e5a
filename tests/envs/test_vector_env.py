"""All backends give the same episodes through the same interface."""

from itertools import islice, pairwise, product
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from small_environments import Moment, moments

from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import ACTION_MASK, VECTOR, Observations
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

pytestmark = pytest.mark.usefixtures("two_cores", "no_hang")
BACKENDS = ("sync", "shared", "async", "native")


class Transition(NamedTuple):
    before: Moment
    reward: float
    ending: tuple[bool, bool]
    after: Moment


def moment_of(observations: Observations, row: int, shows: str) -> Moment:
    """Return the moment of a sub-environment; all parts of its observation must agree."""
    found = []
    if shows in ("vector", "dict"):
        *code, number, episode, t = observations[VECTOR][row].tolist()
        assert code == ([float(k == number) for k in range(3)] if shows == "dict" else [])
        found.append(Moment(int(number), int(episode), int(t)))
    if shows in ("image", "dict"):
        image = observations["image" if shows == "image" else "image/view"][row]
        assert image.shape == (1, 3, 2)
        assert image.dtype == np.uint8
        assert not image[0, :, 0].any()
        found.append(Moment(*image[0, :, 1].tolist()))
    assert set(found) == {found[0]}
    return found[0]


def small(backend: str, shows: str = "vector", masks: str = "none", **more: Any) -> EnvConfig:
    keys = ["where", "what", "view"] if shows == "dict" else []
    env_id = "SmallNative-v0" if backend == "native" else "SmallCounter-v0"
    kwargs = {"shows": shows, "masks": masks}
    return EnvConfig(env_id, 3, backend, observation_keys=keys, kwargs=kwargs, **more)


def run(
    envs: VectorEnvironment, shows: str, masks: str, steps: int
) -> tuple[list[list[Transition]], int]:
    """Step three sub-environments; return the transitions of each, and the number of autoresets."""
    generator = np.random.default_rng(0)
    transitions: list[list[Transition]] = [[], [], []]
    seen = envs.reset([0, 1, 2])
    assert (masks != "none") == envs.shows_masks == (ACTION_MASK in seen)
    begins, resets = np.ones(3, np.bool_), 0
    for _ in range(steps):
        befores = [moment_of(seen, i, shows) for i in range(3)]
        actions = generator.integers(0, 3, 3)
        step = envs.step(actions)
        ended = step.terminated | step.truncated
        for i, before in enumerate(befores):
            assert begins[i] == (before.t == 0)
            if masks != "none" and not any(before.ending()):
                np.testing.assert_array_equal(seen[ACTION_MASK][i], before.mask())
            if not step.is_transition[i]:
                assert step.begins[i]
                assert not ended[i]
                resets += 1
                continue
            final = np.flatnonzero(step.final_envs == i)
            after = moment_of(step.observations, i, shows)
            if len(final):
                assert ended[i]
                assert step.begins[i]
                after = moment_of(step.final_observations, final[0], shows)
            ending = (bool(step.terminated[i]), bool(step.truncated[i]))
            assert after.ending() == ending
            assert step.rewards[i] == after.reward(actions[i])
            transitions[i].append(Transition(before, step.rewards[i] - actions[i], ending, after))
        seen, begins = step.observations, step.begins
    return transitions, resets


@pytest.mark.parametrize("shows", ["vector", "dict", "image"])
@pytest.mark.parametrize(
    ("backend", "masks"),
    # The native form has no sub-environments with methods.
    sorted({*product(BACKENDS, ["none", "info", "method"])} - {("native", "method")}),
)
def test_all_backends_give_the_same_episodes(backend: str, shows: str, masks: str) -> None:
    envs = make_vector_env(small(backend, shows, masks))
    assert (envs.backend, envs.num_envs) == (backend, 3)
    transitions, resets = run(envs, shows, masks, 40)
    envs.close()
    for number, found in enumerate(transitions):
        path = list(islice(moments(number), 60))
        expected = [
            Transition(before, after.reward(0), after.ending(), after)
            for before, after in pairwise(path)
            if after.t > 0
        ]
        assert found == expected[: len(found)]
        assert len({t.before.episode for t in found}) > 7
    # Only the native form uses NEXT_STEP autoreset.
    assert resets == (0 if backend != "native" else 120 - sum(map(len, transitions)))
    assert (resets > 20) == (backend == "native")


@pytest.mark.parametrize("backend", BACKENDS)
def test_reset_within_episodes_starts_new_ones(backend: str) -> None:
    envs = make_vector_env(small(backend, masks="info"))
    envs.reset([0, 1, 2])
    for _ in range(3):
        step = envs.step(np.zeros(3, np.int64))
    assert step.terminated[0]
    again = envs.reset([2, 0, 1])
    assert again[VECTOR].tolist() == [[2, 0, 0], [0, 0, 0], [1, 0, 0]]
    step = envs.step(np.zeros(3, np.int64))
    assert step.is_transition.all()
    assert not step.begins.any()
    assert step.observations[VECTOR][:, 2].tolist() == [1, 1, 1]
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_stacked_frames_are_of_one_episode(backend: str) -> None:
    envs = make_vector_env(small(backend, frame_stack=3))
    assert envs.encoder.vector_size == 9
    seen = envs.reset([0, 1, 2])
    assert seen[VECTOR].reshape(3, 3, 3)[:, :, 2].tolist() == [[0, 0, 0]] * 3
    ages = []
    for _ in range(4):
        step = envs.step(np.zeros(3, np.int64))
        ages.append(step.observations[VECTOR].reshape(3, 3, 3)[0].tolist())
    # Sub-environment 0 ends after 3 steps: (number, episode, step) of three frames, oldest first.
    assert ages == [
        [[0, 0, 0], [0, 0, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 0, 1], [0, 0, 2]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 1]],
    ]
    assert step.final_envs.tolist() == [1]
    finals = step.final_observations[VECTOR].reshape(3, 3)
    assert finals.tolist() == [[1, 0, 2], [1, 0, 3], [1, 0, 4]]
    envs.close()

    envs = make_vector_env(small(backend, "image", frame_stack=3))
    assert envs.encoder.images == {"image": (3, 3, 2)}
    envs.reset([0, 1, 2])
    envs.step(np.zeros(3, np.int64))
    step = envs.step(np.zeros(3, np.int64))
    assert step.observations["image"][2, :, :, 1].tolist() == [[2, 0, 0], [2, 0, 1], [2, 0, 2]]
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_do_not_change_earlier_results(backend: str) -> None:
    envs = make_vector_env(small(backend, masks="info"))
    envs.reset([0, 1, 2])
    steps = [envs.step(np.zeros(3, np.int64)) for _ in range(8)]
    envs.close()
    for earlier, later in pairwise(steps):
        for name in ("rewards", "terminated", "truncated", "begins"):
            assert not np.shares_memory(getattr(earlier, name), getattr(later, name))
        for key, rows in earlier.observations.items():
            assert not np.shares_memory(rows, later.observations[key])
        if np.shares_memory(earlier.is_transition, later.is_transition):
            assert not earlier.is_transition.flags.writeable
            assert earlier.is_transition.all()


class InPlace(gym.Env[Any, Any]):
    """Counts the four steps of an episode in one array, as many simulators do."""

    observation_space, action_space = Box(0, 9, (2,)), Discrete(2)

    def __init__(self) -> None:
        self.shown = np.zeros(2, np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.shown[:] = 0
        return self.shown, {}

    def step(self, action: Any) -> Any:
        self.shown += 1
        return self.shown, 1.0, False, bool(self.shown[0] == 4), {}


gym.register("InPlace-v0", InPlace)


@pytest.mark.parametrize("backend", BACKENDS[:3])
@pytest.mark.parametrize("frames", [1, 3])
def test_observations_changed_in_place_are_copied(backend: str, frames: int) -> None:
    envs = make_vector_env(EnvConfig("InPlace-v0", 3, backend, frame_stack=frames))
    try:
        envs.reset([0, 1, 2])
        for _ in range(3):
            step = envs.step(np.zeros(3, np.int64))
        last = [[3, 3]] if frames == 1 else [[1, 1], [2, 2], [3, 3]]
        assert step.observations[VECTOR].reshape(3, frames, 2).tolist() == [last] * 3
        step = envs.step(np.zeros(3, np.int64))
        final = [[4, 4]] if frames == 1 else [[2, 2], [3, 3], [4, 4]]
        assert step.final_observations[VECTOR].reshape(3, frames, 2).tolist() == [final] * 3
        assert not step.observations[VECTOR].any()
    finally:
        envs.close()


def test_reward_columns_pass_and_texts_are_refused() -> None:
    class Columns(gym.vector.SyncVectorEnv):
        rewards: Any = np.ones((2, 1))

        def step(self, actions: Any) -> Any:
            observations, _, terminated, *rest = super().step(actions)
            return observations, self.rewards, terminated[:, None], *rest

    columns = Columns([InPlace] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    envs = VectorEnvironment(columns)
    envs.reset([0, 1])
    step = envs.step(np.zeros(2, np.int64))
    assert (step.rewards.shape, step.terminated.shape) == ((2,), (2,))
    columns.rewards = np.array(["1.0", "2.0"])
    with pytest.raises(BrokenEnvironmentError, match=r"reward has shape .* expected numbers"):
        envs.step(np.zeros(2, np.int64))
    wide = VectorEnvironment(Columns([InPlace] * 3, autoreset_mode=AutoresetMode.NEXT_STEP))
    wide.reset([0, 1, 2])
    with pytest.raises(BrokenEnvironmentError, match="one for each of 3"):
        wide.step(np.zeros(3, np.int64))


def test_unused_parts_are_not_stacked() -> None:
    kwargs = {"shows": "dict"}
    config = EnvConfig("SmallCounter-v0", 1, "sync", 2, ["what", "where"], kwargs)
    envs = make_vector_env(config)
    with pytest.raises(ConfigError, match=r"observations Text.* are not supported"):
        make_vector_env(EnvConfig("SmallCounter-v0", 1, "sync", 2, [], kwargs))
    assert envs.reset([0])[VECTOR].shape == (1, 2 * 3 + 2 * 3)
    envs.close()
