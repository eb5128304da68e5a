"""Samples are decoded to actions of the space, and action masks are read in every form."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from hypothesis import given
from hypothesis import strategies as st
from space_strategies import DISCRETE, FLOAT_BOXES, MULTI_BINARY, MULTI_DISCRETE

from rlkl.envs.actions import ActionDecoder, check_action_space, mask_rows
from rlkl.numerics.beta import Beta
from rlkl.numerics.distributions import Bernoulli, Categorical, MultiCategorical, TanhGaussian
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

UNBOUNDED = st.sampled_from(
    [Box(-np.inf, np.inf, (2,)), Box(np.float32([0, -np.inf]), np.float32([np.inf, 1]))]
)


def decoded_samples(space: gym.Space[Any], kind: str, scale: float) -> tuple[Any, Any]:
    decoder = ActionDecoder(space, kind)
    generator = torch.Generator().manual_seed(0)
    parameters = scale * torch.randn(16, decoder.parameter_size, generator=generator)
    samples = decoder.family(parameters).sample(generator).numpy()
    return samples, decoder(samples)


@given(
    DISCRETE | MULTI_DISCRETE | MULTI_BINARY | FLOAT_BOXES | UNBOUNDED,
    st.sampled_from(["gaussian", "tanh_gaussian", "beta"]),
    st.sampled_from([0.1, 1.0, 3.0]),
)
def test_decoded_actions_lie_in_the_space(space: gym.Space[Any], kind: str, scale: float) -> None:
    if isinstance(space, Box) and not space.is_bounded():
        kind = "gaussian"
    _, actions = decoded_samples(space, kind, scale)
    assert actions.shape == (16, *space.shape)
    if not isinstance(space, Discrete):
        assert actions.dtype == space.dtype
    for action in actions:
        # A row of a Box without dimensions is a number.
        assert space.contains(np.asarray(action) if isinstance(space, Box) else action)


def test_decoders_have_family_and_parameter_size() -> None:
    made = {
        (Categorical, 4): ActionDecoder(Discrete(4, start=3)),
        (MultiCategorical, 9): ActionDecoder(MultiDiscrete([[2, 3], [3, 1]])),
        (Bernoulli, 6): ActionDecoder(MultiBinary([2, 3])),
        (TanhGaussian, 12): ActionDecoder(Box(0, 1, (2, 3)), "tanh_gaussian"),
    }
    for (family, size), decoder in made.items():
        assert decoder.parameter_size == size
        assert isinstance(decoder.family(torch.zeros(1, size)), family)
        assert decoder.squashes == decoder.is_continuous == (family is TanhGaussian)
    beta = ActionDecoder(Box(0, 1, (2, 3)), "beta")
    assert isinstance(beta.family(torch.zeros(1, beta.parameter_size)), Beta)
    assert (beta.squashes, beta.is_continuous, beta.is_gaussian) == (False, True, False)
    assert beta.log_half_range == pytest.approx(6 * np.log(0.5))
    plain = ActionDecoder(Box(0, 1, (2, 3)))
    assert (plain.parameter_size, plain.squashes, plain.is_continuous) == (12, False, True)


def test_unclipped_needs_a_box() -> None:
    with pytest.raises(ConfigError, match=r"policy\.clip_actions=false: changes nothing"):
        ActionDecoder(Discrete(3), clip=False)


def test_known_samples_become_known_actions() -> None:
    assert ActionDecoder(Discrete(3, start=-1))(np.array([0, 2])).tolist() == [-1, 1]
    several = ActionDecoder(MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, -3]]))
    assert several(np.array([[1, 2, 3, 4]])).tolist() == [[[1, 3], [5, 1]]]
    bits = ActionDecoder(MultiBinary([2, 2]))(np.array([[1, 0, 0, 1]]))
    assert (bits.tolist(), bits.dtype) == ([[[1, 0], [0, 1]]], np.int8)
    box = Box(np.float32([[-1, -2], [0, 0]]), np.float32([[1, 2], [1, 1]]))
    clipped = ActionDecoder(box)(np.array([[5.0, -5.0, 0.25, -1.0]]))
    assert clipped.tolist() == [[[1, -2], [0.25, 0]]]
    unclipped = ActionDecoder(box, clip=False)(np.array([[5.0, -5.0, 0.25, -1.0]]))
    assert unclipped.tolist() == [[[5, -5], [0.25, -1]]]
    assert unclipped.dtype == np.float32
    unbounded = ActionDecoder(Box(-np.inf, np.inf, (1,)))(np.array([[1e6]]))
    assert unbounded.tolist() == [[1e6]]
    half = ActionDecoder(Box(2, 10, (1,)), "tanh_gaussian")(np.array([[0.0], [np.arctanh(0.5)]]))
    np.testing.assert_allclose(half, [[6], [8]], rtol=1e-6)
    for scale in (True, False):  # samples are always within (-1, 1)
        between = ActionDecoder(Box(2, 10, (1,)), "beta", scale=scale)(np.array([[0.0], [0.75]]))
        np.testing.assert_allclose(between, [[6], [9]], rtol=1e-6)


@given(FLOAT_BOXES, st.sampled_from([np.float32, np.float64]))
def test_squashing_is_monotone_and_reaches_bounds(
    space: Box, dtype: type[np.floating[Any]]
) -> None:
    decoder = ActionDecoder(space, "tanh_gaussian")
    size = decoder.parameter_size // 2
    ladder = np.concatenate(([-np.inf, -50], np.linspace(-5, 5, 101), [50, np.inf])).astype(dtype)
    actions = decoder(np.repeat(ladder[:, None], size, 1))
    assert (np.diff(actions.astype(np.float64), axis=0) >= 0).all()
    for row, bound in ((0, space.low), (1, space.low), (-2, space.high), (-1, space.high)):
        np.testing.assert_array_equal(actions[row], bound)
    middle = (np.float64(space.low) + np.float64(space.high)) / 2
    np.testing.assert_allclose(np.float64(actions[52]), middle, rtol=1e-3, atol=0.6)


@pytest.mark.parametrize(
    "space", [Box(-np.inf, np.inf, (2,)), Box(np.float32([0, -np.inf]), np.float32([1, 1]))]
)
@pytest.mark.parametrize("kind", ["tanh_gaussian", "beta"])
def test_bounded_distributions_need_finite_bounds(space: Box, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"no finite bounds.*policy\.box_distribution=gaussian"):
        ActionDecoder(space, kind)


@pytest.mark.parametrize("space", [Box(0, 3, (2,), np.int64), Text(3), Dict(a=Discrete(2))])
def test_unsupported_action_spaces_are_refused(space: gym.Space[Any]) -> None:
    for check in (check_action_space, ActionDecoder):
        with pytest.raises(ConfigError, match="expected Discrete, MultiDiscrete, MultiBinary or a"):
            check(space)


# Masks

NONE_IGNORED = np.zeros(2, np.bool_)


@pytest.mark.parametrize(
    ("space", "masks", "expected"),
    [
        (Discrete(3, start=4), np.int8([[1, 0, 1], [0, 0, 1]]), [[1, 0, 1], [0, 0, 1]]),
        (Discrete(2), [[True, False], [True, True]], [[1, 0], [1, 1]]),
        (
            MultiDiscrete([2, 3]),
            np.int8([[1, 0, 0, 1, 1], [1, 1, 0, 0, 1]]),
            [[1, 0, 0, 1, 1], [1, 1, 0, 0, 1]],
        ),
        (
            MultiDiscrete([2, 3]),
            [(np.int8([1, 0]), np.int8([0, 1, 1])), (np.int8([1, 1]), np.int8([0, 0, 1]))],
            [[1, 0, 0, 1, 1], [1, 1, 0, 0, 1]],
        ),
        (
            MultiDiscrete([[1, 2], [2, 1]]),
            [((np.ones(1), np.ones(2)), (np.ones(2), np.ones(1))), np.ones(6)],
            [[1] * 6, [1] * 6],
        ),
        (MultiDiscrete([2, 2]), [[[1, 0], [0, 1]], [[1, 1], [1, 0]]], [[1, 0, 0, 1], [1, 1, 1, 0]]),
        # A bit that must be 0, must be 1, may be either: (may be 0, may be 1).
        (MultiBinary(3), np.int8([[0, 1, 2], [2, 2, 0]]), [[1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0]]),
        (
            MultiBinary(2),
            [[[True, False], [True, True]], [[False, True], [True, False]]],
            [[1, 0, 1, 1], [0, 1, 1, 0]],
        ),
        (MultiBinary([1, 2]), [np.int8([[0, 2]]), np.int8([[1, 1]])], [[1, 0, 1, 1], [0, 1, 0, 1]]),
    ],
)
def test_all_mask_forms_become_bools(
    space: gym.Space[Any], masks: Any, expected: list[list[int]]
) -> None:
    rows = mask_rows(space, masks, NONE_IGNORED)
    assert rows.dtype == np.bool_
    assert rows.astype(int).tolist() == expected
    # The policy samples only allowed actions.
    decoder = ActionDecoder(space)
    distribution = decoder.family(torch.zeros(2, decoder.parameter_size))
    samples = distribution.masked(torch.tensor(rows)).sample(torch.Generator().manual_seed(0))
    assert all(space.contains(action) for action in decoder(samples.numpy()))


def test_gymnasiums_masked_samples_are_allowed() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        space: Any = MultiDiscrete([3, 2])
        parts = tuple(np.int8(generator.permutation([1, 0, 1][:n])) for n in (3, 2))
        (row,) = mask_rows(space, [parts], NONE_IGNORED[:1])
        first, second = space.sample(mask=parts)
        assert row[:3][first]
        assert row[3:][second]
        space, mask = MultiBinary(4), np.int8(generator.integers(0, 3, 4))
        (row,) = mask_rows(space, [mask], NONE_IGNORED[:1])
        assert row.reshape(4, 2)[np.arange(4), space.sample(mask=mask)].all()


@pytest.mark.parametrize(
    ("space", "masks", "words"),
    [
        (Discrete(3), [[1, 1], [1, 1]], "mask of sub-environment 0 has 2 entries; expected 3"),
        (Discrete(3), [[1, 1, 1], [0, 0, 0]], "environment 1 allows no action"),
        (Discrete(3), [[1, 1, 1], [1, 1]], "mask of sub-environment 1 has 2 entries; expected 3"),
        (Discrete(2), [None, [1, 1]], "mask of sub-environment 0 has 1 entries; expected 2"),
        (Discrete(2), [np.int8([1, 0]), np.int8([0, 0])], "environment 1 allows no action"),
        (Discrete(2), np.zeros((2, 2)), "environment 0 allows no action"),
        (Discrete(2), [np.int8([1, 0]), np.int8([1])], "environment 1 has 1 entries; expected 2"),
        (Discrete(2), [np.empty(0), np.ones(2)], "has 0 entries; expected 2"),
        (Discrete(2), np.ones((2, 3)), "mask of sub-environment 0 has 3 entries; expected 2"),
        (MultiDiscrete([2, 2]), [[1, 1, 1], [1, 1, 1]], "has 3 entries; expected 4"),
        (MultiDiscrete([2, 2]), [[1, 1, 1, 0], [1, 1, 0, 0]], "environment 1 allows no action"),
        (MultiDiscrete([2, 2]), [[0, 0, 1, 1], [1, 1, 1, 1]], "environment 0 allows no action"),
        (MultiBinary(2), [[1, 1, 1], [1, 1, 1]], "has 3 entries; expected 4"),
        (MultiBinary(1), [[[1, 0]], [[0, 0]]], "environment 1 allows no action"),
        (Box(0, 1, (1,)), [[1], [1]], "which have none"),
        (Discrete(2), np.array([[0.0, -np.inf], [-np.inf, 0]]), "0 contains other numbers"),
        (Discrete(2), [[0.0, 1.0], [0.5, 0.5]], "environment 1 contains other numbers than 1"),
        (MultiDiscrete([2, 2]), [[1, 1, 1, 2], [1, 1, 1, 1]], "0 contains other numbers"),
        (MultiBinary(2), [[0, 3], [1, 1]], "0 contains other numbers"),
        (Discrete(2), [["0", "1"], [1, 1]], "0 contains other numbers"),
    ],
)
def test_invalid_masks_are_refused(space: gym.Space[Any], masks: Any, words: str) -> None:
    with pytest.raises(BrokenEnvironmentError, match=f"^env.id=X: .*{words}"):
        mask_rows(space, masks, NONE_IGNORED, "env.id=X")


def test_discrete_actions_have_declared_type() -> None:
    actions = ActionDecoder(Discrete(3, start=4, dtype=np.uint8))(np.array([0, 2]))
    assert (actions.dtype, actions.tolist()) == (np.uint8, [4, 6])


def test_ignored_masks_allow_all() -> None:
    ignored = np.array([True, False, True])
    assert mask_rows(Discrete(2), [[0, 0], [0, 1], [1, 0]], ignored).tolist() == [
        [True, True], [False, True], [True, True],
    ]  # fmt: skip
    as_arrays = mask_rows(Discrete(2), np.array([[0, 0], [0, 1], [1, 0]]), ignored)
    assert as_arrays.tolist() == [[True, True], [False, True], [True, True]]
    bits = mask_rows(MultiBinary(1), [[0], [0], [1]], ignored)
    assert bits.tolist() == [[True, True], [True, False], [True, True]]
    # A missing mask can be ignored.
    assert mask_rows(Discrete(2), [None, [0, 1], None], ignored).sum() == 5
    assert mask_rows(Discrete(2), [None] * 3, np.ones(3, np.bool_)).all()
