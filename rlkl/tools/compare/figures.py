"""From rows to charts: which figures a comparison has, and how each is to be read."""

import math
from collections.abc import Callable, Sequence

from rlkl.tools.compare import curves
from rlkl.tools.compare.charts import Dot, DotChart, Figure, Line, LineChart
from rlkl.tools.compare.references import threshold
from rlkl.tools.compare.report import Comparison, number
from rlkl.tools.compare.rows import Row, Rows, column, distinct, select
from rlkl.tools.compare.scores import FEW, Field, common
from rlkl.tools.compare.stability import reached_at

MOST_PAIRS = 28
"""Of a figure; of more, those with the best group are drawn."""

AGGREGATE_TITLES = {
    "iqm": "interquartile mean",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap (less is better)",
}
UPDATE_TITLES = {
    "kl/old_new": ("KL", "KL(π_old ‖ π_θ), nats"),
    "ratio/std": ("ratio", "its standard deviation"),
    "policy/entropy": ("entropy", "entropy, nats"),
    "value/explained_variance": ("critic", "explained variance"),
}
SECONDS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"))


def figures(comparison: Comparison) -> list[Figure]:
    """Return all figures that there is something to draw in."""
    made = [make(comparison) for make in MAKERS]
    return [figure for figure in made if figure.charts]


def _center(comparison: Comparison) -> str:
    return {"iqm": "interquartile mean", "mean": "mean"}[comparison.config.statistic]


def _line(rows: Rows, group: str, scale: float = 1.0) -> Line:
    return Line(
        group,
        [x / scale for x in column(rows, "x")],
        column(rows, "value"),
        column(rows, "low"),
        column(rows, "high"),
    )


def _learning(comparison: Comparison, axis: str) -> list[LineChart]:
    charts = []
    rows = select(comparison.tables["curves"], axis=axis)
    for field in comparison.fields:
        here = select(rows, environment=field.env)
        single = {entry.member.label for entry in field.entries}
        thin = {label: _thin(field, label, axis) for label in single}
        longest = max((x[-1] for lines in thin.values() for x, _ in lines), default=0.0)
        unit, name = 1.0, "environment steps"
        if axis == "seconds":
            unit, name = next(
                ((u, n) for u, n in reversed(SECONDS) if longest >= 3 * u), SECONDS[0]
            )
            name = f"wall time, {name}"
        lines = []
        for label in comparison.labels:
            if label not in thin:
                continue
            line = _line(select(here, group=label), label, unit)
            line.thin.extend(([v / unit for v in x], y) for x, y in thin[label])
            lines.append(line)
        goal = threshold(field.env, comparison.config)
        level = (goal[0], "threshold") if goal else None
        charts.append(LineChart(field.env, name, "training return", lines, field.env, level=level))
    return charts


def _thin(field: Field, label: str, axis: str) -> list[tuple[list[float], list[float]]]:
    lines = []
    for entry in field.entries:
        x, y = curves.thin(entry.run, axis)
        if entry.member.label == label and len(x):
            lines.append((x.tolist(), y.tolist()))
    return lines


def learning_by_steps(comparison: Comparison) -> Figure:
    """Training return along environment steps, a chart for each environment."""
    return Figure(
        "learning_by_steps",
        "Learning curves by environment steps",
        f"Thick: the {_center(comparison)} over seeds of the training return (mean return of the "
        "last 100 episodes); band: its 95% bootstrap interval, point by point; thin: each seed, as "
        "far as it got. Thick lines are made from all seeds at every point, so they end where the "
        "first of them does.",
        _learning(comparison, "steps"),
    )


def learning_together(comparison: Comparison) -> Figure:
    """Normalised score of all environments together along environment steps."""
    rows = comparison.tables["together"]
    lines = [_line(select(rows, group=label), label) for label in distinct(rows, "group")]
    shared, _ = common(comparison.fields)
    alike = len({field.horizon for field in shared}) == 1
    chart = LineChart(
        "All environments", "environment steps" if alike else "share of the environment steps",
        "normalised score", lines,
    )  # fmt: skip
    return Figure(
        "learning_together",
        "Learning curves of all environments together",
        f"The {_center(comparison)} of the normalised training returns of all runs in "
        f"{', '.join(field.env for field in shared)}, with 95% stratified bootstrap intervals: how "
        "soon, where the scores above say how far.",
        [chart] if lines else [],
    )


