"""Makes the tables and figures of docs/results/leaderboard.md from run folders alone.

    python scripts/leaderboard.py runs/grids/leaderboard
    python scripts/leaderboard.py FOLDER --output=OTHER   # leaves the page as it is

Reads as much of the grid as there is, and adds it to runs.csv (a row per run). From all of those
rows it makes returns.csv (a row per algorithm and environment), published.csv and the figures. The
page has the command that makes the runs. Needs the extra `plots`.
"""

from pathlib import Path

from leaderboard_figures import draw_returns
from leaderboard_overall import overall_table
from leaderboard_published import published
from leaderboard_rows import (
    SEEDS,
    agreement,
    cell_rows,
    cell_table,
    collect,
    compared_rows,
    compared_table,
    extent,
    extent_table,
    kl_text,
    run_row,
)
from pages import check_budgets, earlier, fill, markdown, merged, ordered, run_script

from rlkl.algos import ALGORITHMS
from rlkl.tools.experiments.drawing import save
from rlkl.tools.rows import csv_text, select

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "leaderboard.md"
RESULTS = ROOT / "docs" / "results" / "leaderboard"
RUN = ("environment", "algorithm", "seed")
CLASSIC = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1")


def make(runs: list[str], elsewhere: Path | None) -> str:
    """Write the page, its data and figures; return what to print."""
    output = elsewhere or RESULTS
    rows = [run_row(run) for run in collect(runs)]
    finished = merged(select(rows, status="finished"), earlier(output / "runs.csv", rows[0]), *RUN)
    rows = ordered(merged(finished, rows, *RUN), RUN, (*SEEDS, *ALGORITHMS))
    check_budgets(rows)
    finished = select(rows, status="finished")
    cells, compared = cell_rows(rows), compared_rows(rows, published())
    mujoco = [env for env in SEEDS if env not in CLASSIC]
    families = {"MuJoCo": mujoco, "classic control": CLASSIC}
    overall = [overall_table(rows, *family) for family in families.items()]
    parts = {
        "overall": "\n\n".join(map(markdown, overall)),
        "extent": f"{extent(rows)}\n\n{markdown(extent_table(rows))}",
        "mujoco": markdown(cell_table(cells, mujoco)),
        "classic": markdown(cell_table(cells, CLASSIC)),
        "kl": markdown(cell_table(cells, list(SEEDS), kl_text)),
        "published": f"{agreement(compared)}\n\n{markdown(compared_table(compared))}",
    }
    page = fill(PAGE, parts, Path(__file__).name)
    output.mkdir(parents=True, exist_ok=True)
    for name, made in (("runs", finished), ("returns", cells), ("published", compared)):
        if made:
            (output / f"{name}.csv").write_text(csv_text(made))
    for name, envs in (("mujoco", mujoco), ("classic", CLASSIC)):
        here = [env for env in envs if any(cell["environment"] == env for cell in cells)]
        if here:
            save(draw_returns(finished, cells, here), output / f"{name}.png")
    (output / PAGE.name if elsewhere else PAGE).write_text(page)
    return f"{extent(rows)}\n{agreement(compared)}\nwrote {output}"


if __name__ == "__main__":
    run_script(make, __doc__, draws=True)
