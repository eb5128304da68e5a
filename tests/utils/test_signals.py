"""Signals that ask to stop, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlkl.utils.signals import STOPS, ignore_stops, stop_signal


@pytest.fixture(autouse=True)
def handlers() -> Any:
    before = {number: signal.getsignal(number) for number in STOPS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored where the tests run
    yield {number: signal.getsignal(number) for number in STOPS}
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_first_signal_sets_the_event(number: int) -> None:
    with stop_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_goes_to_the_handler_from_before(first: int, second: int) -> None:
    seen = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: seen.append(number))
    with stop_signal():
        os.kill(os.getpid(), first)
        assert seen == []
        os.kill(os.getpid(), second)
    assert seen == [second]


def test_second_hangup_ends_nothing() -> None:
    seen = []
    signal.signal(signal.SIGHUP, lambda *_: seen.append(1))
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.is_set()
    assert seen == []


def test_signal_during_the_first_ones_handler_sets_no_event_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    class Event(threading.Event):
        def set(self) -> None:
            calls.append(1)
            if len(calls) == 1:
                os.kill(os.getpid(), signal.SIGHUP)
            super().set()

    monkeypatch.setattr("rlkl.utils.signals.threading.Event", Event)
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
    assert calls == [1]


def test_hangup_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_put_back_after_an_error(handlers: dict[int, Any]) -> None:
    with pytest.raises(RuntimeError), stop_signal():
        raise RuntimeError
    assert {number: signal.getsignal(number) for number in STOPS} == handlers


def test_another_thread_gets_an_event_without_handlers(handlers: dict[int, Any]) -> None:
    found = []

    def use() -> None:
        with stop_signal() as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]
    assert {number: signal.getsignal(number) for number in STOPS} == handlers


def test_workers_ignore_all_of_them() -> None:
    ignore_stops()
    for number in STOPS:
        os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["-m", "seed=0,1"]])
def test_a_terminal_that_is_closed_saves_the_run(arguments: list[str], tmp_path: Path) -> None:
    many = ["total_env_steps=100000000", "env.num_envs=2", "rollout_steps=32"]
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "rlkl", "train", *many, *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    runs = 2 if arguments else 1
    deadline = time.monotonic() + 120

    def are_begun() -> bool:
        tables = list(tmp_path.rglob("metrics.csv"))
        return len(tables) == runs and all(t.read_text().count("\n") > 2 for t in tables)

    os.set_blocking(ours, False)
    while not are_begun():
        assert time.monotonic() < deadline
        try:
            os.read(ours, 65536)
        except BlockingIOError:
            time.sleep(0.1)
    os.close(ours)  # a hangup
    process.wait(timeout=100)
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert [(s["status"], s["reason"]) for s in summaries] == [("stopped", "interrupted")] * runs
