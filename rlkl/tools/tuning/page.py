"""The report of a study as one HTML file, which needs no script and no network."""

import math
from collections.abc import Sequence
from pathlib import Path

from rlkl.tools.compare.page import render
from rlkl.tools.compare.tables import Table
from rlkl.tools.tuning import charts, report
from rlkl.tools.tuning.study import Study, best_of, importances
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.safe_text import for_terminal

PAGE = "report.html"


def write_page(
    study: Study, folder: Path, title: str, command: str, use: Sequence[str] = ()
) -> None:
    """Write `report.html` of a study with a trial to an existing folder, replacing an earlier one.

    The title says what is tuned. `use` are lines about how to use the best config, commands
    indented.
    """
    write_durably(folder / PAGE, page(study, title, command, use).encode())


def page(study: Study, title: str, command: str, use: Sequence[str] = ()) -> str:
    """Return the page that `write_page` writes."""
    trials, shares = study.trials, importances(study)
    best, space = best_of(trials), study.space
    valued = any(math.isfinite(trial.value) for trial in trials)
    return render(
        "study.html",
        Path(__file__).parent,
        title=title,
        command=command,
        counts=report.counts(study, trials),
        warnings=[for_terminal(text) for text in report.warnings(study, trials)],
        best=best
        and Table(
            "best", "Best trial", ["key", "value"], [list(item) for item in best.values.items()], ""
        ),
        best_text=best and report.best_text(best, trials, study),
        use=[(line.strip(), line.startswith(" ")) for line in use],
        states=charts.STYLES,
        legend=charts.legend,
        history=[
            ("Value of each trial", charts.history(trials)),
            ("Learning curves, that of the best trial thick", charts.learning_curves(trials)),
        ]
        * valued,
        values=[(key, of, charts.along(key, of, trials)) for key, of in space.items()],
        importance=charts.importance(shares) if shares else "",
        importance_text=report.IMPORTANCE,
        tables=_tables(study),
    )


def _tables(study: Study) -> list[Table]:
    """Return the best trials, all trials, and the reasons of failures."""
    trials, headings = study.trials, [*report.COLUMNS, *study.space]
    ranked = sorted(trials, key=report.rank)
    shown = min(report.SHOWN, len(trials))
    found = [
        Table("", f"The {shown} best", headings, report.cells(ranked[:shown], study.space), "")
    ]
    if len(trials) > shown:
        every = report.cells(trials, study.space)
        found.append(Table("", f"All {len(trials)} trials", headings, every, ""))
    if failed := [trial for trial in trials if trial.state == "failed"]:
        reasons = [[str(trial.number), for_terminal(trial.reason)] for trial in failed]
        found.append(Table("", f"{len(failed)} failed", ["trial", "reason"], reasons, ""))
    return found
