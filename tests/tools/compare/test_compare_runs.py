"""Run folders: what is read, and which runs are found."""

import math
from pathlib import Path

import numpy as np
import pytest
from comparisons import NAN, compared, kinds, read, text_of
from made_runs import make_run, resume_to

from rlkl.tools.compare import runs


def test_run_is_read_from_its_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.5, NAN], seed=3, env="my_package:my/Env-v0")
    run = read(folder)
    assert (run.env_id, run.algo, run.seed, run.status) == ("my/Env-v0", "ppo_clip", 3, "finished")
    assert (run.budget, run.env_steps, run.damaged) == (300, 300, 0)
    np.testing.assert_array_equal(run.steps, [100, 200, 300])
    np.testing.assert_array_equal(run.columns["return/train"], [1, 2.5, NAN])
    np.testing.assert_allclose(run.seconds, [2, 4, 6])
    assert run.settings["algo.clip_ratio"] == 0.2
    assert run.settings["env.kwargs"] == {}


def test_summary_replaces_a_missing_config(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0], algo="trpo", seed=2)
    (folder / "config.yaml").unlink()
    assert "as if with the default settings" in text_of(compared(folder), "unknown settings")
    run = read(folder)
    assert (run.env_id, run.algo, run.seed, run.settings) == ("CartPole-v1", "trpo", 2, {})
    assert run.budget == 0  # unknown


def test_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0, 3.0], summary={"status": None})
    path = folder / "metrics.csv"
    path.write_text(path.read_text()[:-30])  # within the last row
    run = read(folder)
    assert (run.status, run.env_steps, run.damaged) == ("unfinished", 200, 0)


def test_damaged_summary_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0])
    path = folder / "summary.json"
    path.write_text(path.read_text()[:-20])
    found = compared(tmp_path)
    assert found.tables["runs"][0]["status"] == "unknown"
    assert text_of(found, "unknown ends") == (
        f"1 run with an unreadable summary.json, so how they ended is unknown ({path})."
    )
    assert "unfinished runs" not in kinds(found)


def test_unknown_hardware_is_not_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0], summary={"hardware": {"cpu": None, "cpus": 2}})
    assert compared(tmp_path).tables["provenance"][0]["hardware"] == "2"


def test_run_beyond_its_summary_is_unfinished(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0], summary={"status": "stopped", "env_steps": 100})
    assert read(folder).status == "unfinished"


def test_resumed_run_has_its_new_budget(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0])
    assert read(folder).budget == 200
    resume_to(folder, 900)
    assert read(folder).budget == 900


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0, 3.0, 4.0])
    path = folder / "metrics.csv"
    header, first, second, third, last = path.read_text().splitlines()
    broken = [header, first, "garbage", second[:-20], second[:-1], first]
    broken += [third.replace("300", "x"), third.replace("300", "1e400"), last, ""]
    path.write_text("\n".join(broken))
    run = read(folder)
    np.testing.assert_array_equal(run.steps, [100, 400])
    assert run.damaged == 6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"metrics.csv": ""}, "no rows yet"),
        ({"metrics.csv": "env_steps,return/train\n"}, "no rows yet"),
        ({"metrics.csv": "a,b\n1,2\n"}, "no rows yet"),
        (
            {"config.yaml": "[", "summary.json": "{"},
            "neither a readable config.yaml nor a readable summary.json",
        ),
        ({"summary.json": '{"clone": {}}'}, "rlkl train init_from=FOLDER"),
        ({"config.yaml": "seed: 1", "summary.json": "{}"}, "does not say which environment"),
    ],
)
def test_unreadable_run_gives_a_reason(content: dict[str, str], words: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0])
    for name, text in content.items():
        (folder / name).write_text(text)
    found = runs.read(folder)
    assert isinstance(found, str)
    assert words in found


def test_summary_values_of_wrong_types_are_ignored(tmp_path: Path) -> None:
    odd = {"env_steps": "many", "eval_return": [1], "versions": "0.1", "hardware": 7, "reason": 3}
    run = read(make_run(tmp_path / "a", [1.0], summary=odd))
    assert run.status == "unfinished"
    known = {"revision": "abc", "device": "cpu 1 thread(s)"}
    assert run.provenance == {"versions": "", "hardware": ""} | known
    assert math.isnan(run.eval_return)
    settings = {"algo.clip_ratio": [1], "env.kwargs": "x", "total_env_steps": "many"}
    assert read(make_run(tmp_path / "b", [1.0], settings=settings)).budget == 0
    assert compared(tmp_path).environments[0].scores("ppo_clip clip_ratio=0.2").tolist() == [1]


def test_each_run_is_found_once(tmp_path: Path) -> None:
    for name in ("x/a", "x/b", "y/c", "y/compare-me/deep/d"):
        make_run(tmp_path / name, [1.0])
    (tmp_path / "x/a/checkpoints").mkdir()
    (tmp_path / "x/a/checkpoints/config.yaml").touch()  # belongs to the run above
    (tmp_path / "link").symlink_to(tmp_path / "x")

    def names(*paths: str) -> list[str]:
        return [path.name for path in runs.find([str(tmp_path / path) for path in paths])]

    assert sorted(names(".")) == ["a", "b", "c", "d"]
    assert names("y/c", "x", "x/a", "link", "?/*") == ["c", "a", "b", "d"]
    assert names("**/b") == ["b"]
