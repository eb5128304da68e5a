"""Signals that ask a process to stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""What the processes of a terminal that is closed get; not on Windows."""

STOPS = (signal.SIGINT, signal.SIGTERM, *((HANGUP,) if HANGUP is not None else ()))


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Turn the first signal that asks to stop into an event; the next ends the process at once.

    SIGHUP may come twice when a terminal is closed, so it never ends the process; where it was
    ignored, as under `nohup`, it still is. In threads other than the main one signals are not ours.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in heeded()}

    is_set = asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal is_set, asked
        is_second = asked and number != HANGUP
        asked = asked or number != HANGUP
        if not is_set:  # Event.set takes a lock, on which a handler within a handler would hang
            is_set = True
            stop.set()
        if is_second:  # handlers are put back no earlier: another signal may be on its way
            _put_back({other: before[other] for other in before if other != HANGUP})
            os.kill(os.getpid(), number)

    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        _put_back(before)


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # None is one that was not set from Python
            signal.signal(number, handler)


def heeded() -> list[signal.Signals]:
    """Return the signals that ask this process to stop: SIGHUP is none where it is ignored."""
    return [n for n in STOPS if n != HANGUP or signal.getsignal(n) is not signal.SIG_IGN]


def ignore_stops() -> None:
    """Ignore signals that ask to stop, in a worker: its parent gets them too, and decides."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
