"""What a policy sees and does, against gymnasium's own flatten and numbers written by hand."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Text,
    Tuple,
)
from gymnasium.spaces.utils import flatten
from gymnasium.vector import SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from rlkl.envs.spaces import (
    VECTOR,
    ActionDecoder,
    ObservationEncoder,
    check_action_space,
    describe_space,
    described_space,
    mask_rows,
    normalized,
)
from rlkl.numerics.distributions import Bernoulli, Categorical, MultiCategorical, TanhGaussian
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError


class Showing(gym.Env[Any, Any]):
    """Shows samples of a space, and keeps them."""

    action_space = Discrete(2)

    def __init__(self, space: gym.Space[Any], seed: int) -> None:
        self.observation_space = space
        space.seed(seed)
        self.shown: Any = None

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.shown = self.observation_space.sample()
        return self.shown, {}


def batch_of(space: gym.Space[Any], copies: int = 3) -> tuple[Any, list[Any]]:
    """Return observations as a vector environment gives them, and each by itself."""
    envs = SyncVectorEnv([lambda: Showing(space, 7)] * copies)
    batch, _ = envs.reset()
    return batch, [env.shown for env in envs.envs]


SHAPES = [(), (1,), (3,), (2, 3), (2, 1, 2)]
BOXES = st.builds(
    lambda shape, dtype, low, span: Box(low, low + span, shape, dtype),
    st.sampled_from(SHAPES),
    st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64]),
    st.integers(-9, 9),
    st.integers(1, 9),
) | st.sampled_from(
    [
        Box(0, 255, (), np.uint8),
        Box(0, 255, (5,), np.uint8),
        Box(-np.inf, np.inf, (2,), np.float64),
        Box(np.float32([0, -np.inf]), np.float32([np.inf, 3])),
    ]
)
DISCRETE = st.builds(
    lambda n, start: Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)
)
MULTI_DISCRETE = st.sampled_from(
    [
        MultiDiscrete([3]),
        MultiDiscrete([2, 4, 3]),
        MultiDiscrete([2, 4], start=[-1, 5]),
        MultiDiscrete([[2, 3], [4, 1]]),
        MultiDiscrete([[2, 3], [4, 1]], start=[[0, 1], [2, 3]]),
    ]
)
MULTI_BINARY = st.sampled_from([MultiBinary(1), MultiBinary(4), MultiBinary([2, 3])])
LEAVES = BOXES | DISCRETE | MULTI_DISCRETE | MULTI_BINARY
SPACES = st.recursive(
    LEAVES,
    lambda parts: (
        st.dictionaries(st.sampled_from("abc"), parts, min_size=1).map(Dict)
        | st.lists(parts, min_size=1, max_size=3).map(Tuple)
    ),
    max_leaves=6,
)


def by_hand(space: gym.Space[Any], observation: Any) -> list[float]:
    """Return the columns of an observation: gymnasium's own, but for the starts it leaves out."""
    if isinstance(space, Dict):
        return [x for key in space for x in by_hand(space[key], observation[key])]
    if isinstance(space, Tuple):
        pairs = zip(space, observation, strict=True)
        return [x for part, value in pairs for x in by_hand(part, value)]
    if isinstance(space, MultiDiscrete):
        whole = zip(np.ravel(observation), space.nvec.ravel(), np.ravel(space.start), strict=True)
        return [float(start + k == value) for value, n, start in whole for k in range(n)]
    return np.float32(flatten(space, observation)).tolist()


@given(SPACES)
def test_vectors_are_what_gymnasium_flattens_batched_and_single(space: gym.Space[Any]) -> None:
    batch, singles = batch_of(space)
    encoder = ObservationEncoder(space)
    expected = np.array([by_hand(space, single) for single in singles], np.float32)
    for encoded in (encoder(batch), encoder.stack(singles)):
        assert set(encoded) == {VECTOR}
        assert encoded[VECTOR].dtype == encoder.dtype
        np.testing.assert_array_equal(encoded[VECTOR].astype(np.float32), expected)
    assert encoder.vector_size == expected.shape[1]
    assert encoder.empty(4, 2)[VECTOR].shape == (4, 2, encoder.vector_size)
    assert encoder.images == {}