def learning_by_time(comparison: Comparison) -> Figure:
    """Training return along wall time, a chart for each environment."""
    return Figure(
        "learning_by_time",
        "Learning curves by wall time",
        "The same returns along the time that training took, evaluations not counted. Comparable "
        "only between runs on the same hardware that had it to themselves.",
        _learning(comparison, "seconds"),
    )


def results(comparison: Comparison) -> Figure:
    """Return of each group at the horizon, a chart for each environment."""
    charts = []
    for field in comparison.fields:
        rows = select(comparison.tables["results"], environment=field.env)
        dots = [
            Dot(row["group"], row["group"], row[comparison.config.statistic], row["low"],
                row["high"], field.scores(row["group"]).tolist())
            for row in rows
        ]  # fmt: skip
        if dots:
            x_label = f"return at {field.horizon:,} steps"
            charts.append(DotChart(field.env, x_label, dots, field.env))
    return Figure(
        "results",
        "Returns at the end",
        f"Large: the {_center(comparison)} over seeds, with its 95% bootstrap interval; small: "
        "each seed.",
        charts,
    )


def aggregates(comparison: Comparison) -> Figure:
    """Normalised scores of all environments together, a chart for each aggregate."""
    charts = []
    for name, title in AGGREGATE_TITLES.items():
        rows = select(comparison.tables["aggregates"], aggregate=name)
        dots = [Dot(r["group"], r["group"], r["value"], r["low"], r["high"]) for r in rows]
        if dots:
            charts.append(DotChart(title, "normalised score", dots))
    shared, _ = common(comparison.fields)
    over = ", ".join(field.env for field in shared)
    return Figure(
        "aggregates",
        "Normalised scores",
        f"Normalised returns over {over}, with 95% stratified bootstrap intervals. The "
        "interquartile mean leaves out the best and the worst quarter of runs; the median is "
        "over environments; the optimality gap says how far runs fall short of 1, where more "
        "than 1 counts as 1.",
        charts,
        narrow=True,
    )


def profiles(comparison: Comparison) -> Figure:
    """Share of runs above each normalised score."""
    rows = comparison.tables["profiles"]
    lines = [
        Line(
            label,
            column(select(rows, group=label), "score"),
            column(select(rows, group=label), "share"),
            column(select(rows, group=label), "low"),
            column(select(rows, group=label), "high"),
        )
        for label in distinct(rows, "group")
    ]
    chart = LineChart(
        "All environments", "normalised score τ", "share of runs above τ", lines,
        y_range=(-0.03, 1.03),
    )  # fmt: skip
    return Figure(
        "profiles",
        "Performance profiles",
        "How likely a run scores more than τ. A curve that lies above another everywhere is better "
        "whatever score one asks for; where curves cross, the better one depends on τ. Bands: 95% "
        "stratified bootstrap intervals.",
        [chart] if lines else [],
    )


def improvement(comparison: Comparison) -> Figure:
    """Probability of improvement, pair by pair."""
    rows = comparison.tables["improvement"]
    note = ""
    if len(rows) > MOST_PAIRS:
        best = _best(comparison)
        rows = [row for row in rows if best in (row["first"], row["second"])]
        note = f" Of all pairs, those with {best} are drawn; the table has the others."
    dots = [_pair(row) for row in rows]
    chart = DotChart(
        "Probability that the first beats the second", "probability", dots,
        level=(0.5, "neither"), x_range=(-0.03, 1.03),
    )  # fmt: skip
    return Figure(
        "improvement",
        "Probability of improvement",
        "How likely a run of the first group has a higher return than a run of the second in "
        "the same environment, ties counted half, with 95% stratified bootstrap intervals. It "
        f"says how surely, not by how much. An interval that holds 0.5 tells nothing apart, "
        f"nor does one from fewer than {FEW} seeds.{note}",
        [chart] if dots else [],
    )


def _best(comparison: Comparison) -> str:
    """Return the group that wins the most pairs."""
    wins = dict.fromkeys(comparison.labels, 0.0)
    for row in comparison.tables["improvement"]:
        wins[row["first"]] += row["probability"]
        wins[row["second"]] += 1 - row["probability"]
    return max(wins, key=lambda label: wins[label])


