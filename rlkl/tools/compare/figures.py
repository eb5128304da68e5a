"""The figures of a comparison: from rows to charts with captions."""

import math
from collections.abc import Iterable
from dataclasses import replace

from rlkl.tools.compare.charts import Dot, DotChart, Figure, Line, LineChart
from rlkl.tools.compare.curves import UPDATES, reached_at, seed_curve
from rlkl.tools.compare.report import STATISTIC_NAMES, Comparison
from rlkl.tools.compare.scores import MIN_SEEDS, SIGNIFICANCE, common
from rlkl.tools.compare.text import number, time_unit
from rlkl.tools.rows import Row, Rows, column, grouped, select

MAX_PAIRS = 28
"""Pairs of a figure; of more, those with the best group are drawn."""

SHARE = (-0.03, 1.03)
"""Range of an axis of shares or probabilities."""


def figures(comparison: Comparison) -> list[Figure]:
    """Return all figures that have something to draw, with the charts that have."""
    made = []
    for figure in (
        _aggregates(comparison), _learning_together(comparison), *_learning(comparison),
        _results(comparison), _profiles(comparison), _improvement(comparison),
        _efficiency(comparison), _stability(comparison), _updates(comparison),
    ):  # fmt: skip
        charts = [c for c in figure.charts if (c.lines if isinstance(c, LineChart) else c.dots)]
        if charts:
            made.append(replace(figure, charts=charts))
    return made


def _lines(rows: Rows, x: str = "x", y: str = "value") -> list[Line]:
    return [
        Line(label, column(own, x), column(own, y), column(own, "low"), column(own, "high"))
        for label, own in grouped(rows, "group").items()
    ]


def _dot(
    row: Row, key: str, low: str = "low", high: str = "high", seeds: Iterable[float] = ()
) -> Dot:
    return Dot(row["group"], row["group"], row[key], row[low], row[high], list(seeds))


def _aggregates(comparison: Comparison) -> Figure:
    charts = []
    for name, title in STATISTIC_NAMES.items():
        rows = select(comparison.tables["aggregates"], aggregate=name)
        charts.append(DotChart(title, "normalized score", [_dot(row, "value") for row in rows]))
    shared, _ = common(comparison.environments)
    return Figure(
        "aggregates",
        "Normalized scores",
        f"Normalized returns over {', '.join(env.name for env in shared)}, with 95% stratified "
        "bootstrap intervals. The interquartile mean leaves out the best and the worst quarter of "
        "runs. The median is over environments. The optimality gap is the mean shortfall below 1, "
        "with scores above 1 counted as 1.",
        charts,
        narrow=True,
    )


def _learning_together(comparison: Comparison) -> Figure:
    shared, _ = common(comparison.environments)
    alike = len({env.horizon for env in shared}) == 1
    chart = LineChart(
        "All environments",
        "environment steps" if alike else "share of the environment steps",
        "normalized score",
        _lines(comparison.tables["together"]),
    )
    return Figure(
        "learning_together",
        "Learning curves of all environments together",
        f"The {comparison.statistic} of the normalized training returns of all runs in "
        f"{', '.join(env.name for env in shared)}, with 95% stratified bootstrap intervals. It "
        "shows how fast groups learn; the scores above show how far they get.",
        [chart],
    )


def _learning(comparison: Comparison) -> list[Figure]:
    by_steps = (
        f"Thick: the {comparison.statistic} over seeds of the training return (mean return of the "
        "last 100 episodes); band: its 95% bootstrap interval at each point; thin: each seed, as "
        "far as it got. A thick line ends with its shortest seed, so every point includes all "
        "seeds."
    )
    by_time = (
        "The same returns along the wall time of training, without evaluations. Comparable only "
        "between runs that had the same hardware to themselves."
    )
    title = "Learning curves by"
    return [
        Figure("learning_by_steps", f"{title} environment steps", by_steps,
               _learning_charts(comparison, "steps")),
        Figure("learning_by_time", f"{title} wall time", by_time,
               _learning_charts(comparison, "seconds")),
    ]  # fmt: skip


def _learning_charts(comparison: Comparison, axis: str) -> list[LineChart]:
    charts = []
    for env in comparison.environments:
        seeds = [(e.label, *seed_curve(e.run, axis)) for e in env.entries]
        unit, x_label = 1.0, "environment steps"
        if axis == "seconds":
            unit, name, _ = time_unit(max((x[-1] for _, x, _ in seeds if x), default=0.0))
            x_label = f"wall time, {name}"
        rows = select(comparison.tables["curves"], axis=axis, environment=env.name)
        centers = {line.group: line for line in _lines(rows)}
        lines = []
        for label in env.labels:
            line = centers.get(label, Line(label, [], []))
            thin = [([n / unit for n in x], y) for own, x, y in seeds if own == label and x]
            lines.append(replace(line, x=[n / unit for n in line.x], seeds=thin))
        goal = comparison.config.threshold_of(env.name)
        level = goal[0] if goal else None
        charts.append(LineChart(env.name, x_label, "training return", lines, env.name, level=level))
    return charts


def _results(comparison: Comparison) -> Figure:
    charts = []
    for env in comparison.environments:
        rows = select(comparison.tables["results"], environment=env.name)
        key = comparison.config.statistic
        dots = [_dot(row, key, seeds=env.scores(row["group"]).tolist()) for row in rows]
        charts.append(DotChart(env.name, f"return at {env.horizon:,} steps", dots, env.name))
    return Figure(
        "results",
        "Returns at the end",
        f"Large: the {comparison.statistic} over seeds, with its 95% bootstrap interval; small: "
        "each seed.",
        charts,
    )


