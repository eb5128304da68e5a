"""Iterations of a learner: fair between algorithms, repeatable, with the settings of the run."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments  # noqa: F401 (registers environments)
import torch
from learning_loop import CORE, iterate

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.engines.make import make_engine
from rlkl.rollouts.make import make_batch
from rlkl.training.report import TAGS

QUIET = rlkl.LoggerConfig(tensorboard=False, progress="none")


def config(algo: str | rlkl.AlgoConfig = "ppo_clip", **changes: Any) -> rlkl.TrainConfig:
    settings: dict[str, Any] = {
        "algo": ALGORITHMS[algo].config() if isinstance(algo, str) else algo,
        "total_env_steps": 600,
        "rollout_steps": 16,
        "eval_episodes": 2,
        "logger": QUIET,
    }
    return rlkl.TrainConfig(**settings | changes)


FIRST_ORDER = ("vanilla_pg", "ppo_clip", "ppo_kl", "ppo_kl_fixed")


IMAGES = rlkl.EnvConfig("SmallCounter-v0", 3, kwargs={"shows": "image"}, backend="sync")


GAUSSIAN = {
    "env": rlkl.EnvConfig("Pendulum-v1", 4),
    "normalize_observations": True,
    "scale_rewards": True,
}


WORLDS: dict[str, dict[str, Any]] = {
    "perceptron": {},
    "gaussian": GAUSSIAN,
    "state_dependent_std": GAUSSIAN | {"policy": rlkl.PolicyConfig(state_dependent_std=True)},
    "uniform": {"policy": rlkl.PolicyConfig(initialization="uniform")},
    "images": {"env": IMAGES, "policy": rlkl.PolicyConfig(image_features=16)},
    "gru": {"policy": rlkl.PolicyConfig(memory="gru", memory_size=8)},
    "lstm": {"policy": rlkl.PolicyConfig(memory="lstm", memory_size=8)},
    "shared": {
        "env": IMAGES,
        "policy": rlkl.PolicyConfig(image_features=16, share_encoder=True, memory="gru"),
    },
}


def leaves(node: Any) -> Iterator[torch.Tensor]:
    """Every array and number within a dataclass, as a tensor."""
    if is_dataclass(node):
        node = [getattr(node, field.name) for field in fields(node)]
    elif isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from leaves(child)
    elif node is not None:
        yield torch.as_tensor(node)


@pytest.mark.parametrize("world", WORLDS)
def test_algorithms_share_initial_weights_and_first_batch(
    world: str,
) -> None:
    met = []
    algos = {"perceptron": ALGORITHMS, "shared": FIRST_ORDER}
    for algo in algos.get(world, sorted(CORE)):
        trainer = rlkl.Trainer(config(algo, seed=3, **WORLDS[world]))
        policy = trainer.policy
        weights = [*policy.actor.parameters(), *policy.critic.parameters()]
        assert any(weight.ndim > 1 and weight.std() > 0 for weight in weights)
        rollout = trainer.learner.collector.collect()
        batch = make_batch(rollout, make_engine(policy), 0.99, 0.95, trainer.learner.reward_scaler)
        met.append([weight.detach().clone() for weight in weights])
        met[-1] += [*leaves(rollout), *leaves(batch)]
        trainer.learner.envs.close()
    assert len(met[0]) > 25
    for other in met[1:]:
        for expected, found in zip(met[0], other, strict=True):
            assert torch.equal(expected, found)


@pytest.mark.parametrize("world", ["perceptron", "gaussian"])
def test_first_critic_update_ignores_the_algorithm(
    world: str,
) -> None:
    vectors = []
    for algo in ALGORITHMS:
        trainer = rlkl.Trainer(config(algo, seed=3, **WORLDS[world]))
        trainer.learner.iterate()
        vectors.append(trainer.policy.critic_parameters.vector.detach().clone())
    assert all(torch.equal(vectors[0], vector) for vector in vectors[1:])


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", pytest.param("Pendulum-v1", marks=pytest.mark.slow)]
)
def test_seed_determines_every_bit(algo: str, env_id: str) -> None:
    def run(seed: int) -> tuple[torch.Tensor, list[float]]:
        trainer = rlkl.Trainer(
            config(
                algo,
                seed=seed,
                env=rlkl.EnvConfig(env_id, 4),
                normalize_observations=True,
                scale_rewards=True,
            )
        )
        numbers = []
        for _ in range(3):
            metrics = trainer.learner.iterate().scalars
            numbers += [v for tag, v in metrics.items() if not tag.startswith("time/")]
        return trainer.policy.actor_parameters.vector.detach().clone(), numbers

    (vector, numbers), (again, same), (other, _) = run(1), run(1), run(2)
    assert torch.equal(vector, again)
    np.testing.assert_array_equal(numbers, same)
    assert not torch.equal(vector, other)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_reports_the_same_tags(algo: str) -> None:
    trainer = rlkl.Trainer(config(algo))
    report = trainer.learner.iterate()
    metrics, histograms = report.scalars, report.histograms
    assert tuple(metrics) == tuple(TAGS)
    general = [
        tag
        for tag in TAGS
        if not tag.startswith(("trust_region/", "return/", "episode/", "policy/", "optim/"))
    ]
    optional = {"kl/target", "kl/coefficient", "kl/js_estimate"}
    of_reference = {"kl/reference", "kl/reference_coefficient"}
    for tag in set(general) - optional - of_reference:
        assert math.isfinite(metrics[tag]), tag
    assert all(len(values) for values in histograms.values())


def test_coefficient_follows_the_reported_kl() -> None:
    algo = rlkl.PPOKLConfig(kl_coefficient=1.0, target_kl=0.004, learning_rate=3e-3)
    trainer = rlkl.Trainer(config(algo=algo, total_env_steps=100_000))
    metrics = [trainer.learner.iterate().scalars for _ in range(12)]
    expected, factors = 1.0, set()
    for row in metrics:
        assert row["kl/coefficient"] == expected
        factor = 2.0 if row["kl/old_new"] > 0.006 else 0.5 if row["kl/old_new"] < 0.004 / 1.5 else 1
        expected *= factor
        factors.add(factor)
    assert {2.0, 0.5} <= factors


@pytest.mark.parametrize("algo", ["ppo_clip", "trpo"])
def test_schedules_are_followed_unless_annealing_is_off(algo: str) -> None:
    def steps(*, anneal: bool) -> list[tuple[float, float]]:
        critic = rlkl.CriticConfig(learning_rate=0.1, learning_rate_schedule="linear")
        env = rlkl.EnvConfig("Pendulum-v1", 8)  # 128 steps in an iteration, no episode ends
        changes: dict[str, Any] = {"critic": critic, "env": env, "total_env_steps": 512}
        trainer = rlkl.Trainer(config(algo, anneal=anneal, **changes))
        tag = "kl/target" if algo == "trpo" else "optim/lr"
        found = []
        for _ in range(5):
            metrics = trainer.learner.iterate().scalars
            found.append((metrics[tag], trainer.learner.critic_fit.adam.learning_rate))
        return found

    first = 0.01 if algo == "trpo" else 7e-4
    shares = [1.0, 0.75, 0.5, 0.25, 0.0]
    np.testing.assert_allclose(steps(anneal=True), [(first * s, 0.1 * s) for s in shares])
    np.testing.assert_allclose(steps(anneal=False), [(first, 0.1)] * 5)


def test_state_without_a_newer_key_is_loaded() -> None:
    trainer = rlkl.Trainer(config())
    state = trainer.learner.state_dict()
    del state["policy_description"]["config"]["clip_actions"]
    rlkl.Trainer(config()).learner.load_state_dict(state)


def test_actions_are_clipped_unless_that_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def furthest(*, clip: bool) -> float:
        policy = rlkl.PolicyConfig(clip_actions=clip, log_std=2.0)
        trainer = rlkl.Trainer(config(policy=policy, env=rlkl.EnvConfig("Pendulum-v1", 4)))
        taken, step = [], trainer.learner.envs.step
        monkeypatch.setattr(
            trainer.learner.envs, "step", lambda a: taken.append(a.copy()) or step(a)
        )
        trainer.learner.collector.collect()
        return float(np.abs(taken).max())

    assert furthest(clip=True) == 2.0  # Pendulum's bound
    assert furthest(clip=False) > 7.0  # a standard deviation of e²


def test_observation_statistics_change_between_iterations_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = rlkl.Trainer(config("ppo_clip", normalize_observations=True))
    assert trainer.learner.normalizer is not None
    seen = []
    update = trainer.learner.policy_optimizer.update

    def watched(*arguments: Any) -> Any:
        assert trainer.learner.normalizer is not None
        seen.append(trainer.learner.normalizer.moments.count)
        return update(*arguments)

    monkeypatch.setattr(trainer.learner.policy_optimizer, "update", watched)
    trainer.learner.iterate()
    first = trainer.learner.env_steps
    trainer.learner.iterate()
    assert seen == [0, first]
    assert trainer.learner.normalizer.moments.count == trainer.learner.env_steps


def test_observations_are_clipped_in_training_and_in_use(tmp_path: Path) -> None:
    settings = {"normalize_observations": True, "clip_observations": 0.5}
    trainer = rlkl.Trainer(config("ppo_clip", **settings, run_dir=str(tmp_path / "run")))
    trainer.learner.iterate()
    seen = trainer.learner.collector.collect().observations["vector"]
    assert np.abs(seen).max() == 0.5
    trainer.learner.close()
    rlkl.train(config("ppo_clip", **settings, run_dir=str(tmp_path / "run")))
    trained = rlkl.load_policy(tmp_path / "run")
    assert trained.normalizer is not None
    assert trained.normalizer.clip == 0.5


@pytest.mark.parametrize("bootstraps", [True, False])
def test_truncated_episodes_have_a_value_unless_that_is_off(
    bootstraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pendulum = {"env": rlkl.EnvConfig("Pendulum-v1", 4), "rollout_steps": 200, "gamma": 0.5}
    trainer = rlkl.Trainer(config("ppo_clip", **pendulum, bootstrap_truncated=bootstraps))
    learner, rollouts, batches = trainer.learner, [], []
    learner.on_rollout = rollouts.append
    update = learner.updates.update

    def watched(batch: Any, *arguments: Any) -> Any:
        batches.append(batch)
        return update(batch, *arguments)

    monkeypatch.setattr(learner.updates, "update", watched)
    learner.iterate()
    last = torch.from_numpy(rollouts[0].rewards[-1]).float()
    assert rollouts[0].truncated[-1].all()
    assert torch.allclose(batches[0].returns.view(200, 4)[-1], last) is not bootstraps


def test_reported_returns_are_not_scaled() -> None:
    plain = rlkl.Trainer(config("trpo", env=rlkl.EnvConfig("Pendulum-v1", 4), rollout_steps=200))
    scaled = rlkl.Trainer(
        config("trpo", env=rlkl.EnvConfig("Pendulum-v1", 4), rollout_steps=200, scale_rewards=True)
    )
    returns = [trainer.learner.iterate().scalars["return/train"] for trainer in (plain, scaled)]
    assert returns[0] == returns[1] < -500


def test_rewards_are_clipped_but_not_reported_returns() -> None:
    pendulum = {"env": rlkl.EnvConfig("Pendulum-v1", 4), "rollout_steps": 200}
    clipping = rlkl.Trainer(config("ppo_clip", **pendulum, clip_rewards=0.5))
    rollout = clipping.learner.collector.collect()
    assert rollout.rewards.min() < -1
    by_hand = replace(rollout, rewards=rollout.rewards.clip(-0.5, 0.5))
    ours = make_batch(rollout, make_engine(clipping.policy), 0.99, 0.95, None, 0.5)
    expected = make_batch(by_hand, make_engine(clipping.policy), 0.99, 0.95)
    raw = make_batch(rollout, make_engine(clipping.policy), 0.99, 0.95)
    assert torch.equal(ours.advantages, expected.advantages)
    assert torch.equal(ours.returns, expected.returns)
    assert not torch.equal(ours.returns, raw.returns)
    trainers = [
        rlkl.Trainer(config("ppo_clip", **pendulum, clip_rewards=clip)) for clip in (None, 0.5, 1e9)
    ]
    returns = [trainer.learner.iterate().scalars["return/train"] for trainer in trainers]
    assert returns[0] == returns[1] == returns[2] < -500
    critics = [trainer.policy.critic_parameters.vector for trainer in trainers]
    assert torch.equal(critics[0], critics[2])
    assert not torch.equal(critics[0], critics[1])


def test_rewards_are_scaled_before_they_are_clipped() -> None:
    pendulum = {"env": rlkl.EnvConfig("Pendulum-v1", 4), "rollout_steps": 50}
    trainer = rlkl.Trainer(config("ppo_clip", **pendulum, scale_rewards=True, clip_rewards=0.1))
    rollout = trainer.learner.collector.collect()
    scaler = trainer.learner.reward_scaler
    assert scaler is not None
    scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
    by_hand = replace(rollout, rewards=scaler(rollout.rewards).clip(-0.1, 0.1))
    ours = make_batch(rollout, make_engine(trainer.policy), 0.99, 0.95, scaler, 0.1)
    expected = make_batch(by_hand, make_engine(trainer.policy), 0.99, 0.95)
    torch.testing.assert_close(ours.advantages, expected.advantages, rtol=0, atol=0)


class Screen(gym.Env):
    """Shows an image, and beside it what it is told to."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, beside: gym.Space[Any] | None = None) -> None:
        image = gym.spaces.Box(0, 255, (4, 4), np.uint8)
        parts = {"image": image, "beside": beside}
        self.observation_space = image if beside is None else gym.spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        ended = bool(self.np_random.random() < 0.2)
        return self.observation_space.sample(), 1.0, ended, False, {}