@pytest.mark.parametrize(
    ("space", "observation", "vector", "measured"),
    [
        (Box(-9, 9, ()), np.float32(2.5), [2.5], [1]),
        (Box(0, 9, (2, 2), np.int64), np.array([[1, 2], [3, 4]]), [1, 2, 3, 4], [1] * 4),
        (Box(0, 255, (3,), np.uint8), np.uint8([0, 7, 255]), [0, 7, 255], [1] * 3),
        (Discrete(3), np.int64(1), [0, 1, 0], [0] * 3),
        (Discrete(3, start=5), np.int64(7), [0, 0, 1], [0] * 3),
        (MultiDiscrete([2, 3], start=[-1, 4]), np.array([-1, 6]), [1, 0, 0, 0, 1], [0] * 5),
        (
            MultiDiscrete([[2, 3], [1, 2]]),
            np.array([[1, 0], [0, 1]]),
            [0, 1, 1, 0, 0, 1, 0, 1],
            [0] * 8,
        ),
        (MultiBinary([2, 2]), np.int8([[0, 1], [1, 1]]), [0, 1, 1, 1], [0] * 4),
        (
            Dict(b=Tuple([Discrete(2), Box(0, 9, (1,))]), a=MultiBinary(1)),
            {"a": np.int8([1]), "b": (np.int64(1), np.float32([8]))},
            [0, 1, 8, 1],
            [0, 0, 1, 0],
        ),
    ],
)
def test_known_observations_have_known_vectors_and_boxes_alone_are_measured(
    space: gym.Space[Any], observation: Any, vector: list[float], measured: list[int]
) -> None:
    encoder = ObservationEncoder(space)
    assert encoder.stack([observation])[VECTOR].tolist() == [vector]
    assert encoder.is_measured.tolist() == [bool(m) for m in measured]


# Whatever way an image lies, its pixel (h, w) of channel c is 100 c + 10 h + w.
PLACES = {
    "h w": ((5, 4), lambda h, w: 10 * h + w, (1, 5, 4)),
    "h w c": ((5, 4, 2), lambda h, w, c: 100 * c + 10 * h + w, (2, 5, 4)),
    "c h w": ((2, 5, 4), lambda c, h, w: 100 * c + 10 * h + w, (2, 5, 4)),
    "h w 1": ((5, 4, 1), lambda h, w, c: 100 * c + 10 * h + w, (1, 5, 4)),
    "one size": ((2, 2, 2), lambda h, w, c: 100 * c + 10 * h + w, (2, 2, 2)),
    "frames h w": ((2, 5, 4), lambda c, h, w: 100 * c + 10 * h + w, (2, 5, 4)),
    # The frames are of 1 channel each.
    "frames h w 1": ((2, 5, 4, 1), lambda k, h, w, c: 100 * (k + c) + 10 * h + w, (2, 5, 4)),
    "frames 1 h w": ((2, 1, 5, 4), lambda k, c, h, w: 100 * (k + c) + 10 * h + w, (2, 5, 4)),
}


@pytest.mark.parametrize("way", PLACES)
def test_images_stay_bytes_with_channels_first_and_every_pixel_in_its_place(way: str) -> None:
    shape, value, expected_shape = PLACES[way]
    image = np.fromfunction(value, shape, dtype=np.int64).astype(np.uint8)
    encoder = ObservationEncoder(Box(0, 255, shape, np.uint8))
    assert encoder.images == {"image": expected_shape}
    assert encoder.vector_size == 0
    for encoded in (encoder(np.stack([image, image + 1])), encoder.stack([image, image + 1])):
        assert set(encoded) == {"image"}
        found = encoded["image"]
        assert found.dtype == np.uint8
        assert found.shape == (2, *expected_shape)
        channels, height, width = expected_shape
        for c in range(channels):
            for h in range(height):
                for w in range(width):
                    assert found[:, c, h, w].tolist() == [
                        100 * c + 10 * h + w,
                        100 * c + 10 * h + w + 1,
                    ]
    assert encoder.empty(3, 2)["image"].shape == (3, 2, *expected_shape)
    assert encoder.empty(3, 2)["image"].dtype == np.uint8


