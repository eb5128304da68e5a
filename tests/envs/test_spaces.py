"""Spaces return unchanged from their description in a file."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Text
from hypothesis import given
from hypothesis import strategies as st
from space_strategies import FLOAT_BOXES, SPACES

from rlkl.envs.observations import ObservationEncoder
from rlkl.envs.spaces import describe_space, described_space
from rlkl.utils.errors import ConfigError

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
def test_spaces_survive_a_file(space: gym.Space[Any]) -> None:
    found = described_space(through_a_file(describe_space(space)))
    assert found == space
    assert type(found) is type(space)
    assert found.dtype == space.dtype


def test_unsupported_parts_stay_unsupported() -> None:
    space = Dict(a=Discrete(2), mission=Text(9), graph=Graph(Discrete(2), None))
    found = described_space(through_a_file(describe_space(space)))
    assert ObservationEncoder(found, ["a"]).vector_size == 2
    with pytest.raises(ConfigError, match="'graph'"):
        ObservationEncoder(found)


def test_equal_bounds_are_stored_once() -> None:
    assert describe_space(Box(0, 255, (84, 84, 3), np.uint8)) == {
        "box": [84, 84, 3], "dtype": "uint8", "low": 0, "high": 255,
    }  # fmt: skip
