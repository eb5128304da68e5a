"""Flags of the commands that take the folder of a run."""

from functools import partial
from pathlib import Path

import pytest

from rlkl.cli.flags import MAX_STEPS, Flag, RunCommand, new_file, whole_number
from rlkl.utils.errors import ConfigError

COMMAND = RunCommand(
    "inspect",
    "Looks at a run.",
    {"rlkl inspect RUN_DIR": "everything"},
    (
        Flag("--rows", "N", "number of rows (3)", partial(whole_number, at_least=1), 3),
        Flag("--output", "FILE", "a new file", partial(new_file, suffixes=(".csv", ".txt"))),
        MAX_STEPS,
    ),
)


def test_flags_and_folder_come_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = COMMAND.parse(["--rows", "7", "run", "--max-steps=9", "--output", "new.CSV"])
    assert vars(given) == {
        "run_dir": "run",
        "changes": {},
        "rows": 7,
        "output": Path("new.CSV"),
        "checkpoint": "last",
        "module": None,
        "max_steps": 9,
    }


def test_flags_left_out_have_defaults() -> None:
    given = COMMAND.parse(["run"])
    assert (given.rows, given.output, given.max_steps) == (3, None, None)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "expected the folder of one run.* got nothing; see rlkl inspect --help"),
        (["a", "b"], "got a b;"),
        (["run", "--row=3"], r"^--row: there is no such flag \(did you mean --rows\?\)"),
        (["run", "--rows"], "--rows: expected one argument; see rlkl inspect --help"),
        (["run", "--rows=many"], "^--rows many: expected a whole number"),
        (["run", "--rows=0"], "^--rows=0: expected a number at least 1"),
        (["run", "--output=a.png"], "ends in .csv or .txt"),
        (["run", "--output=no/a.csv"], "there is no folder no;"),
        (["run", "--checkpoint=first"], "^--checkpoint=first: expected one of last, best"),
    ],
)
def test_invalid_flags_are_explained(arguments: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        COMMAND.parse(arguments)


def test_help_lists_examples_and_flags() -> None:
    assert COMMAND.help_text().splitlines()[:9] == [
        "usage: rlkl inspect RUN_DIR [FLAG ...]",
        "",
        "Looks at a run.",
        "",
        "Examples",
        "  rlkl inspect RUN_DIR  everything",
        "",
        "Flags",
        "  --rows N           number of rows (3)",
    ]
