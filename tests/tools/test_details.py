"""experiment=details: which detail a run has, and the table of scripts/details.py."""

import math
from dataclasses import asdict
from pathlib import Path

import details
import pytest
from made_runs import make_run
from scipy import stats

from rlkl.cli.compose import load
from rlkl.cli.schema import options, register_schemas
from rlkl.training.config import leaves
from rlkl.utils.errors import ConfigError

register_schemas()
SLOW = pytest.mark.slow
FAST = ("none", "minibatches_32_rate_low", "relu")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else SLOW) for name in options("detail")],
)
def test_run_is_known_by_its_settings(name: str) -> None:
    algo = "trpo" if name.startswith("kl_") else "ppo_clip"
    config = load(["experiment=details", "env=halfcheetah", f"algo={algo}", f"detail={name}"])
    settings = dict(leaves(asdict(config)))
    assert details.detail_of(algo, "HalfCheetah-v5", settings) == name
    others = ({"gamma": 0.5}, {"env.kwargs": {"reset_noise_scale": 2}}, {"env.wrappers": ["A"]})
    for other in others:
        assert details.detail_of(algo, "HalfCheetah-v5", settings | other) is None
    older = {key: settings[key] for key in settings if key != "bootstrap_truncated"}
    assert details.detail_of(algo, "HalfCheetah-v5", older) == name.replace(
        "truncated_as_terminated", "none"
    )


@pytest.mark.parametrize("algo", [pytest.param(algo, marks=SLOW) for algo in details.RECIPES])
def test_recipe_is_the_experiment_of_its_name(algo: str) -> None:
    recipe = load([f"experiment={algo.removesuffix('_clip')}_mujoco", "env=walker2d"])
    changed = load([f"algo={algo}", "env=walker2d", f"detail={details.RECIPES[algo]}"])
    assert recipe == changed


def test_recipes_are_beside_published_returns(tmp_path: Path) -> None:
    settings = {"policy.log_std": -1.0, "algo.recompute_advantages": True}
    for seed, final in enumerate((400.0, 420.0)):
        summary = {"eval_return": final + 50}
        folder = tmp_path / str(seed)
        make_run(folder, [0.0, final], seed=seed, settings=settings, summary=summary)
    make_run(tmp_path / "longer", [0.0, 470.0], settings=settings | {"gamma": 0.995},
             summary={"eval_return": 490.0})  # fmt: skip
    make_run(tmp_path / "plain", [0.0, 1.0])
    assert details.recipes(details.run_rows([str(tmp_path)])) == [
        {
            "environment": "CartPole-v1", "algorithm": "`ppo_clip`", "seeds": "2",
            "return": "410 [282.9, 537.1]",  # 12.706 · 14.142 / √2
            "evaluation": "460", "published": "500 (RL Zoo), 478 (KLip-PPO)",
        },
        {
            "environment": "CartPole-v1", "algorithm": "`ppo_clip`, `gamma=0.995`", "seeds": "1",
            "return": "470", "evaluation": "490", "published": "500 (RL Zoo), 478 (KLip-PPO)",
        },
    ]  # fmt: skip


def test_change_has_a_welch_interval() -> None:
    difference, half = details.change([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert difference == 2.0
    assert half == pytest.approx(4.303 * math.sqrt(4 / 3 + 1 / 3))  # 2.94 degrees of freedom
    changed, plain = [1.0, 5.0, 2.0, 8.0, 3.0], [2.0, 4.0, 3.0, 6.0, 1.0, 5.0]
    test = stats.ttest_ind(changed, plain, equal_var=False)
    assert int(test.df) == 6
    difference, half = details.change(changed, plain)
    error = difference / test.statistic
    assert half == pytest.approx(stats.t.ppf(0.975, 6) * error, rel=1e-3)
    assert details.change([5.0], [1.0, 2.0]) == (3.5, pytest.approx(math.nan, nan_ok=True))


def test_table_has_the_best_detail_first(tmp_path: Path) -> None:
    for gae_lambda, finals in ((0.95, (10.0, 14.0)), (0.9, (30.0, 34.0)), (0.98, (2.0,))):
        for seed, final in enumerate(finals):
            settings = {"gae_lambda": gae_lambda}
            folder = tmp_path / f"{gae_lambda}-{seed}"
            make_run(folder, [0.0, final], seed=seed, settings=settings)
    tables = details.change_tables(details.run_rows([str(tmp_path)]))
    assert tables == {
        ("ppo_clip", 200): [
            # 4.303 · √(8/2 + 8/2), 2 degrees of freedom
            {"detail": "`gae_lambda_0.9`", "CartPole-v1": "+20 ± 12.2 (2)"},
            {"detail": "`none`", "CartPole-v1": "12 (2)"},
            {"detail": "`gae_lambda_0.98`", "CartPole-v1": "−10 (1)"},
        ]
    }


def test_changes_need_runs_of_none_with_the_same_budget(tmp_path: Path) -> None:
    row = {"environment": "A", "algorithm": "trpo", "budget": 100, "detail": "none", "return": 1.0}
    changed = row | {"detail": "relu", "return": 4.0}
    other_env, other_budget = {"environment": "B"}, {"budget": 200}
    tables = details.change_tables([row, changed, changed | other_env, changed | other_budget])
    shown = [{"detail": "`relu`", "A": "+3 (1)"}, {"detail": "`none`", "A": "1 (1)"}]
    assert tables == {("trpo", 100): shown}
    both = details.change_tables([row, changed, row | other_env])
    assert both["trpo", 100][0] == {"detail": "`relu`", "A": "+3 (1)", "B": "–"}


def test_page_keeps_runs_whose_folders_are_gone(tmp_path: Path) -> None:
    output = tmp_path / "output"
    for seed, final in ((0, 1.0), (1, 3.0)):
        make_run(tmp_path / "first" / str(seed), [0.0, final], seed=seed)
    details.make([str(tmp_path / "first")], output)
    make_run(tmp_path / "second" / "a", [0.0, 7.0], seed=1)
    make_run(tmp_path / "second" / "b", [0.0, 5.0], settings={"policy.activation": "relu"})
    assert details.make([str(tmp_path / "second")], output).startswith("3 runs.")
    page = (output / "details.md").read_text()
    assert "`ppo_clip`, 200 environment steps:" in page
    assert "| `none` | 4 (2) |" in page
    assert "| `relu` | +1 (1) |" in page


def test_missing_runs_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [1.0], summary={"status": "stopped"})
    with pytest.raises(ConfigError, match="no finished run of experiment=details; see docs/"):
        details.run_rows([str(tmp_path)])
