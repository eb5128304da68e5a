"""Draws the figures of the comparison of the trust-region family from its rows alone."""

import math
from collections.abc import Callable
from itertools import cycle
from typing import Any

from rlkl.algos.knobs import FACTORS
from rlkl.tools.experiments.drawing import BLACK, COLORS, Axes, Figure, Line, new_figure
from rlkl.tools.family.rows import mean, median
from rlkl.tools.rows import Rows, column, distinct, select

ENVIRONMENT_LINES = [
    Line(COLORS["blue"], "-", "o"),
    Line(COLORS["vermilion"], "--", "^"),
    Line(COLORS["green"], "-.", "s"),
    Line(COLORS["purple"], ":", "D"),
]
LOWEST_KL, LARGEST_KL = 1e-5, 10.0
"""Of the KL axes, in nats; larger or smaller values are drawn at the edge."""

COLUMNS = 5
MARKERS = "os^Dv*PX<>phd"


def inside(values: list[float]) -> list[float]:
    """Return KLs within the axes; NaN stays."""
    return [x if math.isnan(x) else min(max(x, LOWEST_KL), LARGEST_KL) for x in values]


def draw_bounds(rows: Rows) -> Figure:
    """Draw what each algorithm asks for and makes at its default, a panel per environment."""
    rows = select(rows, position="default")
    algorithms, envs = distinct(rows, "algorithm"), distinct(rows, "environment")
    figure = new_figure((5.0 * len(envs) + 1.2, 0.34 * len(algorithms) + 1.3))
    panels = figure.subplots(1, len(envs), sharey=True, squeeze=False)[0]
    for axes, env in zip(panels, envs, strict=True):
        for place, algo in enumerate(algorithms):
            group = select(rows, environment=env, algorithm=algo)
            if group:
                _draw_algorithm(axes, -place, group)
        axes.set_yticks([-place for place in range(len(algorithms))], algorithms)
        axes.set_title(env, fontsize=11)
        axes.set(xscale="log", xlim=(LOWEST_KL, LARGEST_KL * 1.2), xlabel="KL(old ‖ new), nats")
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_algorithm(axes: Axes, place: float, group: Rows) -> None:
    dark: dict[str, Any] = {"color": BLACK, "linestyle": "none"}
    styles: list[dict[str, Any]] = [{"color": COLORS[name]} for name in ("blue", "vermilion")]
    blue, red = styles
    spans = [("kl_mean", "kl_mean_95", blue), ("kl_state", "kl_state_largest", red)]
    for low, high, style in spans:
        ends = inside([median(group, low), max(column(group, high))])
        axes.plot(ends, [place, place], linewidth=1.5, alpha=0.6, **style)
    for key, marker, fill, style, text in [
        ("kl_mean", "o", "full", blue, "mean over states: median, to 95% of the updates"),
        ("kl_state", "^", "none", red, "largest of a state: median, to the largest of all"),
    ]:
        x = inside([median(group, key)])
        axes.plot(x, [place], marker, fillstyle=fill, markersize=7, label=text, **style)
    asked = median(group, "kl_asked")
    if not math.isnan(asked):
        text = "KL asked for"
        axes.plot([asked], [place], "|", markersize=15, markeredgewidth=2.2, label=text, **dark)


def small_multiples(
    rows: Rows, draw: Callable[[Axes, Rows], None], y_label: str, **properties: Any
) -> Figure:
    """Return a figure with a panel per algorithm, with one legend."""
    algorithms = distinct(rows, "algorithm")
    height = math.ceil(len(algorithms) / COLUMNS)
    figure = new_figure((2.5 * COLUMNS, 2.1 * height + 0.8))
    panels = figure.subplots(height, COLUMNS, sharey=True, squeeze=False)
    legend: dict[str, Any] = {}
    for axes, algo in zip(panels.flat, algorithms, strict=False):
        draw(axes, select(rows, algorithm=algo))
        axes.set_title(algo, fontsize=10)
        axes.set(**properties)
        axes.grid(alpha=0.25)
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    for axes in panels.flat[len(algorithms) :]:
        axes.set_visible(False)
    figure.supylabel(y_label, fontsize=11)
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=6, frameon=False)
    return figure


