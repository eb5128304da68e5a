"""A clone's folder: it is a run's, for the other commands and for a learner."""

import csv
import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cloning_data import config_for

import rlkl
from rlkl.cli.evaluate import run_episodes
from rlkl.tools.cloning.clone import CHARTS, CloneSummary, clone, open_source
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.fit import COLUMNS
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.learner import Learner
from rlkl.training.trained_policy import load_run
from rlkl.utils.errors import ConfigError

SHORT = CloneConfig(env_steps=60, epochs=3, batch_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on CartPole, which normalizes observations and scales rewards."""
    run_dir = tmp_path_factory.mktemp("clone") / "run"
    config = config_for(
        "CartPole-v1", run_dir=str(run_dir), normalize_observations=True, scale_rewards=True
    )
    rlkl.train(config)
    return run_dir


def clone_of(
    trained: Path, run_dir: Path, config: CloneConfig = SHORT, **settings: Any
) -> CloneSummary:
    train = replace(open_source(str(trained)).train, run_dir=str(run_dir), **settings)
    return clone(str(trained), config, train)


def state_of(run_dir: Path) -> dict[str, Any]:
    return load_checkpoint(run_dir / "checkpoints" / "last.pt")


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_folder_is_a_runs(trained: Path, tmp_path: Path) -> None:
    summary = clone_of(trained, tmp_path / "clone", eval_episodes=2)
    files = {str(path.relative_to(tmp_path / "clone")) for path in (tmp_path / "clone").rglob("*")}
    assert files == {
        "checkpoints", "checkpoints/last.pt", "config.yaml", "metrics.csv", "summary.json",
    }  # fmt: skip
    content = json.loads((tmp_path / "clone" / "summary.json").read_text())
    assert (content["status"], content["env_steps"], content["data"]) == (
        "finished",
        0,
        str(trained),
    )
    assert content["eval_return"] == summary.eval_return
    assert content["clone"]["epochs"] == 3
    assert summary.run_dir == tmp_path / "clone" and "run_dir" not in content
    assert summary.steps_fitted + summary.steps_held_out == 60
    text = (tmp_path / "clone" / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == ["epoch", *COLUMNS]
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    best = min(rows, key=lambda row: float(row["held_out/loss"]))
    assert int(best["epoch"]) == summary.policy_epoch
    assert float(best["held_out/kl"]) == summary.results["held_out/kl"]
    values = [float(row["held_out/value_loss"]) for row in rows]
    assert summary.critic_epoch == int(np.argmin(values))


def test_tensorboard_has_a_point_per_epoch(trained: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = rlkl.LoggerConfig(progress="none")
    clone_of(trained, tmp_path / "clone", logger=logger, eval_episodes=0)
    events = EventAccumulator(str(tmp_path / "clone"), {"scalars": 0}).Reload()
    rows = list(csv.DictReader((tmp_path / "clone" / "metrics.csv").read_text().splitlines()))
    assert set(events.Tags()["scalars"]) == {f"clone/{column}" for column in COLUMNS}
    for column in COLUMNS:
        written = [(int(row["epoch"]), float(row[column])) for row in rows if row[column]]
        shown = [(event.step, event.value) for event in events.Scalars(f"clone/{column}")]
        assert [step for step, _ in shown] == [epoch for epoch, _ in written]
        assert [value for _, value in shown] == pytest.approx([value for _, value in written])
    drawn = [tag for tags in CHARTS["Clone, by epoch"].values() for tag in tags]
    assert set(drawn) <= set(events.Tags()["scalars"])
    assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_checkpoint_has_the_form_of_training(trained: Path, tmp_path: Path) -> None:
    clone_of(trained, tmp_path / "clone")
    ours, theirs = state_of(tmp_path / "clone"), state_of(trained)
    assert set(theirs) - set(ours) == {"run"}
    assert ours["policy_description"] == theirs["policy_description"]
    assert ours["normalizer"]["count"] == ours["reward_scaler"]["count"] > 40
    assert {key: tensor.shape for key, tensor in ours["policy"]["actor"].items()} == {
        key: tensor.shape for key, tensor in theirs["policy"]["actor"].items()
    }
    with closing(Learner(config_for("CartPole-v1", normalize_observations=True,
                                    scale_rewards=True))) as learner:  # fmt: skip
        learner.load_policy(ours)
        assert_same(learner.policy.state_dict(), ours["policy"])
        assert learner.iterate().env_steps == 32


def test_clones_with_one_seed_are_identical(trained: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        clone_of(trained, tmp_path / name)
    clone_of(trained, tmp_path / "c", seed=1)
    first, again, other = (state_of(tmp_path / name) for name in "abc")
    for part in ("policy", "normalizer", "reward_scaler", "critic_fit", "policy_optimizer"):
        assert_same(first[part], again[part])
    files = [(tmp_path / name / "metrics.csv").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert not torch.equal(*(s["policy"]["actor"]["head.0.weight"] for s in (first, other)))


def test_other_commands_take_the_clone(trained: Path, tmp_path: Path) -> None:
    clone_of(trained, tmp_path / "clone")
    action = rlkl.load_policy(tmp_path / "clone").act(np.zeros(4, np.float32))
    assert action in (0, 1)
    run = load_run(tmp_path / "clone")
    assert len(run_episodes(run, 2, 0, "sampled").returns) == 2
    assert clone_of(tmp_path / "clone", tmp_path / "again").env_id == "CartPole-v1"


def test_clone_cannot_resume(trained: Path, tmp_path: Path) -> None:
    clone_of(trained, tmp_path / "clone")
    with pytest.raises(ConfigError, match="no checkpoint from which a run can resume"):
        rlkl.resume(tmp_path / "clone")


@pytest.mark.slow
def test_other_networks_can_be_cloned_into(trained: Path, tmp_path: Path) -> None:
    policy = rlkl.PolicyConfig(memory="gru", memory_size=4, actor_hidden_sizes=[4])
    summary = clone_of(trained, tmp_path / "clone", policy=policy, normalize_observations=False)
    state = state_of(tmp_path / "clone")
    assert state["normalizer"] is None
    assert state["policy_description"]["config"]["memory"] == "gru"
    assert math.isfinite(summary.results["held_out/kl"] or math.nan)


def test_existing_folder_is_refused_first(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkl.tools.cloning.clone.Learner", lambda config: 1 / 0)
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        clone_of(trained, tmp_path)


def test_default_folder_is_below_runs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clone(str(trained), replace(SHORT, epochs=1))
    (run_dir,) = (tmp_path / "runs" / "CartPole-v1" / "clone").iterdir()
    assert (run_dir / "checkpoints" / "last.pt").exists()


def test_too_little_data_creates_nothing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the data has 1 episode"):
        clone_of(trained, tmp_path / "clone", CloneConfig(env_steps=1))
    assert not (tmp_path / "clone").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_steps": 0}, "env_steps=0: expected a number at least 1"),
        ({"env_steps": 5, "episodes": 5}, "env_steps=5 and episodes=5: each says how much"),
        ({"held_out": 1.0}, "held_out=1.0: expected a number above 0 and below 1"),
        ({"epochs": 0}, "epochs=0: expected"),
        ({"patience": 0}, "patience=0: expected"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"learning_rate": 0}, "learning_rate=0: expected"),
        ({"max_grad_norm": -1}, "max_grad_norm=-1: expected"),
        ({"checkpoint": "first"}, "checkpoint=first: expected one of last, best"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        CloneConfig(**settings)
    assert str(error.value).startswith(message)


@pytest.mark.slow
def test_clone_of_cartpole_balances_as_well(tmp_path: Path) -> None:
    config = rlkl.TrainConfig(
        total_env_steps=80_000, run_dir=str(tmp_path / "run"),
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
    )  # fmt: skip
    rlkl.train(config)
    summary = clone_of(tmp_path / "run", tmp_path / "clone", CloneConfig(env_steps=20_000))
    assert summary.eval_return is not None
    assert summary.eval_return >= 475
    assert (summary.results["held_out/kl"] or math.inf) < 0.005
    assert (summary.results["held_out/kl_max"] or math.inf) < 0.1
    evaluation = run_episodes(load_run(tmp_path / "clone"), 20, 1, "deterministic")
    assert evaluation.mean_return >= 475
