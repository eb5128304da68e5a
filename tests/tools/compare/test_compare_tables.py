"""Tables of a comparison, and the sections they are in."""

from pathlib import Path

from comparisons import FINALS, compared
from made_runs import make_grid

from rlkl.tools.compare import tables
from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.page import markdown, page
from rlkl.tools.compare.tables import Table


def test_tables_have_a_cell_for_each_heading(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    shown = tables.tables(found)
    assert len({table.title for table in shown}) == len(shown) >= 8
    for table in shown:
        assert {len(cells) for cells in table.cells} == {len(table.headings)}


def test_every_table_is_in_one_section(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    made = figures(found)
    sections = tables.sections(found, made)
    assert [section.figure for section in sections] == [*made, None, None]
    assert [section.title for section in sections][-2:] == ["What was compared", "Runs"]
    shown = [table.title for section in sections for table in section.tables]
    assert sorted(shown) == sorted(table.title for table in tables.tables(found))


def test_scale_is_shown_without_aggregate_scores(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2]}, "Acrobot-v1": {"trpo": [-99.0, -98]}}
    found = compared(make_grid(tmp_path, finals))
    made = figures(found)
    (scores,) = (s for s in tables.sections(found, made) if s.name == "aggregates")
    assert (scores.title, scores.figure) == ("Scores", None)
    for text in (markdown(found, made, ""), page(found, made, "")):
        assert "What a normalized score is" in text


def test_markdown_table_escapes_its_cells() -> None:
    table = Table("runs", "Runs", ["a|b", "c"], [["<1>", "2|3"]], "")
    assert tables.markdown(table) == "| a\\|b | c |\n| --- | --- |\n| &lt;1&gt; | 2\\|3 |"