def test_a_stack_of_coloured_frames_has_frames_times_channels_frame_by_frame() -> None:
    # Pixel (h, w) of colour c in frame k is 60 k + 20 c + 4 h + w, colours last, then first.
    last = np.fromfunction(lambda k, h, w, c: 60 * k + 20 * c + 4 * h + w, (4, 5, 4, 3), dtype=int)
    last = last.astype(np.uint8)
    for stack in (last, last.transpose(0, 3, 1, 2)):
        (found,) = ObservationEncoder(Box(0, 255, stack.shape, np.uint8)).stack([stack])["image"]
        assert found.shape == (12, 5, 4)
        assert found[:, 0, 0].tolist() == [20 * channel for channel in range(12)]
        assert found[7, 3, 2] == 7 * 20 + 3 * 4 + 2


PARTS = Dict(
    image=Box(0, 255, (6, 5, 3), np.uint8),
    inner=Dict(grid=Box(0, 255, (4, 4), np.uint8), speed=Box(-1, 1, (2,))),
    mission=Text(9),
    number=Discrete(3),
)


def test_keys_choose_the_parts_and_the_order_is_the_spaces_own() -> None:
    encoder = ObservationEncoder(PARTS, ["number", "image", "inner"])
    assert encoder.keys == ("number", "image", "inner")
    assert encoder.images == {"image/image": (3, 6, 5), "image/inner/grid": (1, 4, 4)}
    assert encoder.vector_size == 5
    assert encoder.is_measured.tolist() == [True, True, False, False, False]
    single = PARTS.sample() | {"number": np.int64(2)}
    single["inner"]["speed"] = np.float32([0.5, -0.5])
    encoded = encoder.stack([single, single])
    assert encoded[VECTOR].tolist() == [[0.5, -0.5, 0, 0, 1]] * 2
    np.testing.assert_array_equal(encoded["image/inner/grid"][1, 0], single["inner"]["grid"])
    np.testing.assert_array_equal(encoded["image/image"][0, 2], single["image"][:, :, 2])

    assert ObservationEncoder(PARTS, ["inner/speed"]).vector_size == 2
    assert ObservationEncoder(PARTS, ["inner/speed"]).images == {}
    pair = Tuple([Discrete(2), Dict(a=Discrete(3), b=Discrete(4))])
    assert ObservationEncoder(pair, ["1"]).vector_size == 7
    assert ObservationEncoder(pair, ["0", "1/b"]).vector_size == 6


