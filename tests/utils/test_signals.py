"""Stop signals set an event, and handlers are restored."""

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

from rlkl.utils.signals import STOP_SIGNALS, ignore_stop_signals, stop_signal


@pytest.fixture(autouse=True)
def handlers() -> Any:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the test runner may ignore it
    yield {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_first_signal_sets_the_event(number: int) -> None:
    with stop_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_calls_the_previous_handler(first: int, second: int) -> None:
    seen = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: seen.append(number))
    with stop_signal():
        os.kill(os.getpid(), first)
        assert seen == []
        os.kill(os.getpid(), second)
    assert seen == [second]


def test_second_hangup_is_ignored() -> None:
    seen = []
    signal.signal(signal.SIGHUP, lambda *_: seen.append(1))
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.is_set()
    assert seen == []


def test_signal_within_a_handler_sets_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_ignored_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_restored_after_an_error(handlers: dict[int, Any]) -> None:
    with pytest.raises(RuntimeError), stop_signal():
        raise RuntimeError
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == handlers


def test_other_threads_install_no_handlers(handlers: dict[int, Any]) -> None:
    found = []

    def use() -> None:
        with stop_signal() as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == handlers


def test_workers_ignore_stop_signals() -> None:
    ignore_stop_signals()
    for number in STOP_SIGNALS:
        os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["-m", "seed=0,1"]])
def test_closed_terminal_saves_the_run(arguments: list[str], tmp_path: Path) -> None:
    settings = ["total_env_steps=100000000", "env.num_envs=2", "rollout_steps=32"]
    command = [sys.executable, "-m", "rlkl", "train", *settings, *arguments]
    master, terminal = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    runs = 2 if arguments else 1
    deadline = time.monotonic() + 120

    def have_started() -> bool:
        tables = list(tmp_path.rglob("metrics.csv"))
        return len(tables) == runs and all(t.read_text().count("\n") > 2 for t in tables)

    os.set_blocking(master, False)
    while not have_started():
        assert time.monotonic() < deadline
        try:
            os.read(master, 65536)
        except BlockingIOError:
            time.sleep(0.1)
    os.close(master)  # a hangup
    process.wait(timeout=100)
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert [(s["status"], s["reason"]) for s in summaries] == [("stopped", "interrupted")] * runs
