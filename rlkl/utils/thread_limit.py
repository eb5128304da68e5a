"""Limits the threads of torch and BLAS while a learner exists."""

import threading
from typing import Any

import torch
from threadpoolctl import threadpool_limits


class ThreadLimit:
    """Limits the threads of torch and BLAS until it is released.

    If several limits exist, the release of the last one restores the numbers from before the
    first. torch has one number for each Python thread, BLAS one for the process.
    """

    _own = threading.local()
    _lock = threading.Lock()
    _users = 0
    _blas: Any = None

    def __init__(self, threads: int) -> None:
        own = self._own
        own.users = getattr(own, "users", 0) + 1
        if own.users == 1:
            own.before = torch.get_num_threads()
        with self._lock:
            limits = threadpool_limits(threads, "blas")
            if ThreadLimit._users == 0:
                ThreadLimit._blas = limits
            ThreadLimit._users += 1
        torch.set_num_threads(threads)
        self._is_held = True

    def release(self) -> None:
        """Release the limit, once, in the thread that created it."""
        if not self._is_held:
            return
        self._is_held = False
        with self._lock:
            ThreadLimit._users -= 1
            if ThreadLimit._users == 0:
                ThreadLimit._blas.restore_original_limits()
        own = self._own
        own.users = getattr(own, "users", 1) - 1
        if own.users == 0:
            torch.set_num_threads(getattr(own, "before", torch.get_num_threads()))