@pytest.mark.parametrize(
    ("space", "keys", "words"),
    [
        (PARTS, ["nmber"], r"observation_keys: .* no part 'nmber'; .*did you mean number"),
        (PARTS, ["inner/sped"], "did you mean inner/speed"),
        (PARTS, ["inn"], "expected image, inner/grid, inner/speed, mission, number"),
        (Box(0, 1, (2,)), ["x"], "none: they have no parts"),
        (PARTS, [], r"in .mission. are .*observation_keys=\[image,inner/grid,inner/speed,number\]"),
        (PARTS, ["number", "mission"], r"Text.* in 'mission' are not supported"),
        (Dict(a=Graph(Discrete(2), None)), [], "Graph.* in 'a'.*env.observation_keys"),
        (Tuple([Discrete(2), Sequence(Discrete(2))]), [], "Sequence.* in '1'"),
        (Text(4), [], "Text.* are not supported.*wrap the environment"),
        (Box(0, 255, (2, 2, 2, 2, 2), np.uint8), [], "at most four dimensions"),
    ],
)
def test_what_cannot_be_encoded_is_refused_with_words(
    space: gym.Space[Any], keys: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ObservationEncoder(space, keys)


def test_parts_that_are_not_chosen_may_be_of_any_kind() -> None:
    space = Dict(a=Discrete(2), g=Graph(Discrete(2), None), s=Sequence(Discrete(2)), t=Text(3))
    batch, singles = batch_of(space)
    encoder = ObservationEncoder(space, ["a"])
    np.testing.assert_array_equal(encoder(batch)[VECTOR], encoder.stack(singles)[VECTOR])


MIXED = Dict(a=Box(-np.inf, np.inf, (2,)), b=Box(-np.inf, np.inf, (2, 2)), d=Discrete(3, start=2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named_with_their_part_and_copy(bad: float) -> None:
    good = {
        "a": np.zeros((4, 2), np.float32),
        "b": np.zeros((4, 2, 2), np.float32),
        "d": np.full(4, 2),
    }
    encoder = ObservationEncoder(MIXED)
    encoder(good)
    broken = {key: value.copy() for key, value in good.items()}
    broken["b"][3, 1, 0] = bad
    with pytest.raises(BrokenEnvironmentError, match=f"^env.id=X: .* of 'b' of copy 3 is {bad}"):
        encoder(broken, "env.id=X")
    with pytest.raises(BrokenEnvironmentError, match=f"observation of copy 1 is {bad} in place 0"):
        ObservationEncoder(MIXED["a"])(np.array([[0, 0], [bad, 0]], np.float32))


def test_a_number_too_large_for_float32_is_not_finite() -> None:
    encoder = ObservationEncoder(Box(-np.inf, np.inf, (2,), np.float64))
    with pytest.raises(BrokenEnvironmentError, match="of copy 0 is inf"):
        encoder(np.array([[0, 1e300]]))
    with pytest.raises(BrokenEnvironmentError, match="of 'a' of copy 0 is inf"):
        both = ObservationEncoder(Dict(a=encoder.space, d=Discrete(2)))
        both({"a": np.array([[0, 1e300]]), "d": np.array([0])})


@pytest.mark.parametrize(
    ("key", "rows", "words"),
    [
        ("a", np.zeros((1, 3), np.float32), r"of 'a' has shape \(3,\) and type float32.*\(2,\)"),
        ("a", np.zeros((1,), np.float32), r"of 'a' has shape \(\)"),
        ("b", np.zeros((1, 4), np.float32), r"of 'b' has shape \(4,\)"),
        ("a", np.zeros((1, 2), np.complex64), "of 'a' .* type complex64"),
        ("a", np.array([["x", "y"]]), "of 'a' .* type <U1"),
        ("d", np.zeros((1,), np.float32), "of 'd' .* type float32"),
        ("d", np.array([1]), r"of 'd' of copy 0 is 1, outside its space Discrete\(3, start=2\)"),
        ("d", np.array([5]), "of 'd' of copy 0 is 5, outside"),
        ("d", np.array([[3]]), r"of 'd' has shape \(1,\)"),
    ],
)
def test_what_the_space_does_not_declare_is_refused(key: str, rows: Any, words: str) -> None:
    good = {
        "a": np.zeros((1, 2), np.float32),
        "b": np.zeros((1, 2, 2), np.float32),
        "d": np.array([4]),
    }
    with pytest.raises(BrokenEnvironmentError, match=f"^env.id=X: an observation {words}"):
        ObservationEncoder(MIXED)(good | {key: rows}, "env.id=X")


def test_an_image_of_floats_is_refused_and_the_last_of_several_discretes_is_checked() -> None:
    with pytest.raises(BrokenEnvironmentError, match="type float64"):
        ObservationEncoder(Box(0, 255, (4, 4), np.uint8))(np.zeros((2, 4, 4)))
    with pytest.raises(BrokenEnvironmentError, match=r"of copy 1 is \[0 3\], outside"):
        ObservationEncoder(MultiDiscrete([2, 3]))(np.array([[1, 2], [0, 3]]))


def test_smaller_types_are_cast_to_the_declared_one() -> None:
    encoder = ObservationEncoder(Box(-9, 9, (2,), np.float32))
    for dtype in (np.float64, np.int64, np.bool_):
        encoded = encoder(np.ones((1, 2), dtype))[VECTOR]
        assert encoded.tolist() == [[1, 1]]
        assert encoded.dtype == np.float32


def test_normalisation_touches_the_measured_part_of_the_vector_and_nothing_else() -> None:
    space = Dict(a=Box(-9, 9, (1,)), d=Discrete(2), i=Box(0, 255, (3, 3), np.uint8))
    encoder = ObservationEncoder(space)
    normalizer = ObservationNormalizer((3,), is_measured=encoder.is_measured)
    normalizer.update(np.array([[2, 0, 1], [6, 1, 0]], np.float32))
    image = np.full((3, 3), 200, np.uint8)
    encoded = encoder.stack([{"a": np.float32([8]), "d": np.int64(1), "i": image}])
    found = normalized(encoded, normalizer)
    np.testing.assert_allclose(found[VECTOR], [[2, 0, 1]], rtol=1e-6)
    assert found["image/i"] is encoded["image/i"]
    assert encoded[VECTOR].tolist() == [[8, 0, 1]]
    assert normalized(encoded, None) is encoded


# Actions


FLOAT_BOXES = st.builds(
    lambda shape, dtype, low, span: Box(low, low + span, shape, dtype),
    st.sampled_from(SHAPES),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.floats(-1000, 1000),
    st.floats(0.5, 1000),
) | st.sampled_from(
    [
        Box(-0.1, 3.3, (2,), np.float32),
        Box(np.float64([-1e-3, -1e3]), np.float64([1e-3, 1e5]), dtype=np.float64),
        Box(-60000, 60000, (1,), np.float16),
        Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,)),
    ]
)
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
    st.sampled_from(["gaussian", "tanh_gaussian"]),
    st.sampled_from([0.1, 1.0, 3.0]),
)
def test_what_is_decoded_lies_in_the_action_space(
    space: gym.Space[Any], kind: str, scale: float
) -> None:
    if isinstance(space, Box) and not space.is_bounded():
        kind = "gaussian"
    _, actions = decoded_samples(space, kind, scale)
    assert actions.shape == (16, *space.shape)
    if not isinstance(space, Discrete):
        assert actions.dtype == space.dtype
    for action in actions:
        # A row of a Box of no dimensions is a number, which gymnasium takes as well.
        assert space.contains(np.asarray(action) if isinstance(space, Box) else action)


