"""Charts of a study as SVG, for its page: trials as points along an axis."""

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate

from rlkl.tools.compare import charts, svg
from rlkl.tools.experiments.drawing import BLACK, COLORS
from rlkl.tools.tuning.space import Dimension, Interval
from rlkl.tools.tuning.study import Trial, best_of

STYLES = {
    "complete": charts.Style(COLORS["blue"], "-", "o"),
    "pruned": charts.Style(COLORS["orange"], "-", "v"),
    "failed": charts.Style(COLORS["vermilion"], "-", "X"),
}
RETURN = "training return"
WIDTH, HEIGHT = svg.WIDE

Place = tuple[Trial, float]
"""A trial and its position on the x axis."""


def history(trials: Sequence[Trial]) -> str:
    """Return the chart of the trials in their order, with the best value so far."""
    places = [(trial, float(trial.number)) for trial in trials]
    x_range = (0.5, len(trials) + 0.5)
    numbers = charts.ticks(1, max(2, len(trials)))
    ticks = [(tick, f"{tick:g}") for tick in numbers if tick == round(tick)]
    return _scatter("Value of each trial", "trial", places, x_range, ticks, with_best=True)


def along(key: str, dimension: Dimension, trials: Sequence[Trial]) -> str:
    """Return the chart of the trials along a hyperparameter; groups have a place each."""
    drawn = [trial for trial in trials if key in trial.params]
    if isinstance(dimension, Interval):
        low, high = dimension.low, dimension.high
        places = [(trial, dimension.position(trial.params[key])) for trial in drawn]
        numbers = charts.ticks(low, high, log=dimension.log, most=5)
        ticks = [(dimension.position(tick), charts.tick_text(tick)) for tick in numbers]
        return _scatter(key, key, places, (-0.04, 1.04), ticks)
    names = dimension.values
    places = [(trial, float(names.index(trial.params[key]))) for trial in drawn]
    most = max(2, int(330 / len(names) / svg.LETTER) - 1)
    short = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
    return _scatter(key, key, places, (-0.5, len(names) - 0.5), list(enumerate(short)))


def learning_curves(trials: Sequence[Trial]) -> str:
    """Return the chart of the trials' returns along their environment steps, the best one thick."""
    # Their places give the groups the looks of `STYLES`.
    labels = ["complete", "failed", "", "", "pruned"]
    best = best_of(list(trials))
    lines = [
        charts.Line(
            state,
            x=list(map(float, best.curve)) if best and state == "complete" else [],
            y=list(best.curve.values()) if best and state == "complete" else [],
            seeds=[(list(t.curve), list(t.curve.values())) for t in trials if t.state == state],
        )
        for state in STYLES
    ]
    return svg.draw(charts.LineChart("Learning curves", "environment steps", RETURN, lines), labels)


def importance(shares: dict[str, float]) -> str:
    """Return the chart of the share of each key."""
    dots = [charts.Dot("", key, share) for key, share in shares.items()]
    return svg.draw(charts.DotChart("Importance", "share", dots, x_range=(0, 1)), [""])


def legend(state: str) -> str:
    """Return a sample of a state's marker."""
    look = STYLES[state]
    return (
        '<svg class="sample" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true" '
        f'stroke="{look.color}" fill="{look.color}">{svg.marker(look, 7, 7, 4)}</svg>'
    )


def _scatter(
    title: str,
    x_label: str,
    places: Sequence[Place],
    x_range: tuple[float, float],
    x_ticks: svg.Ticks,
    *,
    with_best: bool = False,
) -> str:
    values = [trial.value for trial, _ in places if math.isfinite(trial.value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    y_range = low - margin, high + margin
    frame = svg.Frame(svg.left_of(y_range), WIDTH - 19, 14, HEIGHT - 42, x_range, y_range)
    parts = svg.axes(frame, HEIGHT, x_label, RETURN, x_ticks)
    if with_best:
        parts.append(_best_so_far(frame, places))
    parts += [_point(frame, trial, x) for trial, x in places]
    words = f"{title}: {RETURN} along {x_label}, {len(places)} trials"
    return svg.element(WIDTH, HEIGHT, words, parts)


def _best_so_far(frame: svg.Frame, places: Sequence[Place]) -> str:
    complete = [t.value if t.state == "complete" else -math.inf for t, _ in places]
    path = ""
    for (_, x), best in zip(places, accumulate(complete, max), strict=True):
        if math.isfinite(best):
            path += (
                f"H{frame.x(x):.1f}V{frame.y(best):.1f}"
                if path
                else (f"M{frame.x(x):.1f} {frame.y(best):.1f}")
            )
    return f'<path class="line" stroke="{BLACK}" d="{path}"/>' if path else ""


def _point(frame: svg.Frame, trial: Trial, x: float) -> str:
    """Return the marker of a trial at its last value; without a value it is at the lower edge."""
    look = STYLES[trial.state]
    has_value = math.isfinite(trial.value)
    y = frame.y(trial.value) if has_value else frame.bottom - 6
    number = f"{trial.value:.4g}" if has_value else "no return"
    settings = ", ".join(f"{key}={value}" for key, value in trial.values.items())
    tip = f"trial {trial.number}, {trial.state}: {number}; {settings}"
    drawn = svg.marker(look, frame.x(x), y, 4.2)
    return (
        f'<g stroke="{look.color}" fill="{look.color}" opacity=".8">'
        f"<title>{escape(tip)}</title>{drawn}</g>"
    )
