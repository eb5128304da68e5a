"""`rlkl compare`: errors, help, documented examples."""

import json
import re
from pathlib import Path

import pytest
from comparisons import NAN, command, compared, kinds
from made_runs import make_grid, make_run

from rlkl.cli import main
from rlkl.cli.compare import _make_folder
from rlkl.cli.compose_tools import load_comparison
from rlkl.tools.compare.settings import CompareConfig
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere: there is no such folder"),
        (("no*thing",), "no*thing: there is no such folder"),
        (("empty",), "empty has no runs in or below it"),
        (("started",), "there is no run to compare yet; started: it has no rows yet"),
        (("unscored",), "no run has a score to compare; unscored: no episode had ended"),
        (("run/metrics.csv",), "is a file; expected a run folder"),
        (("output=x",), "expected folders of runs"),
        (("run", "--fast"), "--fast: there is no such flag"),
        (("run", "outptu=x"), "there is no key 'outptu' (did you mean output?)"),
        (("run", "statistic=median"), "statistic=median: expected one of iqm, mean"),
        (("run", "score=best"), "score=best: expected one of train, eval"),
        (("run", "steps=0"), "steps=0: expected a number at least 1"),
        (("run", "resamples=10"), "resamples=10: expected a number at least 100"),
        (("run", "threshold=high"), "threshold=high: expected a return"),
        (("run", "threshold={Acrobot-v1: -100}"), "expected one of CartPole-v1"),
        (("run", "references={CartPole-v1: [5, 1]}"), "expected two returns"),
        (("run", "normalize=a,b"), "expected key=value"),
        (("run", "output=run/metrics.csv"), "is a file; expected a new or an existing folder"),
        (("run", "output=run/metrics.csv/a"), "output=run/metrics.csv/a cannot be made"),
        (("run", "Statistic=mean"), "there is no key 'Statistic'"),
        (("x" * 5000,), "there is no such folder"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    arguments: tuple[str, ...], words: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(in_folder / "run", [1.0, 2.0])
    make_run(in_folder / "unscored", [NAN])
    (make_run(in_folder / "started", [1.0]) / "metrics.csv").write_text("")
    (in_folder / "empty").mkdir()
    before = sorted(in_folder.rglob("*"))
    assert command(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert sorted(in_folder.rglob("*")) == before


def test_reports_of_one_second_have_different_folders(in_folder: Path) -> None:
    folders = {_make_folder(None) for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() for folder in folders)
    assert _make_folder("given") == _make_folder("given") == Path("given")


def test_missing_extra_is_named(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(in_folder / "run", [1.0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command("run") == 2
    assert "rlkl compare needs the package matplotlib, which the extra 'plots' installs" in (
        capsys.readouterr().err
    )
    assert [path.name for path in in_folder.iterdir()] == ["run"]


def test_every_key_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    printed = capsys.readouterr().out
    for key in CompareConfig.__dataclass_fields__:
        assert f"  {key}=" in printed
    with pytest.raises(ConfigError, match="null is not one"):
        load_comparison(["resamples=null"])
    chosen = load_comparison(["threshold={CartPole-v1: 400, ALE/Pong-v5: 20}"])
    assert chosen.threshold == {"CartPole-v1": 400, "ALE/Pong-v5": 20}


def test_library_example_of_the_docs_runs(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "compare.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    make_grid(in_folder / "runs", {"CartPole-v1": {"trpo": [3.0, 5.0]}})
    exec(example, {})
    assert capsys.readouterr().out == "CartPole-v1 trpo 4.0 3.0 5.0\n"


@pytest.mark.slow
def test_trained_runs_are_compared(in_folder: Path) -> None:
    for algo in ("ppo_clip", "trpo"):
        for seed in (0, 1):
            with pytest.raises(SystemExit):
                main(["train", f"algo={algo}", f"seed={seed}", "total_env_steps=6000",
                      "logger=quiet", "eval_episodes=2"])  # fmt: skip
    found = compared(in_folder / "runs")
    summaries = [json.loads(path.read_text()) for path in (in_folder / "runs").rglob("*.json")]
    by_place = {(row["group"], row["seed"]): row for row in found.tables["runs"]}
    for summary in summaries:
        row = by_place[summary["algo"], summary["seed"]]
        assert row["return"] == summary["return_mean"]
        assert row["evaluation"] == summary["eval_return"]
        # Iterations take only a part of the wall time.
        assert 0 < row["wall_seconds"] <= summary["wall_seconds"]
    assert {row["updates"] for row in found.tables["stability"]} == {2 * summaries[0]["iterations"]}
    assert not {"different versions", "different hardware", "damaged lines"} & set(kinds(found))
