"""Usable CPU cores are limited by affinity."""

import os

import pytest

from rlkl.utils.cpu import has_another_core, usable_cores

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system has no affinity"
)


@needs_affinity
def test_affinity_to_one_core_leaves_one() -> None:
    before = os.sched_getaffinity(0)
    assert 1 <= usable_cores() <= len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
        assert not has_another_core()
    finally:
        os.sched_setaffinity(0, before)
    assert has_another_core() == (len(before) > 1)


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for cores, another in ((1, False), (2, True), (None, False)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert has_another_core() == another
