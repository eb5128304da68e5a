"""Hypothesis strategies for spaces."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from hypothesis import strategies as st

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
