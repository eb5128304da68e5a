"""Comparisons of runs whose numbers are known beforehand: rows, words, files, refusals."""

import csv
import itertools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_grid, make_run, resume_to

from rlkl.cli import main
from rlkl.cli.compare import _made, _print
from rlkl.cli.compose import load_comparison
from rlkl.tools.compare import groups, runs, scores, stability, svg, tables
from rlkl.tools.compare.charts import (
    DotChart,
    Line,
    LineChart,
    beyond,
    extent,
    style,
    tick_text,
    ticks,
    wrapped,
)
from rlkl.tools.compare.curves import BINS, curve_rows, update_rows
from rlkl.tools.compare.drawing import draw
from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.files import markdown
from rlkl.tools.compare.groups import Member
from rlkl.tools.compare.page import page
from rlkl.tools.compare.report import Comparison, compare, number, spread
from rlkl.tools.compare.rows import distinct, select
from rlkl.tools.compare.runs import Run
from rlkl.tools.compare.settings import CompareConfig
from rlkl.utils.validation import ConfigError

NAN = math.nan
FAST = CompareConfig(resamples=200)


def read(folder: Path) -> Run:
    found = runs.read(folder)
    assert isinstance(found, Run), found
    return found


def sorted_runs(folder: Path) -> list[Member]:
    return groups.sort([read(path) for path in runs.find([str(folder)])])


def compared(folder: Path, **settings: Any) -> Comparison:
    return compare([str(folder)], CompareConfig(**{"resamples": 100} | settings))


def kinds(comparison: Comparison) -> list[str]:
    return [caution.kind for caution in comparison.cautions]


def said(comparison: Comparison, kind: str) -> str:
    (text,) = (caution.text for caution in comparison.cautions if caution.kind == kind)
    return text


# Reading


def test_a_run_is_read_from_its_csv_config_and_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.5, NAN], seed=3, env="my_package:my/Env-v0")
    run = read(folder)
    assert (run.env_id, run.algo, run.seed, run.status) == ("my/Env-v0", "ppo_clip", 3, "finished")
    assert (run.budget, run.env_steps, run.damaged) == (300, 300, 0)
    np.testing.assert_array_equal(run.steps, [100, 200, 300])
    np.testing.assert_array_equal(run.columns["return/train"], [1, 2.5, NAN])
    np.testing.assert_allclose(run.seconds, [2, 4, 6])
    assert run.settings["algo.clip_ratio"] == 0.2
    assert run.settings["env.kwargs"] == {}


def test_a_run_without_its_config_is_told_by_its_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0], algo="trpo", seed=2)
    (folder / "config.yaml").unlink()
    assert "taken for runs with the default settings" in said(compared(folder), "unknown settings")
    run = read(folder)
    assert (run.env_id, run.algo, run.seed, run.settings) == ("CartPole-v1", "trpo", 2, {})
    assert run.budget == 0  # not known


def test_a_run_that_is_still_written_is_read_as_far_as_it_got(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0, 3.0], summary={"status": None})
    path = folder / "metrics.csv"
    path.write_text(path.read_text()[:-30])  # within the last row
    run = read(folder)
    assert (run.status, run.env_steps, run.damaged) == ("unfinished", 200, 0)


def test_a_summary_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0])
    path = folder / "summary.json"
    path.write_text(path.read_text()[:-20])
    found = compared(tmp_path)
    assert found.tables["runs"][0]["status"] == "unknown"
    assert said(found, "unknown ends") == (
        "1 run with a summary.json that cannot be read, so that nothing tells how they ended "
        f"({path})."
    )
    assert "unfinished runs" not in kinds(found)


def test_what_a_summary_leaves_open_is_not_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0], summary={"hardware": {"cpu": None, "cpus": 2}})
    assert compared(tmp_path).tables["provenance"][0]["hardware"] == "2"


def test_a_run_that_goes_on_behind_its_summary_is_unfinished(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0], summary={"status": "stopped", "env_steps": 100})
    assert read(folder).status == "unfinished"


def test_what_a_run_was_resumed_to_is_its_budget(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0])
    assert read(folder).budget == 200
    resume_to(folder, 900)
    assert read(folder).budget == 900


def test_damaged_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1.0, 2.0, 3.0, 4.0])
    path = folder / "metrics.csv"
    header, first, second, third, last = path.read_text().splitlines()
    broken = [header, first, "garbage", second[:-20], second[:-1], first]
    broken += [third.replace("300", "x"), third.replace("300", "1e400"), last, ""]
    path.write_text("\n".join(broken))
    run = read(folder)
    np.testing.assert_array_equal(run.steps, [100, 400])
    assert run.damaged == 6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"metrics.csv": ""}, "no rows yet"),
        ({"metrics.csv": "env_steps,return/train\n"}, "no rows yet"),
        ({"metrics.csv": "a,b\n1,2\n"}, "no rows yet"),
        ({"config.yaml": "[", "summary.json": "{"}, "neither a config.yaml nor a summary.json"),
        ({"config.yaml": "seed: 1", "summary.json": "{}"}, "does not say which environment"),
    ],
)
def test_what_cannot_be_compared_is_said_in_words(
    content: dict[str, str], words: str, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "a", [1.0])
    for name, text in content.items():
        (folder / name).write_text(text)
    found = runs.read(folder)
    assert isinstance(found, str)
    assert words in found


def test_a_summary_of_other_types_is_as_good_as_none(tmp_path: Path) -> None:
    odd = {"env_steps": "many", "eval_return": [1], "versions": "0.1", "hardware": 7, "reason": 3}
    run = read(make_run(tmp_path / "a", [1.0], summary=odd))
    assert (run.status, run.versions, run.hardware) == ("unfinished", {}, {})
    assert math.isnan(run.eval_return)
    settings = {"algo.clip_ratio": [1], "env.kwargs": "x", "total_env_steps": "many"}
    assert read(make_run(tmp_path / "b", [1.0], settings=settings)).budget == 0
    assert compared(tmp_path).fields[0].scores("ppo_clip clip_ratio=0.2").tolist() == [1]


def test_runs_are_found_below_folders_and_by_patterns_each_once(tmp_path: Path) -> None:
    for name in ("x/a", "x/b", "y/c", "y/compare-me/deep/d"):
        make_run(tmp_path / name, [1.0])
    (tmp_path / "x/a/checkpoints").mkdir()
    (tmp_path / "x/a/checkpoints/config.yaml").touch()  # what is below a run is the run's
    (tmp_path / "link").symlink_to(tmp_path / "x")

    def names(*paths: str) -> list[str]:
        return [path.name for path in runs.find([str(tmp_path / path) for path in paths])]

    assert sorted(names(".")) == ["a", "b", "c", "d"]
    assert names("y/c", "x", "x/a", "link", "?/*") == ["c", "a", "b", "d"]
    assert names("**/b") == ["b"]


# Groups


