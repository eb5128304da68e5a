"""experiment=leaderboard: its runs, and the tables of scripts/leaderboard.py from known runs."""

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import leaderboard_rows as board
import numpy as np
import pytest
from leaderboard_figures import draw_returns
from leaderboard_overall import overall_table
from leaderboard_published import Published, published
from leaderboard_rows import SEEDS, collect, run_row
from leaderboard_zoo import best_runs
from made_runs import make_grid, make_run
from scipy import stats

from rlkl.algos import ALGORITHMS
from rlkl.cli.compose import load
from rlkl.cli.grid_line import name_jobs, read_line
from rlkl.cli.schema import env_settings, register_schemas
from rlkl.tools.compare import scores
from rlkl.tools.compare.groups import group_runs
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.rows import Rows, select
from rlkl.utils.errors import ConfigError

SCRIPT = Path(__file__).parents[2] / "scripts" / "leaderboard.py"
SLOW = pytest.mark.slow
HOPPER = "Hopper-v5"


def rows_of(folder: Path) -> Rows:
    return [run_row(run) for run in collect([str(folder)])]


def make_seeds(
    folder: Path, algo: str, finals: list[float], env: str = HOPPER, **more: Any
) -> None:
    for seed, final in enumerate(finals):
        name = f"{env}-{algo}-{seed}"
        make_run(folder / name, [10.0, final], env=env, algo=algo, seed=seed, **more)


def test_leaderboard_has_the_defaults_of_algorithm_and_environment() -> None:
    register_schemas()
    config = load(["experiment=leaderboard", "algo=spo", "env=pendulum"])
    plain = load(["algo=spo", "env=pendulum"])
    assert not config.logger.tensorboard
    assert {k: v for k, v in vars(config).items() if k != "logger"} == {
        k: v for k, v in vars(plain).items() if k != "logger"
    }


def test_every_environment_has_a_config() -> None:
    budgets = {s["env.id"]: s.get("total_env_steps") for s in env_settings().values()}
    for env, seeds in SEEDS.items():
        assert budgets[env] == 1_000_000 if seeds == 5 else 100_000 <= budgets[env] <= 2_000_000


def test_commands_sweep_seeds_first() -> None:
    page = (SCRIPT.parents[1] / "docs" / "results" / "leaderboard.md").read_text()
    trained = [line for line in page.splitlines() if "experiment=leaderboard" in line]
    lines = [line.split("train -m ")[1] for line in trained]
    named = [name_jobs(read_line(line.replace("'", "").split()))[1] for line in lines]
    assert [len(jobs) for jobs in named] == [10 * 3 * 15, 5 * 8 * 15]
    seeds = [next(text for text in job if "seed=" in text) for job in named[1].values()]
    assert seeds == [f"seed={seed}" for seed in range(5) for _ in range(8 * 15)]


def test_row_has_the_numbers_of_a_run(tmp_path: Path) -> None:
    make_run(
        tmp_path / "run", [math.nan, 100.0, 200.0, 250.0], env=HOPPER, algo="trpo", seed=3,
        per_row=60_000, seconds=30.0, summary={"eval_return": 300.0},
        columns={"kl/old_new": [0.3, 0.02, math.nan, 0.01]},
    )  # fmt: skip
    assert rows_of(tmp_path) == [
        {
            "environment": HOPPER, "algorithm": "trpo", "seed": 3, "status": "finished",
            "env_steps": 240_000, "budget": 240_000, "return": 250.0,
            "return_at_100k": 100.0,  # at 120,000, the first rollout that reaches 100,000
            "return_at_200k": 250.0, "evaluation": 300.0, "kl": 0.02, "seconds": 120.0,
            "revision": "abc",
        }
    ]  # fmt: skip


