"""Environments with rsl_rl's interface, by a stand-in: none of the simulators is installed."""

from typing import Any

import gymnasium as gym
import pytest
import torch
from learning_loop import config_of, small_policy
from torch import Generator, Tensor

from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig
from rlkl.envs.observations import VECTOR
from rlkl.envs.rsl_rl_adapter import RslRlVectorEnv
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.models.policy import Inputs
from rlkl.rollouts.make import collector_for, make_batch
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.loggers import LoggerConfig
from rlkl.utils.errors import ConfigError


class StandIn:
    """A point that actions push, with rsl_rl's interface; it changes its tensors in place."""

    num_actions, max_episode_length, device = 2, 6, "cpu"

    def __init__(self, num_envs: int, groups: Any = dict, *, gives_finals: bool = False) -> None:
        self.num_envs, self.groups, self.gives_finals = num_envs, groups, gives_finals
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.int64)
        self.place = torch.zeros(num_envs, 2)
        self.seed(0)
        self._reset(torch.ones(num_envs, dtype=torch.bool))

    def seed(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)

    def _reset(self, rows: Tensor) -> None:
        first = torch.rand(self.num_envs, 2, generator=self.generator)
        self.place.copy_(first.where(rows[:, None], self.place))
        self.episode_length_buf.masked_fill_(rows, 0)

    def get_observations(self) -> Any:
        if self.groups is Tensor:
            return self.place
        return self.groups({"policy": self.place, "critic": torch.zeros(self.num_envs, 5)})

    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, dict[str, Any]]:
        self.place += 0.3 * actions
        self.episode_length_buf += 1
        rewards = -self.place.square().sum(-1)
        time_outs = self.episode_length_buf >= self.max_episode_length
        dones = time_outs | (self.place.abs() > 1.5).any(-1)
        extras: dict[str, Any] = {"time_outs": time_outs, "log": {}}
        if self.gives_finals:
            extras["final_obs"] = self.groups({"policy": self.place.clone()})
        self._reset(dones)
        return self.get_observations(), rewards, dones.long(), extras


def tensor_dict() -> Any:
    module = pytest.importorskip("tensordict")
    return lambda groups: module.TensorDict(groups, batch_size=[8])


@pytest.mark.parametrize("groups", ["dict", "TensorDict", "tensor"])
@pytest.mark.parametrize("gives_finals", [False, True])
def test_time_out_bootstraps_what_can_be_had(groups: str, gives_finals: bool) -> None:
    made: Any = {"dict": lambda: dict, "TensorDict": tensor_dict, "tensor": lambda: Tensor}
    kind = made[groups]()
    if groups == "tensor" and gives_finals:
        pytest.skip("one tensor has no groups")
    envs = TensorEnvironment(RslRlVectorEnv(StandIn(8, kind, gives_finals=gives_finals)))
    engine = make_engine(small_policy(envs.encoder, envs.action_space, engine="torch"))
    collector = collector_for(envs)(envs, engine, 30, Generator().manual_seed(0), [4] * 8)
    rollout = collector.collect()
    batch = make_batch(rollout, engine, 0.9, 0.0)
    shown = rollout.observations[VECTOR][:-1]

    def values_of(rows: Tensor) -> Tensor:
        return engine.values(Inputs({VECTOR: rows.flatten(0, 1)})).view(30, 8)

    values = values_of(shown)
    # rsl_rl adds γ · V(s_t) to the reward, and cuts the trace.
    after = values
    if gives_finals:
        # At these bounds nothing is clipped: the point moves by 0.3 times the action.
        after = values_of(shown + 0.3 * rollout.actions)
    cut, dead = rollout.truncated, rollout.terminated
    assert cut.sum() > 5
    assert dead.sum() > 3
    assert not (cut & dead).any()
    rewards, advantages = rollout.rewards.float(), batch.advantages.view(30, 8)
    expected = rewards + 0.9 * after - values
    torch.testing.assert_close(advantages[cut], expected[cut], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(advantages[dead], (rewards - values)[dead], rtol=1e-4, atol=1e-5)


def test_seed_reaches_the_environment() -> None:
    envs = RslRlVectorEnv(StandIn(3))
    envs.env.reset = lambda: (
        envs.env._reset(torch.ones(3, dtype=torch.bool)) or envs.env.get_observations()
    )
    first = envs.reset(seed=5)[0].clone()
    assert not torch.equal(envs.reset(seed=6)[0], first)
    assert torch.equal(envs.reset(seed=5)[0], first)


def test_unknown_group_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no group 'critik'; expected policy, critic.*critic"):
        RslRlVectorEnv(StandIn(3), group="critik")


def test_real_interface_of_rsl_rl_is_met() -> None:
    vec_env = pytest.importorskip("rsl_rl.env").VecEnv

    class Real(StandIn, vec_env):  # type: ignore[misc, valid-type]
        """Instances need every abstract method of rsl_rl's class."""

        cfg: Any = None

    envs = RslRlVectorEnv(Real(4), group="critic")
    assert envs.single_observation_space.shape == (5,)


def stand_in(num_envs: int) -> RslRlVectorEnv:
    return RslRlVectorEnv(StandIn(num_envs))


def test_registered_stand_in_trains_and_recreates_at_checkpoints() -> None:
    gym.register("StandIn-v0", vector_entry_point=stand_in)
    learner = Learner(
        TrainConfig(
            algo=config_of("ppo_clip", num_epochs=2),
            env=EnvConfig("StandIn-v0", 8, "tensor"),
            logger=LoggerConfig(progress="none", tensorboard=False),
            rollout_steps=16,
            total_env_steps=512,
            eval_episodes=3,
            normalize_observations=True,
            scale_rewards=True,
        )
    )
    assert learner.resets_at_checkpoints
    learner.iterate()
    learner.recreate_environments()
    learner.iterate()
    learner.close()
    assert len(learner.evaluate().returns) == 3