def test_decoders_know_their_family_and_how_many_numbers_it_takes() -> None:
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
    plain = ActionDecoder(Box(0, 1, (2, 3)))
    assert (plain.parameter_size, plain.squashes, plain.is_continuous) == (12, False, True)


def test_only_actions_within_bounds_can_be_left_unclipped() -> None:
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


@given(FLOAT_BOXES, st.sampled_from([np.float32, np.float64]))
def test_squashing_is_monotone_and_reaches_the_bounds_in_the_limit(
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
def test_squashing_into_no_bounds_is_refused(space: Box) -> None:
    with pytest.raises(ConfigError, match=r"no finite bounds.*policy\.box_distribution=gaussian"):
        ActionDecoder(space, "tanh_gaussian")


@pytest.mark.parametrize("space", [Box(0, 3, (2,), np.int64), Text(3), Dict(a=Discrete(2))])
def test_actions_without_a_distribution_are_refused(space: gym.Space[Any]) -> None:
    for check in (check_action_space, ActionDecoder):
        with pytest.raises(ConfigError, match="expected Discrete, MultiDiscrete, MultiBinary or a"):
            check(space)


# Masks

NONE_FREE = np.zeros(2, np.bool_)


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
def test_masks_of_every_form_become_rows_of_bools(
    space: gym.Space[Any], masks: Any, expected: list[list[int]]
) -> None:
    rows = mask_rows(space, masks, NONE_FREE)
    assert rows.dtype == np.bool_
    assert rows.astype(int).tolist() == expected
    # What gymnasium samples under the mask is allowed by the rows as well.
    decoder = ActionDecoder(space)
    distribution = decoder.family(torch.zeros(2, decoder.parameter_size))
    samples = distribution.masked(torch.tensor(rows)).sample(torch.Generator().manual_seed(0))
    assert all(space.contains(action) for action in decoder(samples.numpy()))


def test_gymnasiums_own_samples_under_a_mask_are_allowed_by_its_rows() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        space: Any = MultiDiscrete([3, 2])
        parts = tuple(np.int8(generator.permutation([1, 0, 1][:n])) for n in (3, 2))
        (row,) = mask_rows(space, [parts], NONE_FREE[:1])
        first, second = space.sample(mask=parts)
        assert row[:3][first]
        assert row[3:][second]
        space, mask = MultiBinary(4), np.int8(generator.integers(0, 3, 4))
        (row,) = mask_rows(space, [mask], NONE_FREE[:1])
        assert row.reshape(4, 2)[np.arange(4), space.sample(mask=mask)].all()


@pytest.mark.parametrize(
    ("space", "masks", "words"),
    [
        (Discrete(3), [[1, 1], [1, 1]], "mask of copy 0 has 2 entries; expected 3"),
        (Discrete(3), [[1, 1, 1], [0, 0, 0]], "mask of copy 1 allows no action"),
        (Discrete(3), [[1, 1, 1], [1, 1]], "mask of copy 1 has 2 entries; expected 3"),
        (Discrete(2), [None, [1, 1]], "mask of copy 0 has 1 entries; expected 2"),
        (Discrete(2), [np.int8([1, 0]), np.int8([0, 0])], "mask of copy 1 allows no action"),
        (Discrete(2), np.zeros((2, 2)), "mask of copy 0 allows no action"),
        (Discrete(2), [np.int8([1, 0]), np.int8([1])], "copy 1 has 1 entries; expected 2"),
        (Discrete(2), np.ones((2, 3)), "mask of copy 0 has 3 entries; expected 2"),
        (MultiDiscrete([2, 2]), [[1, 1, 1], [1, 1, 1]], "has 3 entries; expected 4"),
        (MultiDiscrete([2, 2]), [[1, 1, 1, 0], [1, 1, 0, 0]], "mask of copy 1 allows no action"),
        (MultiDiscrete([2, 2]), [[0, 0, 1, 1], [1, 1, 1, 1]], "mask of copy 0 allows no action"),
        (MultiBinary(2), [[1, 1, 1], [1, 1, 1]], "has 3 entries; expected 4"),
        (MultiBinary(1), [[[1, 0]], [[0, 0]]], "mask of copy 1 allows no action"),
        (Box(0, 1, (1,)), [[1], [1]], "which have none"),
        (Discrete(2), np.array([[0.0, -np.inf], [-np.inf, 0]]), "copy 0 holds other numbers"),
        (Discrete(2), [[0.0, 1.0], [0.5, 0.5]], "copy 1 holds other numbers than 1"),
        (MultiDiscrete([2, 2]), [[1, 1, 1, 2], [1, 1, 1, 1]], "copy 0 holds other numbers"),
        (MultiBinary(2), [[0, 3], [1, 1]], "copy 0 holds other numbers"),
        (Discrete(2), [["0", "1"], [1, 1]], "copy 0 holds other numbers"),
    ],
)
def test_masks_that_do_not_fit_are_refused(space: gym.Space[Any], masks: Any, words: str) -> None:
    with pytest.raises(BrokenEnvironmentError, match=f"^env.id=X: .*{words}"):
        mask_rows(space, masks, NONE_FREE, "env.id=X")


def test_float64_is_kept_where_float32_loses_it() -> None:
    encoder = ObservationEncoder(Box(-np.inf, np.inf, (1,), np.float64))
    rows = 5e6 + 0.3 + np.array([[-0.1], [0.1]])
    normalizer = ObservationNormalizer((1,))
    normalizer.update(rows)
    seen = normalized(encoder(rows), normalizer)[VECTOR]
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, [[-1], [1]], rtol=1e-5)
    mixed = ObservationEncoder(Dict(a=Box(-9, 9, (1,)), n=Box(0, 2**40, (1,), np.int64)))
    shown = {"a": np.float32([[1]]), "n": np.array([[2**30 + 1]])}
    assert mixed(shown)[VECTOR].tolist() == [[1, 2**30 + 1]]
    assert ObservationEncoder(Box(-9, 9, (1,))).dtype == np.float32


