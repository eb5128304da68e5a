"""The report of a study: a page with figures and warnings, and a table of all trials."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from rlkl.tools.compare.charts import Style
from rlkl.tools.compare.text import plural
from rlkl.tools.experiments.drawing import BLACK, COLORS, Axes, Figure, label, new_figure, save
from rlkl.tools.rows import Rows, csv_text, markdown_table
from rlkl.tools.tuning.space import Interval, Space
from rlkl.tools.tuning.study import Study, Trial, best_of, importances
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.safe_text import for_markdown, for_terminal

STYLES = {
    "complete": Style(COLORS["blue"], "-", "o"),
    "pruned": Style(COLORS["orange"], "-", "v"),
    "failed": Style(COLORS["vermilion"], "-", "X"),
}
EDGE = 0.02
"""Fraction of an interval at each end that counts as its edge."""
SHOWN = 10
IMPORTANCE = (
    "How much each key separates the best quarter of the complete trials from the rest "
    "(PED-ANOVA, Watanabe et al. 2023). Shares sum to 1. Pruned trials are left out."
)


def write_report(study: Study, folder: Path, command: str, use: list[str]) -> None:
    """Write `report.md`, its figures and `trials.csv`, replacing those of earlier calls.

    The study has a trial, and the folder exists. `use` are lines of Markdown about how to use the
    best config, if there is one.
    """
    trials, shares, best = study.trials, importances(study), best_of(study.trials)
    figures = {"history": _history(trials, study.config.seeds)}
    if shares:
        figures["importance"] = _importance(shares)
    if best is not None:
        figures["values"] = _values(trials, study.space)
    for name in ("history", "importance", "values"):
        (folder / f"{name}.png").unlink(missing_ok=True)  # from an earlier call
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
    write_durably(folder / "trials.csv", csv_text(trial_rows(trials, study.space)).encode())
    parts = ["# Study of `rlkl tune`", f"    {command}", counts(study, trials)]
    parts += [f"**{for_markdown(warning)}**" for warning in warnings(study, trials)]
    if best is not None:
        values = "\n".join(f"- `{key}={value}`" for key, value in best.values.items())
        parts += ["## Best trial", best_text(best, trials, study), values, *use]
    parts += ["## Search space", "\n".join(f"- `{k}`: {d}" for k, d in study.space.items())]
    headings = [*COLUMNS, *(f"`{key}`" for key in study.space)]
    shown = cells(best_trials(trials), study.space)
    parts += [f"## The {len(shown)} best trials", markdown_table(headings, shown)]
    if failed := [trial for trial in trials if trial.state == "failed"]:
        lines = [f"- {t.number}: {for_markdown(for_terminal(t.reason))}" for t in failed]
        parts += ["## Failed trials", "\n".join(lines)]
    if shares:
        rows = [(f"`{key}`", f"{share:.2f}") for key, share in shares.items()]
        parts += ["## Importance", IMPORTANCE, markdown_table(["key", "share"], rows)]
    parts += ["## Figures", *(f"![{name.title()}]({name}.png)" for name in figures)]
    write_durably(folder / "report.md", ("\n\n".join(parts) + "\n").encode())


def counts(study: Study, trials: list[Trial]) -> str:
    """Return how many trials there are, and what their value is."""
    config, count = study.config, Counter(trial.state for trial in trials)
    return (
        f"{len(trials)} of {max(len(trials), config.trials)} trials: {count['complete']} complete, "
        f"{count['pruned']} pruned, {count['failed']} failed; {plural(config.seeds, 'seed')} each; "
        f"{sum(trial.seconds for trial in trials) / 60:.1f} minutes. A trial's value is the mean "
        "over its seeds of the training return (last 100 episodes)."
    )


def best_text(best: Trial, trials: list[Trial], study: Study) -> str:
    """Return the value of the best trial, of its seeds, and of the user's config."""
    text = f"Trial {best.number}: {_number(best.value)}"
    if len(best.returns) > 1:
        text += f" (seeds {', '.join(map(_number, best.returns))})"
    first = trials[0]
    if study.first is not None and first.state == "complete":
        text += f"; your config, trial 1: {_number(first.value)}"
    return f"{text}."


def warnings(study: Study, trials: list[Trial]) -> list[str]:
    """Return reasons not to rely on the best trial."""
    found, best, seeds = [], best_of(trials), study.config.seeds
    if best is None:
        return ["No trial was completed, so there is no best one."]
    found.append(
        f"The best of {len(trials)} trials was selected by its value, so the value is "
        "optimistic. Train it with other seeds before you rely on it."
    )
    if seeds < 3:
        found.append(f"Values of {plural(seeds, 'seed')} vary much; use seeds=3 or more.")
    reasons = [trial.reason.rstrip(".") for trial in trials if trial.state == "failed"]
    if len(reasons) > len(trials) / 4:
        found.append(
            f"{len(reasons)} of {len(trials)} trials failed, the first because of {reasons[0]}. "
            "The search space may be too wide, or the budget too small."
        )
    for key, dimension in study.space.items():
        if isinstance(dimension, Interval):
            position = dimension.position(best.params[key])
            if not EDGE < position < 1 - EDGE:
                found.append(
                    f"{key}={best.values[key]} is at the edge of {dimension}; better values may "
                    "lie outside."
                )
    return found


