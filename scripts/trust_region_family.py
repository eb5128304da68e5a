"""Makes the tables and figures of docs/trust_region_family.md from run folders alone.

    python scripts/trust_region_family.py runs/grids/trust_region_family
    python scripts/trust_region_family.py FOLDER --output=OTHER   # leaves the page as it is

Adds the runs to runs.csv (a row per run) and updates.csv (the KL of each update at the defaults),
and draws the figures. docs/trust_region_family.md has the command that makes the runs. Needs the
extra `plots`.
"""

from pathlib import Path

import trust_region_figures as drawing
from pages import check_budgets, earlier, fill, markdown, merged, ordered, run_script
from trust_region_rows import (
    asked_table,
    bound_table,
    collect,
    extent,
    knob_table,
    run_row,
    update_rows,
)

from rlkl.algos.knobs import FACTORS, KNOBS
from rlkl.tools.experiments.drawing import save
from rlkl.tools.rows import csv_text, distinct
from rlkl.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "trust_region_family.md"
RUN = ("environment", "algorithm", "position", "seed")
UPDATES = ("environment", "algorithm", "seed", "update")
RESULTS = ROOT / "docs" / "results" / "trust_region_family"


def make(runs: list[str], elsewhere: Path | None) -> str:
    """Write the page, its data and figures; return what to print."""
    output = elsewhere or RESULTS
    found = collect(runs)
    rows, updates = [run_row(run) for run in found], update_rows(found)
    if not updates:
        raise ConfigError("no run at the default of its knob; 'family=glob(*_default)' makes them")
    rows = merged(rows, earlier(output / "runs.csv", rows[0]), *RUN)
    check_budgets(rows)
    rows = ordered(rows, RUN, (*KNOBS, *FACTORS))
    updates = merged(updates, earlier(output / "updates.csv", updates[0]), *UPDATES)
    updates = ordered(updates, UPDATES, KNOBS)
    parts = {"extent": extent(rows), "bound": markdown(bound_table(rows))}
    parts |= {"asked": markdown(asked_table(rows)), "knob": markdown(knob_table(rows))}
    page = fill(PAGE, parts, Path(__file__).name)
    output.mkdir(parents=True, exist_ok=True)
    (output / "runs.csv").write_text(csv_text(rows))
    (output / "updates.csv").write_text(csv_text(updates))
    figures = {
        "bounds": drawing.draw_bounds(rows),
        "asked": drawing.draw_asked(rows),
        "returns": drawing.draw_returns(rows),
        "kl_and_return": drawing.draw_kl_and_return(rows),
    }
    for env in distinct(updates, "environment"):
        figures[f"training_{env}"] = drawing.draw_training(updates, env)
    for name, figure in figures.items():
        save(figure, output / f"{name}.png")
    (output / PAGE.name if elsewhere else PAGE).write_text(page)
    return f"{parts['extent']}\nwrote {output}"


if __name__ == "__main__":
    run_script(make, __doc__, draws=True)
