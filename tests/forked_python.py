"""Start Python programs as forks of one process that has imported torch and rlkl: that takes long.

`Popen` and `run` are those of subprocess. A command `[sys.executable, ...]` becomes a fork of
`fork_server.py`: a process with the arguments, environment variables, folder and streams it would
have. What cannot be the same, such as other options of Python, is started as usual.
"""

import atexit
import os
import pickle
import select
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

ENVIRONMENT, FOLDER = dict(os.environ), Path.cwd()
"""The server's: those of this process before tests change theirs."""
READ_BY_IMPORTS = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "OMP_", "GOMP_", "MKL_", "KMP_")
READ_BY_IMPORTS += ("OPENBLAS_", "NPY_", "TORCH", "ATEN_", "ONEDNN_", "CUDA", "CUBLAS_")
READ_BY_IMPORTS += ("WORLD_SIZE",)
"""Starts of the variables that Python, torch or rlkl read once, so a fork cannot change them."""
READ_LATER = {"PYTHONPATH", "KMP_INIT_AT_FORK"}
"""Exceptions: the server reads the first for each fork; the other is set by importing joblib."""


@cache
def _server() -> socket.socket:
    """Start the server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        script = str(Path(__file__).with_name("fork_server.py"))
        command, passed = [sys.executable, script, str(theirs.fileno())], [theirs.fileno()]
        server = subprocess.Popen(command, env=ENVIRONMENT, cwd=FOLDER, pass_fds=passed)
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


class Popen(subprocess.Popen[str]):
    """`subprocess.Popen`, whose process is forked by the server where that makes no difference."""

    _reply: socket.socket | None = None

    def _execute_child(self, args: Any, executable: Any, *others: Any) -> None:
        _, _, _, cwd, env, _, _, shell, *pipes = others[:14]
        is_python = not shell and args[0] == sys.executable
        has_options = is_python and str(args[1])[0] == "-" and args[1] not in ("-m", "-c")
        given = dict(os.environ if env is None else env)
        changed = {key for key, _ in given.items() ^ ENVIRONMENT.items()} - READ_LATER
        is_read = any(key.startswith(READ_BY_IMPORTS) for key in changed)
        if not is_python or has_options or is_read:
            super()._execute_child(args, executable, *others)  # type: ignore[misc]
            return
        self._reply, theirs = socket.socketpair()
        # Of each pipe, the end of the process; -1 if it has the stream of this process.
        streams = [pipes[i] if pipes[i] >= 0 else number for number, i in enumerate((0, 3, 5))]
        is_session = others[-2]
        request = [str(arg) for arg in args], str(cwd or Path.cwd()), given, is_session
        with theirs:
            passed = [*streams, theirs.fileno()]
            socket.send_fds(_server(), [pickle.dumps(request)], passed)
        self.pid = int.from_bytes(self._reply.recv(4))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._reply is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        if not select.select([self._reply], [], [], 0 if wait_flags else None)[0]:
            return 0, 0
        with self._reply as reply:
            status = reply.recv(4)
        assert status, "the server ended"
        return self.pid, int.from_bytes(status)

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if self._reply is None:
            return super()._internal_poll(*args, **kwargs)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def run(
    args: Any, *, capture_output: bool = False, timeout: float | None = None, check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """`subprocess.run`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **options) as process:
        try:
            printed, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, printed, errors)
    if check:
        done.check_returncode()
    return done
