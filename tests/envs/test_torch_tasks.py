"""The tasks in torch do what Gymnasium's do, step for step."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from rlkl.envs.torch_tasks import TorchAcrobot, TorchCartPole, TorchPendulum, TorchVectorEnv

TASKS: dict[str, type[TorchVectorEnv]] = {
    "CartPole-v1": TorchCartPole,
    "Pendulum-v1": TorchPendulum,
    "Acrobot-v1": TorchAcrobot,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TASKS),
    ("CartPole-v1", {"sutton_barto_reward": True}),
    ("CartPole-v1", {"max_episode_steps": 12}),
    ("Pendulum-v1", {"g": 3.5, "max_episode_steps": 40}),
    ("Acrobot-v1", {"max_episode_steps": 30}),
]


def random_actions(envs: TorchVectorEnv, generator: torch.Generator) -> Tensor:
    if isinstance(envs.single_action_space, gym.spaces.Discrete):
        sizes = int(envs.single_action_space.n)
        return torch.randint(sizes, (envs.num_envs,), generator=generator)
    return 3 * torch.randn(envs.num_envs, 1, generator=generator)


def start_in(env: gym.Env[Any, Any], state: Tensor, seed: int) -> None:
    env.reset(seed=seed)
    env.unwrapped.state = state.numpy().copy()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [pytest.param(*v, marks=pytest.mark.slow if v[1] else ()) for v in VARIANTS],
)
def test_tasks_equal_gymnasium_step_for_step(name: str, kwargs: dict[str, Any]) -> None:
    envs = TASKS[name](4, **kwargs)
    others = [gym.make(name, disable_env_checker=True, **kwargs) for _ in range(4)]
    assert envs.single_observation_space == others[0].observation_space
    assert envs.single_action_space == others[0].action_space
    observations, _ = envs.reset(seed=3)
    generator = torch.Generator().manual_seed(5)
    for i, other in enumerate(others):
        start_in(other, envs.get_state()["state"][i], i)
    ends = 0
    for _ in range(620):
        actions = random_actions(envs, generator)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        ended = terminated | truncated
        assert torch.equal(infos["_final_obs"], ended)
        assert torch.equal(infos["final_obs"][~ended], observations[~ended])
        for i, other in enumerate(others):
            action = actions[i].numpy() if actions.ndim > 1 else int(actions[i])
            seen, reward, dead, cut, _ = other.step(action)
            np.testing.assert_allclose(infos["final_obs"][i].numpy(), seen, rtol=0, atol=1e-5)
            assert rewards[i].item() == pytest.approx(reward, abs=1e-5)
            assert (bool(terminated[i]), bool(truncated[i])) == (dead, cut)
            if dead or cut:
                ends += 1
                start_in(other, envs.get_state()["state"][i], i)
    assert ends >= 4


@pytest.mark.parametrize("name", TASKS)
def test_first_states_are_gymnasiums(name: str) -> None:
    envs, other = TASKS[name](4000), gym.make(name)
    first = envs.reset(seed=0)[0].numpy()
    assert first.dtype == np.float32
    theirs = np.array([other.reset(seed=i)[0] for i in range(1000)])
    np.testing.assert_allclose(first.min(0), theirs.min(0), atol=0.05)
    np.testing.assert_allclose(first.max(0), theirs.max(0), atol=0.05)
    np.testing.assert_allclose(first.std(0), theirs.std(0), atol=0.05)


@pytest.mark.parametrize("name", TASKS)
def test_state_determines_what_follows(name: str) -> None:
    first, second = TASKS[name](8, max_episode_steps=7), TASKS[name](8, max_episode_steps=7)
    first.reset(seed=1)
    second.reset(seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        first.step(random_actions(first, generator))
    second.set_state(first.get_state())
    for _ in range(20):
        actions = random_actions(first, generator)
        for one, other in zip(first.step(actions)[:4], second.step(actions)[:4], strict=True):
            assert torch.equal(one, other)


def test_same_seed_gives_the_same_episodes() -> None:
    one, other = TorchCartPole(5), TorchCartPole(5)
    assert torch.equal(one.reset(seed=9)[0], other.reset(seed=9)[0])
    assert not torch.equal(one.reset()[0], other.reset(seed=9)[0])