def test_parts_left_out_need_not_be_shown() -> None:
    space = Dict(a=Box(-9, 9, (2,)), b=Dict(c=Discrete(2), d=Text(4)), e=Text(3))
    encoder = ObservationEncoder(space, ["a", "b/c"])
    (row,) = encoder.stack([{"a": np.float32([1, 2]), "b": {"c": 1}}])[VECTOR]
    assert row.tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize("space", [Box(0, 1, (0,)), Dict({}), Dict(a=Box(0, 1, (0,)))])
def test_observations_of_nothing_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="show nothing; expected at least one number"):
        ObservationEncoder(space)


def test_discrete_actions_have_the_declared_type() -> None:
    actions = ActionDecoder(Discrete(3, start=4, dtype=np.uint8))(np.array([0, 2]))
    assert (actions.dtype, actions.tolist()) == (np.uint8, [4, 6])


def test_all_is_allowed_in_free_rows_whatever_their_mask_says() -> None:
    free = np.array([True, False, True])
    assert mask_rows(Discrete(2), [[0, 0], [0, 1], [1, 0]], free).tolist() == [
        [True, True], [False, True], [True, True],
    ]  # fmt: skip
    as_arrays = mask_rows(Discrete(2), np.array([[0, 0], [0, 1], [1, 0]]), free)
    assert as_arrays.tolist() == [[True, True], [False, True], [True, True]]
    bits = mask_rows(MultiBinary(1), [[0], [0], [1]], free)
    assert bits.tolist() == [[True, True], [True, False], [True, True]]
    # Where a copy gave no mask there is nothing to read.
    assert mask_rows(Discrete(2), [None, [0, 1], None], free).sum() == 5
    assert mask_rows(Discrete(2), [None] * 3, np.ones(3, np.bool_)).all()


