"""Draws the figures of docs/results/leaderboard.md from rows alone."""

import math
from collections.abc import Sequence

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.charts import tick_text
from rlkl.tools.experiments.drawing import COLORS, Figure, label, new_figure
from rlkl.tools.rows import Rows, column, distinct, select

COLUMNS = 4


def draw_returns(runs: Rows, cells: Rows, envs: Sequence[str]) -> Figure:
    """Draw a panel for each environment and a row for each algorithm.

    A dot is the mean over seeds, a line its 95% interval, a short upright line one seed.
    """
    here = distinct(cells, "algorithm")
    algos = [algo for algo in ALGORITHMS if algo in here]
    across, down = min(len(envs), COLUMNS), math.ceil(len(envs) / COLUMNS)
    figure = new_figure((2.4 * across + 1.2, down * (0.24 * len(algos) + 0.9)))
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, env in zip(panels.flat, envs, strict=False):
        for cell in select(cells, environment=env):
            place = algos.index(cell["algorithm"])
            of_seeds = column(select(runs, environment=env, algorithm=cell["algorithm"]), "return")
            axes.plot(
                of_seeds, [place] * len(of_seeds), "|", color=COLORS["vermilion"], markersize=7
            )
            axes.plot([cell["low"], cell["high"]], [place] * 2, color=COLORS["blue"], linewidth=1.6)
            axes.plot([cell["mean"]], [place], "o", color=COLORS["blue"], markersize=4.5)
        axes.set_yticks(range(len(algos)), algos, fontsize=9)
        axes.xaxis.set_major_formatter(lambda value, _: tick_text(value))
        axes.locator_params(axis="x", nbins=4)
        label(axes, env, "training return", "")
    panels[0, 0].set_ylim(len(algos) - 0.5, -0.5)
    for axes in panels.flat[len(envs) :]:
        axes.set_visible(False)
    return figure
