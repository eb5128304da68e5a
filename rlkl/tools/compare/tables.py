"""The tables of a comparison as text, the same on the page and in Markdown."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rlkl.tools.compare.report import Comparison
from rlkl.tools.compare.scores import MIN_SEEDS
from rlkl.tools.compare.text import duration, number, share, spread
from rlkl.tools.rows import Row, Rows, distinct, select
from rlkl.utils.safe_text import for_markdown


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        name: of the figure below which it is shown, or of its own section.
        cells: rows of text.
        note: below it, or empty.
    """

    name: str
    title: str
    headings: list[str]
    cells: list[list[str]]
    note: str = ""


Column = str | Callable[[Row], str]
"""Key of the rows, or a function that returns the text of a row's cell."""


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables that have a row."""
    made = [make(comparison) for make in MAKERS]
    return [table for table in made if table.cells]


def _table(
    name: str, title: str, rows: Rows, columns: dict[str, Column] | None = None, note: str = ""
) -> Table:
    """Return a table with columns by heading; without them, of all columns of the rows."""
    if columns is None:
        columns = {key: key for key in rows[0]} if rows else {}
    cells = [
        [number(row[c]) if isinstance(c, str) else c(row) for c in columns.values()] for row in rows
    ]
    return Table(name, title, list(columns), cells, note)


def _interval(key: str) -> Callable[[Row], str]:
    return lambda row: spread(row[key], row["low"], row["high"])


def _aggregates(comparison: Comparison) -> Table:
    rows = comparison.tables["aggregates"]
    names = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
    merged = []
    for label in distinct(rows, "group"):
        own = {row["aggregate"]: row for row in select(rows, group=label)}
        values = {heading: _interval("value")(own[name]) for name, heading in names.items()}
        counts = {key: own["iqm"][key] for key in ("environments", "runs")}
        merged.append({"group": label} | values | counts)
    return _table("aggregates", "All environments together", merged)


def _scales(comparison: Comparison) -> Table:
    rows = []
    for env in comparison.environments:
        scale = env.reference
        rows.append(
            {
                "environment": env.name,
                "return that is 0": scale.low if scale else "–",
                "return that is 1": scale.high if scale else "–",
                "from": scale.source if scale else "none",
                "compared at step": env.horizon,
            }
        )
    return _table("aggregates", "What a normalized score is", rows)


def _results(comparison: Comparison) -> Table:
    statistic = comparison.config.statistic
    center = {"iqm": "IQM", "mean": "mean"}[statistic]
    score = {
        "train": "training return (mean of the last 100 episodes, sampled actions)",
        "eval": "last evaluation (deterministic actions)",
    }[comparison.config.score]
    return _table(
        "results",
        "Returns at the end",
        comparison.tables["results"],
        {
            "environment": "environment", "group": "group", "seeds": "seeds",
            f"{center} [95%]": _interval(statistic),
            "mean ± std": lambda row: number(row["mean"])
            + ("" if math.isnan(row["std"]) else f" ± {number(row['std'])}"),
            "range": lambda row: f"{number(row['min'])} to {number(row['max'])}",
            "evaluation": "evaluation", "wall time": lambda row: duration(row["wall_seconds"]),
        },
        f"Returns: {score} at the step of the comparison. Evaluation: the mean of the runs' final "
        "evaluations with deterministic actions, at the end of each run. Wall time: the median.",
    )  # fmt: skip


def _improvement(comparison: Comparison) -> Table:
    def told_apart(row: Row) -> str:
        return number(row["told_apart"]) if row["seeds"] >= MIN_SEEDS else "too few seeds"

    return _table(
        "improvement",
        "Every pair",
        comparison.tables["improvement"],
        {
            "first": "first", "second": "second", "P(first > second)": _interval("probability"),
            "told apart": told_apart, "environments": "environments",
        },
    )  # fmt: skip


def _thresholds(comparison: Comparison) -> Table:
    return _table(
        "efficiency",
        "Steps to the threshold",
        comparison.tables["thresholds"],
        {
            "environment": "environment", "threshold": "threshold", "from": "source",
            "group": "group", "reached by": lambda row: f"{row['reached']} of {row['seeds']}",
            "median steps": "median_steps", "first": "first_steps", "last": "last_steps",
        },
        "∞: not within the steps of the comparison; the median counts such runs as infinite.",
    )  # fmt: skip


def _stability(comparison: Comparison) -> Table:
    return _table(
        "stability",
        "Stability",
        comparison.tables["stability"],
        {
            "environment": "environment", "group": "group",
            "worst drop, median seed": "median_drop", "worst drop, worst seed": "worst_drop",
            "as normalized score": "worst_drop_normalized",
            "updates over the KL bound": lambda row: share(row["over_bound"]),
            "median KL": "median_kl", "largest KL": "largest_kl",
            "largest KL of a state": "largest_kl_of_a_state",
            "updates without a finite KL": "not_finite",
        },
        "KL is KL(π_old ‖ π_θ) of an update in nats, averaged over states unless it says of a "
        "state.",
    )  # fmt: skip


def _settings(comparison: Comparison) -> Table:
    note = (
        "Only settings that differ between runs of one environment, without seeds. –: the group "
        "does not have the key, or was not run there."
    )
    rows = comparison.tables["settings"]
    return _table("compared", "Settings that differ", rows, note=note)


def _provenance(comparison: Comparison) -> Table:
    rows = comparison.tables["provenance"]
    return _table("compared", "Versions, revisions, hardware, seeds", rows)


def _runs(comparison: Comparison) -> Table:
    return _table(
        "runs",
        "Every run",
        comparison.tables["runs"],
        {
            "environment": "environment", "group": "group", "seed": lambda row: str(row["seed"]),
            "status": "status", "steps made": "env_steps", "return": "return",
            "normalized": "normalized", "score": lambda row: row["left_out"] or "compared",
            "folder": "folder",
        },
    )  # fmt: skip


MAKERS = (
    _aggregates, _scales, _results, _improvement, _thresholds, _stability, _settings, _provenance,
    _runs,
)  # fmt: skip


def markdown(table: Table) -> str:
    """Return a table in Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(for_markdown(cell).replace("|", "\\|") for cell in cells) + " |"

    separator = "|" + "---|" * len(table.headings)
    return "\n".join([line(table.headings), separator, *map(line, table.cells)])


def of(name: str, made: Sequence[Table]) -> list[Table]:
    """Return the tables of a figure or section."""
    return [table for table in made if table.name == name]
