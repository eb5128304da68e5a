"""Demonstrations: returns, splits, and actions as samples of a distribution."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cloning_data import SPACES, demonstrations
from gymnasium.spaces import Box, Discrete
from learning_loop import small_policy

from rlkl.envs.actions import ActionDecoder
from rlkl.envs.observations import ObservationEncoder
from rlkl.tools.cloning.demonstrations import (
    check_spaces,
    have_same_samples,
    joined,
    samples_of,
)
from rlkl.utils.errors import ConfigError


def test_returns_bootstrap_cut_episodes_only() -> None:
    data = demonstrations([0] * 5, [0] * 5, lengths=[3, 2])
    data = replace(data, terminated=np.array([True, False]))
    sums, weights = data.discounted_returns(np.array([1.0, 2, 4, 8, 16]), 0.5)
    assert sums.tolist() == [3.0, 4.0, 4.0, 16.0, 16.0]
    assert weights.tolist() == [0.0, 0.0, 0.0, 0.25, 0.5]
    sums, weights = data.discounted_returns(np.ones(5), 0.5, bootstrap_truncated=False)
    assert sums.tolist() == [1.75, 1.5, 1.0, 1.5, 1.0]
    assert weights.tolist() == [0.0] * 5


def test_split_keeps_episodes_whole() -> None:
    lengths = [2, 3, 1, 4]
    actions = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3]
    data = demonstrations([0] * 10, actions, lengths)
    fitted, held_out = data.split(0.5, seed=3)
    again, _ = data.split(0.5, seed=3)
    other, _ = data.split(0.5, seed=5)
    assert again.actions.tolist() == fitted.actions.tolist() != other.actions.tolist()
    assert len(fitted.lengths) == len(held_out.lengths) == 2
    for part in (fitted, held_out):
        numbers = part.actions[np.cumsum(part.lengths) - 1]
        assert part.lengths.tolist() == [lengths[n] for n in numbers]
        assert part.actions.tolist() == np.repeat(numbers, part.lengths).tolist()
    assert sorted([*fitted.actions, *held_out.actions]) == actions


@pytest.mark.parametrize(("share", "held_out"), [(0.01, 1), (0.25, 2), (0.99, 7)])
def test_split_leaves_both_parts(share: float, held_out: int) -> None:
    data = demonstrations([0] * 8, [0] * 8)
    assert [len(part) for part in data.split(share, 0)] == [8 - held_out, held_out]


def test_single_episode_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="the data has 1 episode"):
        demonstrations([0, 1], [0, 0], [2]).split(0.5, 0)


def test_joined_parts_follow_each_other() -> None:
    data = joined([demonstrations([0, 1], [5, 6], [2]), demonstrations([1], [7])])
    assert (data.actions.tolist(), data.lengths.tolist()) == ([5, 6, 7], [2, 1])
    assert len(data.observations["vector"]) == 3
    assert len(data.final_observations["vector"]) == 2


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("settings", [("gaussian", True), ("gaussian", False), ("tanh_gaussian",),
                                      ("beta",)])  # fmt: skip
def test_samples_give_their_actions_back(space: str, settings: Any) -> None:
    if not isinstance(SPACES[space], Box) and settings != ("gaussian", False):
        settings = ("gaussian",)
    distribution, *scale = settings
    decoder = ActionDecoder(SPACES[space], distribution, scale=bool(scale and scale[0]))
    SPACES[space].seed(0)
    actions = np.array([SPACES[space].sample() for _ in range(20)])
    again = decoder(samples_of(decoder, actions))
    assert again.dtype == actions.dtype
    np.testing.assert_allclose(again, actions, atol=2e-3)


def test_bounds_become_finite_samples() -> None:
    box = Box(-2, 2, (1,))
    actions = np.array([[-2.0], [1.0], [2.0]])
    squashed = samples_of(ActionDecoder(box, "tanh_gaussian"), actions)
    assert squashed.ravel() == pytest.approx([-3.8002, 0.5493, 3.8002], abs=1e-4)
    assert samples_of(ActionDecoder(box, "beta"), actions).ravel().tolist() == pytest.approx(
        [-0.999, 0.5, 0.999]
    )
    gaussian = samples_of(ActionDecoder(box, scale=True), actions)
    assert gaussian.ravel().tolist() == [-1.0, 0.5, 1.0]


def test_scale_of_samples_is_compared() -> None:
    box = Box(-2, 2, (1,))
    scaled, plain = ActionDecoder(box, scale=True), ActionDecoder(box)
    assert have_same_samples(scaled, ActionDecoder(box, scale=True))
    assert not have_same_samples(scaled, plain)
    assert not have_same_samples(plain, ActionDecoder(box, "beta"))
    assert have_same_samples(ActionDecoder(Discrete(2)), ActionDecoder(Discrete(2)))


def test_other_spaces_are_refused() -> None:
    policy = small_policy(2, Discrete(3))
    with pytest.raises(ConfigError, match=r"it has actions Discrete\(2\), but the environment has"):
        check_spaces("it", policy.encoder, Discrete(2), policy)
    with pytest.raises(ConfigError, match="it has observations"):
        check_spaces("it", ObservationEncoder(Discrete(2)), Discrete(3), policy)