def test_zoo_takes_the_best_run_of_each_complete_cell(tmp_path: Path) -> None:
    for seed, (final, evaluation) in enumerate([(9, 50), (1, 70), (3, 70), (2, 60), (8, 10)]):
        make_run(tmp_path / f"{seed}", [final], env=HOPPER, algo="trpo", seed=seed,
                 summary={"eval_return": evaluation})  # fmt: skip
    make_seeds(tmp_path, "npg", [50.0, 70.0], summary={"eval_return": 99.0})  # not complete
    found = best_runs(collect([str(tmp_path)]))
    assert {cell: run.seed for cell, run in found.items()} == {(HOPPER, "trpo"): 2}


def test_interval_is_students(tmp_path: Path) -> None:
    for count in (2, 3, 5, 10):
        values = np.random.default_rng(count).normal(100, 30, size=count)
        expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
        assert board.interval(values.tolist())[1:] == pytest.approx(expected, rel=1e-3)
    assert math.isnan(board.interval([5.0])[1])
    # Above ten seeds the factor stays that of ten: never narrower than it should be.
    many = np.arange(30.0)
    _, low, high = board.interval(many.tolist())
    assert high - low == pytest.approx(2 * 2.262 * many.std(ddof=1) / math.sqrt(30))


def test_tables_show_what_is_there(tmp_path: Path) -> None:
    make_seeds(tmp_path, "ppo_clip", [1000.0, 1100, 1200, 1300, 1400])
    make_seeds(tmp_path, "trpo", [50.0, 70.0])
    make_seeds(tmp_path, "npg", [99.0], env="CartPole-v1")
    make_run(tmp_path / "x", [9.0], env=HOPPER, algo="spo", summary={"status": None},
             settings={"total_env_steps": 200})  # fmt: skip
    rows = rows_of(tmp_path)
    cells = board.cell_rows(rows)
    # s = 158.11, t = 2.776, so 2.776 · 158.11 / √5 = 196.3.
    assert board.cell_table(cells, [HOPPER]) == [
        {"algorithm": "`ppo_clip`", HOPPER: "1,200 [1,004, 1,396]"},
        {"algorithm": "`trpo`", HOPPER: "60 [−67.1, 187.1] (2 of 5)"},
    ]
    assert board.cell_table(cells, ["CartPole-v1"]) == [
        {"algorithm": "`npg`", "CartPole-v1": "99 (1 of 10)"}
    ]
    (extent,) = select(board.extent_table(rows), environment=HOPPER)
    assert list(extent.values())[1:5] == ["7 of 75", "1 of 15", "1", "200"]
    assert board.extent(rows) == "8 of 1,050 runs are in (1%), of 1 revision of rlkl."


def test_overall_table_says_what_a_comparison_says(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 40, (len(ALGORITHMS), 10))
    finals = {
        algo: (300 + 100 * (algo == "spo") - 100 * (algo == "npg") + noise[place]).tolist()
        for place, algo in enumerate(ALGORITHMS)
    }
    make_grid(tmp_path, {"CartPole-v1": finals, "Acrobot-v1": {"npg": [-90.0]}}, rows=2)
    table = overall_table(rows_of(tmp_path), "tasks", ["CartPole-v1", "Acrobot-v1"])
    config = CompareConfig()
    members = group_runs([run for run in collect([str(tmp_path)]) if run.env_id != "Acrobot-v1"])
    envs = scores.environments(members, config)
    aggregates = select(scores.aggregate_rows(envs, config), aggregate="iqm")
    assert [row["tasks, 1 of 2 environments"] for row in table] == [
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in aggregates
    ]
    pairs = select(scores.pair_rows(envs, config), told_apart=True)
    found = {
        tuple(sorted((row["algorithm"].strip("`"), other.strip("`"))))
        for row in table
        for other in filter(None, row["tasks, better than"].split(", "))
    }
    assert found == {tuple(sorted((row["first"], row["second"]))) for row in pairs}
    (spo,), (npg,) = (select(table, algorithm=f"`{algo}`") for algo in ("spo", "npg"))
    assert "`npg`" in spo["tasks, better than"]
    assert npg["tasks, better than"] == ""
    assert overall_table(rows_of(tmp_path), "tasks", ["Acrobot-v1"]) == []


