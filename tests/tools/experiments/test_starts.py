"""Starting points of experiments: policies, their statistics and their returns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiment_configs import PENDULUM, TINY, silent

from rlkl.tools.experiments import clip, starts
from rlkl.training.checkpoint import as_bytes
from rlkl.training.evaluation import evaluate
from rlkl.training.learner import Learner
from rlkl.training.trainer import Trainer
from rlkl.utils.errors import ConfigError


def test_restored_learner_has_policy_and_statistics(tmp_path: Path) -> None:
    config = replace(PENDULUM, scale_rewards=True, run_dir=str(tmp_path / "run"), eval_episodes=1)
    trainer = Trainer(config)
    trainer.train()
    learner = trainer.learner
    restored = starts.restored(str(tmp_path / "run"))
    try:
        assert restored.config.env.id == "Pendulum-v1"
        assert torch.equal(starts.actor(restored), starts.actor(learner))
        assert restored.normalizer is not None and learner.normalizer is not None
        assert restored.normalizer.state_dict() == learner.normalizer.state_dict()
        assert restored.reward_scaler is not None and learner.reward_scaler is not None
        assert restored.reward_scaler.state_dict() == learner.reward_scaler.state_dict()
    finally:
        restored.envs.close()
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"last\.pt is not .*; \S+step_0\.pt can be read") as info:
        starts.restored(str(tmp_path / "run"))
    older = starts.restored(str(info.value).split("; ")[1].split(" ")[0])
    assert not torch.equal(starts.actor(older), starts.actor(learner))
    older.envs.close()


def test_checkpoint_of_other_networks_is_rejected(learner: Learner, tmp_path: Path) -> None:
    state = learner.state_dict()
    state["policy"] = {f"other_{name}": part for name, part in state["policy"].items()}
    (tmp_path / "x.pt").write_bytes(as_bytes(state))
    with pytest.raises(ConfigError, match=r"x\.pt is not the checkpoint of a run: KeyError"):
        starts.restored(str(tmp_path / "x.pt"))


def test_return_is_of_sampled_actions(learner: Learner) -> None:
    env = replace(learner.config.env, num_envs=5)
    seeds = learner.streams.integers("evaluation", 5)
    greedy = evaluate(learner.engine, env, 5, seeds).mean_return
    assert starts.sampled_return(learner, 5) != greedy
    generator = learner.streams.torch("evaluation actions")
    sampled = evaluate(learner.engine, env, 5, seeds, generator).mean_return
    assert starts.sampled_return(learner, 5) == sampled


def test_trained_policies_have_successive_seeds() -> None:
    made = list(starts.starting_policies(clip.ClipConfig(train=TINY, seeds=2), silent))
    assert [learner.config.seed for learner in made] == [TINY.seed, TINY.seed + 1]
    assert not torch.equal(*map(starts.actor, made))
