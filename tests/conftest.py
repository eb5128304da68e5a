"""What every test runs under: one thread, the same examples each time, a browser if it asks."""

import gc
import math
import os
from collections.abc import Generator
from functools import cache
from typing import Any

import omegaconf.base
import pytest
import torch
from browsing import browser, pages
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore
from hypothesis import settings
from learning_loop import CORE

from rlkl.algos import ALGORITHMS
from rlkl.envs import backend_probe
from rlkl.utils.errors import MissingPackageError

__all__ = ["browser", "pages"]

torch.set_num_threads(1)
backend_probe.WORTHWHILE = math.inf  # no test depends on the speed of the machine
os.fsync = lambda number: None  # no test cuts the power; a run waits twenty times for the disk
# Hydra copies all schemas each time it composes a config, a quarter of the time that takes. Its
# store copies what it hands out as well, so sharing the store changes no result.
ConfigStore.__deepcopy__ = lambda self, memo: self
# Hydra parses the same few interpolations each time as well; it only reads what it gets.
omegaconf.base.parse = cache(omegaconf.base.parse)
# It also makes a config of all choices for each file, which only interpolated defaults read.
choices = defaults_list._create_interpolation_map
defaults_list._create_interpolation_map = lambda overrides, defaults, has_self: (
    choices(overrides, defaults, has_self) if any(d.is_interpolation() for d in defaults) else None
)
settings.register_profile("rlkl", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("rlkl")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Skip a test that needs an extra which is not installed; in CI all of them are."""
    try:
        return (yield)
    except MissingPackageError as error:
        pytest.skip(str(error))


def is_slow(item: pytest.Item) -> bool:
    """Whether a test needs a browser, or repeats for a further algorithm what others show."""
    if "browser" in getattr(item, "fixturenames", ()):
        return True
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    names = {value for value in values if isinstance(value, str)}
    is_further = bool(names & (ALGORITHMS.keys() - CORE))
    return is_further and item.path.stem != "test_objectives"


@pytest.hookimpl(tryfirst=True)  # before those that were not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests whose slowness their parameters and fixtures tell."""
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Look for garbage only among what tests make: the modules and tests are a million objects."""
    gc.collect()
    gc.freeze()
