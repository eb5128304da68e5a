"""Bad input gives one clear line and exit code 2, and creates nothing."""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import forked_python
import pytest
from bad_input import CASES, Bad, prepare

from rlkl.cli import main

LONGEST_LINE = 2000

FAST = {
    case
    for kind in {case.kind for case in CASES}
    for case in [case for case in CASES if case.kind == kind][::20]
}
"""A twentieth of each kind; the others are slow tests."""

PROCESSES = [
    ("train", "algo.clip_ratio=nan"),
    ("train", "rollout_steps=1000000000000"),
    ("train", "env.id='$(touch pwned)'"),
    ("train", "--multirun", "algo=ppo_clip,ppo_clp"),
    ("train", "run_dir=a_file/run"),
    ("board", "a_file"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlkl"])
    monkeypatch.delenv("RLKL_NOT_SET", raising=False)
    return tmp_path


def content(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def check(bad: Bad, code: object, printed: str, errors: str) -> None:
    assert code == 2, errors
    assert printed == ""
    assert errors.startswith("rlkl: ")
    assert errors.endswith("\n")
    assert errors[:-1].isprintable()  # one line, and nothing that moves a terminal's cursor
    assert len(errors) <= LONGEST_LINE
    for part in bad.says:
        assert part in errors


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(case, id=case.kind, marks=() if case in FAST else pytest.mark.slow)
        for case in CASES
    ],
)
def test_bad_input_gives_one_line_and_creates_nothing(
    bad: Bad, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    before, threads = content(folder), threading.active_count()
    with pytest.raises(SystemExit) as end:
        main(list(bad.arguments))
    printed = capfd.readouterr()
    check(bad, end.value.code, printed.out, printed.err)
    assert content(folder) == before
    assert threading.active_count() <= threads


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [PROCESSES[0], *(pytest.param(p, marks=pytest.mark.slow) for p in PROCESSES[1:])]
)
def test_bad_input_of_a_process(arguments: tuple[str, ...], folder: Path) -> None:
    bad = next(case for case in CASES if case.arguments == arguments)
    before = content(folder)
    start = subprocess.run if arguments == PROCESSES[0] else forked_python.run
    done = start(
        [sys.executable, "-m", "rlkl", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(main.__code__.co_filename).parents[2])},
    )
    check(bad, done.returncode, done.stdout, done.stderr)
    assert content(folder) == before


def test_there_are_many_bad_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Counter(case.kind for case in CASES)
    with capsys.disabled():
        listed = ", ".join(f"{number} {kind}" for kind, number in tally.items())
        print(f"\n{len(CASES)} bad inputs: {listed}")
    assert len(CASES) >= 200
    assert len({case.arguments for case in CASES}) == len(CASES)
    assert len(tally) >= 10
    assert all(number >= 8 for number in tally.values())
    assert {case.kind for case in FAST} == set(tally)
