"""Draws the figures of docs/trust_region_family.md from rows alone."""

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

from trust_region_rows import mean, median

from rlkl.tools.experiments.drawing import BLACK, COLORS, Axes, Figure, Line, new_figure
from rlkl.tools.rows import Rows, column, distinct, grouped, select

ENVIRONMENT_LINES = [
    Line(COLORS["blue"], "-", "o"),
    Line(COLORS["vermilion"], "--", "^"),
    Line(COLORS["green"], "-.", "s"),
    Line(COLORS["purple"], ":", "D"),
]
LOWEST_KL, LARGEST_KL = 1e-5, 10.0
"""Of the KL axes, in nats; larger or smaller values are drawn at the edge."""

KL_AXIS: dict[str, Any] = {"yscale": "log", "ylim": (LOWEST_KL, LARGEST_KL)}
SCORE_LIMITS = (-0.15, 1.15)
COLUMNS = 5
MARKERS = "os^Dv*PX<>phd"


def inside(values: list[float]) -> list[float]:
    """Return KLs within the axes; NaN stays."""
    return [x if math.isnan(x) else min(max(x, LOWEST_KL), LARGEST_KL) for x in values]


def _panels(
    rows: Rows, inches: tuple[float, float], **properties: Any
) -> tuple[Figure, list[tuple[Axes, Rows]]]:
    """Return a figure, and its panels with the rows of their environments; KL is along x."""
    by_env = grouped(rows, "environment")
    figure = new_figure(inches)
    panels = figure.subplots(1, len(by_env), sharey=True, squeeze=False)[0]
    for axes, env in zip(panels, by_env, strict=True):
        axes.set_title(env, fontsize=11)
        axes.set(xscale="log", xlim=(LOWEST_KL, LARGEST_KL * 1.2), **properties)
        axes.grid(alpha=0.25)
    return figure, list(zip(panels, by_env.values(), strict=True))


def draw_bounds(rows: Rows) -> Figure:
    """Draw what each algorithm asks for and makes at its default, a panel per environment."""
    rows = select(rows, position="default")
    algorithms, envs = distinct(rows, "algorithm"), distinct(rows, "environment")
    inches = (5.0 * len(envs) + 1.2, 0.34 * len(algorithms) + 1.3)
    figure, panels = _panels(rows, inches, xlabel="KL(old ‖ new), nats")
    for axes, of_env in panels:
        for algo, group in grouped(of_env, "algorithm").items():
            _draw_algorithm(axes, -algorithms.index(algo), group)
        axes.set_yticks([-place for place in range(len(algorithms))], algorithms)
    _add_legend(figure, [panels[0][0]], 4)
    return figure


def _draw_algorithm(axes: Axes, place: float, group: Rows) -> None:
    for color, marker, fill, low, high, text in (
        ("blue", "o", "full", "kl_mean", "kl_mean_95",
         "mean over states: median, to 95% of the updates"),
        ("vermilion", "^", "none", "kl_state", "kl_state_largest",
         "largest of a state: median, to the largest of all"),
    ):  # fmt: skip
        style: dict[str, Any] = {"color": COLORS[color]}
        ends = inside([median(group, low), max(column(group, high))])
        axes.plot(ends, [place, place], linewidth=1.5, alpha=0.6, **style)
        axes.plot(
            ends[:1], [place], marker, fillstyle=fill, markersize=7, label=text, zorder=2.1, **style
        )
    asked = median(group, "kl_asked")
    if not math.isnan(asked):
        axes.plot(
            [asked], [place], "|", color=BLACK, markersize=15, markeredgewidth=2.2,
            label="KL asked for", zorder=2.1,
        )  # fmt: skip


def _add_legend(figure: Figure, panels: list[Axes], columns: int) -> None:
    """Add a legend of all panels, with each label once, below them."""
    handles: dict[str, Any] = {}
    for axes in panels:
        drawn, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False
    )


def small_multiples(
    rows: Rows, draw: Callable[[Axes, Rows], None], y_label: str, **properties: Any
) -> Figure:
    """Return a figure with a panel per algorithm, with one legend."""
    by_algorithm = grouped(rows, "algorithm")
    height = math.ceil(len(by_algorithm) / COLUMNS)
    figure = new_figure((2.5 * COLUMNS, 2.1 * height + 0.8))
    panels = figure.subplots(height, COLUMNS, sharey=True, squeeze=False)
    for axes, (algo, found) in zip(panels.flat, by_algorithm.items(), strict=False):
        draw(axes, found)
        axes.set_title(algo, fontsize=10)
        axes.set(**properties)
        axes.set_xlabel(properties.get("xlabel") or found[0]["knob"], fontsize=8)
        axes.grid(alpha=0.25)
    for axes in panels.flat[len(by_algorithm) :]:
        axes.set_visible(False)
    figure.supylabel(y_label, fontsize=11)
    _add_legend(figure, list(panels.flat), 6)
    return figure


