"""Fixtures for environments in several processes."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

import rlkl.envs.shared_memory_env


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use two processes on any machine."""
    monkeypatch.setattr(rlkl.envs.shared_memory_env, "usable_cores", lambda: 2)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """End a test that hangs."""

    def ring(*_: Any) -> None:
        raise TimeoutError("hung for a minute")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