@pytest.fixture
def screen() -> Iterator[str]:
    gym.register("Screen-v0", Screen)
    yield "Screen-v0"
    del gym.registry["Screen-v0"]


def test_nothing_to_normalize_is_refused(screen: str) -> None:
    for beside in (None, gym.spaces.Discrete(3)):
        env = rlkl.EnvConfig(screen, 2, kwargs={"beside": beside})
        with pytest.raises(rlkl.ConfigError, match=r"normalize_observations=true.*pixel_scale"):
            rlkl.Trainer(config(env=env, normalize_observations=True))


def test_images_are_not_normalized(screen: str) -> None:
    small = rlkl.PolicyConfig([8], [8], image_features=8)
    alone = rlkl.Trainer(config(env=rlkl.EnvConfig(screen, 2), policy=small))
    env = rlkl.EnvConfig(screen, 2, kwargs={"beside": gym.spaces.Box(5, 9, (3,))})
    both = rlkl.Trainer(config(env=env, policy=small, normalize_observations=True))
    for trainer in (alone, both):
        for _ in range(2):
            rollout, report = iterate(trainer.learner)
            metrics = report.scalars
            assert math.isfinite(metrics["kl/old_new"])
    assert set(alone.learner.collector.collect().observations) == {"image"}
    assert rollout.observations["image/image"].dtype == np.uint8
    assert rollout.observations["image/image"].max() > 200
    assert rollout.raw_vectors is not None
    assert 5 <= rollout.raw_vectors.min() <= rollout.raw_vectors.max() <= 9
    assert abs(rollout.observations["vector"][:-1].mean()) < 0.5