def draw_training(updates: Rows, env: str) -> Figure:
    """Draw the KL of each update in an environment, at the default of the knob, median of seeds."""

    def panel(axes: Axes, rows: Rows) -> None:
        seeds = len(distinct(rows, "seed"))
        made = [group for group in grouped(rows, "update").values() if len(group) == seeds]
        steps = [median(group, "env_steps") / 1000 for group in made]
        for key, line, width, text in [
            ("kl_bound", Line(BLACK, "--"), 1.2, "bound"),
            ("kl_mean", Line(COLORS["blue"], "-"), 1.6, "mean over states"),
            ("kl_state", Line(COLORS["vermilion"], ":"), 1.4, "largest of a state"),
        ]:
            values = inside([median(group, key) for group in made])
            if not all(map(math.isnan, values)):
                axes.plot(steps, values, linewidth=width, label=text, **line.style)

    name = f"KL(old ‖ new) of an update on {env}, nats"
    rows = select(updates, environment=env)
    return small_multiples(rows, panel, name, xlabel="thousand environment steps", **KL_AXIS)


def _lines(rows: Rows, envs: list[str]) -> Iterator[tuple[str, dict[str, Any], Rows]]:
    """Yield each environment with the style of its line and its rows."""
    for env, line in zip(envs, ENVIRONMENT_LINES, strict=False):
        yield env, line.style | {"marker": line.marker}, select(rows, environment=env)


def draw_asked(rows: Rows) -> Figure:
    """Draw the KL asked for and the KL made against the knob."""
    envs = distinct(rows, "environment")

    def panel(axes: Axes, of_algorithm: Rows) -> None:
        for env, style, found in _lines(of_algorithm, envs):
            groups = grouped(found, "value")
            for key, alpha, fill, text in [
                ("kl_mean", 1.0, "full", "mean over states"),
                ("kl_state", 0.5, "none", "largest of a state"),
            ]:
                y = inside([median(group, key) for group in groups.values()])
                look = style | {"fillstyle": fill, "markersize": 4.5, "alpha": alpha}
                axes.plot(list(groups), y, label=f"{env}: {text}", **look)
        groups = dict(sorted(grouped(of_algorithm, "value").items()))
        asked = [median(group, "kl_asked") for group in groups.values()]
        if not all(map(math.isnan, asked)):
            axes.plot(list(groups), asked, color=BLACK, linewidth=1.2, label="KL asked for")

    name = "KL(old ‖ new) of an update, median, nats"
    return small_multiples(rows, panel, name, xscale="log", **KL_AXIS)


def draw_returns(rows: Rows) -> Figure:
    """Draw the score against the knob: a dot per run, a line through the means."""
    envs = distinct(rows, "environment")

    def panel(axes: Axes, of_algorithm: Rows) -> None:
        for env, style, found in _lines(of_algorithm, envs):
            values, scores = column(found, "value"), column(found, "score")
            axes.plot(values, scores, linewidth=0, markersize=3, alpha=0.45, **style)
            means = {v: mean(seeds, "score") for v, seeds in grouped(found, "value").items()}
            axes.plot(list(means), list(means.values()), markersize=4.5, label=env, **style)
        default = select(of_algorithm, position="default")
        if default:
            axes.axvline(default[0]["value"], color=BLACK, linewidth=0.7, alpha=0.5)

    name = "score: 0 random actions, 1 solved"
    return small_multiples(rows, panel, name, xscale="log", ylim=SCORE_LIMITS)


def draw_kl_and_return(rows: Rows) -> Figure:
    """Draw the score of each run against the median KL of its updates, a panel per environment."""
    inches = (5.2 * len(distinct(rows, "environment")) + 1.8, 4.2)
    name = "median KL(old ‖ new) of an update, nats"
    figure, panels = _panels(rows, inches, ylim=SCORE_LIMITS, xlabel=name)
    for axes, of_env in panels:
        looks = zip(cycle(COLORS.values()), cycle(MARKERS), distinct(rows, "algorithm"))
        for color, marker, algo in looks:
            found = select(of_env, algorithm=algo)
            style: dict[str, Any] = {"color": color, "marker": marker, "fillstyle": "none"}
            axes.plot(
                inside(column(found, "kl_mean")), column(found, "score"), linestyle="none",
                markersize=7, label=algo, **style,
            )  # fmt: skip
    first = panels[0][0]
    first.set_ylabel("score: 0 random actions, 1 solved")
    figure.legend(*first.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