def labels(*folders: Path) -> dict[str, str]:
    found = groups.sort([read(folder) for folder in folders])
    return {member.run.folder.name: member.label for member in found}


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", [1.0], seed=0)
    second = make_run(tmp_path / "b", [1.0] * 5, seed=1, settings={"threads": 2, "device": "cuda"})
    assert set(labels(first, second).values()) == {"ppo_clip"}


def test_a_group_is_named_after_what_tells_it_apart(tmp_path: Path) -> None:
    swept = [
        make_run(tmp_path / f"clip{x}", [1.0], settings={"algo.clip_ratio": x})
        for x in (0.1, 0.2, 0.3)
    ]
    trpo = make_run(tmp_path / "trpo", [1.0], algo="trpo")
    assert labels(*swept, trpo) == {
        "clip0.1": "ppo_clip clip_ratio=0.1",
        "clip0.2": "ppo_clip clip_ratio=0.2",
        "clip0.3": "ppo_clip clip_ratio=0.3",
        "trpo": "trpo",
    }


def test_what_algorithms_share_names_all_of_them_where_it_differs(tmp_path: Path) -> None:
    small = make_run(tmp_path / "small", [1.0])
    large = make_run(tmp_path / "large", [1.0], algo="trpo", settings={"rollout_steps": 2048})
    assert labels(small, large) == {
        "small": "ppo_clip rollout_steps=128",
        "large": "trpo rollout_steps=2048",
    }


def test_defaults_go_without_saying_where_a_setting_varies_elsewhere(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [1.0])
    other = make_run(tmp_path / "other", [1.0], env="Acrobot-v1")
    gru = make_run(tmp_path / "gru", [1.0], settings={"policy.memory": "gru"})
    assert labels(plain, other, gru) == {
        "plain": "ppo_clip",
        "other": "ppo_clip",
        "gru": "ppo_clip memory=gru",
    }


def test_an_older_config_that_lacks_a_key_has_its_default(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [1.0])
    gru = make_run(tmp_path / "gru", [1.0], settings={"policy.memory": "gru"})
    older = make_run(tmp_path / "older", [1.0], seed=1)
    text = (older / "config.yaml").read_text()
    (older / "config.yaml").write_text(text.replace("  memory: none\n", ""))
    found = labels(plain, gru, older)
    assert found["older"] == found["plain"] == "ppo_clip memory=none"


def test_a_label_has_the_fewest_keys_that_do(tmp_path: Path) -> None:
    folders = [
        make_run(
            tmp_path / f"{rate}-{clip}", [1.0],
            # The epochs go with the rate, and say nothing more.
            settings={"algo.learning_rate": rate, "algo.clip_ratio": clip,
                      "algo.num_epochs": 5 if rate == 0.1 else 6},
        )
        for rate in (0.1, 0.01) for clip in (0.1, 0.3)
    ]  # fmt: skip
    assert labels(*folders) == {
        f"{rate}-{clip}": f"ppo_clip learning_rate={rate} clip_ratio={clip}"
        for rate in (0.1, 0.01)
        for clip in (0.1, 0.3)
    }


def test_settings_that_no_few_keys_tell_apart_are_never_pooled(tmp_path: Path) -> None:
    keys = ["gamma", "gae_lambda", "rollout_steps", "critic.learning_rate", "critic.num_epochs"]
    folders = [make_run(tmp_path / "plain", [1.0])]
    folders += [make_run(tmp_path / key, [1.0], settings={key: 1}) for key in keys]
    found = labels(*folders)
    assert found == {"plain": "ppo_clip"} | {
        key: f"ppo_clip {key.removeprefix('policy.')}=1" for key in keys
    }
    # Beside another algorithm, and with a key of the algorithm's own.
    folders.append(make_run(tmp_path / "clip", [1.0], settings={"algo.clip_ratio": 0.5}))
    folders.append(make_run(tmp_path / "trpo", [1.0], algo="trpo", settings={"gamma": 1}))
    assert labels(*folders) == found | {"clip": "ppo_clip clip_ratio=0.5", "trpo": "trpo gamma=1"}


def test_of_many_keys_a_label_leaves_out_what_is_usual_and_not_what_is_default(
    tmp_path: Path,
) -> None:
    base = {"gamma": 0.5, "gae_lambda": 0.5, "rollout_steps": 64, "clip_rewards": True}
    folders = [make_run(tmp_path / "base", [1.0], settings=base)]
    for key in base:
        settings = {k: v for k, v in base.items() if k != key}
        folders.append(make_run(tmp_path / key, [1.0], settings=settings))
    assert labels(*folders) == {
        "base": "ppo_clip",
        "gamma": "ppo_clip gamma=0.99",
        "gae_lambda": "ppo_clip gae_lambda=0.95",
        "rollout_steps": "ppo_clip rollout_steps=128",
        "clip_rewards": "ppo_clip clip_rewards=null",
    }


def test_of_many_keys_with_values_that_are_equally_usual_the_default_goes_unsaid(
    tmp_path: Path,
) -> None:
    values = {"algo.clip_ratio": 0.1, "algo.learning_rate": 1e-4, "gamma": 0.5, "gae_lambda": 0.5}
    folders = [
        make_run(tmp_path / "-".join(some), [1.0], settings={key: values[key] for key in some})
        for count in range(5)
        for some in itertools.combinations(values, count)
        if some
    ]
    found = labels(make_run(tmp_path / "plain", [1.0]), *folders)
    assert len(set(found.values())) == 16
    assert found["plain"] == "ppo_clip"
    assert found["gamma"] == "ppo_clip gamma=0.5"
    assert found["algo.clip_ratio-gamma"] == "ppo_clip clip_ratio=0.1 gamma=0.5"


def test_arguments_of_an_environment_make_another_one(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [1.0])
    heavy = make_run(tmp_path / "heavy", [1.0], settings={"env.kwargs": {"gravity": 20.0}})
    found = groups.sort([read(plain), read(heavy)])
    assert [member.env for member in found] == ["CartPole-v1", "CartPole-v1 (gravity=20)"]
    assert [member.env for member in groups.sort([read(heavy)])] == ["CartPole-v1"]


def test_settings_that_differ_are_listed_by_group(tmp_path: Path) -> None:
    for env in ("CartPole-v1", "Acrobot-v1"):
        make_run(tmp_path / env / "a", [1.0], env=env)
        rate = {"algo.learning_rate": 0.1}
        make_run(tmp_path / env / "b", [1.0], env=env, algo="vanilla_pg", settings=rate)
        make_run(tmp_path / env / "c", [1.0], env=env, algo="trpo")
    rows = groups.differences(sorted_runs(tmp_path))
    (rate_row,) = select(rows, key="algo.learning_rate")
    assert rate_row == {
        "key": "algo.learning_rate", "environments": "Acrobot-v1, CartPole-v1",
        "vanilla_pg": "0.1", "ppo_clip": "0.0007", "trpo": "–",
    }  # fmt: skip
    assert "algo.max_kl" not in distinct(rows, "key")  # one algorithm alone has it


# Scores