def _profiles(comparison: Comparison) -> Figure:
    lines = _lines(comparison.tables["profiles"], "score", "share")
    chart = LineChart(
        "All environments", "normalized score τ", "share of runs above τ", lines, y_range=SHARE
    )
    return Figure(
        "profiles",
        "Performance profiles",
        "The share of runs that score more than τ. A curve above another everywhere is better at "
        "every score; where curves cross, the better one depends on τ. Bands: 95% stratified "
        "bootstrap intervals.",
        [chart],
    )


def _improvement(comparison: Comparison) -> Figure:
    rows = comparison.tables["improvement"]
    note = ""
    if len(rows) > MAX_PAIRS:
        best = _best(comparison)
        rows = [row for row in rows if best in (row["first"], row["second"])]
        note = f" Of all pairs, those with {best} are drawn; the table has the others."
    title = "Probability that the first beats the second"
    dots = [_pair(row) for row in rows]
    return Figure(
        "improvement",
        "Probability of improvement",
        "The probability that a run of the first group has a higher return than a run of the "
        "second in the same environment, with ties counted half, and its 95% stratified bootstrap "
        "interval, which is not corrected. It does not say by how much. The two groups are told "
        f"apart if the p-value, corrected for all pairs, is below {SIGNIFICANCE}, and both have "
        f"at least {MIN_SEEDS} seeds.{note}",
        [DotChart(title, "probability", dots, level=0.5, x_range=SHARE)],
    )


def _best(comparison: Comparison) -> str:
    """Return the group that wins the most pairs."""
    wins = dict.fromkeys(comparison.labels, 0.0)
    for row in comparison.tables["improvement"]:
        wins[row["first"]] += row["probability"]
        wins[row["second"]] += 1 - row["probability"]
    return max(wins, key=lambda label: wins[label])


def _pair(row: Row) -> Dot:
    """Return a pair, the better group first."""
    first, second = row["first"], row["second"]
    value, low, high = row["probability"], row["low"], row["high"]
    if value < 0.5:
        first, second, value, low, high = second, first, 1 - value, 1 - high, 1 - low
    return Dot(first, f"{first} > {second}", value, low, high)


def _efficiency(comparison: Comparison) -> Figure:
    charts = []
    for env in comparison.environments:
        goal = comparison.config.threshold_of(env.name)
        if goal is None:
            continue
        lines = []
        for label, entries in env.groups.items():
            steps = sorted(reached_at(entries, goal[0]).tolist())
            x = [0.0, *filter(math.isfinite, steps)]
            y = [place / len(steps) for place in range(len(x))]
            lines.append(Line(label, [*x, float(env.horizon)], [*y, y[-1]]))
        charts.append(
            LineChart(
                f"{env.name}: a return of {number(goal[0])}", "environment steps",
                "share of runs that reached it", lines, env.name, y_range=SHARE, steps=True,
            )
        )  # fmt: skip
    return Figure(
        "efficiency",
        "Sample efficiency",
        "The share of runs whose training return has reached the threshold by each step. Further "
        "left is faster; a line that ends below 1 has runs that never reached it.",
        charts,
    )


def _stability(comparison: Comparison) -> Figure:
    drops, exceeded = [], []
    for env in comparison.environments:
        rows = select(comparison.tables["stability"], environment=env.name)
        dots = [_dot(row, "median_drop", "least_drop", "worst_drop") for row in rows]
        title = f"{env.name}: worst drop"
        drops.append(DotChart(title, "return lost from a running best", dots, env.name))
        bounded = [row for row in rows if not math.isnan(row["over_bound"])]
        dots = [Dot(row["group"], row["group"], row["over_bound"]) for row in bounded]
        title = f"{env.name}: KL over its bound"
        exceeded.append(DotChart(title, "share of updates", dots, env.name, x_range=SHARE))
    return Figure(
        "stability",
        "Stability",
        "Worst drop: the largest fall of the training return from its previous best, median over "
        "seeds, with a line from the smallest to the largest. KL over its bound: the share of "
        "updates whose KL(π_old ‖ π_θ) exceeded δ (TRPO, NPG) or 1.5 times its target (adaptive "
        "β, early stop). Groups without a bound are not shown there.",
        [*drops, *exceeded],
    )


def _updates(comparison: Comparison) -> Figure:
    charts = []
    for env in comparison.environments:
        for tag, (title, y_label) in UPDATES.items():
            rows = select(comparison.tables["updates"], environment=env.name, tag=tag)
            charts.append(
                LineChart(
                    f"{env.name}: {title}", "environment steps", y_label, _lines(rows), env.name,
                    log=tag in ("kl/old_new", "ratio/std"),
                    y_range=(-1.0, 1.05) if tag == "value/explained_variance" else None,
                )
            )  # fmt: skip
    return Figure(
        "updates",
        "Causes: what each update did",
        f"The {comparison.statistic} over seeds, each point the mean of a fortieth of the steps, "
        "with 95% bootstrap bands: how far the policy moved (KL), how unevenly (standard deviation "
        "of the ratio), how random it still is (entropy), and how good the critic is (explained "
        "variance: 1 is perfect, 0 no better than a constant; cut off below −1).",
        charts,
        narrow=True,
    )