def test_kl_table_has_the_median_over_seeds(tmp_path: Path) -> None:
    for seed, kl in enumerate([0.001, 0.0123, 0.5]):
        make_run(tmp_path / f"{seed}", [1.0], env=HOPPER, algo="trpo", seed=seed,
                 columns={"kl/old_new": [kl]})  # fmt: skip
    cells = board.cell_rows(rows_of(tmp_path))
    assert board.cell_table(cells, [HOPPER, "Ant-v5"], board.kl_text) == [
        {"algorithm": "`trpo`", HOPPER: "0.012", "Ant-v5": "–"}
    ]


def test_figure_shows_mean_interval_and_seeds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    make_seeds(tmp_path, "ppo_clip", [1000.0, 1100, 1200, 1300, 1400])
    make_seeds(tmp_path, "trpo", [50.0, 70.0])
    make_seeds(tmp_path, "npg", [99.0], env="CartPole-v1")
    rows = rows_of(tmp_path)
    hopper, cartpole = draw_returns(rows, board.cell_rows(rows), [HOPPER, "CartPole-v1"]).axes
    assert [text.get_text() for text in hopper.get_yticklabels()] == ["ppo_clip", "trpo", "npg"]
    assert hopper.get_ylim() == (2.5, -0.5)  # the first at the top
    assert (hopper.get_title(), cartpole.get_title()) == (HOPPER, "CartPole-v1")
    drawn = [(list(line.get_xdata()), set(line.get_ydata())) for line in hopper.lines]
    assert drawn[0] == ([1000, 1100, 1200, 1300, 1400], {0})
    assert drawn[1] == (pytest.approx([1003.7, 1396.3], abs=0.1), {0})
    assert drawn[2:4] == [([1200], {0}), ([50, 70], {1})]
    assert [list(line.get_xdata()) for line in cartpole.lines][::2] == [[99], [99]]


@pytest.mark.parametrize(
    ("seeds", "value", "spread", "verdict"),
    [
        (5, 1300.0, 0.0, "agrees"),
        (5, 1397.0, 0.0, "lower here"),
        (5, 1500.0, 110.0, "agrees"),  # from 1390
        (5, 900.0, 100.0, "higher here"),  # to 1000; here from 1003.7
        (5, 900.0, 104.0, "agrees"),
        (4, 9000.0, 0.0, "too few seeds"),
        (0, 9000.0, 0.0, "no run yet"),
    ],
)
def test_verdict_compares_intervals(
    seeds: int, value: float, spread: float, verdict: str, tmp_path: Path
) -> None:
    make_seeds(tmp_path, "ppo_clip", [1000.0, 1100, 1200, 1300, 1400][:seeds])
    make_seeds(tmp_path, "npg", [5.0])
    entry = Published(HOPPER, "ppo_clip", "someone", value, spread)
    (row,) = board.compared_rows(rows_of(tmp_path), [entry])
    assert (row["seeds"], row["verdict"]) == (seeds, verdict)


def test_early_returns_are_compared_at_their_steps(tmp_path: Path) -> None:
    make_seeds(tmp_path, "trpo", [900.0] * 5, per_row=100_000)  # 10 after the first rollout
    make_run(
        tmp_path / "under way", [10.0], env=HOPPER, algo="trpo", seed=9, per_row=100_000,
        settings={"total_env_steps": 200_000}, summary={"status": None},
    )  # fmt: skip
    rows = rows_of(tmp_path)
    early = Published(HOPPER, "trpo", "baselines", 10, 0.0, 100_000)
    late = Published(HOPPER, "trpo", "baselines", 1644, 0.0, 200_000)
    final = Published(HOPPER, "trpo", "baselines", 900)
    seeds = [row["seeds"] for row in board.compared_rows(rows, [early, late, final])]
    assert seeds == [6, 5, 5]
    compared = board.compared_rows(rows, [early, late])
    assert [(row["mean"], row["verdict"]) for row in compared] == [
        (10, "agrees"), (900, "lower here"),
    ]  # fmt: skip
    assert board.agreement(compared).startswith(
        "2 published numbers: agree 1, higher than here 1, lower than here 0,"
    )