def test_a_score_is_read_at_the_first_row_that_reaches_the_smallest_budget(tmp_path: Path) -> None:
    make_run(tmp_path / "short", [1.0, 2.0, 3.0], per_row=100)
    make_run(tmp_path / "long", [5.0, 6.0, 7.0, 8.0], per_row=130, seed=1)
    found = compared(tmp_path)
    (field,) = found.fields
    assert field.horizon == 300
    rows = {Path(row["folder"]).name: row for row in found.tables["runs"]}
    assert rows["short"]["return"] == 3
    assert rows["long"]["return"] == 7  # at 390, where a run with a budget of 300 ends
    assert rows["long"]["wall_seconds"] == pytest.approx(6)
    text = said(found, "unequal steps")
    assert "compared at 300 environment steps" in text
    assert "the end of 1 run (budgets: 300 and 520)" in text
    assert compared(tmp_path, steps=100).tables["runs"][0]["return"] == 1


def test_nan_rows_and_runs_that_got_nowhere_are_left_out_with_words(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 2.0, NAN], seed=0)  # the last return that there is
    make_run(tmp_path / "b", [NAN, NAN, NAN], seed=1)
    make_run(tmp_path / "c", [9.0], seed=2, summary={"status": "failed", "reason": "it broke"},
             settings={"total_env_steps": 300})  # fmt: skip
    make_run(tmp_path / "d", [4.0, 4.0, 4.0], seed=3, summary={"status": None},
             columns={"kl/old_new": [0.1, NAN, math.inf]})  # fmt: skip
    found = compared(tmp_path)
    returns = {row["seed"]: row["return"] for row in found.tables["runs"]}
    assert (returns[0], returns[3]) == (2, 4)
    assert math.isnan(returns[1])
    assert math.isnan(returns[2])
    assert "2 runs without a score" in said(found, "left out")
    assert "no episode had ended" in said(found, "left out")
    assert "it made 100 of 300 environment steps" in said(found, "left out")
    assert "1 run failed" in said(found, "failed runs")
    assert "it broke" in said(found, "failed runs")
    assert "1 run unfinished: still being written, or its process was killed" in said(
        found, "unfinished runs"
    )
    assert "2 updates without a finite KL" in said(found, "NaN rows")
    (row,) = found.tables["results"]
    assert (row["seeds"], row["iqm"], row["min"], row["max"]) == (2, 3, 2, 4)


def test_two_runs_of_one_seed_count_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 1.0])
    make_run(tmp_path / "b", [2.0, 2.0, 2.0], settings={"total_env_steps": 200})
    make_run(tmp_path / "c", [3.0, 3.0], seed=1)
    found = compared(tmp_path)
    assert found.fields[0].scores("ppo_clip").tolist() == [2, 3]
    assert "another run of seed 0 stands for it" in said(found, "left out")


def test_of_two_budgets_the_one_that_others_share_is_compared(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"short{seed}", [1.0, 2.0], seed=seed)
        make_run(tmp_path / f"long{seed}", [5.0, 6.0, 7.0, 8.0], seed=seed)
    found = compared(tmp_path)
    assert (found.fields[0].horizon, found.fields[0].scores("ppo_clip").tolist()) == (400, [8, 8])
    assert "unequal steps" not in kinds(found)  # those left out cut nothing off
    make_run(tmp_path / "other", [3.0, 4.0], algo="trpo")
    found = compared(tmp_path)
    # At 200 steps the schedules of the long ones had half their way to go.
    assert (found.fields[0].horizon, found.fields[0].scores("ppo_clip").tolist()) == (200, [2, 2])
    assert "unequal steps" not in kinds(found)


def test_a_finished_run_that_lost_rows_is_left_out_and_cuts_nothing_off(tmp_path: Path) -> None:
    for seed in range(3):
        folder = make_run(tmp_path / str(seed), [1.0, 2.0, 3.0, 4.0], seed=seed)
    path = folder / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    found = compared(tmp_path)
    assert (found.fields[0].horizon, found.fields[0].scores("ppo_clip").tolist()) == (400, [4, 4])
    assert "its metrics.csv ends at 200 of 400 environment steps" in said(found, "left out")


def test_runs_without_known_budgets_are_no_warning(tmp_path: Path) -> None:
    for seed, steps in enumerate((3, 3, 4)):
        folder = make_run(tmp_path / str(seed), [1.0] * steps, seed=seed, per_row=100)
        (folder / "config.yaml").unlink()
    (tmp_path / "2" / "metrics.csv").unlink()
    assert "unequal steps" not in kinds(compared(tmp_path))


def test_budgets_that_end_in_the_same_rollout_cut_nothing_off(tmp_path: Path) -> None:
    for seed, budget in enumerate((250, 300)):
        make_run(tmp_path / str(seed), [1.0] * 3, seed=seed, settings={"total_env_steps": budget})
    found = compared(tmp_path)
    assert (found.fields[0].horizon, len(found.fields[0].of("ppo_clip"))) == (250, 2)
    assert "unequal steps" not in kinds(found)


def test_where_no_run_ended_the_cut_is_a_warning(tmp_path: Path) -> None:
    for seed, rows in enumerate(([1.0], [1.0, 2.0])):
        make_run(tmp_path / str(seed), rows, seed=seed, summary={"status": None},
                 settings={"total_env_steps": 900})  # fmt: skip
    found = compared(tmp_path)
    assert next(c for c in found.cautions if c.kind == "unequal steps").grave


def test_evaluations_can_be_the_score(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0] * 4, columns={"return/eval": [NAN, 50.0, NAN, 80.0]})
    make_run(tmp_path / "b", [1.0] * 4, seed=1)
    found = compared(tmp_path, score="eval")
    assert found.fields[0].scores("ppo_clip").tolist() == [80]
    assert "it was not evaluated" in said(found, "left out")
    make_run(tmp_path / "c", [1.0] * 4, seed=2, summary={"eval_return": 7.0})
    (row,) = compared(tmp_path).tables["results"]
    assert (row["seeds"], row["evaluation"]) == (3, 7)
    assert compared(tmp_path, score="eval", steps=300).fields[0].scores("ppo_clip") == [50]


FINALS = {
    "CartPole-v1": {"ppo_clip": [470.0, 475, 480, 500], "trpo": [22, 100, 200, 300]},
    "Acrobot-v1": {"ppo_clip": [-90.0, -100, -95, -85], "trpo": [-100, -300, -500, -110]},
}


