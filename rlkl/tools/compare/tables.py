"""From rows to tables that people read, the same for the page and for Markdown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlkl.tools.compare.report import Comparison, number, spread
from rlkl.tools.compare.rows import Row, distinct, select
from rlkl.tools.compare.scores import FEW
from rlkl.utils.safe_text import for_markdown


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        name: of the figure it stands below, or of its own section.
        title: above it.
        headings: of the columns.
        cells: rows of text.
        note: below it, or empty.
    """

    name: str
    title: str
    headings: list[str]
    cells: list[list[str]]
    note: str = ""


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables that have a row."""
    made = [make(comparison) for make in MAKERS]
    return [table for table in made if table.cells]


def with_interval(row: Row, key: str = "value") -> str:
    """Return a number with its interval behind it, if there is one."""
    return spread(row[key], row["low"], row["high"])


def share(value: float) -> str:
    """Return a share in per cent."""
    return "–" if math.isnan(value) else f"{100 * value:.3g}%"


def duration(seconds: float) -> str:
    """Return seconds in the unit that they are best read in."""
    for unit, letter in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 3 * unit:
            return f"{seconds / unit:.3g} {letter}"
    return f"{seconds:.3g} s"


def _aggregates(comparison: Comparison) -> Table:
    rows = comparison.tables["aggregates"]
    names = ["iqm", "median", "mean", "optimality_gap"]
    cells = []
    for label in distinct(rows, "group"):
        own = [select(rows, group=label, aggregate=name)[0] for name in names]
        counts = [number(own[0][key]) for key in ("environments", "runs")]
        cells.append([label, *map(with_interval, own), *counts])
    headings = ["group", "IQM", "median", "mean", "optimality gap", "environments", "runs"]
    return Table("aggregates", "All environments together", headings, cells)


def _scales(comparison: Comparison) -> Table:
    cells = []
    for field in comparison.fields:
        scale = field.reference
        ends = ["–", "–", "none"]
        if scale is not None:
            ends = [number(scale.low), number(scale.high), scale.source]
        cells.append([field.env, *ends, number(field.horizon)])
    headings = ["environment", "return that is 0", "return that is 1", "from", "compared at step"]
    return Table("aggregates", "What a normalised score is", headings, cells)


def _results(comparison: Comparison) -> Table:
    statistic = comparison.config.statistic
    cells = [
        [
            row["environment"],
            row["group"],
            number(row["seeds"]),
            with_interval(row, statistic),
            number(row["mean"]) + ("" if math.isnan(row["std"]) else f" ± {number(row['std'])}"),
            f"{number(row['min'])} to {number(row['max'])}",
            number(row["evaluation"]),
            duration(row["wall_seconds"]),
        ]
        for row in comparison.tables["results"]
    ]
    name = {"iqm": "IQM", "mean": "mean"}[statistic]
    headings = [
        "environment", "group", "seeds", f"{name} [95%]", "mean ± std", "range", "evaluation",
        "wall time",
    ]  # fmt: skip
    what = {
        "train": "training return (mean of the last 100 episodes, sampled actions)",
        "eval": "last evaluation (most probable actions)",
    }[comparison.config.score]
    note = (
        f"Returns: {what} at the step of the comparison. Evaluation: the mean of the runs' final "
        "evaluations with the most probable actions, at their own ends. Wall time: the median."
    )
    return Table("results", "Returns at the end", headings, cells, note)


def _improvement(comparison: Comparison) -> Table:
    cells = [
        [
            row["first"],
            row["second"],
            with_interval(row, "probability"),
            "yes" if row["told_apart"] else "no" if row["seeds"] >= FEW else "too few seeds",
            number(row["environments"]),
        ]
        for row in comparison.tables["improvement"]
    ]
    headings = ["first", "second", "P(first > second)", "told apart", "environments"]
    return Table("improvement", "Every pair", headings, cells)


def _thresholds(comparison: Comparison) -> Table:
    cells = [
        [
            row["environment"],
            number(row["threshold"]),
            row["source"],
            row["group"],
            f"{row['reached']} of {row['seeds']}",
            number(row["median_steps"]),
            number(row["first_steps"]),
            number(row["last_steps"]),
        ]
        for row in comparison.tables["thresholds"]
    ]
    headings = [
        "environment", "threshold", "from", "group", "reached by", "median steps", "first", "last",
    ]  # fmt: skip
    note = "∞: not within the steps of the comparison; the median counts such runs as the latest."
    return Table("efficiency", "Steps to the threshold", headings, cells, note)


def _stability(comparison: Comparison) -> Table:
    cells = [
        [
            row["environment"],
            row["group"],
            number(row["median_drop"]),
            number(row["worst_drop"]),
            number(row["worst_drop_normalized"]),
            share(row["over_bound"]),
            number(row["median_kl"]),
            number(row["largest_kl"]),
            number(row["largest_kl_of_a_state"]),
            number(row["not_finite"]),
        ]
        for row in comparison.tables["stability"]
    ]
    headings = [
        "environment", "group", "worst drop, median seed", "worst drop, worst seed",
        "as normalised score", "updates over the KL bound", "median KL", "largest KL",
        "largest KL of a state", "updates without a finite KL",
    ]  # fmt: skip
    note = (
        "KL is KL(π_old ‖ π_θ) of an update in nats, averaged over states unless it says of a "
        "state."
    )
    return Table("stability", "Stability", headings, cells, note)


def _settings(comparison: Comparison) -> Table:
    rows = comparison.tables["settings"]
    headings = list(rows[0]) if rows else []
    note = (
        "Only what differs between runs of one environment, but for seeds; –: the group does not "
        "have the key, or was not run there."
    )
    return Table(
        "compared", "Settings that differ", headings, [list(row.values()) for row in rows], note
    )


def _provenance(comparison: Comparison) -> Table:
    rows = comparison.tables["provenance"]
    cells = [[number(value) for value in row.values()] for row in rows]
    return Table("compared", "Versions, revisions, hardware, seeds", list(rows[0]), cells)


def _runs(comparison: Comparison) -> Table:
    cells = [
        [
            row["environment"],
            row["group"],
            str(row["seed"]),
            row["status"],
            number(row["env_steps"]),
            number(row["return"]),
            number(row["normalized"]),
            row["left_out"] or "compared",
            row["folder"],
        ]
        for row in comparison.tables["runs"]
    ]
    headings = [
        "environment", "group", "seed", "status", "steps made", "return", "normalised", "score",
        "folder",
    ]  # fmt: skip
    return Table("runs", "Every run", headings, cells)


MAKERS = (
    _aggregates,
    _scales,
    _results,
    _improvement,
    _thresholds,
    _stability,
    _settings,
    _provenance,
    _runs,
)


def markdown(table: Table) -> str:
    """Return a table in Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(for_markdown(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(table.headings), "|" + "---|" * len(table.headings),
                      *map(line, table.cells)])  # fmt: skip


def of(name: str, made: Sequence[Table]) -> list[Table]:
    """Return the tables of a figure or section."""
    return [table for table in made if table.name == name]
