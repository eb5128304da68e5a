"""The trainer: fairness under one seed, repeatability, the run's folder, ends good and bad."""

import csv
import json
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
from learning_loop import iterate

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.engines.make import make_engine
from rlkl.rollouts.batch import make_batch
from rlkl.training.report import TAGS
from rlkl.training.tensorboard import KL_BOUNDS, KL_OF_RUN

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
def test_every_algorithm_starts_from_the_same_weights_and_meets_the_same_first_batch(
    world: str,
) -> None:
    met = []
    for algo in FIRST_ORDER if world == "shared" else ALGORITHMS:
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
def test_the_critic_after_one_iteration_has_the_same_bits_whatever_the_algorithm(
    world: str,
) -> None:
    vectors = []
    for algo in ALGORITHMS:
        trainer = rlkl.Trainer(config(algo, seed=3, **WORLDS[world]))
        trainer.learner.iterate()
        vectors.append(trainer.policy.critic_parameters.vector.detach().clone())
    assert all(torch.equal(vectors[0], vector) for vector in vectors[1:])


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(algo: str, env_id: str) -> None:
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
    for tag in set(general) - {"kl/target", "kl/coefficient", "kl/js_estimate"}:
        assert math.isfinite(metrics[tag]), tag
    assert all(len(values) for values in histograms.values())


def test_the_coefficient_follows_the_kl_that_is_reported() -> None:
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
def test_steps_shrink_as_their_schedules_say_unless_annealing_is_off(algo: str) -> None:
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


def test_there_is_nothing_to_turn_off_where_no_step_is_annealed() -> None:
    algo = rlkl.TRPOConfig(max_kl_schedule="constant")
    with pytest.raises(rlkl.ConfigError, match=r"algo\.max_kl_schedule, critic\.learn"):
        rlkl.TrainConfig(algo=algo, anneal=False)
    critic = rlkl.CriticConfig(learning_rate_schedule="linear")
    rlkl.TrainConfig(algo=algo, critic=critic, anneal=False)


def test_a_state_that_is_older_than_a_key_of_the_policy_is_taken() -> None:
    trainer = rlkl.Trainer(config())
    state = trainer.learner.state_dict()
    del state["policy_description"]["config"]["clip_actions"]
    rlkl.Trainer(config()).learner.load_state_dict(state)


