"""One job of a grid, in a separate process, so that a crash affects no other job."""

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
from rlkl.training.run_folder import LOG
from rlkl.training.trainer import complete
from rlkl.utils.atomic_files import FolderTakenError
from rlkl.utils.errors import ConfigError
from rlkl.utils.signals import STOP_SIGNALS
from rlkl.utils.validation import described

ESCALATION = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
"""Signals that a job gets at the first, second and third stop request."""

SHUTDOWN_SECONDS = 60.0
"""Time that a job has to save and end if its parent process is gone."""


@dataclass(frozen=True)
class JobRunner:
    """Runs a job in a process and waits for it, so a crash does not end the launcher's worker."""

    call: Call
    working_dir: Path
    command: int  # process id of `rlkl train`

    def __call__(self, composed: Any) -> None:
        """Run the job `composed.job`, and write its status."""
        name = str(composed.job)
        if self.call.stop_requests():
            return
        os.chdir(self.working_dir)
        if os.getpid() != self.command:
            # If a terminal's signal ended this worker, the launcher and all jobs would end too.
            for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
                signal.signal(number, signal.SIG_IGN)
        launcher = os.getppid()
        self.call.write_status(name, Status("running"))
        self.call.write_status(name, self._run(name, launcher))
        if os.getppid() != launcher:
            os._exit(1)  # no launcher is left to send this worker another job

    def _run(self, name: str, launcher: int) -> Status:
        # Forking a worker is safe, because it has only imported rlkl, and saves each job that
        # import. The command itself has a display thread and has computed, so it spawns.
        method = "spawn" if os.getpid() == self.command else "fork"
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        process = context.Process(target=_run_job, args=(self.call, name, theirs, ours))
        process.start()
        theirs.close()
        try:
            stop_requests = self._wait(process, launcher)
        except BaseException:
            # The launcher interrupts its worker, as submitit does at the job's time limit.
            process.terminate()
            process.join(SHUTDOWN_SECONDS)
            raise
        with suppress(EOFError):
            if ours.poll():
                status: Status = ours.recv()
                return status
        if stop_requests:
            return Status("stopped", "before its first iteration")
        return Status("failed", describe_exit(process.exitcode))

    def _wait(self, process: BaseProcess, launcher: int) -> int:
        """Wait until a job's process ends; return how many stop requests were passed on."""
        sent = 0
        while True:
            process.join(0.2)
            if process.exitcode is not None:
                return sent
            is_orphaned = os.getppid() != launcher
            while sent < max(self.call.stop_requests(), is_orphaned):
                os.kill(process.pid or 0, ESCALATION[sent])
                sent += 1


def _run_job(call: Call, name: str, to_runner: Connection, other_end: Connection) -> None:
    """Run a job in its process, and send its status to the runner."""
    other_end.close()  # a fork duplicates it; open, it would hide that the runner is gone
    os.setsid()  # Ctrl-C in a terminal reaches only the command, which asks the jobs to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):  # for the launcher's worker
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(target=_end_after_runner, args=(to_runner,), daemon=True).start()
    try:
        summary = complete(call.config(name), claimed=_redirect_output)
        status = Status(summary.status, summary.reason)
    except FolderTakenError as error:
        status = Status("taken", str(error))
    except BaseException as error:
        if not isinstance(error, ConfigError):  # its message is enough
            traceback.print_exc()
        status = Status("failed", described(error))
    sys.stdout.flush()
    to_runner.send(status)


def _redirect_output(run_dir: Path) -> None:
    """Append the output of this process and its children to a file in the run's folder."""
    sys.stdout.flush()
    log = os.open(run_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # A launcher may have replaced them.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _end_after_runner(to_runner: Connection) -> None:
    """Wait until the runner is gone, then let this process save and end."""
    with suppress(EOFError, OSError):
        to_runner.recv()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SHUTDOWN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def describe_exit(exit_code: int | None) -> str:
    """Describe how a process ended that reported no result."""
    if exit_code is not None and exit_code < 0:
        hint = " (out of memory?)" if exit_code == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-exit_code).name}{hint}"
    return f"its process ended with exit code {exit_code} and no message"
