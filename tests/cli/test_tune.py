"""`rlkl tune`: studies that are run, stopped, killed and resumed, and training the best trial."""

import contextlib
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import forked_python
import pytest
import yaml
from commands import exit_code

from rlkl.cli.tune import help_text
from rlkl.tools.tuning.study import TuneConfig

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
SMALL = ["env=cartpole", "env.num_envs=2", "rollout_steps=32", "total_env_steps=512", "seeds=2"]
SPACE = ["algo.learning_rate=tag(log,interval(1e-4,1e-2))", "algo.num_epochs=2,4"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


tune = partial(exit_code, "tune")


def start(*arguments: str) -> subprocess.Popen[str]:
    return forked_python.Popen(
        [sys.executable, "-m", "rlkl", "tune", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def other_processes() -> list[str]:
    """Return the ids of other processes with this working directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.name != str(os.getpid()) and (path / "cwd").readlink() == Path.cwd():
                found.append(path.name)
    return found


def rows(study: str) -> list[dict[str, str]]:
    """Return the trials of a study without their durations."""
    read = csv.DictReader(Path(study, "trials.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read]


def test_help_names_every_key() -> None:
    text = help_text()
    for field in fields(TuneConfig):
        assert f"  {field.name}=" in text
        if field.name not in ("study", "parallel"):
            assert f"{field.name}={field.default}" in text
    assert "ppo_clip  PPO-clip" in text


@pytest.mark.parametrize("package", ["optuna", pytest.param("matplotlib", marks=pytest.mark.slow)])
def test_missing_tune_extra_is_reported_first(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    assert tune("gamma=0.9,0.99") == 2
    assert (
        f"needs the package {package}, which the extra 'tune' installs" in capsys.readouterr().err
    )
    assert list(folder.iterdir()) == []


def test_damaged_study_and_bad_folder_are_named(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "s").mkdir()
    (folder / "s" / "study.yaml").write_text("a: [")
    assert tune("gamma=0.9,0.99", "study=s") == 2
    assert "study.yaml cannot be read" in capsys.readouterr().err
    assert tune("gamma=0.9,0.99", "study=s/study.yaml/x") == 2
    assert (
        "study=s/study.yaml/x cannot be made: s/study.yaml is not a folder"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_study_continues_only_with_same_settings(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SMALL, SPACE[1], "study=s", "algo.learning_rate=0.001"]
    assert tune(*settings, "trials=1") == 0
    first = rows("s")
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == ("train it: rlkl train --config-dir s experiment=best")
    assert "[1/1] complete" in printed.err
    assert tune(*settings, "trials=2") == 0
    assert rows("s")[:1] == first
    assert len(rows("s")) == 2
    printed = capsys.readouterr()
    assert "; 1 already done" in printed.out
    assert "[2/2]" in printed.err
    assert "[1/2]" not in printed.err
    assert tune(*settings, "trials=2", "gamma=0.9") == 2
    error = capsys.readouterr().err
    assert "study=s was started with other settings: config gamma was 0.99, now it is 0.9" in error
    assert not Path("runs").exists()


@pytest.mark.slow
def test_printed_command_trains_the_best_trial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune(*SMALL, *SPACE, "trials=4", "startup_trials=2") == 0
    *_, last = capsys.readouterr().out.splitlines()
    command = last.removeprefix("train it: rlkl ").split()
    more = ["run_dir=run", "logger=csv", "logger.progress=none"]
    forked_python.run(
        [sys.executable, "-m", "rlkl", *command, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    (best,) = [row for row in rows("runs/tuning/CartPole-v1/ppo_clip") if row["value"]][:1]
    for row in rows("runs/tuning/CartPole-v1/ppo_clip"):
        if row["state"] == "complete" and float(row["value"]) > float(best["value"]):
            best = row
    assert config["algo"]["learning_rate"] == float(best["algo.learning_rate"])
    assert config["algo"]["num_epochs"] == int(best["algo.num_epochs"])
    # The run equals the trial's first seed.
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["return_mean"] == float(best["returns"].split()[0])
    page = Path("runs/tuning/CartPole-v1/ppo_clip/report.md").read_text()
    assert "experiment=best" in page


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_study_equals_uninterrupted_one(number: int) -> None:
    settings = [*SMALL, *SPACE, "trials=6", "startup_trials=2", "total_env_steps=2048"]
    settings.append("parallel=2")
    assert tune(*settings, "study=whole") == 0
    process = start(*settings, "study=cut")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/6]"):
            break
    time.sleep(0.05)  # the third trial is running
    process.send_signal(number)
    out, _ = process.communicate()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 120
        while other_processes():  # its trials end after it
            assert time.monotonic() < deadline
            time.sleep(0.1)
    else:
        assert process.returncode == 130
        assert "to continue, run it again: rlkl tune" in out
        assert 2 <= len(rows("cut")) < 6
    assert tune(*settings, "study=cut") == 0
    assert rows("cut") == rows("whole")


@pytest.mark.slow
def test_study_without_complete_trial_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["env=pendulum", "env.num_envs=1", "rollout_steps=16", "gamma=0.9,0.99"]
    # An episode of Pendulum has 200 steps.
    assert tune(*arguments, "total_env_steps=64", "trials=2", "study=s") == 1
    printed = capsys.readouterr()
    assert "no trial was completed" in printed.err
    assert not Path("s/experiment").exists()
    assert "no episode ended within total_env_steps" in Path("s/report.md").read_text()


@pytest.mark.slow
def test_two_processes_cannot_share_a_study(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SMALL, *SPACE, "total_env_steps=2048", "trials=500", "study=s"]
    process = start(*settings)
    assert process.stderr is not None
    process.stderr.readline()
    assert tune(*settings) == 2
    assert f"by process {process.pid}" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
