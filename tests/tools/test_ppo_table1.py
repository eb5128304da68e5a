"""scripts/ppo_table1.py: settings of the PPO paper's table, and scores of known runs."""

import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import forked_python
import ppo_table1
import pytest
from made_runs import make_run

from rlkl.cli.compose import load
from rlkl.cli.schema import options, register_schemas
from rlkl.tools.rows import Rows, select
from rlkl.training.config import leaves
from rlkl.utils.errors import ConfigError

SLOW = pytest.mark.slow
EXPERIMENT = "experiment=ppo_table1"
SETTINGS = {
    "no_clipping": ("ppo_kl_fixed", "kl_coefficient", 0.0),
    "clip_0.1": ("ppo_clip", "clip_ratio", 0.1),
    "clip_0.2": ("ppo_clip", "clip_ratio", 0.2),
    "clip_0.3": ("ppo_clip", "clip_ratio", 0.3),
    "adaptive_0.003": ("ppo_kl", "target_kl", 0.003),
    "adaptive_0.01": ("ppo_kl", "target_kl", 0.01),
    "adaptive_0.03": ("ppo_kl", "target_kl", 0.03),
    "fixed_0.3": ("ppo_kl_fixed", "kl_coefficient", 0.3),
    "fixed_1": ("ppo_kl_fixed", "kl_coefficient", 1.0),
    "fixed_3": ("ppo_kl_fixed", "kl_coefficient", 3.0),
    "fixed_10": ("ppo_kl_fixed", "kl_coefficient", 10.0),
}


def test_every_row_has_a_config() -> None:
    assert set(options("table1")) == set(SETTINGS)


@pytest.mark.parametrize(
    "name", [n if n == "no_clipping" else pytest.param(n, marks=SLOW) for n in SETTINGS]
)
def test_row_has_the_settings_of_the_paper(name: str) -> None:
    pytest.importorskip("mujoco")
    register_schemas()
    config = load([EXPERIMENT, f"table1={name}", "env=reacher"])
    algo: Any = config.algo
    kind, key, value = SETTINGS[name]
    assert (algo.name, getattr(algo, key)) == (kind, value)
    # Table 3 of the paper: horizon 2048, Adam 3e-4, 10 epochs, minibatches of 64, γ 0.99, λ 0.95.
    assert (config.env.id, config.env.num_envs, config.rollout_steps) == ("Reacher-v5", 1, 2048)
    assert (algo.learning_rate, algo.learning_rate_schedule, algo.num_epochs) == (
        3e-4, "constant", 10,
    )  # fmt: skip
    assert 2048 / algo.num_minibatches == 64
    assert (config.gamma, config.gae_lambda, config.total_env_steps) == (0.99, 0.95, 1_000_000)
    assert config.policy.actor_hidden_sizes == config.policy.critic_hidden_sizes == [64, 64]
    assert (config.policy.activation, algo.entropy_coefficient) == ("tanh", 0.0)
    assert not config.policy.clip_actions
    assert not config.policy.scale_actions


def make_table_run(
    folder: Path, setting: str, env: str, seed: int, final: float, status: str = "finished",
    **settings: Any,
) -> None:  # fmt: skip
    wanted = ppo_table1.settings_of(setting, env) | settings
    make_run(
        folder, [-2000.0, final], env=env, algo=wanted["algo.name"], seed=seed, per_row=500_000,
        settings={k: v for k, v in wanted.items() if k not in ("run_dir", "seed", "env.id")},
        summary={"status": status},
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n == "clip_0.2" else pytest.param(n, marks=SLOW) for n in SETTINGS]
)
def test_run_is_known_by_its_settings(name: str, tmp_path: Path) -> None:
    make_table_run(tmp_path / "run", name, "Swimmer-v5", 1, 30.0)
    (row,) = ppo_table1.run_rows([str(tmp_path)])
    assert (row["setting"], row["environment"], row["seed"]) == (name, "Swimmer-v5", 1)
    assert (row["return"], row["budget"], row["kl"]) == (30.0, 1_000_000, 0.01)


@pytest.mark.parametrize(
    "settings",
    [{"normalize_observations": False}, {"env.kwargs": {"frame_skip": 2}}, {"gamma": 0.9}],
)
def test_other_runs_are_not_of_the_table(settings: dict[str, Any], tmp_path: Path) -> None:
    make_table_run(tmp_path / "run", "clip_0.2", "Swimmer-v5", 1, 30.0, **settings)
    make_run(tmp_path / "plain", [1.0], env="Swimmer-v5")
    make_run(tmp_path / "cartpole", [1.0])
    with pytest.raises(ConfigError, match="no finished run of experiment=ppo_table1"):
        ppo_table1.run_rows([str(tmp_path)])


