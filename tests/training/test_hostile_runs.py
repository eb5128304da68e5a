"""A hostile run beside good ones: those are compared, it is named, and nothing hangs or escapes."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import HEADER, make_run

from rlkl.cli import board, main
from rlkl.cli.compare import _print
from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.page import markdown, page
from rlkl.tools.compare.report import Comparison, compare
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.grid.call import Status
from rlkl.tools.grid.display import Job, ending
from rlkl.training.config import TrainConfig
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import walk

FILES = ("config.yaml", "metrics.csv", "summary.json", "resumed.yaml")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
CONTENTS = {
    "binary": bytes(range(256)) * 50,
    "aliases": BOMB.encode(),
    "nested": b"[" * 100_000,
    "nested_json": b'{"a":' * 100_000,
    "large": b"x" * 3_000_000,
    "digits": b"seed: " + b"9" * 5000,
    "mixed_keys": b"1: a\nb: 2\n~: 3\n[1]: 4\n",
    "code": b"seed: !!python/object/apply:os.system ['true']\n",
}


def beside_good_ones(folder: Path) -> Path:
    """Write two good runs, and one to be spoilt, whose folder is returned."""
    for seed in range(2):
        make_run(folder / f"good{seed}", [1.0, 2.0 + seed], seed=seed)
    return make_run(folder / "bad", [1.0, 3.0], seed=7)


def compared(folder: Path) -> Comparison:
    found = compare([str(folder)], CompareConfig(resamples=100))
    rows = found.tables["runs"]
    assert sum("/good" in row["folder"] and not row["left_out"] for row in rows) == 2
    return found


def said(found: Comparison) -> str:
    return " ".join(caution.text for caution in found.cautions)


@pytest.mark.slow
@pytest.mark.parametrize("content", CONTENTS.values(), ids=list(CONTENTS))
@pytest.mark.parametrize("name", FILES)
def test_hostile_files_leave_good_runs_compared(name: str, content: bytes, tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    (bad / name).write_bytes(content)
    found = compared(tmp_path)
    if name != "resumed.yaml":  # which is not needed
        assert str(bad) in said(found)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, Path.mkdir, link_to_itself, endless_device])
@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_are_read(
    name: str, make: Callable[[Path], Any], tmp_path: Path
) -> None:
    bad = beside_good_ones(tmp_path)
    (bad / name).unlink(missing_ok=True)
    make(bad / name)
    compared(tmp_path)
    job = Job("job", [], TrainConfig(run_dir=str(bad)), Status("finished"))
    job.read_progress()
    assert ending(job).startswith("finished  job")


COLUMNS = ",".join(HEADER)
EMPTY = "," * (len(HEADER) - 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (",".join(f"c{i}" for i in range(40_000)) + "\n1\n", "a line has more than"),
        ("env_steps," + "c," * 5000 + "c\n", "more than 1,000 columns"),
        (f"{COLUMNS}\n100,{'9' * 400}{EMPTY}\n", "no rows yet"),
        (f"{COLUMNS}\n100,1e308{EMPTY}\n", "no rows yet"),
        (f"{COLUMNS}\n1e300,1{EMPTY}\n", "no rows yet"),
        (COLUMNS + "\n" * 20_000, "more than 10,000 damaged lines"),
    ],
)
def test_tables_beyond_all_bounds_are_named(text: str, words: str, tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    (bad / "metrics.csv").write_text(text)
    told = said(compared(tmp_path))
    assert str(bad) in told
    assert words in told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"env.id": "E" * 90_000}, "more than 120 characters"),
        ({"seed": 10**400}, "does not say which"),
        ({"seed": -1}, "does not say which"),
        ({f"q{i}": i for i in range(2000)}, "more than 1,000 keys"),
        ({"env.kwargs": {1: "a", "b": 2, None: 3}}, ""),
        ({"env.kwargs": {"a": "z" * 90_000}}, ""),
        ({"env.kwargs": {"a": 10**400}}, ""),
        ({f"q{i}": i for i in range(900)}, ""),
    ],
)
def test_settings_beyond_all_bounds_are_named_or_cut(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    beside_good_ones(tmp_path)
    make_run(tmp_path / "worse", [1.0, 3.0], settings=settings)
    others = {key: value + 1 for key, value in settings.items() if key.startswith("q")}
    make_run(tmp_path / "worst", [1.0, 3.0], settings=others)
    found = compared(tmp_path)
    assert words in said(found)
    assert max(map(len, found.labels)) <= 300
    assert max(len(env.name) for env in found.environments) <= 120


@pytest.mark.parametrize(
    "summary",
    [
        {"env_steps": 10**400, "eval_return": 10**400, "wall_seconds": 10**400},
        {"status": ["finished"], "reason": {"a": 1}, "return_mean": "x", "eval_return": [1]},
        {"versions": {"v": "v" * 9999}, "hardware": {"cpu": ["x"] * 9999}},
    ],
)
def test_summaries_of_odd_values_are_compared(summary: dict[str, Any], tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    there = json.loads((bad / "summary.json").read_text())
    (bad / "summary.json").write_text(json.dumps(there | summary))
    compared(tmp_path)
    job = Job("job", [], TrainConfig(run_dir=str(bad)), Status("finished"))
    assert ending(job).startswith("finished  job")


# Links


def test_links_to_folders_above_are_named_not_followed(tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    (bad / "metrics.csv").unlink()
    (bad / "config.yaml").unlink()
    (bad / "summary.json").unlink()
    (bad / "x").symlink_to(tmp_path)
    (bad / "y").symlink_to(tmp_path)
    (tmp_path / "good0" / "events.out.tfevents.1").touch()
    assert f"{bad / 'x'}: it leads to a folder above it" in said(compared(tmp_path))
    shown, notes = board.select_folders([tmp_path])
    assert shown == [tmp_path / "good0"]
    assert notes[0] == f"left out: {bad / 'x'}: it leads to a folder above it"


def test_links_that_double_paths_are_followed_once(tmp_path: Path) -> None:
    beside_good_ones(tmp_path)
    for number in range(40):
        (tmp_path / f"d{number}").mkdir()
    for number in range(39):
        for name in "xy":
            (tmp_path / f"d{number}" / name).symlink_to(tmp_path / f"d{number + 1}")
    assert len(list(walk(tmp_path, {}))) == 44  # the place itself, three runs, forty folders
    compared(tmp_path)
    (tmp_path / "good0" / "events.out.tfevents.1").touch()
    assert board.select_folders([tmp_path])[0] == [tmp_path / "good0"]


def test_patterns_follow_no_links(tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    (bad / "x").symlink_to(tmp_path)
    (bad / "y").symlink_to(tmp_path)
    found = compare([f"{tmp_path}/**"], CompareConfig(resamples=100))
    assert len(found.tables["runs"]) == 3


def test_a_link_beside_a_run_is_no_warning(tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    (tmp_path / "latest").symlink_to(bad)
    (bad / "events.out.tfevents.1").touch()
    found = compared(tmp_path)
    assert "not read" not in {caution.kind for caution in found.cautions}
    assert {row["folder"] for row in found.tables["runs"]} == {
        str(tmp_path / name) for name in ("good0", "good1", "bad")
    }
    assert board.select_folders([tmp_path]) == ([tmp_path], [])


def test_the_board_opens_regular_files_alone(tmp_path: Path) -> None:
    bad = beside_good_ones(tmp_path)
    os.mkfifo(bad / "events.out.tfevents.1")
    with pytest.raises(ConfigError, match=r"nothing to show; .*it is not a regular file"):
        board.select_folders([tmp_path])
    (tmp_path / "good1" / "events.out.tfevents.1").touch()
    assert board.select_folders([tmp_path])[0] == [tmp_path / "good1"]


# Names


def test_names_steer_no_terminal_and_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        make_run(tmp_path / f"good{seed}", [1.0, 2.0 + seed], seed=seed)
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e<img src=x>[a](b)</script>\n# head"
    settings = {"env.id": f"E{hostile}"}
    make_run(tmp_path / "\x1b[31m\udcff", [1.0, 3.0], seed=7, settings=settings)
    bare = make_run(tmp_path / "\x1b[32m", [1.0], summary={"env_id": f"{hostile}\ud800"})
    (bare / "config.yaml").unlink()
    (make_run(tmp_path / "\x1b[33m\u202e", [1.0]) / "metrics.csv").write_text("")
    found = compared(tmp_path)
    _print(found)
    printed = capsys.readouterr().out
    assert [c for c in printed if not c.isprintable() and c != "\n"] == []
    assert "\\x1b[33m\\u202e: it has no rows yet" in printed
    made = figures(found)
    for text in (markdown(found, made, ""), page(found, made, "")):
        text.encode()
        assert "\x1b" not in text
        assert "<img" not in text
        assert text.count("</script>") <= 1  # the page's own
    assert not re.search(r"(?<!\\)\]\(b", markdown(found, made, ""))


def test_errors_name_folders_without_their_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (make_run(tmp_path / "\x1b[31m", [1.0]) / "metrics.csv").write_text("")
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path)])
    assert re.search(r"\\x1b\[31m: it has no rows yet", capsys.readouterr().err)