def test_scores_are_normalised_between_random_play_and_the_threshold(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    by_env = {field.env: field for field in found.fields}
    expected = (np.array(FINALS["CartPole-v1"]["trpo"]) - 22) / (475 - 22)
    np.testing.assert_allclose(by_env["CartPole-v1"].normalized("trpo"), expected)
    expected = (np.array(FINALS["Acrobot-v1"]["trpo"]) + 500) / 400
    np.testing.assert_allclose(by_env["Acrobot-v1"].normalized("trpo"), expected)
    ends = [
        (field.reference.low, field.reference.high) for field in found.fields if field.reference
    ]
    assert ends == [(-500, -100), (22, 475)]
    relative = compared(tmp_path, normalize="runs")
    assert relative.fields[1].normalized("ppo_clip").max() == 1
    assert relative.fields[1].normalized("trpo").min() == 0
    assert "0 is the worst and 1 the best of these very runs" in said(
        relative, "scale of these runs"
    )
    chosen = compared(tmp_path, references={"Acrobot-v1": [-500, 0]})
    assert chosen.fields[0].normalized("trpo").tolist() == pytest.approx([0.8, 0.4, 0, 0.78])


def test_aggregates_of_all_environments_are_what_their_definitions_say(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    rows = {row["aggregate"]: row for row in select(found.tables["aggregates"], group="trpo")}
    cart = (np.array(FINALS["CartPole-v1"]["trpo"]) - 22) / 453
    acro = (np.array(FINALS["Acrobot-v1"]["trpo"]) + 500) / 400
    both = np.sort([*cart, *acro])
    assert rows["mean"]["value"] == pytest.approx((cart.mean() + acro.mean()) / 2)
    assert rows["median"]["value"] == pytest.approx((cart.mean() + acro.mean()) / 2)
    assert rows["iqm"]["value"] == pytest.approx(both[2:6].mean())
    assert rows["optimality_gap"]["value"] == pytest.approx(1 - both.mean())
    assert (rows["iqm"]["environments"], rows["iqm"]["runs"]) == (2, 8)
    for row in rows.values():
        assert row["low"] < row["value"] < row["high"]
    profile = select(found.tables["profiles"], group="trpo")
    assert (profile[0]["score"], profile[0]["share"]) == (0, 6 / 8)  # two runs are at 0, not above
    assert profile[-1]["share"] == 0
    (pair,) = found.tables["improvement"]
    # Of 16 pairs in each environment one is a tie: a threshold reached by both in Acrobot.
    assert pair["probability"] == pytest.approx((1 + 15.5 / 16) / 2)
    assert pair["low"] > 0.5
    assert not pair["told_apart"]  # by four seeds


def test_the_curve_of_all_environments_together_is_of_normalised_scores(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    rows = select(found.tables["together"], group="trpo")
    assert [rows[i]["x"] for i in (0, 50, -1)] == pytest.approx([100, 650, 1200])
    end = next(
        r for r in select(found.tables["aggregates"], group="trpo") if r["aggregate"] == "iqm"
    )
    assert rows[-1]["value"] == pytest.approx(end["value"])
    # Half way from 0, along a straight line.
    cart = (np.array(FINALS["CartPole-v1"]["trpo"]) / 2 - 22) / 453
    acro = (np.array(FINALS["Acrobot-v1"]["trpo"]) / 2 + 500) / 400
    assert rows[50]["value"] == pytest.approx(np.sort([*cart, *acro])[2:6].mean())
    assert rows[50]["low"] < rows[50]["value"] < rows[50]["high"]


def test_environments_of_other_lengths_are_put_together_by_their_share(tmp_path: Path) -> None:
    make_grid(tmp_path / "a", {"CartPole-v1": FINALS["CartPole-v1"]})
    make_grid(tmp_path / "b", {"Acrobot-v1": FINALS["Acrobot-v1"]}, rows=24)
    found = compared(tmp_path)
    rows = select(found.tables["together"], group="trpo")
    # A run of 12 rows has its first episodes after a twelfth of its steps.
    assert [rows[i]["x"] for i in (0, -1)] == pytest.approx([1 / 12, 1])
    chart = next(f for f in figures(found) if f.name == "learning_together").charts[0]
    assert chart.x_label == "share of the environment steps"
    one = compared(tmp_path / "a")
    assert one.tables["together"] == []


def test_intervals_do_not_hang_on_what_else_is_compared(tmp_path: Path) -> None:
    make_grid(tmp_path / "two", {"CartPole-v1": FINALS["CartPole-v1"]})

    def interval(folder: str, **settings: Any) -> tuple[float, float]:
        found = compared(tmp_path / folder, **settings)
        (row,) = select(found.tables["results"], group="trpo")
        return row["low"], row["high"]

    alone = interval("two/CartPole-v1/trpo", statistic="mean")
    assert interval("two", statistic="mean") == alone
    assert interval("two", statistic="mean", seed=1) != alone


def test_environments_that_lack_a_group_are_not_put_together(tmp_path: Path) -> None:
    finals = FINALS | {"Pendulum-v1": {"ppo_clip": [-200.0, -150]}}
    found = compared(make_grid(tmp_path, finals))
    assert {row["environments"] for row in found.tables["aggregates"]} == {2}
    text = said(found, "mixed environments")
    assert "Pendulum-v1 lacks trpo" in text
    assert "over Acrobot-v1 and CartPole-v1 alone" in text


def test_disjoint_environments_have_no_common_score(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2]}, "Acrobot-v1": {"trpo": [-99.0, -98]}}
    found = compared(make_grid(tmp_path, finals))
    assert found.tables["aggregates"] == found.tables["profiles"] == []
    assert found.tables["improvement"] == []
    assert "no scores of all together" in said(found, "mixed environments")


# Curves


def test_curves_are_made_from_all_seeds_at_every_point(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.0, 10, 20, 30], seed=0)
    make_run(tmp_path / "b", [NAN, 30, 40, 50], seed=1, seconds=4)
    found = scores.fields(sorted_runs(tmp_path), FAST)
    rows = curve_rows(found, FAST)
    steps = select(rows, axis="steps")
    assert (steps[0]["x"], steps[-1]["x"]) == (200, 400)
    assert (steps[0]["value"], steps[-1]["value"]) == (20, 40)
    assert (steps[0]["low"], steps[0]["high"]) == (10, 30)
    assert steps[50]["value"] == pytest.approx(30)  # halfway, on the line between rows
    # By time there is no such point: the first ends when the second ends its first episode.
    assert select(rows, axis="seconds") == []


def test_curves_by_time_end_where_the_first_seed_ends(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.0, 10, 20, 30], seed=0, seconds=2)
    make_run(tmp_path / "b", [10.0, 20, 30, 40], seed=1, seconds=3)
    rows = select(curve_rows(scores.fields(sorted_runs(tmp_path), FAST), FAST), axis="seconds")
    assert (rows[0]["x"], rows[-1]["x"]) == (3, 8)
    assert rows[-1]["value"] == pytest.approx((30 + (10 + 10 * 5 / 3)) / 2)


def test_updates_are_means_of_stretches(tmp_path: Path) -> None:
    kl = np.arange(4 * BINS, dtype=float)
    kl[5] = NAN
    make_run(tmp_path / "a", [1.0] * len(kl), columns={"kl/old_new": kl.tolist()})
    rows = update_rows(scores.fields(sorted_runs(tmp_path), FAST), FAST)
    found = [row["value"] for row in select(rows, tag="kl/old_new")]
    assert found[:3] == [1.5, pytest.approx((4 + 6 + 7) / 3), 9.5]
    assert len(found) == BINS


