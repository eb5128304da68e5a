"""A forked program is like one that Python starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import forked_python
import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys, signal, threading, tempfile
main = sys.modules["__main__"]
print(sys.argv, os.getcwd(), *sys.path[:2], os.environ.get("TMPDIR"), tempfile.gettempdir())
print(sys.stdin.read(), *((s.encoding, s.errors) for s in (sys.stdin, sys.stdout, sys.stderr)))
print(*(s.line_buffering for s in (sys.stdout, sys.stderr)), file=sys.stderr)
print(*map(signal.getsignal, (signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)))
print(os.getsid(0) == os.getpid(), threading.active_count(), len(os.listdir("/proc/self/fd")))
print(__name__, main.__name__, os.path.basename(getattr(main, "__file__", "")))
sys.exit(7)
"""


def pipe(given: bytes) -> int:
    """A pipe with some bytes in it."""
    ours, theirs = os.pipe()
    os.write(theirs, given)
    os.close(theirs)
    return ours


@pytest.mark.parametrize("kind", ["-m", "-c", "script"])
@pytest.mark.parametrize("session", [False, True])
def test_fork_equals_a_process(kind: str, session: bool, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    how = {"-m": ["-m", "program"], "-c": ["-c", PROGRAM], "script": ["program.py"]}[kind]
    options = {
        "cwd": tmp_path, "start_new_session": session, "capture_output": True, "text": True,
        "env": os.environ | {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)},
    }  # fmt: skip
    command = [sys.executable, *how, "a b", "ü"]
    real = subprocess.run(command, stdin=pipe(b"said"), check=False, **options)
    fork = forked_python.run(command, stdin=pipe(b"said"), **options)
    assert fork.returncode == real.returncode == 7
    assert fork.stderr == real.stderr
    assert fork.stdout.splitlines() == real.stdout.splitlines()


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit('words')", "1 / 0", "import os; os.kill(os.getpid(), 9)",
     "import os; os.kill(os.getpid(), 2)", "import atexit; atexit.register(print, 'end')",
     "import os; os.close(1); print('lost')"],
)  # fmt: skip
def test_fork_ends_like_a_process(code: str) -> None:
    command = [sys.executable, "-c", code]
    real = subprocess.run(command, capture_output=True, text=True, check=False)
    fork = forked_python.run(command, capture_output=True, text=True)
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_fork_can_be_signalled_and_waited_for() -> None:
    command = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
    process = forked_python.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    process.stdout.close()


def test_other_environment_starts_a_process() -> None:
    command = [sys.executable, "-c", "import sys; print('torch' in sys.modules)"]
    changes = (
        ({}, "True\n"),
        ({"HYDRA_FULL_ERROR": "1"}, "True\n"),
        ({"OMP_NUM_THREADS": "1"}, "False\n"),
        ({"PYTHONWARNINGS": "error"}, "False\n"),
    )
    for change, expected in changes:
        given = forked_python.ENVIRONMENT | change
        done = forked_python.run(command, env=given, capture_output=True, text=True)
        assert done.stdout == expected, change
