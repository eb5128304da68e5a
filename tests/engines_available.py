"""The engines that tests run on: NumPy's where its package is there."""

from importlib.util import find_spec
from typing import Any

import pytest

from rlkl.engines.make import make_engine
from rlkl.models.policy import Policy

HAS_NUMPY_ENGINE = find_spec("rlkl.engines.numpy") is not None
needs_numpy_engine = pytest.mark.skipif(not HAS_NUMPY_ENGINE, reason="needs the NumPy engine")
ENGINES = ("torch", "numpy") if HAS_NUMPY_ENGINE else ("torch",)


def numpy_engine(policy: Policy) -> Any:
    """Return the NumPy engine of a policy."""
    engine: Any = make_engine(policy)
    assert engine.name == "numpy"
    return engine