def draw_training(updates: Rows, env: str) -> Figure:
    """Draw the KL of each update over training at the default of the knob, in one environment."""

    def panel(axes: Axes, rows: Rows) -> None:
        steps = [step / 1000 for step in column(rows, "env_steps")]
        for key, line, width, text in [
            ("kl_bound", Line(BLACK, "--"), 1.2, "bound"),
            ("kl_mean", Line(COLORS["blue"], "-"), 1.6, "mean over states"),
            ("kl_state", Line(COLORS["vermilion"], ":"), 1.4, "largest of a state"),
        ]:
            values = inside(column(rows, key))
            if not all(map(math.isnan, values)):
                axes.plot(steps, values, linewidth=width, label=text, **line.style)
        axes.set_xlabel("thousand environment steps", fontsize=8)

    kl = {"yscale": "log", "ylim": (LOWEST_KL, LARGEST_KL)}
    rows = select(updates, environment=env)
    return small_multiples(rows, panel, f"KL(old ‖ new) of an update on {env}, nats", **kl)


def draw_asked(rows: Rows) -> Figure:
    """Draw the KL asked for and the KL made against the knob."""
    envs = distinct(rows, "environment")

    def panel(axes: Axes, of_algorithm: Rows) -> None:
        for env, line in zip(envs, ENVIRONMENT_LINES, strict=False):
            groups = _by_value(select(of_algorithm, environment=env))
            for key, alpha, fill, text in [
                ("kl_mean", 1.0, "full", "mean over states"),
                ("kl_state", 0.5, "none", "largest of a state"),
            ]:
                y = inside([median(group, key) for group in groups.values()])
                style: dict[str, Any] = line.style | {"marker": line.marker, "fillstyle": fill}
                axes.plot(
                    list(groups), y, markersize=4.5, alpha=alpha, label=f"{env}: {text}", **style
                )
        groups = _by_value(of_algorithm)
        asked = [median(group, "kl_asked") for group in groups.values()]
        if not all(map(math.isnan, asked)):
            axes.plot(list(groups), asked, color=BLACK, linewidth=1.2, label="KL asked for")
        axes.set_xlabel(of_algorithm[0]["knob"], fontsize=8)

    kl = {"xscale": "log", "yscale": "log", "ylim": (LOWEST_KL, LARGEST_KL)}
    return small_multiples(rows, panel, "KL(old ‖ new) of an update, median, nats", **kl)


def draw_returns(rows: Rows) -> Figure:
    """Draw the score against the knob: a dot per run, a line through the means."""
    envs = distinct(rows, "environment")

    def panel(axes: Axes, of_algorithm: Rows) -> None:
        for env, line in zip(envs, ENVIRONMENT_LINES, strict=False):
            found = select(of_algorithm, environment=env)
            groups = _by_value(found)
            style: dict[str, Any] = line.style | {"marker": line.marker}
            values, scores = column(found, "value"), column(found, "score")
            axes.plot(values, scores, linewidth=0, markersize=3, alpha=0.45, **style)
            means = [mean(group, "score") for group in groups.values()]
            axes.plot(list(groups), means, markersize=4.5, label=env, **style)
        default = select(of_algorithm, position="default")
        if default:
            axes.axvline(default[0]["value"], color=BLACK, linewidth=0.7, alpha=0.5)
        axes.set_xlabel(of_algorithm[0]["knob"], fontsize=8)

    score = {"xscale": "log", "ylim": (-0.15, 1.15)}
    return small_multiples(rows, panel, "score: 0 random actions, 1 solved", **score)


def draw_kl_and_return(rows: Rows) -> Figure:
    """Draw the score of each run against the median KL of its updates, a panel per environment."""
    envs, algorithms = distinct(rows, "environment"), distinct(rows, "algorithm")
    figure = new_figure((5.2 * len(envs) + 1.8, 4.2))
    panels = figure.subplots(1, len(envs), sharey=True, squeeze=False)[0]
    for axes, env in zip(panels, envs, strict=True):
        for color, marker, algo in zip(cycle(COLORS.values()), cycle(MARKERS), algorithms):
            found = select(rows, environment=env, algorithm=algo)
            kl, scores = inside(column(found, "kl_mean")), column(found, "score")
            style: dict[str, Any] = {"color": color, "marker": marker, "fillstyle": "none"}
            axes.plot(kl, scores, linestyle="none", markersize=7, label=algo, **style)
        axes.set_title(env, fontsize=11)
        axes.set(xscale="log", xlim=(LOWEST_KL, LARGEST_KL * 1.2), ylim=(-0.15, 1.15))
        axes.set_xlabel("median KL(old ‖ new) of an update, nats")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("score: 0 random actions, 1 solved")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _by_value(rows: Rows) -> dict[float, Rows]:
    """Return the rows of each value of the knob, in the order of `FACTORS`."""
    order = list(FACTORS)
    found = sorted(rows, key=lambda row: order.index(row["position"]))
    return {value: select(rows, value=value) for value in distinct(found, "value")}