def _pair(row: Row) -> Dot:
    """Return a pair with the one in front that is ahead."""
    first, second = row["first"], row["second"]
    value, low, high = row["probability"], row["low"], row["high"]
    if value < 0.5:
        first, second, value, low, high = second, first, 1 - value, 1 - high, 1 - low
    return Dot(first, f"{first} > {second}", value, low, high)


def efficiency(comparison: Comparison) -> Figure:
    """Share of runs that have reached the threshold, along steps."""
    charts = []
    for field in comparison.fields:
        goal = threshold(field.env, comparison.config)
        if goal is None:
            continue
        lines = []
        for label in comparison.labels:
            entries = field.of(label)
            taken = sorted(reached_at(entries, goal[0]).tolist()) if entries else []
            if not taken:
                continue
            x, y = [0.0], [0.0]
            for place, steps in enumerate(taken, 1):
                if math.isfinite(steps):
                    x.append(steps)
                    y.append(place / len(taken))
            lines.append(Line(label, [*x, float(field.horizon)], [*y, y[-1]]))
        if lines:
            charts.append(
                LineChart(
                    f"{field.env}: a return of {number(goal[0])}", "environment steps",
                    "share of runs that reached it", lines, field.env, y_range=(-0.03, 1.03),
                    steps=True,
                )
            )  # fmt: skip
    return Figure(
        "efficiency",
        "Sample efficiency",
        "The share of runs whose training return has reached the threshold by each step; "
        "further left is sooner, and a line that does not come to 1 has runs that never did.",
        charts,
    )


def stability(comparison: Comparison) -> Figure:
    """Falls from a running best, and updates beyond their KL bound."""
    falls, overs = [], []
    for field in comparison.fields:
        rows = select(comparison.tables["stability"], environment=field.env)
        drops = [
            Dot(
                row["group"], row["group"], row["median_drop"], row["least_drop"], row["worst_drop"]
            )
            for row in rows
        ]
        falls.append(
            DotChart(
                f"{field.env}: worst drop", "return lost from a running best", drops, field.env
            )
        )
        nan = math.nan
        shares = [
            Dot(row["group"], row["group"], row["over_bound"], nan, nan)
            for row in rows
            if not math.isnan(row["over_bound"])
        ]
        if shares:
            overs.append(
                DotChart(
                    f"{field.env}: KL over its bound", "share of updates", shares, field.env,
                    x_range=(-0.03, 1.03),
                )
            )  # fmt: skip
    return Figure(
        "stability",
        "Stability",
        "Worst drop: how far the training return fell from the best it had been, median over "
        "seeds, with a line from the least to the worst of them. KL over its bound: the share "
        "of updates whose KL(π_old ‖ π_θ) passed δ (TRPO, NPG) or 1.5 times its target "
        "(adaptive β, early stop); groups that bound no KL are not in it.",
        [chart for chart in (*falls, *overs) if chart.dots],
    )


def updates(comparison: Comparison) -> Figure:
    """KL, ratio, entropy and explained variance along steps, side by side."""
    charts = []
    for field in comparison.fields:
        rows = select(comparison.tables["updates"], environment=field.env)
        for tag, (title, y_label) in UPDATE_TITLES.items():
            found = select(rows, tag=tag)
            lines = [
                _line(select(found, group=label), label)
                for label in comparison.labels
                if select(found, group=label)
            ]
            if not lines:
                continue
            charts.append(
                LineChart(
                    f"{field.env}: {title}", "environment steps", y_label, lines, field.env,
                    log=tag in ("kl/old_new", "ratio/std"),
                    y_range=(-1.0, 1.05) if tag == "value/explained_variance" else None,
                )
            )  # fmt: skip
    return Figure(
        "updates",
        "Why: what each update did",
        f"The {_center(comparison)} over seeds, each point the mean of a fortieth of the steps, "
        "with 95% bootstrap bands. How far the policy moved (KL), how unevenly (the ratio's "
        "deviation), how much chance it keeps (entropy), and how well values are known "
        "(explained variance: 1 is perfect, 0 no better than a constant; below −1 is cut off).",
        charts,
        narrow=True,
    )


MAKERS: Sequence[Callable[[Comparison], Figure]] = (
    aggregates,
    learning_together,
    learning_by_steps,
    learning_by_time,
    results,
    profiles,
    improvement,
    efficiency,
    stability,
    updates,
)