def test_an_entropy_that_is_estimated_stands_for_the_exact_one(tmp_path: Path) -> None:
    nothing = {"policy/entropy": [NAN] * 3, "policy/entropy_estimate": [7.0] * 3}
    make_run(tmp_path / "a", [1.0] * 3, columns=nothing)
    rows = update_rows(scores.fields(sorted_runs(tmp_path), FAST), FAST)
    assert {row["value"] for row in select(rows, tag="policy/entropy")} == {7}


# Stability and efficiency


def test_the_worst_drop_is_from_the_best_so_far() -> None:
    assert stability.worst_drop(np.array([1.0, 5, NAN, 2, 4, 7, 6.5])) == 3
    assert stability.worst_drop(np.array([1.0, 2, 3])) == 0
    assert math.isnan(stability.worst_drop(np.array([NAN])))


def test_steps_to_the_threshold_count_runs_that_never_reach_it_as_the_latest(
    tmp_path: Path,
) -> None:
    make_run(tmp_path / "a", [1.0, 5, 2, 9], seed=0)
    make_run(tmp_path / "b", [1.0, 2, 3, 5], seed=1)
    make_run(tmp_path / "c", [1.0, 2, 3, 4], seed=2)
    (row,) = compared(tmp_path, threshold=5).tables["thresholds"]
    assert (row["reached"], row["median_steps"], row["first_steps"]) == (2, 400, 200)
    assert row["last_steps"] == math.inf
    (row,) = compared(tmp_path, threshold={"CartPole-v1": 5}, steps=300).tables["thresholds"]
    assert (row["reached"], row["median_steps"]) == (1, math.inf)
    (row,) = compared(tmp_path).tables["thresholds"]
    assert (row["threshold"], row["source"]) == (475, "Gymnasium's reward threshold")


@pytest.mark.parametrize(
    ("algo", "settings", "target", "share"),
    [
        ("trpo", {}, 0.01, 0.5),  # above .01 by more than rounding
        ("ppo_kl", {}, 0.01, 0.25),  # above .015
        ("ppo_clip", {"algo.target_kl_multiplier": 3.0}, 0.01, 0.0),
        ("ppo_clip", {}, NAN, NAN),
    ],
)
def test_a_broken_bound_is_that_of_the_algorithm(
    algo: str, settings: dict[str, Any], target: float, share: float, tmp_path: Path
) -> None:
    kl = [0.005, 0.010001, 0.012, 0.02]
    columns = {"kl/old_new": kl, "kl/target": [target] * 4}
    make_run(tmp_path / "a", [1.0, 3, 2, 2], algo=algo, settings=settings, columns=columns)
    (row,) = compared(tmp_path).tables["stability"]
    assert row["worst_drop_normalized"] == pytest.approx(1 / (475 - 22))
    assert row["over_bound"] == pytest.approx(share, nan_ok=True)
    assert (row["worst_drop"], row["largest_kl"], row["updates"]) == (1, 0.02, 4)


def test_an_update_that_was_taken_back_kept_no_bound(tmp_path: Path) -> None:
    columns = {"kl/old_new": [0.005, NAN, math.inf, NAN], "kl/target": [0.01] * 4}
    make_run(tmp_path / "a", [1.0, 3, 2, 2], algo="trpo", columns=columns)
    (row,) = compared(tmp_path).tables["stability"]
    assert (row["over_bound"], row["updates"], row["not_finite"]) == (0.5, 4, 3)


# Words


def test_few_seeds_are_warned_of_with_what_chance_alone_would_do(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2, 3], "trpo": [4.0, 5, 6]}}
    found = compared(make_grid(tmp_path, finals))
    text = said(found, "too few seeds")
    assert "All groups have 3 seeds" in text
    assert "in 10% of all draws" in text  # 2 of the 20 ways to deal six runs into two threes


def test_one_seed_has_no_interval_and_nothing_is_told_apart(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, {"CartPole-v1": {"ppo_clip": [9.0], "trpo": [1.0]}}))
    assert "luck alone" in said(found, "too few seeds")
    assert math.isnan(found.tables["results"][0]["low"])
    assert not found.tables["improvement"][0]["told_apart"]
    assert "1 of 1 pair cannot be told apart" in said(found, "overlapping intervals")
    assert found.findings == [
        "CartPole-v1, at 1,200 environment steps: no comparison, which takes 5 seeds of two "
        "groups; there are ppo_clip 1 and trpo 1."
    ]


def test_a_group_of_one_seed_is_told_apart_from_nothing(tmp_path: Path) -> None:
    finals = {"ppo_clip": [9.0, 8, 9, 8, 9], "ppo_kl": [4.0, 3, 4, 3, 4], "trpo": [99.0]}
    grid = {"CartPole-v1": finals}
    found = compared(make_grid(tmp_path, grid))
    assert found.findings[0].endswith(
        "; its interval lies above that of ppo_kl; not compared, with fewer than 5 seeds: trpo (1)."
    )
    assert "ppo_clip has the highest" in found.findings[0]
    apart = {row["second"]: row["told_apart"] for row in found.tables["improvement"][:2]}
    assert apart == {"ppo_kl": True, "trpo": False}
    assert "ppo_clip and trpo" in said(found, "overlapping intervals")


def test_seeds_are_counted_in_each_environment(tmp_path: Path) -> None:
    grid = {
        "Acrobot-v1": {"ppo_clip": [-90.0], "trpo": [-400.0]},
        "CartPole-v1": {"ppo_clip": [400.0, 410], "trpo": [20.0, 21]},
    }
    found = compared(make_grid(tmp_path, grid))
    text = said(found, "too few seeds")
    assert "4 of 4 have fewer than 5 seeds: ppo_clip in Acrobot-v1 has 1 seed" in text
    assert "ppo_clip in CartPole-v1 has 2 seeds" in text
    assert "luck alone" in text
    assert "in 33% of all draws" in text  # 2 of the 6 ways to deal four runs into two pairs


WORDS = r"highest|lies above|better than|is told apart|ahead"


@pytest.mark.parametrize("seeds", [1, 2, 4, 5])
def test_below_five_seeds_nothing_is_said_to_differ(
    seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"ppo_clip": range(400, 400 + seeds), "trpo": range(20, 20 + seeds)}
    found = compared(make_grid(tmp_path, {"CartPole-v1": one, "Acrobot-v1": one}))
    _print(found)
    printed = capsys.readouterr().out
    captions = r"(?s)<(style|script)>.*?</\1>|<p class=.caption.*?</p>"
    page_text = re.sub(captions, "", page(found, figures(found), ""))
    in_words = [printed, " ".join(found.findings), page_text, markdown(found, [], "")]
    assert [bool(re.search(WORDS, text)) for text in in_words] == [seeds >= 5] * 4
    (pair,) = found.tables["improvement"]
    assert (pair["seeds"], pair["told_apart"]) == (seeds, seeds >= 5)
    (cells,) = next(t for t in tables.tables(found) if t.name == "improvement").cells
    assert cells[3] == ("yes" if seeds >= 5 else "too few seeds")


