"""The participants do the work that the config says."""

from dataclasses import replace
from pathlib import Path

import pytest
from measurements import measured

from rlkl.algos.first_order import FirstOrder
from rlkl.models.policy import PolicyConfig
from rlkl.tools.bench import contestants
from rlkl.tools.bench.work import BenchConfig, Entry
from rlkl.training.trainer import Trainer


def test_train_config_has_the_settings_of_the_work() -> None:
    config = BenchConfig(
        env_id="Pendulum-v1", num_envs=[4], rollout_steps=64, minibatch_size=32, num_epochs=7,
        learning_rate=0.25, max_grad_norm=None, gamma=0.5, gae_lambda=0.75, clip_ratio=0.125,
        max_kl=0.5, cg_iterations=3,
    )  # fmt: skip
    ppo = contestants.train_config(config, Entry("rlkl", 4, "ppo_clip"), "run")
    trpo = contestants.train_config(config, Entry("rlkl", 4, "trpo"), "run")
    for made in (ppo, trpo):
        assert (made.env.id, made.env.num_envs, made.rollout_steps) == ("Pendulum-v1", 4, 64)
        assert (made.gamma, made.gae_lambda, made.device, made.threads) == (0.5, 0.75, "cpu", 1)
        critic = made.critic
        assert (critic.num_epochs, critic.num_minibatches, critic.learning_rate) == (7, 8, 0.25)
        assert critic.max_grad_norm is None
        assert made.logger.tensorboard
    assert made.policy == PolicyConfig(scale_actions=False)
    lstm = contestants.train_config(
        replace(config, memory="lstm"), Entry("rlkl", 4, "ppo_clip"), "run"
    )
    expected = PolicyConfig(scale_actions=False, memory="lstm", sequence_length=64)
    assert lstm.policy == expected
    parts = ("num_epochs", "num_minibatches", "learning_rate", "learning_rate_schedule")
    assert [getattr(ppo.algo, part) for part in parts] == [7, 8, 0.25, "constant"]
    assert ppo.algo.ratio_bounds == (0.875, 1.125)
    parts = ("max_kl", "max_kl_schedule", "cg_iterations")
    assert [getattr(trpo.algo, part) for part in parts] == [0.5, "constant", 3]


def test_actor_and_critic_make_all_optimizer_steps(tmp_path: Path) -> None:
    config = BenchConfig(work="x", rollout_steps=16, minibatch_size=32, num_envs=[8], num_epochs=3)
    entry = Entry("rlkl", 8, "ppo_clip")
    trainer = Trainer(contestants.train_config(config, entry, str(tmp_path / "run")))
    assert isinstance(trainer.learner.policy_optimizer, FirstOrder)
    optimizers = (trainer.learner.policy_optimizer.adam, trainer.learner.critic_fit.adam)
    trainer.learner.iterate()
    # Autoreset steps are dropped from the batch, but the number of optimizer steps is the same.
    assert [int(optimizer.num_steps) for optimizer in optimizers] == [3 * 4, 3 * 4]
    trainer.learner.envs.close()


def test_wrong_number_of_optimizer_steps_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contestants.CONTESTANTS, "sb3", lambda *_: measured(1.0))
    entry = Entry("sb3", 8, "ppo_clip")
    contestants.measure(BenchConfig(num_epochs=1), entry, 0.0)
    with pytest.raises(RuntimeError, match=r"made 4 optimizer steps .*; the work has 8"):
        contestants.measure(BenchConfig(num_epochs=2), entry, 0.0)
