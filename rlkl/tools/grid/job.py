"""One job of a grid, in a process of its own: what breaks it breaks nothing else."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rlkl.tools.grid.call import Call, Status
from rlkl.training.run_status import LOG
from rlkl.training.trainer import complete
from rlkl.utils.atomic_files import FolderTakenError
from rlkl.utils.signals import STOPS
from rlkl.utils.validation import ConfigError, one_line

SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
"""What a job is sent when it is asked to stop, asked again, and again."""

PATIENCE = 60.0
"""Seconds that a job has to save and end after whoever started it is gone."""


@dataclass(frozen=True)
class JobRunner:
    """What Hydra's launchers call, on whatever process or machine they chose, with a job's name.

    It starts the job's process and waits, so a job that crashes or is killed takes no worker of the
    launcher with it.

    Attributes:
        call: the jobs' call.
        working_dir: where the command was given.
        command: the process that it was given to.
    """

    call: Call
    working_dir: Path
    command: int

    def __call__(self, composed: Any) -> None:
        """Run the job `composed.job`, and tell how it ended."""
        name = str(composed.job)
        if self.call.stops_asked():
            return
        os.chdir(self.working_dir)
        if os.getpid() != self.command:
            # A worker that a terminal ended would take the launcher with it, and the jobs.
            for number in set(STOPS) - {signal.SIGTERM}:
                signal.signal(number, signal.SIG_IGN)
        launcher = os.getppid()
        self.call.write_status(name, Status("running"))
        self.call.write_status(name, self._run(name, launcher))
        if os.getppid() != launcher:
            os._exit(1)  # nobody is left to give this worker another job

    def _run(self, name: str, launcher: int) -> Status:
        # A worker that did nothing but import may be forked, which spares each job the seconds of
        # importing; the command itself has a display's thread, and has computed.
        context: Any = multiprocessing.get_context(
            "spawn" if os.getpid() == self.command else "fork"
        )
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(self.call, name, theirs, ours))
        process.start()
        theirs.close()
        try:
            asked = self._wait(process, launcher)
        except BaseException:
            # A launcher takes its worker back, as submitit does when the job's time is up.
            process.terminate()
            process.join(PATIENCE)
            raise
        with suppress(EOFError):
            if ours.poll():
                status: Status = ours.recv()
                return status
        if asked:
            return Status("stopped", "before its first iteration")
        return Status("failed", how_it_died(process.exitcode))

    def _wait(self, process: BaseProcess, launcher: int) -> int:
        """Wait for the end of a job's process; return how often it was asked to stop."""
        sent = 0
        while True:
            process.join(0.2)
            if process.exitcode is not None:
                return sent
            orphaned = os.getppid() != launcher
            wanted = max(self.call.stops_asked(), orphaned)
            while sent < wanted:
                os.kill(process.pid or 0, SIGNALS[sent])
                sent += 1


def _work(call: Call, name: str, to_runner: Connection, other_end: Connection) -> None:
    """Run a job in the process that was made for it.

    Args:
        call: the job's call.
        name: of the job.
        to_runner: takes the status at the end, and breaks when whoever waits for it is gone.
        other_end: the runner's, of which a fork leaves a copy here too.
    """
    other_end.close()
    os.setsid()  # a terminal's Ctrl-C reaches the command, which asks the jobs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):  # for the launcher's worker
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(target=_follow, args=(to_runner,), daemon=True).start()
    try:
        config = call.config(name)
        summary = complete(config, claimed=_print_into_log)
        status = Status(summary.status, summary.reason)
    except FolderTakenError as error:
        status = Status("taken", str(error))
    except BaseException as error:
        if not isinstance(error, ConfigError):  # whose message says it all
            traceback.print_exc()
        status = Status("failed", f"{type(error).__name__}: {one_line(error)}")
    sys.stdout.flush()
    to_runner.send(status)


def _print_into_log(run_dir: Path) -> None:
    """Let all that this process and its own print go to a file in the run's folder."""
    sys.stdout.flush()
    log = os.open(run_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # A launcher may have put something of its own in their place.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _follow(to_runner: Connection) -> None:
    """End this process, with what it has saved, after the one that waits for it."""
    with suppress(EOFError, OSError):
        to_runner.recv()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


def how_it_died(exit_code: int | None) -> str:
    """Say how a process ended that should have told it itself."""
    if exit_code is not None and exit_code < 0:
        hint = " (for want of memory?)" if exit_code == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-exit_code).name}{hint}"
    return f"its process ended with exit code {exit_code}, and said nothing"