def test_actions_reach_the_environment_clipped_unless_that_is_off(
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


def test_observation_statistics_move_between_iterations_only(
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


def test_training_returns_are_raw_whatever_is_learned_from() -> None:
    plain = rlkl.Trainer(config("trpo", env=rlkl.EnvConfig("Pendulum-v1", 4), rollout_steps=200))
    scaled = rlkl.Trainer(
        config("trpo", env=rlkl.EnvConfig("Pendulum-v1", 4), rollout_steps=200, scale_rewards=True)
    )
    returns = [trainer.learner.iterate().scalars["return/train"] for trainer in (plain, scaled)]
    assert returns[0] == returns[1] < -500


def test_what_is_learned_from_is_clipped_and_what_is_reported_is_not() -> None:
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


def test_scaled_rewards_are_clipped_after_they_are_scaled() -> None:
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


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_rewards_cannot_be_clipped_to_nothing(clip: float) -> None:
    with pytest.raises(rlkl.ConfigError, match="clip_rewards"):
        config(clip_rewards=clip)


@pytest.mark.parametrize("algo", ["trpo", "npg"])
def test_a_shared_encoder_with_a_natural_gradient_is_refused_before_anything_is_made(
    algo: str,
) -> None:
    message = rf"policy\.share_encoder=true is not possible with algo={algo}"
    with pytest.raises(rlkl.ConfigError, match=message):
        config(algo, policy=rlkl.PolicyConfig(share_encoder=True, memory="gru"))


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


def test_images_are_learned_from_and_only_what_is_measured_is_normalized(screen: str) -> None:
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


def test_the_summary_tells_of_a_failure_and_keeps_what_was_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rlkl.Trainer(config(run_dir=str(tmp_path / "run")))
    step, calls = trainer.learner.envs.step, iter(range(1000))

    def failing(actions: Any) -> Any:
        if next(calls) == 40:
            raise RuntimeError("the motor burned out")
        return step(actions)

    monkeypatch.setattr(trainer.learner.envs, "step", failing)
    with pytest.raises(RuntimeError, match="burned out"):
        trainer.train()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"] == "RuntimeError: the motor burned out"
    assert summary["iterations"] == 2
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert len(list(csv.reader(file))) == 3
    rlkl.load_policy(tmp_path / "run")


def test_nothing_is_created_when_the_trainer_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for changes in ({"device": "cuda:99"}, {"env": rlkl.EnvConfig("CartPole-v77")}):
        with pytest.raises(rlkl.ConfigError):
            rlkl.Trainer(config(**changes))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_the_same_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from rlkl.training.run_folder import make_run_dir

    paths = {make_run_dir(None, "a:b/C-v0", "trpo", 5) for _ in range(5)}
    assert len(paths) == 5
    assert all(path.parent == Path("runs/b_C-v0/trpo") for path in paths)


class Turn(gym.Env):
    """Twenty steps of which each costs 1 unless the action repeats the observation."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def _look(self) -> Any:
        self.sign = int(self.np_random.integers(2))
        return np.array([2 * self.sign - 1], np.float32)

    def step(self, action: Any) -> Any:
        reward = -float(action != 5 + self.sign)
        self.t += 1
        return self._look(), reward, self.t == 20, False, {}


def test_a_policy_read_back_acts_as_it_did(tmp_path: Path) -> None:
    gym.register("Turn-v0", Turn)
    try:
        summary = rlkl.train(
            config(
                "ppo_clip",
                env=rlkl.EnvConfig("Turn-v0", 4),
                total_env_steps=4000,
                rollout_steps=64,
                normalize_observations=True,
                run_dir=str(tmp_path / "run"),
            )
        )
        assert summary.eval_return == 0.0
        policy = rlkl.load_policy(tmp_path / "run")
        assert [policy.act(np.array([x])) for x in (-1.0, 1.0)] == [5, 6]
        generator = torch.Generator().manual_seed(0)
        assert {policy.act(np.zeros(1), generator) for _ in range(500)} == {5, 6}
    finally:
        del gym.registry["Turn-v0"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"not a checkpoint"]
)
def test_a_damaged_checkpoint_is_refused_with_words(tmp_path: Path, damage: Any) -> None:
    rlkl.train(config(run_dir=str(tmp_path / "run"), total_env_steps=100))
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(rlkl.ConfigError, match=r"last\.pt is not a checkpoint that can be read"):
        rlkl.load_policy(tmp_path / "run")


def test_a_checkpoint_cannot_run_code_and_a_newer_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"format": 1, "policy": Path("/")}, path)  # any object beyond tensors and numbers
    with pytest.raises(rlkl.ConfigError, match="is not a checkpoint"):
        rlkl.load_policy(tmp_path)
    torch.save({"format": 99}, path)
    with pytest.raises(rlkl.ConfigError, match="newer than"):
        rlkl.load_policy(tmp_path)
    with pytest.raises(rlkl.ConfigError, match="there is no such folder"):
        rlkl.load_policy(tmp_path / "nowhere")


def test_tensorboard_gets_every_tag_that_applies_along_environment_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = rlkl.LoggerConfig(progress="none", histogram_interval=2)
    summary = rlkl.train(config("trpo", run_dir=str(tmp_path / "run"), logger=logger))
    events = EventAccumulator(str(tmp_path / "run"), {"histograms": 0}).Reload()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    applied = {tag for tag in TAGS if any(row[tag] for row in rows)}
    assert set(events.Tags()["scalars"]) == applied | {*KL_BOUNDS, KL_OF_RUN}
    curve = events.Scalars("kl/old_new")
    assert [event.step for event in curve] == [int(row["env_steps"]) for row in rows]
    assert [event.value for event in curve] == pytest.approx(
        [float(row["kl/old_new"]) for row in rows]
    )
    assert curve[-1].step == summary.env_steps
    assert set(events.Tags()["histograms"]) == {
        "ratio/histogram", "kl/histogram", "advantage/histogram",
    }  # fmt: skip
    assert len(events.Histograms("kl/histogram")) == math.ceil(summary.iterations / 2)


def test_evaluation_gives_each_environment_its_share_of_episodes() -> None:
    from rlkl.training.evaluation import evaluate

    trainer = rlkl.Trainer(config(env=rlkl.EnvConfig("CartPole-v1", 3)))
    seeds = [1, 2, 3]
    for backend in ("native", "sync"):
        env = rlkl.EnvConfig("CartPole-v1", 3, backend)
        result = evaluate(make_engine(trainer.policy), env, 8, seeds)
        assert len(result.returns) == len(result.lengths) == 8
        assert result.returns == [float(length) for length in result.lengths]
        assert result == evaluate(make_engine(trainer.policy), env, 8, seeds)


def test_a_logger_that_exits_is_a_failure(tmp_path: Path) -> None:
    class Exits:
        def log(self, report: Any) -> None:
            raise SystemExit(0)

        def close(self, status: str) -> None:
            raise SystemExit(0)

    config = rlkl.TrainConfig(
        total_env_steps=256,
        eval_episodes=0,
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        run_dir=str(tmp_path / "run"),
    )
    with pytest.raises(RuntimeError, match="SystemExit: 0: a logger or a callback ended the run"):
        rlkl.Trainer(config).train(also=[Exits()])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