def known_rows(folder: Path) -> Rows:
    # Untrained, HalfCheetah has -650.7 and InvertedPendulum 7.513; the best of both is 1000.
    runs = [
        ("clip_0.2", "HalfCheetah-v5", 0, 1000.0),  # 1
        ("clip_0.2", "HalfCheetah-v5", 1, 174.65),  # 0.5
        ("clip_0.2", "InvertedPendulum-v5", 0, 1000.0),  # 1
        ("clip_0.2", "InvertedPendulum-v5", 1, 1000.0),  # 1
        ("no_clipping", "HalfCheetah-v5", 0, -1476.05),  # -0.5
        ("no_clipping", "InvertedPendulum-v5", 0, 7.513),  # 0
        ("fixed_3", "HalfCheetah-v5", 0, -650.7),  # 0, the other environment missing
        ("clip_0.1", "Swimmer-v5", 0, -3.0),  # worse than untrained, so there is no scale
    ]
    for number, (setting, env, seed, value) in enumerate(runs):
        make_table_run(folder / str(number), setting, env, seed, value)
    make_table_run(folder / "failed", "no_clipping", "HalfCheetah-v5", 2, -1476.05, "failed")
    make_table_run(folder / "stopped", "clip_0.2", "HalfCheetah-v5", 2, 5000.0, "stopped")
    return ppo_table1.run_rows([str(folder)])


def test_scores_are_scaled_from_untrained_to_best_run(tmp_path: Path) -> None:
    rows = known_rows(tmp_path)
    made = {row.pop("setting"): list(row.values()) for row in ppo_table1.table(rows)}
    assert list(made) == [f"`{name}`" for name in SETTINGS]
    # A quarter of the resampled means of HalfCheetah is 0.5, another quarter 1.
    assert made["`clip_0.2`"] == ["0.82", "0.88 [0.75, 1.00]", "4 of 21", "0.75", "1.00"]
    assert made["`no_clipping`"] == ["-0.39", "-0.25", "3 of 21", "-0.50", "0.00"]
    assert made["`fixed_3`"] == ["0.72", "–", "1 of 21", "0.00", "–"]
    assert made["`fixed_10`"] == ["0.69", "–", "0 of 21", "–", "–"]
    assert ppo_table1.extent(rows) == (
        "9 of 231 runs are in, of 1,000,000 environment steps each. `no_clipping`, "
        "HalfCheetah-v5, seed 2 failed after 1,000,000 steps; its score is that of this time."
    )


def test_runs_are_added_to_those_of_earlier(tmp_path: Path) -> None:
    make_table_run(tmp_path / "a" / "run", "clip_0.2", "Hopper-v5", 0, 1000.0)
    make_table_run(tmp_path / "b" / "run", "clip_0.3", "Hopper-v5", 0, 506.985)
    output = tmp_path / "made"
    assert "1 of 231" in ppo_table1.make([str(tmp_path / "a")], output)
    assert "2 of 231" in ppo_table1.make([str(tmp_path / "b")], output)
    with (output / "runs.csv").open(newline="") as lines:
        assert [row["return"] for row in csv.DictReader(lines)] == ["1000.0", "506.985"]
    page = (output / "ppo_table1.md").read_text()
    assert "| `clip_0.3` | 0.70 | 0.50 | 1 of 21 | 0.50 |" in page
    make_table_run(tmp_path / "c" / "run", "clip_0.3", "Hopper-v5", 1, 1.0, total_env_steps=5)
    with pytest.raises(ConfigError, match="runs of 5 and 1,000,000 environment steps"):
        ppo_table1.make([str(tmp_path / "c")], output)


def test_data_and_page_agree() -> None:
    """The committed rows give the committed table."""
    with (ppo_table1.RESULTS / "runs.csv").open(newline="") as lines:
        rows: Rows = [row | {"return": float(row["return"])} for row in csv.DictReader(lines)]
    page = ppo_table1.PAGE.read_text()
    for row in ppo_table1.table(rows):
        assert f"| {' | '.join(row.values())} |" in page
    assert f"\n{len(rows)} of 231 runs are in" in page
    assert not select(rows, status="running")


@SLOW
def test_real_runs_are_in_the_table(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    overrides = [EXPERIMENT, "env=invertedpendulum", "total_env_steps=2048", "logger=csv"]
    names = ["no_clipping", "clip_0.3", "adaptive_0.003", "fixed_10"]
    command = [sys.executable, "-m", "rlkl", "train", "-m", *overrides, f"table1={','.join(names)}"]
    forked_python.run(command, cwd=tmp_path, check=True, capture_output=True)
    rows = ppo_table1.run_rows([str(tmp_path)])
    assert sorted(row["setting"] for row in rows) == sorted(names)
    assert "4 of 231 runs are in, of 2,048 environment steps each." in ppo_table1.extent(rows)


@SLOW
@pytest.mark.parametrize("env", ppo_table1.UNTRAINED)
def test_environment_changes_nothing_but_itself(env: str) -> None:
    """`env=`, which the page names, is the `env.id=` that the script reads with."""
    pytest.importorskip("mujoco")
    name = env.removesuffix("-v5").lower()
    config = load([EXPERIMENT, "table1=clip_0.2", f"env={name}"])
    assert dict(leaves(asdict(config))) == ppo_table1.settings_of("clip_0.2", env)
