"""experiment=trust_region_family: settings of every algorithm, rows and tables of known runs."""

import csv
import math
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import forked_python
import numpy as np
import pytest
import trust_region_rows as family_rows
from made_runs import make_run
from pages import ordered
from trust_region_family import RUN
from trust_region_figures import draw_training
from trust_region_rows import collect, run_row, update_rows

from rlkl.algos import ALGORITHMS
from rlkl.algos.knobs import FACTORS, KNOBS, knob_settings, knob_value
from rlkl.cli.compose import load
from rlkl.cli.schema import options, register_schemas
from rlkl.tools.rows import Rows, select
from rlkl.utils.errors import ConfigError

SCRIPT = Path(__file__).parents[2] / "scripts" / "trust_region_family.py"
CONSTANT = {"algo.max_kl_schedule": "constant"}
NAN = math.nan
SLOW = pytest.mark.slow


def make_trpo(
    folder: Path, max_kl: float = 0.01, returns: Any = (30.0, 248.5), **more: Any
) -> Path:
    settings = CONSTANT | {"algo.max_kl": max_kl}
    columns = {
        "kl/target": [max_kl] * len(returns),
        "ratio/clip_fraction": [0.2] * len(returns),
        "time/update": [0.5] * len(returns),
    } | more.pop("columns", {})
    return make_run(folder, returns, algo="trpo", settings=settings, columns=columns, **more)


def test_every_algorithm_has_a_knob() -> None:
    assert set(KNOBS) == set(ALGORITHMS)
    assert (KNOBS["spo"], KNOBS["klip_ppo"], KNOBS["npg"]) == (
        ("ratio_bound",),
        ("clip_ratio",),
        ("max_kl",),
    )
    for name, keys in KNOBS.items():
        assert set(keys) <= set(vars(ALGORITHMS[name].config()))


@pytest.mark.parametrize(
    ("algo", "values"),
    [
        ("trpo", [0.001, 0.00316, 0.01, 0.0316, 0.1]),
        ("ppo_clip", [0.02, 0.0632, 0.2, 0.632, 0.99]),
        ("spo", [0.02, 0.0632, 0.2, 0.632, 0.99]),
        ("ppo_kl_fixed", [0.1, 0.316, 1.0, 3.16, 10.0]),
        ("vanilla_pg", [0.001, 0.00316, 0.01, 0.0316, 0.1]),
        ("fixpo", [0.02, 0.0632, 0.2, 0.632, 2.0]),
    ],
)
def test_knob_spans_two_decades_around_default(algo: str, values: list[float]) -> None:
    assert [knob_value(algo, position) for position in FACTORS] == values


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(f"{name}_{at}", marks=() if at == "low" and name == "mdpo" else SLOW)
        for name, at in zip(ALGORITHMS, cycle(FACTORS), strict=False)
    ]
    + ["vanilla_pg_high"],
)
def test_option_sets_knob_and_constant_schedules(option: str) -> None:
    register_schemas()
    config = load(["experiment=trust_region_family", f"family={option}", "env=pendulum"])
    name, _, position = option.rpartition("_")
    algo: Any = config.algo
    assert algo.name == name
    assert getattr(algo, KNOBS[name][0]) == knob_value(name, position)
    schedules = {key: value for key, value in vars(algo).items() if key.endswith("_schedule")}
    assert set(schedules.values()) <= {"constant"}
    assert (config.eval_episodes, config.logger.tensorboard) == (0, False)


def test_options_say_what_they_set() -> None:
    assert options("family")["trpo_low"] == "trpo with max_kl=0.00316"
    assert knob_settings("mdpo", "high") == {
        "learning_rate_schedule": "constant",
        "step_size_schedule": "constant",
        "step_size": 3.16,
    }
    assert knob_settings("vanilla_pg", "lowest")["learning_rate"] == 0.001
    vmpo = knob_settings("vmpo", "highest")
    assert (vmpo["target_kl"], vmpo["target_std_kl"]) == (0.1, 0.001)


def test_row_has_the_numbers_of_a_run(tmp_path: Path) -> None:
    columns = {
        "kl/old_new": [0.004, 0.008, NAN, 0.02, 0.01001],  # one rolled back; 0.02 is beyond 0.01
        "kl/max": [0.03, 0.009, NAN, 0.5, 0.04],
        "ratio/clip_fraction": [0.1, 0.2, 0.9, 0.3, 0.4],
        "time/update": [0.3, 0.1, 0.2, 0.5, 0.4],
    }
    folder = make_trpo(tmp_path / "run", returns=(NAN, 30.0, 60.0, 200.0, 248.5), columns=columns)
    (run,) = collect([str(folder)])
    row = run_row(run)
    assert row == {
        "environment": "CartPole-v1", "algorithm": "trpo", "knob": "max_kl",
        "position": "default", "value": 0.01, "seed": 0, "budget": 500, "env_steps": 500,
        "updates": 4,
        "return": 248.5,
        "score": 0.5,  # (248.5 - 22) / (475 - 22)
        "kl_asked": 0.01, "kl_mean": 0.01001, "kl_mean_95": 0.02, "kl_state": 0.04,
        "kl_state_largest": 0.5, "beyond": 0.25, "state_beyond": 0.75, "outside_ratio": 0.25,
        "update_seconds": 0.3,
    }  # fmt: skip


