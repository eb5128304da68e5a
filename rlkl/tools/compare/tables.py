"""The tables of a comparison as text, and the sections of the page and of the Markdown file."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlkl.tools.compare.charts import Figure
from rlkl.tools.compare.report import Comparison
from rlkl.tools.compare.scores import MIN_SEEDS
from rlkl.tools.compare.text import duration, number, share, spread
from rlkl.tools.rows import Row, Rows, grouped, markdown_table
from rlkl.utils.safe_text import for_markdown


class Table(NamedTuple):
    """A table as text: rows of cells, and a note below them, or empty."""

    section: str
    title: str
    headings: list[str]
    cells: list[list[str]]
    note: str


class Section(NamedTuple):
    """A figure, if any, with the tables below it."""

    name: str
    title: str
    figure: Figure | None
    tables: list[Table]


TITLES = {"aggregates": "Scores", "compared": "What was compared", "runs": "Runs"}
"""Titles of the sections that may have no figure."""


def sections(comparison: Comparison, figures: Sequence[Figure]) -> list[Section]:
    """Return a section for each figure, and then for the tables that belong to none."""
    made = tables(comparison)
    by_name = {figure.name: figure for figure in figures}
    titles = TITLES | {figure.name: figure.title for figure in figures}
    names = dict.fromkeys([*by_name, *(table.section for table in made)])
    return [
        Section(name, titles[name], by_name.get(name), [t for t in made if t.section == name])
        for name in names
    ]


Columns = dict[str, str | Callable[[Row], str]]
"""By heading: the key of the rows, or a function that returns the text of a row's cell."""


def _interval(key: str) -> Callable[[Row], str]:
    return lambda row: spread(row[key], row["low"], row["high"])


def _told_apart(row: Row) -> str:
    return number(row["told_apart"]) if row["seeds"] >= MIN_SEEDS else "too few seeds"


IMPROVEMENT: Columns = {
    "first": "first", "second": "second", "P(first > second)": _interval("probability"),
    "p": "p_value", "p corrected": "corrected", "told apart": _told_apart,
    "environments": "environments",
}  # fmt: skip

THRESHOLDS: Columns = {
    "environment": "environment", "threshold": "threshold", "from": "source", "group": "group",
    "reached by": lambda row: f"{row['reached']} of {row['seeds']}",
    "median steps": "median_steps", "first": "first_steps", "last": "last_steps",
}  # fmt: skip

STABILITY: Columns = {
    "environment": "environment", "group": "group",
    "worst drop, median seed": "median_drop", "worst drop, worst seed": "worst_drop",
    "as normalized score": "worst_drop_normalized",
    "updates over the KL bound": lambda row: share(row["over_bound"]),
    "median KL": "median_kl", "largest KL": "largest_kl",
    "largest KL of a state": "largest_kl_of_a_state", "updates without a finite KL": "not_finite",
}  # fmt: skip

RUNS: Columns = {
    "environment": "environment", "group": "group", "seed": lambda row: str(row["seed"]),
    "status": "status", "steps made": "env_steps", "return": "return", "normalized": "normalized",
    "score": lambda row: row["left_out"] or "compared", "folder": "folder",
}  # fmt: skip


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables that have a row."""
    rows = comparison.tables
    made = [
        _table("aggregates", "All environments together", _aggregates(rows["aggregates"])),
        _table("aggregates", "What a normalized score is", _scales(comparison)),
        _results(comparison),
        _table(
            "improvement", "Every pair", rows["improvement"], IMPROVEMENT,
            "p: of the permutation test within environments (Mann-Whitney in one environment); "
            "corrected for the number of pairs in this table by Holm's method. Pairs in single "
            "environments are in data/pairs.csv.",
        ),
        _table(
            "efficiency", "Steps to the threshold", rows["thresholds"], THRESHOLDS,
            "∞: not within the steps of the comparison; the median counts such runs as infinite.",
        ),
        _table(
            "stability", "Stability", rows["stability"], STABILITY,
            "KL is KL(π_old ‖ π_θ) of an update in nats, averaged over states unless it says of a "
            "state.",
        ),
        _table(
            "compared", "Settings that differ", rows["settings"], None,
            "Only settings that differ between runs of one environment, without seeds. –: the "
            "group does not have the key, or was not run there.",
        ),
        _table("compared", "Versions, revisions, hardware, seeds", rows["provenance"]),
        _table("runs", "Every run", rows["runs"], RUNS),
    ]  # fmt: skip
    return [table for table in made if table.cells]


def _table(
    section: str, title: str, rows: Rows, columns: Columns | None = None, note: str = ""
) -> Table:
    """Return a table; without `columns`, of all columns of the rows."""
    if columns is None:
        columns = {key: key for key in rows[0]} if rows else {}
    cells = [
        [number(row[c]) if isinstance(c, str) else c(row) for c in columns.values()] for row in rows
    ]
    return Table(section, title, list(columns), cells, note)


def _aggregates(rows: Rows) -> Rows:
    """Return a row for each group, with a column for each aggregate."""
    names = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
    merged = []
    for label, aggregates in grouped(rows, "group").items():
        own = {row["aggregate"]: row for row in aggregates}
        values = {heading: _interval("value")(own[name]) for name, heading in names.items()}
        counts = {key: own["iqm"][key] for key in ("environments", "runs")}
        merged.append({"group": label} | values | counts)
    return merged


def _scales(comparison: Comparison) -> Rows:
    return [
        {
            "environment": env.name,
            "return that is 0": env.reference.low if env.reference else "–",
            "return that is 1": env.reference.high if env.reference else "–",
            "from": env.reference.source if env.reference else "none",
            "compared at step": env.horizon,
        }
        for env in comparison.environments
    ]


def _results(comparison: Comparison) -> Table:
    statistic = comparison.config.statistic
    center = {"iqm": "IQM", "mean": "mean"}[statistic]
    score = {
        "train": "training return (mean of the last 100 episodes, sampled actions)",
        "eval": "last evaluation (deterministic actions)",
    }[comparison.config.score]
    columns: Columns = {
        "environment": "environment", "group": "group", "seeds": "seeds",
        f"{center} [95%]": _interval(statistic),
        "mean ± std": lambda row: number(row["mean"])
        + ("" if math.isnan(row["std"]) else f" ± {number(row['std'])}"),
        "range": lambda row: f"{number(row['min'])} to {number(row['max'])}",
        "evaluation": "evaluation", "wall time": lambda row: duration(row["wall_seconds"]),
    }  # fmt: skip
    note = (
        f"Returns: {score} at the step of the comparison. Evaluation: the mean of the runs' final "
        "evaluations with deterministic actions, at the end of each run. Wall time: the median."
    )
    return _table("results", "Returns at the end", comparison.tables["results"], columns, note)


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    escaped = [
        [for_markdown(cell).replace("|", "\\|") for cell in cells]
        for cells in (table.headings, *table.cells)
    ]
    return markdown_table(escaped[0], escaped[1:])
