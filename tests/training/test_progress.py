"""What a person sees: plain lines without a terminal, one moving line on one, a summary to copy."""

import math
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engines_available import needs_numpy_engine

from rlkl import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.progress import (
    NoProgress,
    PlainProgress,
    board_command,
    make_progress,
    print_summary,
)
from rlkl.training.report import Report

METRICS = {"return/train": 123.4, "kl/old_new": 0.0123}


def test_plain_lines_come_at_every_twentieth(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress("auto", "trpo on X-v0", 10_000) as display:  # no terminal in a test
        for env_steps in range(50, 10_001, 50):
            display.show(Report(env_steps, METRICS, {}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trpo on X-v0: 10,000 environment steps"
    assert len(lines) == 21
    assert lines[-1].lstrip().startswith("100%  10,000 steps")
    assert "return 123.4  KL 0.0123" in lines[-1]


def test_progress_is_below_100_percent_until_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = PlainProgress("", 1000)
    display.show(Report(999, METRICS | {"return/train": math.nan}, {}))
    assert capsys.readouterr().out.lstrip().startswith("99%")


class Lines(PlainProgress):
    """Progress after a known time."""

    def at(self, seconds: float, env_steps: int, mean: float, kl: float, width: int = 78) -> str:
        self._start = time.monotonic() - seconds
        report = Report(env_steps, {"return/train": mean, "kl/old_new": kl}, {})
        return self._line(report, width)


def test_progress_lines_are_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1e6)
    usual, long = Lines("", 100_000), Lines("", 10**9)
    assert usual.at(10, 50_000, 123.45, 0.01234) == (
        " 50%  50,000 steps  5,000 steps/s  return 123.5  KL 0.0123  0:00:10 left"
    )
    assert usual.at(10, 50_000, math.nan, math.inf) == (
        " 50%  50,000 steps  5,000 steps/s  return -  KL inf  0:00:10 left"
    )
    assert long.at(90_000, 2 * 10**8, -4321.0, 0.0098) == (
        " 20%  200.0M steps  2,222 steps/s  return -4321.0  KL 0.0098  100:00:00 left"
    )
    # Too long: the speed is left out.
    assert long.at(90, 999_900_000, -1.25e8, 12345.5) == (
        " 99%  999.9M steps  return -1.25e+08  KL 12345.5000  0:00:00 left"
    )


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (72, " 50%  50,000 steps  5,000 steps/s  return 123.5  KL 0.0123  0:00:10 left"),
        (71, " 50%  50,000 steps  return 123.5  KL 0.0123  0:00:10 left"),
        (50, " 50%  return 123.5  KL 0.0123  0:00:10 left"),
        (30, " 50%  return 123.5  KL 0.0123"),
    ],
)
def test_narrow_terminals_show_fewer_numbers(
    width: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1e6)
    assert Lines("", 100_000).at(10, 50_000, 123.45, 0.01234, width) == line


def test_long_title_goes_on_below(capsys: pytest.CaptureFixture[str]) -> None:
    title = "ppo_kl on Pendulum-v1 × 2 (sync, auto), cpu, torch engine (it has a memory)"
    with PlainProgress(title, 4_000):
        pass
    assert capsys.readouterr().out == (
        "ppo_kl on Pendulum-v1 × 2 (sync, auto), cpu, torch engine (it has a memory):\n"
        "  4,000 environment steps\n"
    )


def test_none_is_silence(capsys: pytest.CaptureFixture[str]) -> None:
    display = make_progress("none", "", 10)
    assert isinstance(display, NoProgress)
    with display:
        display.show(Report(10, METRICS, {}))
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, pytest.param(140, marks=pytest.mark.slow)])
def test_a_terminal_gets_one_line_that_moves(columns: int) -> None:
    code = (
        "from rlkl.training.progress import make_progress\n"
        "from rlkl.training.report import Report\n"
        "with make_progress('auto', 'trpo on X-v0, done in such a way', 1_000) as display:\n"
        "    for steps in (10, 55, 1_000):\n"
        "        scalars = {'return/train': -1234.5, 'kl/old_new': 0.01}\n"
        "        display.show(Report(steps, scalars, {}))\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns)}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 65536):
            printed += chunk
    except OSError:  # what Linux gives at the end
        pass
    os.close(ours)
    assert printed.startswith(b"\x1b[1mtrpo on X-v0, done in such a way")
    assert b"\x1b[2K" in printed  # the line is erased and written anew
    last = printed.decode().rsplit("\x1b[2K", 1)[-1]
    assert "100%" in last
    assert "return -1234.5  KL 0.0100  0:00:00 left" in last


@pytest.mark.parametrize("activated", [True, False])
def test_board_command_works_from_current_directory(
    activated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "rlkl"):
        (programs / name).touch(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs) if activated else "")
    monkeypatch.chdir(tmp_path)
    program = "rlkl" if activated else ".venv/bin/rlkl"
    assert board_command(Path("my runs/a")) == f"{program} board 'my runs/a'"


def test_the_summary_can_be_copied_whole(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("runs") / ("a" * 150)
    summary = {
        "status": "failed",
        "reason": "ValueError: [red]not markup[/red]",
        "algo": "trpo",
        "env_id": "X-v0",
        "env_steps": 1000,
        "episodes": 3,
        "return_mean": None,
        "return_best": None,
        "eval_return": None,
        "wall_seconds": 2.0,
        "env_steps_per_second": None,
    }
    print_summary(summary, folder)
    printed = capsys.readouterr().out
    assert f"{board_command(folder)}" in printed
    assert "failed: ValueError: [red]not markup[/red]" in printed


@needs_numpy_engine
def test_a_usual_run_fits_into_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "rlkl.training.progress.board_command", lambda folder: f"rlkl board {folder}"
    )
    keys = ("return_mean", "return_best", "eval_return", "env_steps_per_second")
    summary = dict.fromkeys(keys, 500.0) | {"algo": "ppo_clip", "env_id": "CartPole-v1"}
    summary |= {"status": "finished", "reason": "", "env_steps": 100_000, "episodes": 1_000}
    summary |= {"wall_seconds": 20.0}
    print_summary(summary, Path("runs/CartPole-v1/ppo_clip/2026-01-01_12-00-00-seed0"))
    learner = Learner(TrainConfig())
    print(learner.title)
    learner.close()
    assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= 80


def test_summary_is_plain_text_in_notebooks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does
    keys = ("reason", "return_mean", "return_best", "eval_return", "env_steps_per_second")
    summary = dict.fromkeys(keys) | {"algo": "trpo", "env_id": "X-v0", "status": "finished"}
    print_summary(summary | {"env_steps": 8, "episodes": 1, "wall_seconds": 0.0}, Path("run"))
    first, status, *_ = capsys.readouterr().out.splitlines()
    assert (first.rstrip(), status.rstrip()) == ("trpo on X-v0", "status          finished")


def test_missing_evaluation_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("return_mean", "return_best", "eval_return", "env_steps_per_second")
    summary = dict.fromkeys(keys) | {"algo": "trpo", "env_id": "X-v0", "status": "failed"}
    summary |= {"reason": "", "env_steps": 0, "episodes": 0, "wall_seconds": 0.0}
    print_summary(summary, Path("run"))
    assert "evaluation" not in capsys.readouterr().out