def test_adaptive_coefficient_is_beyond_above_its_band(tmp_path: Path) -> None:
    # ppo_kl leaves β alone up to 1.5 times the target.
    settings = {"algo.learning_rate_schedule": "constant", "algo.target_kl": 0.01}
    columns = {"kl/target": [0.01] * 4, "kl/old_new": [0.012, 0.014, 0.016, 0.018]}
    run = make_run(tmp_path / "run", [1.0] * 4, algo="ppo_kl", settings=settings, columns=columns)
    assert run_row(collect([str(run)])[0])["beyond"] == 0.5


def test_algorithm_without_target_asks_for_nothing(tmp_path: Path) -> None:
    settings = {"algo.learning_rate_schedule": "constant", "algo.clip_ratio": 0.99}
    run = make_run(tmp_path / "run", [1.0, 2.0], settings=settings)
    row = run_row(collect([str(run)])[0])
    assert (row["position"], row["value"], row["kl_mean"]) == ("highest", 0.99, 0.01)
    assert all(math.isnan(row[key]) for key in ("kl_asked", "beyond", "state_beyond"))


def test_only_finished_runs_of_the_comparison_count(tmp_path: Path) -> None:
    make_trpo(tmp_path / "right", seed=3)
    make_trpo(tmp_path / "value", max_kl=0.02)
    make_trpo(tmp_path / "stopped", seed=4, summary={"status": "stopped"})
    make_run(tmp_path / "linear", [1.0], algo="trpo")
    assert [run.seed for run in collect([str(tmp_path)])] == [3]
    with pytest.raises(ConfigError, match="no finished run of experiment=trust_region_family"):
        collect([str(tmp_path / "linear")])


def test_updates_are_those_of_the_default(tmp_path: Path) -> None:
    columns = {"kl/old_new": [0.001, 0.002], "kl/max": [0.01, 0.5]}
    make_trpo(tmp_path / "default", seed=2, columns=columns)
    make_trpo(tmp_path / "low", max_kl=0.00316)
    run = {"environment": "CartPole-v1", "algorithm": "trpo", "seed": 2}
    assert update_rows(collect([str(tmp_path)])) == [
        run | {"update": 0, "env_steps": 100, "kl_mean": 0.001, "kl_state": 0.01, "kl_bound": 0.01},
        run | {"update": 1, "env_steps": 200, "kl_mean": 0.002, "kl_state": 0.5, "kl_bound": 0.01},
    ]


def test_kl_over_training_is_the_median_of_seeds() -> None:
    pytest.importorskip("matplotlib")
    rows: Rows = [
        {"environment": "A", "algorithm": "trpo", "seed": seed, "update": update}
        | {"env_steps": 1000 * (update + 1), "kl_mean": kl * (update + 1), "kl_state": NAN}
        | {"kl_bound": NAN}
        for seed, kl in enumerate([0.01, 0.09, 0.02])
        for update in range(2 + seed)
    ]
    axes = draw_training(rows, "A").axes[0]
    (line,) = axes.get_lines()
    # The third update of two seeds only is left out.
    np.testing.assert_allclose(line.get_xdata(), [1, 2])
    np.testing.assert_allclose(line.get_ydata(), [0.02, 0.04])