def test_published_numbers_are_complete() -> None:
    found = published()
    assert {entry.env for entry in found} == set(SEEDS)
    assert {entry.algo for entry in found} <= set(ALGORITHMS)
    assert len(found) == 50 + 10 + 14
    assert Published("Ant-v5", "trpo", "sb3-contrib, v3, 3 seeds", 3554, 591) in found
    assert Published("Swimmer-v5", "vanilla_pg", "Spinning Up", 36, 1) in found


def test_only_one_grid_is_read(tmp_path: Path) -> None:
    make_seeds(tmp_path, "trpo", [1.0, 2.0])
    make_run(tmp_path / "other", [1.0], env="Humanoid-v5")
    assert len(collect([str(tmp_path)])) == 2
    with pytest.raises(ConfigError, match="no run of experiment=leaderboard"):
        collect([str(tmp_path / "other")])
    make_run(tmp_path / "again", [1.0, 2.0], env=HOPPER, algo="trpo", seed=1)
    with pytest.raises(ConfigError, match="have the same seed"):
        collect([str(tmp_path)])
    make_run(tmp_path / "wide", [1.0, 2.0], env=HOPPER, algo="trpo", seed=7,
             settings={"algo.max_kl": 0.5})  # fmt: skip
    with pytest.raises(ConfigError, match="has other settings"):
        collect([str(tmp_path)])


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@SLOW
def test_script_writes_page_and_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    make_seeds(tmp_path / "runs", "ppo_clip", [1000.0, 1100, 1200, 1300, 1400])
    output = tmp_path / "output"
    done = run_script(str(tmp_path / "runs"), f"--output={output}")
    assert done.returncode == 0, done.stderr
    page = (output / "leaderboard.md").read_text()
    assert "| `ppo_clip` | – | 1,200 [1,004, 1,396] |" in page
    assert "| Hopper-v5 | `ppo_clip` | 2,383 ± 272 | CleanRL" in page
    assert "5 of 1,050 runs are in (0%)" in done.stdout
    assert {path.name for path in output.glob("*.png")} == {"mujoco.png"}
    with (output / "runs.csv").open() as file:
        assert [row["return"] for row in csv.DictReader(file)][-1] == "1400.0"
    with (output / "returns.csv").open() as file:
        assert [row["seeds"] for row in csv.DictReader(file)] == ["5"]
    # A run under way does not replace a finished one, and rows of lost folders stay.
    make_run(tmp_path / "new" / "run", [9.0], env=HOPPER, algo="ppo_clip",
             summary={"status": None}, settings={"total_env_steps": 200})  # fmt: skip
    make_seeds(tmp_path / "new", "npg", [5.0])
    done = run_script(str(tmp_path / "new"), f"--output={output}")
    assert "6 of 1,050 runs are in" in done.stdout
    with (output / "runs.csv").open() as file:
        found = [(row["algorithm"], row["return"]) for row in csv.DictReader(file)]
    finals = [("ppo_clip", f"{final}.0") for final in (1000, 1100, 1200, 1300, 1400)]
    assert found == [*finals, ("npg", "5.0")]
    done = run_script(str(tmp_path / "output"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("leaderboard: ")


@SLOW
def test_real_runs_are_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    overrides = ["experiment=leaderboard", "seed=0,1", "env=cartpole", "algo=npg,vanilla_pg"]
    command = [sys.executable, "-m", "rlkl", "train", "-m", *overrides, "total_env_steps=4096"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = run_script(str(tmp_path / "runs"), f"--output={tmp_path / 'output'}")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "output" / "leaderboard.md").read_text()
    assert "| CartPole-v1 | 4 of 150 | 0 of 15 | 0 | 4,096 |" in page
    assert "(2 of 10)" in page
