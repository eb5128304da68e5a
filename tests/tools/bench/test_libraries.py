"""The libraries do the work that the config says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measurements import measured

from rlkl.algos.first_order import FirstOrder
from rlkl.envs.make import EnvConfig, make_training_env
from rlkl.models.policy import PolicyConfig
from rlkl.tools.bench import libraries
from rlkl.tools.bench.work import ATARI_KWARGS, SEED, BenchConfig, Case, cases_of
from rlkl.training.trainer import Trainer


def test_train_config_has_the_settings_of_the_work() -> None:
    config = BenchConfig(
        env_id="Pendulum-v1", num_envs=[4], rollout_steps=64, minibatch_size=32, num_epochs=7,
        learning_rate=0.25, max_grad_norm=None, gamma=0.5, gae_lambda=0.75, clip_ratio=0.125,
        max_kl=0.5, cg_iterations=3,
    )  # fmt: skip
    ppo = libraries.train_config(config, Case("rlkl", 4, "ppo_clip"), "run")
    trpo = libraries.train_config(config, Case("rlkl", 4, "trpo"), "run")
    for made in (ppo, trpo):
        assert (made.env.id, made.env.num_envs, made.rollout_steps) == ("Pendulum-v1", 4, 64)
        assert (made.gamma, made.gae_lambda, made.device, made.threads) == (0.5, 0.75, "cpu", 1)
        critic = made.critic
        assert (critic.num_epochs, critic.num_minibatches, critic.learning_rate) == (7, 8, 0.25)
        assert critic.max_grad_norm is None
        assert made.logger.tensorboard
    assert made.policy == PolicyConfig(scale_actions=False)
    lstm = libraries.train_config(
        replace(config, memory="lstm"), Case("rlkl", 4, "ppo_clip"), "run"
    )
    expected = PolicyConfig(scale_actions=False, memory="lstm", sequence_length=64)
    assert lstm.policy == expected
    parts = ("num_epochs", "num_minibatches", "learning_rate", "learning_rate_schedule")
    assert [getattr(ppo.algo, part) for part in parts] == [7, 8, 0.25, "constant"]
    assert ppo.algo.ratio_bounds == (0.875, 1.125)
    parts = ("max_kl", "max_kl_schedule", "cg_iterations")
    assert [getattr(trpo.algo, part) for part in parts] == [0.5, "constant", 3]


def test_pong_is_learned_from_pixels_like_the_peer() -> None:
    pytest.importorskip("ale_py", reason="needs the extra 'atari'")
    work = BenchConfig(env_id="ALE/Pong-v5", num_envs=[2], value_coefficient=0.25)
    config = libraries.train_config(work, Case("rlkl", 2, "ppo_clip"), "run")
    assert config.env == EnvConfig(
        "ALE/Pong-v5", 2, frame_stack=4, kwargs={"repeat_action_probability": 0.0}
    )
    policy = config.policy
    assert (policy.actor_hidden_sizes, policy.critic_hidden_sizes) == ([], [])
    assert (policy.share_encoder, policy.activation, config.clip_rewards) == (True, "relu", 1.0)
    assert policy.shared_value_coefficient == 0.25
    assert "upper_bound_sync" not in [case.library for case in cases_of(work)[0]]


def test_sb3_sees_the_frames_of_rlkl() -> None:
    for package, extra in (("ale_py", "atari"), ("stable_baselines3", "bench")):
        pytest.importorskip(package, reason=f"needs the extra '{extra}'")
    from rlkl.tools.bench.sb3_atari import AtariVecEnv

    work = BenchConfig(env_id="ALE/Pong-v5")
    theirs, ours = AtariVecEnv("ALE/Pong-v5", 2, **ATARI_KWARGS), make_training_env(work.env(2))
    frames, observations = theirs.reset(), ours.reset([SEED, SEED + 1])
    total = np.zeros(2)
    for number in range(80):
        assert frames.shape == (2, 4, 84, 84)
        (seen,) = observations.values()
        assert np.array_equal(frames.reshape(seen.shape), seen)
        actions = np.array([number % 6, 2])
        frames, rewards, dones, infos = theirs.step(actions)
        step = ours.step(actions)
        observations = step.observations
        assert rewards.tolist() == np.clip(step.rewards, -1, 1).tolist()
        assert not dones.any()
        assert infos == [{}, {}]
        total += rewards
    assert (total < 0).all()  # both lost a point
    theirs.close()
    ours.close()


def test_actor_and_critic_make_all_optimizer_steps(tmp_path: Path) -> None:
    config = BenchConfig(work="x", rollout_steps=16, minibatch_size=32, num_envs=[8], num_epochs=3)
    case = Case("rlkl", 8, "ppo_clip")
    trainer = Trainer(libraries.train_config(config, case, str(tmp_path / "run")))
    assert isinstance(trainer.learner.policy_optimizer, FirstOrder)
    optimizers = (trainer.learner.policy_optimizer.adam, trainer.learner.critic_fit.adam)
    trainer.learner.iterate()
    # Autoreset steps are dropped from the batch, but the number of optimizer steps is the same.
    assert [int(optimizer.num_steps) for optimizer in optimizers] == [3 * 4, 3 * 4]
    trainer.learner.envs.close()


def test_wrong_number_of_optimizer_steps_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries.LIBRARIES, "sb3", lambda *_: measured(1.0))
    case = Case("sb3", 8, "ppo_clip")
    libraries.measure(BenchConfig(num_epochs=1), case, 0.0)
    with pytest.raises(RuntimeError, match=r"made 4 optimizer steps .*; the work has 8"):
        libraries.measure(BenchConfig(num_epochs=2), case, 0.0)