def test_a_best_mean_that_loses_most_comparisons_is_said_to(tmp_path: Path) -> None:
    worse = {"ppo_clip": [10.0, 11, 12, 13, 14], "trpo": [20.0, 21, 22, 23, 24]}
    better = {"ppo_clip": [490.0, 491, 492, 493, 494], "trpo": [30.0, 31, 32, 33, 34]}
    finals = {"CartPole-v1": better, "CartPole-v0": worse, "Other-v0": worse}
    scale = {env: [0.0, 500.0] for env in finals}
    found = compared(make_grid(tmp_path, finals), statistic="mean", references=scale)
    (pair,) = found.tables["improvement"]
    assert (pair["probability"], pair["told_apart"]) == (pytest.approx(1 / 3), True)
    assert "ppo_clip has the highest mean" in found.findings[0]
    assert "But a run of trpo is more often than not better" in found.findings[0]
    assert "every other group" not in found.findings[0]


def test_groups_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for ratio in (10.0, 3.0, 0.3, 1e-05):
        make_run(tmp_path / str(ratio), [1.0, 2], settings={"algo.clip_ratio": ratio})
    labels = [member.label for member in sorted_runs(tmp_path)]
    assert [float(label.split("=")[1]) for label in labels] == [1e-05, 0.3, 3.0, 10.0]


def test_one_run_is_shown_and_said_to_have_nothing_beside_it(tmp_path: Path) -> None:
    found = compared(make_run(tmp_path / "a", [1.0, 2.0]))
    assert "nothing to compare it with" in said(found, "one group")
    assert found.findings == []
    assert {figure.name for figure in figures(found)} >= {"learning_by_steps", "updates"}


def test_five_seeds_are_no_warning_and_ten_no_word(tmp_path: Path) -> None:
    five = {"CartPole-v1": {"ppo_clip": range(100, 105), "trpo": range(5)}}
    found = compared(make_grid(tmp_path / "five", five))
    assert not next(c for c in found.cautions if c.kind == "seeds").grave
    assert "overlapping intervals" not in kinds(found)
    assert "trpo" in found.findings[0]
    assert "its interval lies above that of trpo" in found.findings[0]
    ten = {"CartPole-v1": {"ppo_clip": range(100, 110), "trpo": range(10)}}
    assert kinds(compared(make_grid(tmp_path / "ten", ten))) == []


def test_groups_that_overlap_are_said_not_to_be_told_apart(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2, 3, 4, 5], "trpo": [1.5, 2.5, 3.5, 2, 4.5]}}
    found = compared(make_grid(tmp_path, finals))
    assert "ppo_clip and trpo" in said(found, "overlapping intervals")
    assert "its interval overlaps that of" in found.findings[0]


def test_different_versions_revisions_hardware_and_seeds_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 2])
    others = {"versions": {"rlkl": "0.2.0"}, "git_revision": "def", "hardware": {"cpu": "B"}}
    make_run(tmp_path / "b", [1.0, 2], seed=4, algo="trpo", summary=others,
             settings={"device": "cuda"})  # fmt: skip
    found = compared(tmp_path)
    assert "rlkl 0.1.0, torch 2.13.0 (1 run) and rlkl 0.2.0 (1 run)" in said(
        found, "different versions"
    )
    assert "abc (1 run) and def (1 run)" in said(found, "different revisions")
    assert "A chip, 2 (1 run) and B (1 run)" in said(found, "different hardware")
    assert "device cuda" in said(found, "different devices")
    assert "ppo_clip 0 and trpo 4" in said(found, "unequal seeds")
    assert [row["seeds"] for row in found.tables["provenance"]] == ["0", "4"]


def test_what_was_not_noted_down_is_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 2])
    make_run(tmp_path / "b", [1.0, 2], seed=1, summary={"git_revision": None, "hardware": None})
    assert not {"different revisions", "different hardware"} & set(kinds(compared(tmp_path)))


def test_runs_that_all_end_alike_have_no_scale(tmp_path: Path) -> None:
    finals = {"Unknown-v0": {"ppo_clip": [5.0, 5], "trpo": [5.0, 5]}}
    found = compared(make_grid(tmp_path, finals))
    assert "no scale to normalise with" in said(found, "no scale")
    assert found.tables["aggregates"] == []
    (pair,) = found.tables["improvement"]
    assert (pair["probability"], pair["low"], pair["told_apart"]) == (0.5, 0.5, False)


def test_a_fall_between_runs_that_end_alike_is_not_blown_up(tmp_path: Path) -> None:
    for seed, last in enumerate((5.0, 5.001)):
        make_run(tmp_path / str(seed), [5.0, 1.0, last], env="Unknown-v0", seed=seed)
    (row,) = compared(tmp_path).tables["stability"]
    assert row["worst_drop"] == 4
    assert math.isnan(row["worst_drop_normalized"])


# Charts


def test_32_groups_look_different_also_without_colour_for_a_while() -> None:
    looks = [style(number) for number in range(32)]
    assert len(set(looks)) == 32
    assert len({(look.color, look.marker) for look in looks}) == 32
    assert len({look.color for look in looks[:8]}) == 8
    assert len({look.marker for look in looks[:8]}) == 8
    for first, second in itertools.pairwise(looks):
        assert first.dashes != second.dashes


def test_ticks_are_round_numbers_within_the_range() -> None:
    assert ticks(0, 100_000) == [0, 20_000, 40_000, 60_000, 80_000, 100_000]
    assert ticks(-0.03, 1.03) == [0, 0.2, 0.4, pytest.approx(0.6), 0.8, 1]
    assert ticks(0.0008, 0.3, log=True) == [0.001, 0.01, 0.1]
    assert ticks(0.02, 0.3, log=True) == [0.02, 0.05, 0.1, 0.2]
    assert len(ticks(1e-30, 1e30, log=True)) <= 8
    assert [tick_text(x) for x in (0, 0.25, -3, 20000, 1.5e6, 1e-5)] == [
        "0", "0.25", "−3", "20k", "1.5M", "1e−5",
    ]  # fmt: skip


def test_of_too_many_pairs_those_with_the_best_group_are_drawn(tmp_path: Path) -> None:
    for place in range(9):
        make_run(tmp_path / str(place), [float(place)] * 2, settings={"gamma": 0.9 + place / 100})
    found = compared(tmp_path)
    assert len(found.tables["improvement"]) == 36
    (figure,) = (figure for figure in figures(found) if figure.name == "improvement")
    (chart,) = figure.charts
    assert isinstance(chart, DotChart)
    assert len(chart.dots) == 8
    assert {dot.group for dot in chart.dots} == {"ppo_clip gamma=0.98"}
    assert "those with ppo_clip gamma=0.98 are drawn" in figure.caption


def test_long_labels_break_between_the_two_of_a_pair() -> None:
    assert wrapped("trpo > npg", 20) == ["trpo > npg"]
    assert wrapped("ppo_clip clip=0.1 > trpo", 20) == ["ppo_clip clip=0.1", "> trpo"]
    assert wrapped("ppo_clip gamma=0.99 clip=0.1", 20) == ["ppo_clip gamma=0.99", "clip=0.1"]


