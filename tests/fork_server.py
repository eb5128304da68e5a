"""The program that forks those of `forked_python.py`: argument is the socket of its requests."""

import gc
import importlib
import io
import os
import pickle
import runpy
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

COMMANDS = ("train", "resume", "tune", "clone", "board", "evaluate", "show", "compare")
"""Commands of rlkl whose modules are imported before forking."""


def forked(requests: socket.socket) -> Any:
    """Fork a process for each request, and return the request in that process."""
    while True:
        request, fds, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        with suppress(ChildProcessError):  # end those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:
            sys.exit()
        if os.fork() == 0:
            break
        for fd in fds:
            os.close(fd)
    requests.close()
    *streams, reply = fds
    if pid := os.fork():  # this process waits for the program, so that its exit can be told
        for fd in streams:
            os.close(fd)
        with suppress(BrokenPipeError):
            os.write(reply, pid.to_bytes(4))
            os.write(reply, os.waitpid(pid, 0)[1].to_bytes(4))
        os._exit(0)
    os.close(reply)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    return pickle.loads(request)


def open_streams() -> None:
    """Open the standard streams as Python does."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        buffering = 0 if number and old.write_through else -1
        buffer: Any = open(number, "wb" if number else "rb", buffering, closefd=False)  # noqa: SIM115
        is_line = not old.write_through and (number == 2 or buffer.isatty())
        new = io.TextIOWrapper(buffer, old.encoding, old.errors, None, is_line, old.write_through)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def python_path() -> list[str]:
    """Return the absolute folders of PYTHONPATH."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(folder).absolute()) for folder in folders if folder]


def main() -> None:
    """Fork programs; in those, be the program."""
    base = [path for path in sys.path[1:] if path not in python_path()]
    for name in ("rlkl.api", *(f"rlkl.cli.{command}" for command in COMMANDS)):
        importlib.import_module(name)
    gc.freeze()
    (_, first, *arguments), folder, environment, is_session = forked(
        socket.socket(fileno=int(sys.argv[1]))
    )
    open_streams()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if is_session:
        os.setsid()
    tempfile.tempdir = None
    importlib.invalidate_caches()
    sys.path[:] = [*python_path(), *base]
    if first == "-m":
        sys.argv = arguments
        sys.path.insert(0, folder)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    sys.modules["__main__"] = program = ModuleType("__main__")
    if first == "-c":
        sys.argv = ["-c", *arguments[1:]]
        sys.path.insert(0, "")
        code = compile(arguments[0], "<string>", "exec")
    else:
        sys.argv = [first, *arguments]
        script = Path(first).absolute()
        sys.path.insert(0, str(script.parent))
        program.__file__ = str(script)
        code = compile(script.read_text(), script, "exec")
    exec(code, vars(program))


if __name__ == "__main__":
    main()
