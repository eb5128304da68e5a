"""The report of a study as one HTML file, with charts as SVG: no script and no network."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rlkl.tools.compare import charts, svg
from rlkl.tools.compare.page import render
from rlkl.tools.compare.tables import Table
from rlkl.tools.experiments.drawing import BLACK
from rlkl.tools.tuning import report
from rlkl.tools.tuning.report import STYLES, best_so_far
from rlkl.tools.tuning.space import Dimension, Interval, Space
from rlkl.tools.tuning.study import Study, Trial, best_of, importances
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.safe_text import for_terminal

PAGE = "report.html"
RETURN = "training return"
WIDTH, HEIGHT = svg.WIDE


def write_page(
    study: Study, folder: Path, title: str, command: str, use: Sequence[str] = ()
) -> None:
    """Write `report.html` of a study with a trial to an existing folder, replacing an earlier one.

    The title says what is tuned. `use` are lines about how to use the best config, commands
    indented.
    """
    trials, shares, space = study.trials, importances(study), study.space
    best = best_of(trials)
    found = list(map(list, best.values.items())) if best else []
    valued = any(math.isfinite(trial.value) for trial in trials)
    text = render(
        "study.html",
        Path(__file__).parent,
        title=title,
        command=command,
        counts=report.counts(study, trials),
        warnings=[for_terminal(text) for text in report.warnings(study, trials)],
        best=best and Table("best", "Best trial", ["key", "value"], found, ""),
        best_text=best and report.best_text(best, trials, study),
        use=[(line.strip(), line.startswith(" ")) for line in use],
        states=STYLES,
        legend=legend,
        history=[
            ("Value of each trial", history(trials)),
            ("Learning curves, that of the best trial thick", learning_curves(trials)),
        ]
        * valued,
        values=[(key, of, along(key, of, trials)) for key, of in space.items()],
        importance=importance(shares) if shares else "",
        importance_text=report.IMPORTANCE,
        tables=_tables(trials, space),
    )
    write_durably(folder / PAGE, text.encode())


def _tables(trials: list[Trial], space: Space) -> list[Table]:
    """Return the best trials, all trials, and the reasons of failures."""
    best = report.best_trials(trials)
    shown = {f"The {len(best)} best": best}
    if len(trials) > len(best):
        shown[f"All {len(trials)} trials"] = trials
    headings = [*report.COLUMNS, *space]
    found = [Table("", name, headings, report.cells(of, space), "") for name, of in shown.items()]
    if failed := [trial for trial in trials if trial.state == "failed"]:
        reasons = [[str(trial.number), for_terminal(trial.reason)] for trial in failed]
        found.append(Table("", f"{len(failed)} failed", ["trial", "reason"], reasons, ""))
    return found


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


def learning_curves(trials: list[Trial]) -> str:
    """Return the chart of the trials' returns along their environment steps, the best one thick."""
    # Their places give the groups the looks of `STYLES`.
    labels = ["complete", "failed", "", "", "pruned"]
    best = best_of(trials)
    thick = {"complete": best.curve} if best else {}
    lines = [
        charts.Line(
            state,
            x=list(map(float, thick.get(state, ()))),
            y=list(thick.get(state, {}).values()),
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
    places: Sequence[tuple[Trial, float]],
    x_range: tuple[float, float],
    x_ticks: Sequence[tuple[float, str]],
    *,
    with_best: bool = False,
) -> str:
    """Return a chart of trials at their places on the x axis, and of the best value so far."""
    values = [trial.value for trial, _ in places if math.isfinite(trial.value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    y_range = low - margin, high + margin
    frame = svg.Frame(svg.left_of(y_range), WIDTH - 19, 14, HEIGHT - 42, x_range, y_range)
    parts = svg.axes(frame, HEIGHT, x_label, RETURN, x_ticks)
    if with_best:
        so_far = best_so_far([trial for trial, _ in places])
        best = [(x, y) for (_, x), y in zip(places, so_far, strict=True) if math.isfinite(y)]
        path = [f"M{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in best[:1]]
        path += [f"H{frame.x(x):.1f}V{frame.y(y):.1f}" for x, y in best[1:]]
        parts += [f'<path class="line" stroke="{BLACK}" d="{"".join(path)}"/>'] if path else []
    parts += [_point(frame, trial, x) for trial, x in places]
    words = f"{title}: {RETURN} along {x_label}, {len(places)} trials"
    return svg.element(WIDTH, HEIGHT, words, parts)


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