def test_the_range_of_an_axis_holds_what_is_drawn(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    for figure in figures(found):
        for chart in figure.charts:
            low, high = extent(chart, "y" if isinstance(chart, LineChart) else "x")
            assert math.isfinite(low)
            assert low < high
            if isinstance(chart, DotChart):
                assert all(low <= dot.value <= high for dot in chart.dots)


@pytest.mark.parametrize(
    ("level", "greatest", "told"),
    [
        (105.0, 106.0, ""),
        (128.0, 128.0, ""),
        (132.0, 106.0, "threshold 132 is above"),
        (-500.0, 106.0, ""),
    ],
)
def test_a_far_level_is_told_and_leaves_the_chart_to_the_curves(
    level: float, greatest: float, told: str
) -> None:
    line = Line("a", [0, 1], [0.0, 100.0])
    chart = LineChart("", "", "", [line], level=(level, "threshold"))
    low, high = extent(chart, "y")
    assert -15 < low < 0
    assert high == pytest.approx(greatest, rel=0.1)
    assert beyond(chart) == told
    drawn = svg.draw(chart, ["a"])
    assert told in drawn
    assert ('class="level"' in drawn) == (low < level < high)


def test_numbers_have_the_digits_that_their_intervals_give_meaning_to() -> None:
    assert spread(0.7063, 0.5538, 0.8331) == "0.71 [0.55, 0.83]"
    assert spread(-1104.84, -1153.8, -1051.77) == "−1,105 [−1,154, −1,052]"
    assert spread(500, 500, 500) == "500.000 [500.000, 500.000]"
    assert spread(3.14159, NAN, NAN) == "3.14"
    assert [number(x) for x in (NAN, math.inf, 12, True, -0.5)] == ["–", "∞", "12", "yes", "−0.5"]


# The command


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlkl"])
    return tmp_path


@pytest.mark.parametrize("drawn_for_real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_report_is_written_whole_and_never_over_another(
    *,
    drawn_for_real: bool,
    in_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not drawn_for_real:  # matplotlib takes seconds
        monkeypatch.setattr("rlkl.tools.compare.files.draw", lambda figure, labels: figure.name)
        monkeypatch.setattr(
            "rlkl.tools.compare.files.save", lambda name, path: path.write_text(name)
        )
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2], "trpo": [3.0, 4]}}
    rate = {"algo.learning_rate": 0.1}
    make_grid(in_folder / "made", finals)
    make_run(in_folder / "made" / "vpg", [0.0, 0.5], algo="vanilla_pg", settings=rate,
             per_row=600)  # fmt: skip
    keys = ("output=out", "resamples=200")
    assert command("made", *keys) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "out/report.html, out/report.md"
    assert "warning, too few seeds" in printed
    files = {str(path.relative_to(in_folder / "out")) for path in (in_folder / "out").rglob("*.*")}
    drawn = [path.stem for path in (in_folder / "out" / "figures").glob("*.png")]
    assert len(drawn) == 9
    expected = {f"figures/{name}.{suffix}" for name in drawn for suffix in ("png", "svg")}
    expected |= {f"data/{name}.csv" for name in (
        "runs", "results", "aggregates", "profiles", "improvement", "thresholds", "stability",
        "curves", "updates", "provenance", "settings",
    )}  # fmt: skip
    assert files == expected | {"report.html", "report.md"}
    with (in_folder / "out/data/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    iqm = {row["group"]: float(row["iqm"]) for row in rows}
    assert iqm == {"vanilla_pg": 0.5, "ppo_clip": 1.5, "trpo": 3.5}
    assert [row["low"] for row in rows if row["group"] == "vanilla_pg"] == [""]  # one seed

    html = (in_folder / "out" / "report.html").read_text()
    assert "rlkl compare made output=out resamples=200" in html
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import""", html)
    text = (in_folder / "out" / "report.md").read_text()
    images = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert images
    assert all((in_folder / "out" / image).exists() for image in images)
    widths = [
        {line.count("|") for line in table.splitlines()}
        for table in text.split("\n\n")
        if table.startswith("|")
    ]
    assert widths
    assert all(len(counts) == 1 for counts in widths)

    before = {path: path.stat().st_mtime_ns for path in (in_folder / "out").rglob("*")}
    assert command("made", *keys) == 2
    assert "report.html exists already and is not overwritten" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (in_folder / "out").rglob("*")} == before


def test_a_report_is_written_whole_or_not_at_all(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkl.tools.compare.files.draw", lambda figure, labels: figure.name)
    monkeypatch.setattr("rlkl.tools.compare.files.save", lambda name, path: path.write_text(name))
    make_grid(in_folder / "made", {"CartPole-v1": {"ppo_clip": [1.0, 2]}})
    (in_folder / "used").mkdir()
    (in_folder / "used" / "mine.txt").touch()
    before = sorted(in_folder.rglob("*"))

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    def overtaken(*_: object) -> str:  # by another command
        (in_folder / "used" / "report.md").write_text("another's")
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("rlkl.tools.compare.files.page", interrupted)
        for name in ("new", "used"):
            assert command("made", f"output={name}", "resamples=100") == 130
    assert sorted(in_folder.rglob("*")) == before
    monkeypatch.setattr("rlkl.tools.compare.files.page", overtaken)
    assert command("made", "output=used", "resamples=100") == 2
    assert "used/report.md exists already and is not overwritten" in capsys.readouterr().err
    assert sorted(in_folder.rglob("*")) == sorted([*before, in_folder / "used" / "report.md"])
    assert (in_folder / "used" / "report.md").read_text() == "another's"


@pytest.mark.slow
def test_figures_have_room_for_many_groups_with_long_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    details = {"gamma": 0.5, "gae_lambda": 0.5, "rollout_steps": 64, "scale_rewards": True,
               "normalize_observations": True, "algo.entropy_coefficient": 0.1}  # fmt: skip
    each = [{}, *({key: value} for key, value in details.items()), details]
    for algo, (place, settings) in itertools.product(("ppo_clip", "trpo"), enumerate(each)):
        folder = tmp_path / f"{algo}{place}"
        make_run(folder, [1.0, float(place)], algo=algo, settings=settings)
    found = compared(tmp_path)
    assert len(found.labels) == 16
    for figure in figures(found):
        drawing = draw(figure, found.labels)  # a warning, which is an error here, if it collapses
        drawing.draw_without_rendering()
        renderer = FigureCanvasAgg(drawing).get_renderer()
        page, panels = drawing.bbox, [axes for axes in drawing.axes if axes.get_visible()]
        for axes in panels:
            assert axes.bbox.width > 100
            assert axes.bbox.height > 100
            for part in (axes.title, axes.xaxis, axes.yaxis):
                box = part.get_tightbbox(renderer)
                assert page.x0 - 1 <= box.x0
                assert box.x1 <= page.x1 + 1
                assert page.y0 - 1 <= box.y0
                assert box.y1 <= page.y1 + 1
            # No two texts of a column of dots run into each other.
            rows = sorted(
                (text.get_window_extent(renderer) for text in axes.get_yticklabels()),
                key=lambda box: box.y0,
            )
            if any(isinstance(chart, DotChart) for chart in figure.charts):
                assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(rows))
        for legend in drawing.legends:
            box = legend.get_window_extent(renderer)
            assert page.x0 - 1 <= box.x0
            assert box.x1 <= page.x1 + 1
            assert box.y1 <= min(axes.bbox.y0 for axes in panels)


@pytest.mark.slow
def test_dollars_in_a_name_are_no_formula(tmp_path: Path) -> None:
    text = pytest.importorskip("matplotlib.text")
    env = r"of $\frac$"
    for algo in ("ppo_clip", "trpo"):
        make_run(tmp_path / algo, [1.0, 2.0], env=env, algo=algo,
                 settings={"policy.actor_hidden_sizes": env})  # fmt: skip
    found = compared(tmp_path)
    for figure in figures(found):
        drawing = draw(figure, found.labels)
        drawing.draw_without_rendering()
        assert not any(env in letters.get_text() for letters in drawing.findobj(text.Text))


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(in_folder: Path) -> None:
    make_grid(in_folder / "made", {"CartPole-v1": {"ppo_clip": [1.0, 2]}})
    contents = []
    for name in ("a", "b"):
        (in_folder / name).mkdir()
        assert command("made", f"output={name}", "resamples=100") == 0
        contents.append(
            {
                path.relative_to(in_folder / name): path.read_bytes().replace(b"=b", b"=a")
                for path in (in_folder / name).rglob("*.*")
            }
        )
    assert contents[0] == contents[1]


def test_names_that_look_like_code_are_shown_as_text(tmp_path: Path) -> None:
    make_run(tmp_path / "<script>alert(1)", [1.0, 2.0], env="<b>Env|v0<i>")
    found = compared(tmp_path)
    made = figures(found)
    shown = page(found, made, "rlkl compare '<script>alert(2)'")
    assert "<script>alert" not in shown
    assert "<b>Env" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "Env\\|v0" in markdown(found, made, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere: there is no such folder"),
        (("no*thing",), "no*thing: there is no such folder"),
        (("empty",), "empty has no runs in or below it"),
        (("begun",), "there is no run to compare yet; begun: it has no rows yet"),
        (("unscored",), "no run has a score to compare; unscored: no episode had ended"),
        (("run/metrics.csv",), "is a file; expected a run's folder"),
        (("output=x",), "expected folders of runs"),
        (("run", "--fast"), "--fast: there is no such flag"),
        (("run", "outptu=x"), "there is no key 'outptu' (did you mean output?)"),
        (("run", "statistic=median"), "statistic=median: expected one of iqm, mean"),
        (("run", "score=best"), "score=best: expected one of train, eval"),
        (("run", "steps=0"), "steps=0: expected a number at least 1"),
        (("run", "resamples=10"), "resamples=10: expected a number at least 100"),
        (("run", "threshold=high"), "threshold=high: expected a return"),
        (("run", "threshold={Acrobot-v1: -100}"), "expected one of CartPole-v1"),
        (("run", "references={CartPole-v1: [5, 1]}"), "expected two returns"),
        (("run", "normalize=a,b"), "expected key=value"),
        (("run", "output=run/metrics.csv"), "is a file; expected a folder"),
        (("run", "output=run/metrics.csv/a"), "output=run/metrics.csv/a cannot be made"),
        (("run", "Statistic=mean"), "there is no key 'Statistic'"),
        (("x" * 5000,), "there is no such folder"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_makes_nothing(
    arguments: tuple[str, ...], words: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(in_folder / "run", [1.0, 2.0])
    make_run(in_folder / "unscored", [NAN])
    (make_run(in_folder / "begun", [1.0]) / "metrics.csv").write_text("")
    (in_folder / "empty").mkdir()
    before = sorted(in_folder.rglob("*"))
    assert command(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert sorted(in_folder.rglob("*")) == before


def test_reports_of_one_second_have_folders_of_their_own(in_folder: Path) -> None:
    folders = {_made(None) for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() for folder in folders)
    assert _made("given") == _made("given") == Path("given")


def test_a_missing_extra_is_named(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(in_folder / "run", [1.0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command("run") == 2
    assert "rlkl compare needs the package matplotlib, which the extra 'plots' installs" in (
        capsys.readouterr().err
    )
    assert [path.name for path in in_folder.iterdir()] == ["run"]


def test_every_key_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    printed = capsys.readouterr().out
    for key in CompareConfig.__dataclass_fields__:
        assert f"  {key}=" in printed
    with pytest.raises(ConfigError, match="null is not one"):
        load_comparison(["resamples=null"])
    chosen = load_comparison(["threshold={CartPole-v1: 400, ALE/Pong-v5: 20}"])
    assert chosen.threshold_of("ALE/Pong-v5") == 20
    assert chosen.threshold_of("Acrobot-v1") is None


def test_every_key_is_on_its_page_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    printed = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE))
    defaults = {name: getattr(CompareConfig(), name) for name in CompareConfig.__dataclass_fields__}
    assert printed == {key: groups.text(value) for key, value in defaults.items()}


def test_the_library_example_of_the_page_runs(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    make_grid(in_folder / "runs", {"CartPole-v1": {"trpo": [3.0, 5.0]}})
    exec(example, {})
    assert capsys.readouterr().out == "CartPole-v1 trpo 4.0 3.0 5.0\n"


def test_tables_have_a_cell_for_each_heading(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    shown = tables.tables(found)
    assert len({table.title for table in shown}) == len(shown) >= 8
    for table in shown:
        assert {len(cells) for cells in table.cells} == {len(table.headings)}


@pytest.mark.slow
def test_runs_that_rlkl_trained_are_compared(in_folder: Path) -> None:
    for algo in ("ppo_clip", "trpo"):
        for seed in (0, 1):
            with pytest.raises(SystemExit):
                main(["train", f"algo={algo}", f"seed={seed}", "total_env_steps=6000",
                      "logger=quiet", "eval_episodes=2"])  # fmt: skip
    found = compared(in_folder / "runs")
    summaries = [json.loads(path.read_text()) for path in (in_folder / "runs").rglob("*.json")]
    by_place = {(row["group"], row["seed"]): row for row in found.tables["runs"]}
    for summary in summaries:
        row = by_place[summary["algo"], summary["seed"]]
        assert row["return"] == summary["return_mean"]
        assert row["evaluation"] == summary["eval_return"]
        # Its iterations are a part of the whole; how large a part, the machine says.
        assert 0 < row["wall_seconds"] <= summary["wall_seconds"]
    assert {row["updates"] for row in found.tables["stability"]} == {2 * summaries[0]["iterations"]}
    assert not {"different versions", "different hardware", "damaged lines"} & set(kinds(found))
