"""Real environments of each extra are made, stepped and trained on."""

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from learning_loop import Loop, config_of

from rlkl.cli.compose import load
from rlkl.cli.schema import CONFIG_DIR, options, register_schemas
from rlkl.envs.make import EnvConfig, find_spec, make_vector_env
from rlkl.envs.observations import ACTION_MASK, VECTOR
from rlkl.models.policy import Policy
from rlkl.utils.errors import ConfigError

EXTRAS = {
    "box2d": "Box2D",
    "mujoco": "mujoco",
    "atari": "ale_py",
    "minigrid": "minigrid",
    "envpool": "envpool",
}


def needs(extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(EXTRAS[extra]) is None
    return pytest.mark.skipif(missing, reason=f"needs the extra {extra}: pip install rlkl[{extra}]")


def case(name: str, config: EnvConfig, extra: str | None = None, **policy: Any) -> Any:
    marks = [needs(extra)] if extra else []
    return pytest.param(config, policy, marks=marks, id=name)


DIRECTION_AND_IMAGE = ["direction", "image"]
GRID = {"pixel_scale": 10.0, "image_features": 16}
CASES = [
    case("FrozenLake", EnvConfig("FrozenLake-v1", 2)),
    case("Taxi", EnvConfig("Taxi-v4", 2)),
    case("Blackjack", EnvConfig("Blackjack-v1", 2)),
    case("CliffWalking", EnvConfig("CliffWalking-v1", 2)),
    case("LunarLander", EnvConfig("LunarLander-v3", 2), "box2d"),
    case("LunarLander continuous", EnvConfig("LunarLander-v3", 2, kwargs={"continuous": True}),
         "box2d", box_distribution="tanh_gaussian"),
    case("HalfCheetah", EnvConfig("HalfCheetah-v5", 2), "mujoco"),
    case("HalfCheetah async", EnvConfig("HalfCheetah-v5", 2, "async"), "mujoco"),
    case("HalfCheetah shared", EnvConfig("HalfCheetah-v5", 2, "shared"), "mujoco"),
    case("MiniGrid", EnvConfig("MiniGrid-Empty-5x5-v0", 2, observation_keys=DIRECTION_AND_IMAGE),
         "minigrid", **GRID),
    case("MiniGrid async", EnvConfig("MiniGrid-Empty-5x5-v0", 2, "async",
         observation_keys=DIRECTION_AND_IMAGE), "minigrid", **GRID),
    case("Pong", EnvConfig("ALE/Pong-v5", 2, frame_stack=4), "atari", image_features=16),
    case("EnvPool CartPole", EnvConfig("CartPole-v1", 2, "envpool"), "envpool"),
    case("EnvPool Pendulum", EnvConfig("Pendulum-v1", 2, "envpool"), "envpool"),
]  # fmt: skip


@pytest.mark.parametrize("algo", ["ppo_clip", "trpo"])
@pytest.mark.parametrize(("config", "policy"), CASES)
def test_one_update_gives_finite_kl(config: EnvConfig, policy: dict[str, Any], algo: str) -> None:
    steps = 4 if "ALE/" in config.id else 32
    settings = config_of(algo, num_epochs=1, num_minibatches=2)
    loop = Loop(settings, config, rollout_steps=steps, **policy)
    batch = loop.collect()
    masks = batch.inputs.observations.get(ACTION_MASK)
    assert (masks is not None) == ("Taxi" in config.id)
    loop.optimizer.update(batch, 0.0)
    loop.critic_fit.update(batch, 0.0)
    loop.envs.close()
    assert steps * 2 * 0.7 < len(batch) <= steps * 2
    with torch.no_grad():
        new = loop.policy.distribution(batch.inputs)
        kl = new.at(batch.old_parameters).kl(new)
    assert torch.isfinite(batch.old_log_prob).all()
    assert torch.isfinite(kl).all()
    # TRPO leaves the policy unchanged if no step is better.
    assert 0 <= kl.mean() < 0.5
    if algo == "ppo_clip":
        assert kl.mean() > 0
    if masks is not None:
        assert masks.gather(1, batch.actions.unsqueeze(-1)).all()


register_schemas()
NEEDED = {
    "lunarlander": "box2d", "pong": "atari", "minigrid_empty": "minigrid",
} | dict.fromkeys(
    ("halfcheetah", "hopper", "inverteddoublependulum", "invertedpendulum", "reacher", "swimmer",
     "walker2d"), "mujoco",
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[needs(NEEDED[name])] if name in NEEDED else [])
        for name in options("env")
    ],
)
def test_environments_of_all_config_files_are_made(name: str) -> None:
    config = load([f"env={name}", "env.num_envs=1"])
    envs = make_vector_env(config.env)
    Policy(config.policy, envs.encoder, envs.action_space, torch.Generator())
    seen = envs.reset([0])
    envs.close()
    assert all(np.isfinite(part).all() for part in seen.values())
    # The first comment of the file, which the help shows, names the extra.
    extra = NEEDED.get(name)
    assert options("env")[name].endswith(f"(extra: {extra}).") == (extra is not None)


@pytest.mark.parametrize("extra", [*EXTRAS, "envs"])
def test_extras_in_messages_exist(extra: str) -> None:
    project = (Path(CONFIG_DIR).parent / "pyproject.toml").read_text()
    assert f"\n{extra} = [" in project


