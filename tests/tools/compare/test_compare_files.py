"""Files of a report: complete, reproducible, never overwritten."""

import csv
import re
from pathlib import Path

import pytest
from comparisons import command, compared
from made_runs import make_grid, make_run

from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.page import markdown, page


@pytest.mark.parametrize("drawn_for_real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_report_is_complete_and_never_overwritten(
    *,
    drawn_for_real: bool,
    in_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not drawn_for_real:  # matplotlib takes seconds
        monkeypatch.setattr("rlkl.tools.compare.page.draw", lambda figure, labels: figure.name)
        monkeypatch.setattr(
            "rlkl.tools.compare.page.save", lambda name, path: path.write_text(name)
        )
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2], "trpo": [3.0, 4]}}
    rate = {"algo.learning_rate": 0.1}
    make_grid(in_folder / "made", finals)
    make_run(in_folder / "made" / "vpg", [0.0, 0.5], algo="vanilla_pg", settings=rate,
             per_row=600)  # fmt: skip
    keys = ("output=out", "resamples=200")
    assert command("made", *keys) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "out/report.html, out/report.md"
    assert "warning, too few seeds" in printed
    files = {str(path.relative_to(in_folder / "out")) for path in (in_folder / "out").rglob("*.*")}
    drawn = [path.stem for path in (in_folder / "out" / "figures").glob("*.png")]
    assert len(drawn) == 9
    expected = {f"figures/{name}.{suffix}" for name in drawn for suffix in ("png", "svg")}
    expected |= {f"data/{name}.csv" for name in (
        "runs", "results", "aggregates", "profiles", "improvement", "pairs", "thresholds",
        "stability", "curves", "updates", "provenance", "settings",
    )}  # fmt: skip
    assert files == expected | {"report.html", "report.md"}
    with (in_folder / "out/data/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    iqm = {row["group"]: float(row["iqm"]) for row in rows}
    assert iqm == {"vanilla_pg": 0.5, "ppo_clip": 1.5, "trpo": 3.5}
    assert [row["low"] for row in rows if row["group"] == "vanilla_pg"] == [""]  # one seed

    html = (in_folder / "out" / "report.html").read_text()
    assert "rlkl compare made output=out resamples=200" in html
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\(|@import""", html)
    text = (in_folder / "out" / "report.md").read_text()
    images = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert images
    assert all((in_folder / "out" / image).exists() for image in images)
    widths = [
        {line.count("|") for line in table.splitlines()}
        for table in text.split("\n\n")
        if table.startswith("|")
    ]
    assert widths
    assert all(len(counts) == 1 for counts in widths)

    before = {path: path.stat().st_mtime_ns for path in (in_folder / "out").rglob("*")}
    assert command("made", *keys) == 2
    assert "report.html exists already and is not overwritten" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (in_folder / "out").rglob("*")} == before


def test_report_is_written_completely_or_not_at_all(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkl.tools.compare.page.draw", lambda figure, labels: figure.name)
    monkeypatch.setattr("rlkl.tools.compare.page.save", lambda name, path: path.write_text(name))
    make_grid(in_folder / "made", {"CartPole-v1": {"ppo_clip": [1.0, 2]}})
    (in_folder / "used").mkdir()
    (in_folder / "used" / "mine.txt").touch()
    before = sorted(in_folder.rglob("*"))

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    def interfering(*_: object) -> str:  # another command writes meanwhile
        (in_folder / "used" / "report.md").write_text("another's")
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("rlkl.tools.compare.page.page", interrupted)
        for name in ("new", "used"):
            assert command("made", f"output={name}", "resamples=100") == 130
    assert sorted(in_folder.rglob("*")) == before
    monkeypatch.setattr("rlkl.tools.compare.page.page", interfering)
    assert command("made", "output=used", "resamples=100") == 2
    assert "used/report.md exists already and is not overwritten" in capsys.readouterr().err
    assert sorted(in_folder.rglob("*")) == sorted([*before, in_folder / "used" / "report.md"])
    assert (in_folder / "used" / "report.md").read_text() == "another's"


@pytest.mark.slow
def test_same_runs_give_the_same_bytes(in_folder: Path) -> None:
    make_grid(in_folder / "made", {"CartPole-v1": {"ppo_clip": [1.0, 2]}})
    contents = []
    for name in ("a", "b"):
        (in_folder / name).mkdir()
        assert command("made", f"output={name}", "resamples=100") == 0
        contents.append(
            {
                path.relative_to(in_folder / name): path.read_bytes().replace(b"=b", b"=a")
                for path in (in_folder / name).rglob("*.*")
            }
        )
    assert contents[0] == contents[1]


def test_code_in_names_is_shown_as_text(tmp_path: Path) -> None:
    make_run(tmp_path / "<script>alert(1)", [1.0, 2.0], env="<b>Env|v0<i>")
    found = compared(tmp_path)
    made = figures(found)
    shown = page(found, made, "rlkl compare '<script>alert(2)'")
    assert "<script>alert" not in shown
    assert "<b>Env" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "Env\\|v0" in markdown(found, made, "")