# Descriptions

ODD_SPACES = [
    Box(-np.inf, np.inf, (3,), np.float64),
    Box(np.float32([-1, 0.1]), np.float32([np.inf, 7])),
    Box(0, 255, (84, 84, 3), np.uint8),
    Box(0, np.iinfo(np.int64).max, (2,), np.int64),
    Box(np.int64([-(2**63), 0]), np.int64([2**53 + 1, 2**63 - 1]), dtype=np.int64),
    Box(0, np.iinfo(np.uint64).max, (), np.uint64),
    Box(np.finfo(np.float64).min, np.finfo(np.float64).max, (2, 1), np.float64),
    Discrete(5, start=-2),
    Discrete(5, dtype=np.int32),
    MultiDiscrete([[3, 2], [1, 4]], start=[[0, 1], [-5, 2]]),
    MultiDiscrete([2, 3], dtype=np.int32),
    MultiBinary([2, 3]),
    MultiBinary(4),
    MultiBinary([4]),
]


def through_a_file(description: Any) -> Any:
    file = io.BytesIO()
    torch.save(description, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@given(SPACES | FLOAT_BOXES | st.sampled_from(ODD_SPACES))
def test_spaces_come_back_from_a_file_as_they_were(space: gym.Space[Any]) -> None:
    found = described_space(through_a_file(describe_space(space)))
    assert found == space
    assert type(found) is type(space)
    assert found.dtype == space.dtype


def test_parts_that_are_not_used_come_back_as_something_that_is_not_used() -> None:
    space = Dict(a=Discrete(2), mission=Text(9), graph=Graph(Discrete(2), None))
    found = described_space(through_a_file(describe_space(space)))
    assert ObservationEncoder(found, ["a"]).vector_size == 2
    with pytest.raises(ConfigError, match="'graph'"):
        ObservationEncoder(found)


def test_an_images_bounds_take_no_room() -> None:
    assert describe_space(Box(0, 255, (84, 84, 3), np.uint8)) == {
        "box": [84, 84, 3], "dtype": "uint8", "low": 0, "high": 255,
    }  # fmt: skip
