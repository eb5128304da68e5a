"""Action masks come from the info, a method or the observation, and missing ones are noticed."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import ACTION_MASK, VECTOR
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

pytestmark = pytest.mark.usefixtures("two_cores", "no_hang")
BACKENDS = ("sync", "shared", "async")


class Fixed(gym.Env[Any, Any]):
    """Has given masks, one after the other."""

    observation_space = Box(0, 1, (1,))

    def __init__(self, action_space: gym.Space[Any], masks: list[Any]) -> None:
        self.action_space, self.masks, self.received = action_space, masks, []
        self.t = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t = 0
        return np.zeros(1, np.float32), {"action_mask": self.masks[0]} if self.masks else {}

    def step(self, action: Any) -> Any:
        self.t += 1
        mask = self.masks[self.t]
        info = {} if mask is None else {"action_mask": mask}
        return np.zeros(1, np.float32), 0.0, self.t == len(self.masks) - 1, False, info


def fixed(
    space: gym.Space[Any], masks: list[Any], mode: AutoresetMode = AutoresetMode.SAME_STEP
) -> VectorEnvironment:
    return VectorEnvironment(SyncVectorEnv([lambda: Fixed(space, masks)] * 2, autoreset_mode=mode))


def test_masks_of_all_action_spaces_are_read() -> None:
    for space, mask, expected in [
        (Discrete(3), np.int8([0, 1, 1]), [0, 1, 1]),
        (MultiDiscrete([2, 3]), (np.int8([1, 0]), np.int8([1, 1, 0])), [1, 0, 1, 1, 0]),
        (MultiDiscrete([2, 3]), [True, False, True, True, False], [1, 0, 1, 1, 0]),
        (MultiBinary(2), np.int8([2, 1]), [1, 1, 0, 1]),
    ]:
        envs = fixed(space, [mask, mask])
        assert envs.reset([0, 0])[ACTION_MASK].astype(int).tolist() == [expected] * 2
        step = envs.step(np.zeros((2, *space.shape), np.int64))
        assert step.observations[ACTION_MASK].astype(int).tolist() == [expected] * 2


class TwiceMasked(Fixed):
    """Has opposite masks under both names."""

    def reset(self, **given: Any) -> Any:
        observation, info = super().reset(**given)
        return observation, {"action_masks": 1 - info["action_mask"]} | info

    def step(self, action: Any) -> Any:
        *seen, info = super().step(action)
        return *seen, {"action_masks": 1 - info["action_mask"]} | info


def test_singular_mask_has_precedence() -> None:
    envs = VectorEnvironment(
        SyncVectorEnv(
            [lambda: TwiceMasked(Discrete(2), [np.int8([1, 0])] * 3)] * 2,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    )
    assert envs.reset([0, 0])[ACTION_MASK].tolist() == [[True, False]] * 2
    step = envs.step(np.zeros(2, np.int64))
    assert step.observations[ACTION_MASK].tolist() == [[True, False]] * 2


def test_empty_mask_is_allowed_only_in_final_states() -> None:
    nothing, some = np.zeros(2, np.int8), np.int8([1, 0])
    actions = np.zeros(2, np.int64)
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        envs = fixed(Discrete(2), [some, some, nothing], mode)
        envs.reset([0, 0])
        masks = [envs.step(actions).observations[ACTION_MASK].tolist() for _ in range(4)]
        assert masks[0] == [[True, False]] * 2
        assert masks[2] == [[True, False]] * 2
        envs = fixed(Discrete(2), [some, nothing, some], mode)
        envs.reset([0, 0])
        with pytest.raises(BrokenEnvironmentError, match="environment 0 allows no action"):
            envs.step(actions)
    with pytest.raises(BrokenEnvironmentError, match="environment 0 allows no action"):
        fixed(Discrete(2), [nothing]).reset([0, 0])


def test_missing_mask_is_refused() -> None:
    envs = fixed(Discrete(2), [np.int8([1, 0]), None, None])
    envs.reset([0, 0])
    with pytest.raises(BrokenEnvironmentError, match="mask that came with reset is missing"):
        envs.step(np.zeros(2, np.int64))


def test_masks_are_optional_and_not_for_boxes() -> None:
    envs = fixed(Discrete(2), [])
    assert set(envs.reset([0, 0])) == {VECTOR}
    assert not envs.shows_masks
    with pytest.raises(BrokenEnvironmentError, match="which have none"):
        fixed(Box(0, 1, (2,)), [np.ones(2)]).reset([0, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_taxis_masks_allow_moves_that_change_state(backend: str) -> None:
    envs = make_vector_env(EnvConfig("Taxi-v4", 3, backend))
    table = gym.make("Taxi-v4").unwrapped.P
    seen, generator = envs.reset([1, 2, 3]), np.random.default_rng(0)
    masked = 0
    for _ in range(220):
        for code, mask in zip(seen[VECTOR], seen[ACTION_MASK], strict=True):
            (state,) = np.flatnonzero(code)
            moves = [table[state][action][0][1] != state for action in range(6)]
            assert mask.tolist() == moves
            masked += 6 - sum(moves)
        actions = np.array([generator.choice(np.flatnonzero(mask)) for mask in seen[ACTION_MASK]])
        step = envs.step(actions)
        seen = step.observations
    assert masked > 300
    assert step.begins.shape == (3,)
    envs.close()


def test_unsupported_autoreset_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected NEXT_STEP or SAME_STEP"):
        fixed(Discrete(2), [], AutoresetMode.DISABLED)


class MaskPart(small_environments.Counter):
    """Has its mask in the observation, as in PettingZoo."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Dict(
            observation=self.observation_space, action_mask=Box(0, 1, (3,), np.int8)
        )

    def show(self) -> tuple[Any, dict[str, Any]]:
        shown, info = super().show()
        return {"observation": shown, "action_mask": self.now.mask()}, info


gym.register("MaskPart-v0", MaskPart)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_in_the_observation_is_used(backend: str) -> None:
    envs = make_vector_env(EnvConfig("MaskPart-v0", 2, backend))
    try:
        seen = envs.reset([0, 1])
        assert seen[VECTOR].shape == (2, 3)
        assert seen["action_mask"].tolist() == [[False, True, True], [True, False, True]]
        seen = envs.step(np.array([1, 0])).observations
        assert seen["action_mask"].tolist() == [[True, False, True], [True, True, False]]
    finally:
        envs.close()


def test_mask_without_one_at_reset_is_refused() -> None:
    class Late(small_environments.Counter):
        def show(self) -> tuple[Any, dict[str, Any]]:
            shown, _ = super().show()
            return shown, {"action_mask": self.now.mask()} if self.now.t else {}

    gym.register("Late-v0", Late)
    envs = make_vector_env(EnvConfig("Late-v0", 1, "sync"))
    del gym.registry["Late-v0"]
    envs.reset([0])
    with pytest.raises(BrokenEnvironmentError, match="came with a step and none with reset"):
        envs.step(np.array([0]))


def test_mask_missing_in_one_environment_is_refused() -> None:
    class Forgets(small_environments.Counter):
        def show(self) -> tuple[Any, dict[str, Any]]:
            shown, info = super().show()
            return shown, {} if self.number and self.t else info

    gym.register("Forgets-v0", Forgets)
    envs = make_vector_env(EnvConfig("Forgets-v0", 2, "sync", kwargs={"masks": "info"}))
    del gym.registry["Forgets-v0"]
    envs.reset([0, 1])
    with pytest.raises(BrokenEnvironmentError, match="is missing from a step"):
        envs.step(np.array([1, 0]))
