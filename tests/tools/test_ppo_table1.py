"""scripts/ppo_table1.py: settings of the PPO paper's table, and scores of known runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked_python
import pytest
import yaml

from rlkl.cli.compose import load
from rlkl.cli.schema import options, register_schemas

SCRIPT = Path(__file__).parents[2] / "scripts" / "ppo_table1.py"
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
    "name", [n if n == "no_clipping" else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS]
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


def make_run(folder: Path, setting: str, env_id: str, seed: int, **result: Any) -> None:
    """Write the files that the script reads."""
    algo, key, value = SETTINGS[setting]
    config = {
        "algo": {"name": algo, key: value},
        "env": {"num_envs": 1},
        "rollout_steps": 2048,
        "total_env_steps": 1_000_000,
    }
    summary = {
        "env_id": env_id, "seed": seed, "status": "finished", "env_steps": 1_001_472,
    } | result  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text(json.dumps(summary))


def run_script(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder)]
    return forked_python.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_scores_are_scaled_from_untrained_to_best_run(tmp_path: Path) -> None:
    # Untrained, HalfCheetah has -650.7 and InvertedPendulum 7.513; the best of both is 1000.
    runs = [
        ("clip_0.2", "HalfCheetah-v5", 0, 1000.0),  # 1
        ("clip_0.2", "HalfCheetah-v5", 1, 174.65),  # 0.5
        ("clip_0.2", "InvertedPendulum-v5", 0, 1000.0),  # 1
        ("clip_0.2", "InvertedPendulum-v5", 1, 1000.0),  # 1
        ("no_clipping", "HalfCheetah-v5", 0, -1476.05),  # -0.5
        ("no_clipping", "InvertedPendulum-v5", 0, 7.513),  # 0
        ("fixed_3", "HalfCheetah-v5", 0, -650.7),  # 0, the other environment missing
    ]
    for number, (setting, env_id, seed, value) in enumerate(runs):
        make_run(tmp_path / str(number), setting, env_id, seed, return_mean=value)
    # A shorter run with the same settings does not count, nor does another experiment.
    early = {"return_mean": 5000.0, "env_steps": 10, "status": "stopped"}
    make_run(tmp_path / "early", "clip_0.2", "HalfCheetah-v5", 0, **early)
    make_run(tmp_path / "worse", "clip_0.1", "Swimmer-v5", 0, return_mean=-3.0)
    make_run(tmp_path / "other", "clip_0.2", "Ant-v5", 0, return_mean=9000.0)
    make_run(tmp_path / "begun", "clip_0.2", "Hopper-v5", 0, return_mean=None)
    broken = {"return_mean": -1476.05, "env_steps": 4096, "status": "failed"}
    make_run(tmp_path / "broken", "no_clipping", "HalfCheetah-v5", 2, **broken)
    done = run_script(tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if "|" in line}
    assert rows["setting"] == (
        "| setting | paper | here | runs | HalfCheetah | InvertedPendulum | Swimmer |"
    )
    # A quarter of the resampled means of HalfCheetah is 0.5, another quarter 1.
    assert rows["clip_0.2"] == "| clip_0.2 | 0.82 | 0.88 [0.75, 1.00] | 4 of 21 | 0.75 | 1.00 |  |"
    assert rows["no_clipping"] == "| no_clipping | -0.39 | -0.25 | 3 of 21 | -0.50 | 0.00 |  |"
    assert rows["fixed_3"] == "| fixed_3 | 0.72 |  | 1 of 21 | 0.00 |  |  |"
    assert rows["fixed_10"] == "| fixed_10 | 0.69 |  | 0 of 21 |  |  |  |"
    assert "over 2 of 7 environments, without Hopper-v5" in done.stdout
    assert "No run of Swimmer-v5 did better than the policy before training" in done.stdout
    assert "no_clipping, HalfCheetah-v5, seed 2 failed after 4,096 steps" in done.stdout
    assert "stopped" not in done.stdout


@pytest.mark.slow
def test_missing_runs_are_an_error(tmp_path: Path) -> None:
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert "no run of experiment=ppo_table1 below" in done.stderr


@pytest.mark.slow
def test_real_runs_are_in_the_table(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    overrides = [EXPERIMENT, "env=invertedpendulum", "total_env_steps=2048", "logger=csv"]
    names = ["no_clipping", "clip_0.3", "adaptive_0.003", "fixed_10"]
    command = [sys.executable, "-m", "rlkl", "train", "-m", *overrides, f"table1={','.join(names)}"]
    forked_python.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = run_script(tmp_path)
    rows = [line.split("|")[1:5] for line in done.stdout.splitlines() if "| 1 of 21 |" in line]
    assert [row[0].strip() for row in rows] == names
    assert "Environment steps of a run: 2,048; in the paper 1,000,000." in done.stdout