COLUMNS = ("trial", "state", "value", "at step")


def best_trials(trials: list[Trial]) -> list[Trial]:
    """Return the trials shown first: the complete ones before the others, from the best value."""

    def rank(trial: Trial) -> tuple[int, float]:
        value = trial.value if math.isfinite(trial.value) else -math.inf
        return list(STYLES).index(trial.state), -value

    return sorted(trials, key=rank)[:SHOWN]


def cells(trials: list[Trial], space: Space) -> list[list[str]]:
    """Return a row of text for each trial: `COLUMNS`, and the value of each key."""
    return [
        [
            *(str(t.number), t.state, _number(t.value), f"{max(t.curve, default=0):,}"),
            *(_short(t.values.get(key, "")) for key in space),
        ]
        for t in trials
    ]


def trial_rows(trials: list[Trial], space: Space) -> Rows:
    """Return a row for each trial, with a column for each key of the space."""
    return [
        {
            "trial": trial.number,
            "state": trial.state,
            "value": trial.value,
            "returns": " ".join(map(repr, trial.returns)),
            "env_steps": max(trial.curve, default=0),
            "seconds": f"{trial.seconds:.1f}",
            **{key: trial.values.get(key, "") for key in space},
            "reason": trial.reason,
        }
        for trial in trials
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _short(text: str) -> str:
    """Return numbers with four digits, and other text unchanged."""
    try:
        return text if text.lstrip("-").isdecimal() else f"{float(text):.4g}"
    except ValueError:
        return text


def best_so_far(trials: Sequence[Trial]) -> list[float]:
    """Return the best complete value up to each trial; NaN before the first complete one."""
    complete = [trial.value if trial.state == "complete" else -math.inf for trial in trials]
    return [best if math.isfinite(best) else math.nan for best in accumulate(complete, max)]


def _history(trials: list[Trial], seeds: int) -> Figure:
    figure = new_figure((9, 4))
    values, curves = figure.subplots(1, 2)
    _scatter(values, [(trial, trial.number) for trial in trials])
    for trial in trials:
        steps, curve = list(trial.curve), list(trial.curve.values())
        curves.plot(steps, curve, color=STYLES[trial.state].color, linewidth=0.8, alpha=0.6)
    numbers, so_far = [trial.number for trial in trials], best_so_far(trials)
    values.step(numbers, so_far, where="post", color=BLACK, label="best so far")
    values.legend(frameon=False, fontsize=9)
    return_name = f"training return, mean of {plural(seeds, 'seed')}"
    label(values, "Trials", "trial", return_name)
    label(curves, "Learning curves", "environment steps", return_name)
    return figure


def _scatter(axes: Axes, places: list[tuple[Trial, float]]) -> None:
    """Draw trials at their last values; failed ones at the edge, without a value."""
    for state, look in STYLES.items():
        at = [place for trial, place in places if trial.state == state]
        heights = [trial.value for trial, _ in places if trial.state == state]
        more: dict[str, Any] = {"label": "pruned, last value" if state == "pruned" else state}
        if state == "failed":
            heights, more["transform"] = [0.03] * len(at), axes.get_xaxis_transform()
        if at:
            axes.plot(at, heights, look.marker.lower(), color=look.color, alpha=0.8, **more)


def _importance(shares: dict[str, float]) -> Figure:
    figure = new_figure((7, 1.2 + 0.35 * len(shares)))
    axes = figure.subplots()
    keys = list(shares)[::-1]
    axes.barh(keys, [shares[key] for key in keys], color=COLORS["blue"])
    axes.set_xlim(0, 1)
    label(axes, "Importance", "share", "")
    return figure


def _values(trials: list[Trial], space: Space) -> Figure:
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = new_figure((3.6 * columns, 3.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (key, dimension) in zip(grid.flat, space.items(), strict=False):
        place_of: Callable[[Any], float] = float
        if isinstance(dimension, Interval):
            axes.set_xscale("log" if dimension.log else "linear")
        else:
            axes.set_xticks(range(len(dimension.values)), dimension.values)
            place_of = dimension.values.index
        _scatter(axes, [(t, place_of(t.params[key])) for t in trials if key in t.params])
        label(axes, key, "", "training return" if axes in grid[:, 0] else "")
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    return figure
