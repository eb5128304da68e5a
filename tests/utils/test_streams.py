"""A broken output stream loses its text and stops nothing."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlkl.cli import main
from rlkl.training.progress import make_progress
from rlkl.training.report import Report
from rlkl.utils.streams import FailsafeStream, failsafe_streams, tell

REPORT = Report(100, {"return/train": 123.4, "kl/old_new": 0.0123}, {})
RLKL = [sys.executable, "-m", "rlkl"]
SLOW = pytest.mark.slow
TRAIN = ["train", "run_dir=run", "total_env_steps=300", "eval_episodes=0"]


class Broken(io.StringIO):
    """Fails like a pipe without a reader."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self) -> bool:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("kind", ["live", "plain", "auto"])
def test_broken_display_raises_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken())
    with make_progress(kind, "a run", 100) as display:
        display.show(REPORT)


@pytest.mark.parametrize("stream", [Broken(), None])
def test_broken_stderr_raises_nothing(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    tell("a warning")


def test_nothing_is_written_after_a_failure() -> None:
    stream = FailsafeStream(Broken())
    assert stream.write("lost") == 4
    assert isinstance(stream.error, BrokenPipeError)
    stream._stream = io.StringIO()
    stream.write("more")
    assert stream._stream.getvalue() == ""


def test_characters_missing_in_the_encoding_are_replaced() -> None:
    raw = io.BytesIO()
    stream = FailsafeStream(io.TextIOWrapper(raw, "ascii"))
    stream.write("2 × 3 = σ")
    stream.flush()
    assert raw.getvalue() == b"2 x 3 = ?"


def test_closed_stream_raises_nothing() -> None:
    closed = io.StringIO()
    closed.close()
    stream = FailsafeStream(closed)
    print("lost", file=stream, flush=True)
    assert not stream.isatty()


def test_standard_streams_are_restored(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with failsafe_streams():
        assert isinstance(sys.stdout, FailsafeStream)
        print("shown")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "shown\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        pytest.param('"$@" >/dev/full 2>err', {}, id="full", marks=SLOW),
        pytest.param('"$@" 2>err | true; exit ${PIPESTATUS[0]}', {}, id="pipe"),
        pytest.param('"$@" <&- >&- 2>&-', {}, id="closed", marks=SLOW),
        pytest.param('"$@" 2>err', {"PYTHONIOENCODING": "ascii"}, id="ascii", marks=SLOW),
    ],
)
def test_training_survives_broken_output(
    shell: str, environment: dict[str, str], tmp_path: Path
) -> None:
    command = ["bash", "-c", shell, "bash", *RLKL, *TRAIN]
    given = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    done = subprocess.run(command, cwd=tmp_path, env=given, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    errors = tmp_path / "err"
    assert not errors.exists() or errors.read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "code"), [("/dev/full", 1), pytest.param("/dev/null", 0, marks=SLOW)]
)
def test_lost_output_of_a_command_fails(target: str, code: int) -> None:
    with Path(target).open("w") as out:
        done = subprocess.run(
            [*RLKL, "--help"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == code
    lost = "rlkl: standard output cannot be written to: [Errno 28] No space left on device\n"
    assert done.stderr == lost * code


def test_broken_pipe_of_a_worker_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("rlkl.cli.train.main", broken)
    with pytest.raises(SystemExit) as end:
        main(["train"])
    assert end.value.code == 1
    message = "rlkl: BrokenPipeError: [Errno 32] Broken pipe (RLKL_FULL_ERROR=1 shows where)\n"
    assert capsys.readouterr().err == message
