"""What every test runs under: one thread, the same examples each time, a browser if it asks."""

import math

import pytest
import torch
from browsing import browser, pages
from hypothesis import settings

from rlkl.envs import backend_probe

__all__ = ["browser", "pages"]

torch.set_num_threads(1)
backend_probe.WORTHWHILE = math.inf  # no test depends on the speed of the machine
settings.register_profile("rlkl", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("rlkl")


@pytest.hookimpl(tryfirst=True)  # before those that were not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests that open pages to the slow ones, but for those of the browser itself."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()) and item.path.stem != "test_browsing":
            item.add_marker(pytest.mark.slow)
