"""Handles the signals that ask a process to stop."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

HANGUP = signal.SIGHUP
"""Sent to the processes of a terminal that is closed."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, HANGUP)


@contextmanager
def stop_signal(*, once: bool = True) -> Iterator[threading.Event]:
    """Set an event at the first stop signal; a second one ends the process at once.

    With `once=False` it does not: torchrun passes on a signal that its processes also get.

    SIGHUP may come twice when a terminal is closed, so it never ends the process. If it was
    ignored, as under `nohup`, it stays ignored. Only the main thread handles signals.
    """
    stop = threading.Event()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in active_stop_signals()}
    is_set = is_stopping = False

    def handle(number: int, frame: Any) -> None:
        nonlocal is_set, is_stopping
        is_second = once and is_stopping and number != HANGUP
        is_stopping = is_stopping or number != HANGUP
        if not is_set:  # Event.set takes a lock: a second handler inside it would deadlock
            is_set = True
            stop.set()
        if is_second:  # not earlier: another signal may be pending
            restore_handlers({other: before[other] for other in before if other != HANGUP})
            os.kill(os.getpid(), number)

    with handling(before, handle):
        yield stop


@contextmanager
def handling(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    """Handle signals in this context by a handler, unless this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        restore_handlers(before)


def restore_handlers(handlers: Mapping[Any, Any]) -> None:
    """Set handlers back to what `signal.getsignal` returned."""
    for number, handler in handlers.items():
        if handler is not None:  # None: it was not set from Python
            signal.signal(number, handler)


def active_stop_signals() -> list[signal.Signals]:
    """Return the stop signals, without SIGHUP if the process ignores it."""
    return [n for n in STOP_SIGNALS if n != HANGUP or signal.getsignal(n) is not signal.SIG_IGN]


def ignore_stop_signals() -> None:
    """Ignore stop signals in a worker process, whose parent gets them too and decides."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def children_ignore_signals() -> AbstractContextManager[None]:
    """Let processes that are started in this context ignore the signals that stop a run.

    Terminals and Slurm signal every process, but the trainer decides when its workers stop.
    """
    return handling(STOP_SIGNALS, signal.SIG_IGN)
