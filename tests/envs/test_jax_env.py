"""JAX environments through DLPack; skipped where JAX is missing (extra: jax)."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from learning_loop import config_of, small_policy
from torch import Generator

import rlkl
from rlkl.engines.make import make_engine
from rlkl.envs.jax_env import JaxVectorEnv, from_brax
from rlkl.envs.make import EnvConfig, make_training_env, make_vector_env
from rlkl.envs.observations import VECTOR
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.rollouts.make import collector_for, make_batch
from rlkl.training.checkpoint import CheckpointConfig, as_bytes, load_checkpoint
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.loggers import LoggerConfig

jax = pytest.importorskip("jax")
pytest.importorskip("flax")


def cartpole(num_envs: int, limit: int = 9) -> TensorEnvironment:
    kwargs = {"max_episode_steps": limit}
    envs = make_training_env(EnvConfig("phys2d/CartPole-v1", num_envs, "tensor", kwargs=kwargs))
    assert isinstance(envs, TensorEnvironment)
    assert isinstance(envs._envs, JaxVectorEnv)
    return envs


def test_every_row_moves_also_at_resets() -> None:
    envs = cartpole(16)
    made = gym.make_vec("phys2d/CartPole-v1", 16, vectorization_mode="vector_entry_point")
    model: Any = made.func_env  # type: ignore[attr-defined]
    seen = envs.reset([0])[VECTOR]
    assert type(seen) is torch.Tensor
    assert seen.dtype == torch.float32
    generator = Generator().manual_seed(0)
    ends, steps, keys = 0, torch.zeros(16), jax.random.split(jax.random.PRNGKey(0), 16)
    for _ in range(40):
        actions = torch.randint(2, (16,), generator=generator)
        step = envs.step(actions)
        expected = model.transition(seen.numpy(), actions.numpy(), keys)
        assert step.final_observations is not None
        finals = step.final_observations[VECTOR]
        np.testing.assert_allclose(finals.numpy(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(step.terminated, model.terminal(expected, keys))
        assert torch.equal(step.rewards, torch.ones(16, dtype=torch.float64))
        steps += 1
        assert torch.equal(step.truncated, steps >= 9)
        ended = step.terminated | step.truncated
        assert torch.equal(step.begins, ended)
        assert step.is_transition.all()
        seen = step.observations[VECTOR]
        assert torch.equal(seen[~ended], finals[~ended])
        assert (seen[ended].abs() <= 0.05).all()
        steps[ended] = 0
        ends += int(ended.sum())
    assert ends > 50


def test_state_is_restored_bit_for_bit() -> None:
    first, second = cartpole(4), cartpole(4)
    first.reset([1])
    second.reset([2])
    push = torch.ones(4, dtype=torch.int64)
    first.step(push)
    state = first.state()
    assert state is not None
    second.set_state(state)
    for _ in range(15):
        one, other = first.step(push), second.step(push)
        assert torch.equal(one.observations[VECTOR], other.observations[VECTOR])


def test_seeds_choose_the_episodes() -> None:
    one, other = cartpole(4), cartpole(4)
    assert torch.equal(one.reset([5])[VECTOR], other.reset([5])[VECTOR])
    assert not torch.equal(one.reset([6])[VECTOR], other.reset([5])[VECTOR])


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(
        algo=config_of("ppo_clip", num_epochs=2),
        env=EnvConfig("phys2d/Pendulum-v0", 4, "tensor", kwargs={"max_episode_steps": 11}),
        logger=LoggerConfig(progress="none", tensorboard=False),
        rollout_steps=16,
        total_env_steps=256,
        eval_episodes=2,
        anneal=False,
        normalize_observations=True,
        checkpoint=CheckpointConfig(interval=1),
        **settings,
    )


def test_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    rlkl.train(config(run_dir=str(whole)))
    rlkl.train(replace(config(run_dir=str(cut)), total_env_steps=128))
    rlkl.resume(cut, lambda before: replace(before, total_env_steps=256))
    states = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, cut)]
    for part in ("policy", "critic_fit", "collector"):
        first, second = (as_bytes({part: state[part]}) for state in states)
        assert first == second


def test_evaluation_sees_the_same_environments_as_arrays() -> None:
    learner = Learner(config())
    learner.iterate()
    learner.close()
    result = learner.evaluate()
    assert result.lengths == [11, 11]
    arrays = make_vector_env(config().env)
    first = arrays.reset([3])
    tensors = make_training_env(config().env).reset([3])
    np.testing.assert_array_equal(first[VECTOR], tensors[VECTOR])
    assert arrays.backend == "tensor"


class Slider:
    """An environment in the form of Brax: a point that actions push."""

    action_size, observation_size = 2, {"state": 2, "other": 3}

    def reset(self, key: Any) -> Any:
        return self._state(jax.random.uniform(key, (2,)))

    def step(self, state: Any, action: Any) -> Any:
        return self._state(state.place + 0.1 * action)

    def _state(self, place: Any) -> Any:
        jnp = jax.numpy
        done = (jnp.abs(place) > 1.5).any().astype(jnp.float32)
        obs = {"state": place, "other": jnp.zeros(3)}
        return State(place=place, obs=obs, reward=-jnp.square(place).sum(), done=done)


class State(SimpleNamespace):
    """A state of `Slider`."""


jax.tree_util.register_pytree_node(
    State,
    lambda state: (list(vars(state).values()), list(vars(state))),
    lambda names, values: State(**dict(zip(names, values, strict=True))),
)


def test_brax_interface_trains() -> None:
    envs = TensorEnvironment(from_brax(Slider(), 6, max_episode_steps=8))
    policy = small_policy(envs.encoder, envs.action_space, engine="torch")
    engine = make_engine(policy)
    collector = collector_for(envs)(envs, engine, 20, Generator().manual_seed(0), [0] * 6)
    rollout = collector.collect()
    assert rollout.truncated.any()
    shown, finals = rollout.observations[VECTOR][1:], rollout.final_observations[VECTOR]
    assert torch.equal(shown[~rollout.ends], finals[~rollout.ends])
    torch.testing.assert_close(rollout.rewards.float(), -finals.square().sum(-1))
    assert len(make_batch(rollout, engine, 0.9, 0.8)) == 120


@pytest.mark.slow
def test_real_brax_environment_steps() -> None:
    brax_envs = pytest.importorskip("brax.envs")
    env = brax_envs.get_environment("fast")
    envs = TensorEnvironment(from_brax(env, 3, max_episode_steps=5))
    seen = envs.reset([0])[VECTOR]
    for _ in range(6):
        step = envs.step(torch.zeros(3, env.action_size))
    assert step.observations[VECTOR].shape == seen.shape


def test_state_of_the_brax_interface_is_restored() -> None:
    first, second = (
        TensorEnvironment(from_brax(Slider(), 3, max_episode_steps=4)) for _ in range(2)
    )
    first.reset([1])
    second.reset([2])
    push = torch.full((3, 2), 0.5)
    first.step(push)
    state = first.state()
    assert state is not None
    second.set_state(state)
    for _ in range(9):
        one, other = first.step(push), second.step(push)
        assert torch.equal(one.observations[VECTOR], other.observations[VECTOR])
        assert torch.equal(one.truncated, other.truncated)