def test_plateau_is_the_neighbours_of_the_best() -> None:
    scores = {0.1: [0.9], 1.0: [0.5], 10.0: [1.0, 0.84], 100.0: [1.0], 1000.0: [0.88]}
    rows: Rows = [{"value": v, "score": s} for v, group in scores.items() for s in group]
    # Means 0.9, 0.5, 0.92, 1, 0.88; near means at least 0.9, and 0.1 is cut off by 1.
    assert family_rows.plateau(rows, 1.0) == (10.0, 100.0)
    assert family_rows.plateau(rows, 0.97) == (10.0, 1000.0)
    assert family_rows.plateau(rows, 1.2) is None


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Write runs of three values of TRPO, two seeds each, and one of PPO-clip."""
    finals = {0.001: (22.0, 113.0), 0.01: (430.0, 475.0), 0.0316: (475.0, 475.0)}
    for max_kl, returns in finals.items():
        for seed, final in enumerate(returns):
            columns = {"kl/old_new": [max_kl / 2, 2 * max_kl], "kl/max": [0.3, 0.6]}
            make_trpo(
                tmp_path / f"{max_kl}-{seed}", max_kl, (22.0, final), seed=seed, columns=columns
            )
    settings = {"algo.learning_rate_schedule": "constant"}
    columns = {"time/update": [0.02, 0.04], "ratio/clip_fraction": [0.05, 0.15]}
    make_run(tmp_path / "clip", [22.0, 100.0], settings=settings, columns=columns)
    return tmp_path


def test_tables_show_the_numbers_of_rows(grid: Path) -> None:
    rows = ordered([run_row(run) for run in collect([str(grid)])], RUN, (*KNOBS, *FACTORS))
    bound = family_rows.bound_table(rows)
    assert [list(row.values()) for row in bound] == [
        ["CartPole-v1", "ppo_clip", "1", "–", "0.01", "0.01", "0.05", "0.05", "–", "–", "10%",
         "100", bound[0]["ms"]],
        ["CartPole-v1", "trpo", "2", "0.01", "0.02", "0.02",
         "0.6", "0.6", "50%", "100%", "20%", "452 (430 to 475)", "500"],
    ]  # fmt: skip
    assert [list(row.values()) for row in family_rows.knob_table(rows)] == [
        ["CartPole-v1", "ppo_clip", "`clip_ratio`", "–", "–", "0.2: 100", "–", "–", "–", "–"],
        ["CartPole-v1", "trpo", "`max_kl`", "0.001: 68", "–", "0.01: 452", "0.0316: 475", "–",
         "0.01 to 0.0316", "0.5"],
    ]  # fmt: skip
    asked = family_rows.asked_table(rows)
    assert [row["algorithm"] for row in asked] == ["trpo"]
    assert asked[0]["low"] == "–"
    assert asked[0]["default"].startswith("0.01 → ")
    assert asked[0]["default"].endswith(" (50%, 100%)")


def test_extent_counts_the_missing_runs(grid: Path) -> None:
    text = family_rows.extent([run_row(run) for run in collect([str(grid)])])
    whole = 5 * 2 * 5 * len(ALGORITHMS)
    assert text == (
        f"These are 7 of {whole} runs: 4 settings with 1 to 2 seeds each. "
        "Environment steps of a run: 200 (CartPole-v1)."
    )


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return forked_python.run(command, capture_output=True, text=True, check=False)


@SLOW
def test_script_writes_page_rows_and_figures(grid: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "output"
    done = run_script(str(grid), f"--output={output}")
    assert done.returncode == 0, done.stderr
    figures = ["asked", "bounds", "kl_and_return", "returns", "training_CartPole-v1"]
    assert sorted(path.stem for path in output.glob("*.png")) == figures
    with (output / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["return"] for row in select(rows, algorithm="ppo_clip")] == ["100.0"]
    make_trpo(tmp_path / "new", seed=2, returns=(22.0, 500.0))
    done = run_script(str(tmp_path / "new"), f"--output={output}")
    assert done.stdout.startswith("These are 8 of"), done.stderr
    assert run_script(str(grid), f"--output={output}").stdout.startswith("These are 8 of")
    with (output / "updates.csv").open() as file:
        updates = [(row["algorithm"], row["seed"], row["update"]) for row in csv.DictReader(file)]
    runs = [("ppo_clip", "0"), ("trpo", "0"), ("trpo", "1"), ("trpo", "2")]
    assert updates == [(*run, update) for run in runs for update in "01"]
    page = (output / "trust_region_family.md").read_text()
    assert "| CartPole-v1 | trpo | `max_kl` | 0.001: 68 | – | 0.01: 468 | 0.0316: 475 |" in page


@SLOW
def test_real_runs_are_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    overrides = ["experiment=trust_region_family", "family=trpo_default,ppo_ewma_highest"]
    command = [sys.executable, "-m", "rlkl", "train", "-m", *overrides, "total_env_steps=2048"]
    forked_python.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = run_script(str(tmp_path / "runs"), f"--output={tmp_path / 'output'}")
    assert done.returncode == 0, done.stderr
    assert "These are 2 of" in done.stdout
    with (tmp_path / "output" / "runs.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert rows["trpo"]["kl_asked"] == "0.01"
    assert float(rows["trpo"]["beyond"]) == 0
    assert (rows["ppo_ewma"]["value"], rows["ppo_ewma"]["kl_asked"]) == ("0.99", "")


@SLOW
def test_missing_runs_end_in_one_line(tmp_path: Path) -> None:
    done = run_script(str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("trust_region_family: ")
    assert "has no runs in or below it" in done.stderr
    make_trpo(tmp_path / "low", max_kl=0.00316)
    done = run_script(str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no run at the default of its knob" in done.stderr