@needs("minigrid")
@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
def test_minigrid_encodes_direction_and_image(backend: str) -> None:
    keys = DIRECTION_AND_IMAGE
    envs = make_vector_env(EnvConfig("MiniGrid-Empty-5x5-v0", 2, backend, observation_keys=keys))
    assert envs.encoder.images == {"image/image": (3, 7, 7)}
    assert envs.encoder.vector_size == 4
    single = gym.make("MiniGrid-Empty-5x5-v0")
    expected, _ = single.reset(seed=0)
    seen = envs.reset([0, 0])
    for action in (1, 2, 0, 2):
        assert seen[VECTOR].tolist() == [[float(k == expected["direction"]) for k in range(4)]] * 2
        image = seen["image/image"][1]
        np.testing.assert_array_equal(image.transpose(1, 2, 0), expected["image"])
        expected, *_ = single.step(action)
        seen = envs.step(np.full(2, action)).observations
    envs.close()
    with pytest.raises(ConfigError, match=r"mission.*env\.observation_keys"):
        make_vector_env(EnvConfig("MiniGrid-Empty-5x5-v0", 2, backend))


def played(seeds: list[int], steps: int, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    envs = make_vector_env(EnvConfig("ALE/Pong-v5", 2, frame_stack=4, kwargs=kwargs))
    assert envs.backend == "ale"
    assert envs.encoder.images == {"image": (4, 84, 84)}
    generator = np.random.default_rng(0)
    frames, rewards = [envs.reset(seeds)["image"]], []
    for _ in range(steps):
        step = envs.step(generator.integers(0, 6, 2))
        frames.append(step.observations["image"].copy())
        rewards.append(step.rewards)
    envs.close()
    return np.stack(frames), np.stack(rewards)


@needs("atari")
def test_pong_stacks_frames_and_repeats_with_seeds() -> None:
    frames, rewards = played([3, 4], 60)
    assert frames.shape == (61, 2, 4, 84, 84)
    assert frames.dtype == np.uint8
    assert frames.max() > 100
    # The newest frame comes last.
    np.testing.assert_array_equal(frames[30:-1, :, 1:], frames[31:, :, :-1])
    again, _ = played([3, 4], 30)
    np.testing.assert_array_equal(frames[:31], again)
    other, _ = played([3, 5], 30)
    np.testing.assert_array_equal(frames[:31, 0], other[:, 0])
    assert not np.array_equal(frames[:31, 1], other[:, 1])
    # The opponent scores soon.
    assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0}
    assert rewards.min() == -1


@needs("atari")
def test_atari_rewards_are_raw_by_default() -> None:
    def largest(**kwargs: Any) -> float:
        envs = make_vector_env(EnvConfig("ALE/SpaceInvaders-v5", 1, kwargs=kwargs))
        envs.reset([0])
        # Fire without moving: the invaders above give at least 5 points.
        reward = max(envs.step(np.array([1])).rewards[0] for _ in range(120))
        envs.close()
        return float(reward)

    assert largest() >= 5
    assert largest(reward_clipping=True) == 1


@needs("atari")
def test_atari_resets_in_an_autoreset_step() -> None:
    envs = make_vector_env(EnvConfig("ALE/Pong-v5", 2, kwargs={"max_num_frames_per_episode": 200}))
    envs.reset([0, 1])
    steps = [envs.step(np.zeros(2, np.int64)) for _ in range(120)]
    envs.close()
    for i in range(2):
        ends = [t for t, step in enumerate(steps) if step.truncated[i]]
        assert len(ends) >= 2
        for t in ends[:-1]:
            assert steps[t].is_transition[i]
            assert not steps[t + 1].is_transition[i]
            assert steps[t + 1].begins[i]
        assert not any(step.terminated[i] for step in steps)


@needs("mujoco")
def test_halfcheetah_equals_gymnasium() -> None:
    single = gym.make("HalfCheetah-v5")
    expected, _ = single.reset(seed=5)
    envs = make_vector_env(EnvConfig("HalfCheetah-v5", 1))
    seen = envs.reset([5])
    action = np.linspace(-1, 1, 6, dtype=np.float32)
    for _ in range(5):
        assert seen[VECTOR].dtype == np.float64
        np.testing.assert_array_equal(seen[VECTOR][0], expected)
        expected, reward, *_ = single.step(action)
        step = envs.step(action[None])
        assert step.rewards[0] == pytest.approx(reward)
        seen = step.observations
    envs.close()


def test_frozenlake_is_one_hot_and_not_normalized() -> None:
    envs = make_vector_env(EnvConfig("FrozenLake-v1", 2, kwargs={"is_slippery": False}))
    seen = envs.reset([0, 1])
    assert seen[VECTOR].tolist() == [[1.0] + [0.0] * 15] * 2
    # 1 is down, 2 is right: the second field of the first row is 1, the first of the second is 4.
    step = envs.step(np.array([1, 2]))
    assert step.observations[VECTOR].argmax(1).tolist() == [4, 1]
    assert not envs.encoder.is_measured.any()
    envs.close()


def test_blackjack_is_three_one_hot_codes() -> None:
    envs = make_vector_env(EnvConfig("Blackjack-v1", 2))
    single = gym.make("Blackjack-v1")
    (total, card, ace), _ = single.reset(seed=7)
    (code, _) = envs.reset([7, 8])[VECTOR]
    sizes = [space.n for space in single.observation_space]
    assert np.flatnonzero(code).tolist() == [total, sizes[0] + card, sizes[0] + sizes[1] + ace]
    envs.close()


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "BipedalWalker-v3", "Walker2d-v5"])
def test_specs_are_found_without_making_environments(env_id: str) -> None:
    package = "mujoco" if env_id == "Walker2d-v5" else "Box2D"
    if importlib.util.find_spec(package) is None:
        with pytest.raises(ConfigError, match=r"rlkl\["):
            find_spec(env_id)
    else:
        assert find_spec(env_id).id == env_id
