"""Observations are encoded as Gymnasium flattens them, and wrong ones are refused."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
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
from space_strategies import SPACES

from rlkl.envs.observations import VECTOR, ObservationEncoder, normalized
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError


class Showing(gym.Env[Any, Any]):
    """Observes samples of a space."""

    action_space = Discrete(2)

    def __init__(self, space: gym.Space[Any], seed: int) -> None:
        self.observation_space = space
        space.seed(seed)
        self.shown: Any = None

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.shown = self.observation_space.sample()
        return self.shown, {}


def batch_of(space: gym.Space[Any]) -> tuple[Any, list[Any]]:
    """Return observations as a batch of a vector environment, and as a list."""
    envs = SyncVectorEnv([lambda: Showing(space, 7)] * 3)
    batch, _ = envs.reset()
    return batch, [env.shown for env in envs.envs]


def flattened(space: gym.Space[Any], observation: Any) -> list[float]:
    """Return the columns of an observation like Gymnasium, but with starts of MultiDiscrete."""
    if isinstance(space, Dict):
        return [x for key in space for x in flattened(space[key], observation[key])]
    if isinstance(space, Tuple):
        pairs = zip(space, observation, strict=True)
        return [x for part, value in pairs for x in flattened(part, value)]
    if isinstance(space, MultiDiscrete):
        whole = zip(np.ravel(observation), space.nvec.ravel(), np.ravel(space.start), strict=True)
        return [float(start + k == value) for value, n, start in whole for k in range(n)]
    return np.float32(flatten(space, observation)).tolist()


@given(SPACES)
def test_vectors_equal_gymnasiums_flatten(space: gym.Space[Any]) -> None:
    batch, singles = batch_of(space)
    encoder = ObservationEncoder(space)
    expected = np.array([flattened(space, single) for single in singles], np.float32)
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
def test_known_observations_have_known_vectors(
    space: gym.Space[Any], observation: Any, vector: list[float], measured: list[int]
) -> None:
    encoder = ObservationEncoder(space)
    assert encoder.stack([observation])[VECTOR].tolist() == [vector]
    assert encoder.is_measured.tolist() == [bool(m) for m in measured]


# In every layout, pixel (h, w) of channel c is 100 c + 10 h + w.
LAYOUTS = {
    "h w": ((5, 4), lambda h, w: 10 * h + w, (1, 5, 4)),
    "h w c": ((5, 4, 2), lambda h, w, c: 100 * c + 10 * h + w, (2, 5, 4)),
    "c h w": ((2, 5, 4), lambda c, h, w: 100 * c + 10 * h + w, (2, 5, 4)),
    "h w 1": ((5, 4, 1), lambda h, w, c: 100 * c + 10 * h + w, (1, 5, 4)),
    "one size": ((2, 2, 2), lambda h, w, c: 100 * c + 10 * h + w, (2, 2, 2)),
    "frames h w": ((2, 5, 4), lambda c, h, w: 100 * c + 10 * h + w, (2, 5, 4)),
    # Frames of one channel.
    "frames h w 1": ((2, 5, 4, 1), lambda k, h, w, c: 100 * (k + c) + 10 * h + w, (2, 5, 4)),
    "frames 1 h w": ((2, 1, 5, 4), lambda k, c, h, w: 100 * (k + c) + 10 * h + w, (2, 5, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_get_channels_first(layout: str) -> None:
    shape, value, expected_shape = LAYOUTS[layout]
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


def test_colour_frames_become_channels_frame_by_frame() -> None:
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


def test_keys_choose_parts_in_the_spaces_order() -> None:
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
def test_unsupported_observations_are_refused(
    space: gym.Space[Any], keys: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ObservationEncoder(space, keys)


def test_unused_parts_may_have_any_space() -> None:
    space = Dict(a=Discrete(2), g=Graph(Discrete(2), None), s=Sequence(Discrete(2)), t=Text(3))
    batch, singles = batch_of(space)
    encoder = ObservationEncoder(space, ["a"])
    np.testing.assert_array_equal(encoder(batch)[VECTOR], encoder.stack(singles)[VECTOR])


MIXED = Dict(a=Box(-np.inf, np.inf, (2,)), b=Box(-np.inf, np.inf, (2, 2)), d=Discrete(3, start=2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_numbers_are_located(bad: float) -> None:
    good = {
        "a": np.zeros((4, 2), np.float32),
        "b": np.zeros((4, 2, 2), np.float32),
        "d": np.full(4, 2),
    }
    encoder = ObservationEncoder(MIXED)
    encoder(good)
    broken = {key: value.copy() for key, value in good.items()}
    broken["b"][3, 1, 0] = bad
    with pytest.raises(
        BrokenEnvironmentError, match=f"^env.id=X: .*'b' of sub-environment 3 is {bad}"
    ):
        encoder(broken, "env.id=X")
    with pytest.raises(BrokenEnvironmentError, match=f"of sub-environment 1 is {bad} at index 0"):
        ObservationEncoder(MIXED["a"])(np.array([[0, 0], [bad, 0]], np.float32))


def test_float32_overflow_is_not_finite() -> None:
    encoder = ObservationEncoder(Box(-np.inf, np.inf, (2,), np.float64))
    with pytest.raises(BrokenEnvironmentError, match="of sub-environment 0 is inf"):
        encoder(np.array([[0, 1e300]]))
    with pytest.raises(BrokenEnvironmentError, match="of 'a' of sub-environment 0 is inf"):
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
        ("d", np.array([1]), r"of 'd' of .* 0 is 1, outside its space Discrete\(3, start=2\)"),
        ("d", np.array([5]), "of 'd' of sub-environment 0 is 5, outside"),
        ("d", np.array([[3]]), r"of 'd' has shape \(1,\)"),
    ],
)
def test_undeclared_rows_are_refused(key: str, rows: Any, words: str) -> None:
    good = {
        "a": np.zeros((1, 2), np.float32),
        "b": np.zeros((1, 2, 2), np.float32),
        "d": np.array([4]),
    }
    with pytest.raises(BrokenEnvironmentError, match=f"^env.id=X: an observation {words}"):
        ObservationEncoder(MIXED)(good | {key: rows}, "env.id=X")


def test_float_images_and_wrong_codes_are_refused() -> None:
    with pytest.raises(BrokenEnvironmentError, match="type float64"):
        ObservationEncoder(Box(0, 255, (4, 4), np.uint8))(np.zeros((2, 4, 4)))
    with pytest.raises(BrokenEnvironmentError, match=r"of sub-environment 1 is \[0 3\], outside"):
        ObservationEncoder(MultiDiscrete([2, 3]))(np.array([[1, 2], [0, 3]]))


def test_castable_types_are_cast() -> None:
    encoder = ObservationEncoder(Box(-9, 9, (2,), np.float32))
    for dtype in (np.float64, np.int64, np.bool_):
        encoded = encoder(np.ones((1, 2), dtype))[VECTOR]
        assert encoded.tolist() == [[1, 1]]
        assert encoded.dtype == np.float32


def test_normalization_changes_only_boxes() -> None:
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


def test_float64_is_kept_until_normalization() -> None:
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


def test_missing_parts_are_named() -> None:
    encoder = ObservationEncoder(Dict(a=Box(-1, 1, (2,)), b=Discrete(3)))
    with pytest.raises(BrokenEnvironmentError, match="observation of 'b' is missing"):
        encoder({"a": np.zeros((4, 2), np.float32)})
    with pytest.raises(BrokenEnvironmentError, match="observation of 'b' is missing"):
        encoder.stack([{"a": np.zeros(2, np.float32)}])


def test_unused_parts_may_be_missing() -> None:
    space = Dict(a=Box(-9, 9, (2,)), b=Dict(c=Discrete(2), d=Text(4)), e=Text(3))
    encoder = ObservationEncoder(space, ["a", "b/c"])
    (row,) = encoder.stack([{"a": np.float32([1, 2]), "b": {"c": 1}}])[VECTOR]
    assert row.tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize("space", [Box(0, 1, (0,)), Dict({}), Dict(a=Box(0, 1, (0,)))])
def test_empty_observations_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="contain nothing; expected at least one number"):
        ObservationEncoder(space)
