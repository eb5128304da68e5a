"""Gaussian actions are scaled to their bounds; older runs stay unscaled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Discrete
from learning_loop import small_policy
from made_runs import save_checkpoint

import rlkl
from rlkl.envs.actions import ActionDecoder
from rlkl.tools.compare.runs import Run, read
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.config import saved_config
from rlkl.training.run_folder import RunStatus, run_status

INF = np.inf
F32 = float(np.finfo(np.float32).max)
SAMPLES = [0.0, 1.0, -0.5, 5.0]


class Far(gym.Env[Any, Any]):
    """Rewards actions near 170, within bounds of 100 and 200."""

    observation_space = Box(-1, 1, (2,))
    action_space = Box(100, 200, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), -abs(float(action[0]) - 170) / 10, True, False, {}


def halved() -> gym.Env[Any, Any]:
    """Return Pendulum with actions from -1 to 1, which are doubled."""
    return gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))


gym.register("Far-v0", entry_point=Far)
gym.register("HalvedPendulum-v0", entry_point=halved)


def config(env: str = "Pendulum-v1", **settings: Any) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        env=rlkl.EnvConfig(env, num_envs=2, backend="sync"),
        policy=rlkl.PolicyConfig(**settings),
        rollout_steps=32,
        total_env_steps=256,
        eval_episodes=2,
        logger=rlkl.LoggerConfig(progress="none", tensorboard=False),
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (100, 200, [150, 200, 125, 200]),
        (-2, 2, [0, 2, -1, 2]),
        (-0.4, 0.4, [0, 0.4, -0.2, 0.4]),
        (3, 3, [3, 3, 3, 3]),
        (-1, 1, [0, 1, -0.5, 1]),
        (0, INF, [0, 1, 0, 5]),
        (-INF, 0.5, [0, 0.5, -0.5, 0.5]),
        (-INF, INF, [0, 1, -0.5, 5]),
        (-F32, F32, [0, 1, -0.5, 5]),
    ],
)
def test_sample_counts_half_ranges_from_the_middle(
    low: float, high: float, expected: list[float]
) -> None:
    decoder = ActionDecoder(Box(low, high, (1,)), scale=True)
    actions = decoder(np.array(SAMPLES, np.float32)[:, None])
    np.testing.assert_allclose(actions[:, 0], expected, rtol=1e-6)
    assert actions.dtype == np.float32


def test_each_dimension_has_its_own_range() -> None:
    space = Box(np.float64([100, -1, 0, -INF]), np.float64([200, 1, 10, INF]), dtype=np.float64)
    samples = np.full((1, 4), 1.5)
    assert ActionDecoder(space, scale=True)(samples).tolist() == [[200, 1, 10, 1.5]]
    assert ActionDecoder(space, scale=True, clip=False)(samples).tolist() == [[225, 1.5, 12.5, 1.5]]
    assert ActionDecoder(space)(samples).tolist() == [[100, 1, 1.5, 1.5]]


def test_unit_bounds_change_nothing() -> None:
    samples = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    scaled, raw = (ActionDecoder(Box(-1, 1, (3,)), scale=s) for s in (True, False))
    assert scaled.half_range is None
    np.testing.assert_array_equal(scaled(samples), raw(samples))
    squashed = ActionDecoder(Box(2, 10, (1,)), "tanh_gaussian", scale=True)
    assert squashed(np.array([[0.0]])).tolist() == [[6.0]]
    assert ActionDecoder(Discrete(3), scale=True)(np.array([2])).tolist() == [2]


def test_scaling_equals_a_wrapper() -> None:
    runs = []
    for env, scale in (("Pendulum-v1", True), ("HalvedPendulum-v0", False), ("Pendulum-v1", False)):
        trainer = rlkl.Trainer(config(env, scale_actions=scale))
        metrics = [trainer.learner.iterate().scalars for _ in range(3)]
        tags = ("kl/old_new", "ratio/std", "policy/entropy", "policy/std", "value/loss")
        runs.append([m[tag] for m in metrics for tag in tags])
        trainer.close()
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)
    assert runs[0] != pytest.approx(runs[2], rel=1e-3)


@pytest.mark.slow
def test_policy_learns_actions_far_from_zero(tmp_path: Path) -> None:
    given = replace(config("Far-v0"), total_env_steps=8192, run_dir=str(tmp_path / "run"))
    rlkl.train(replace(given, algo=rlkl.PPOClipConfig(learning_rate=5e-3)))
    policy = rlkl.load_policy(tmp_path / "run")
    assert float(policy.act(np.zeros(2, np.float32))[0]) == pytest.approx(170, abs=10)


@pytest.mark.parametrize("scale", [True, False])
def test_training_and_acting_take_the_same_actions(
    scale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(scale_actions=scale, log_std=-20.0)  # almost deterministic
    trainer = rlkl.Trainer(replace(given, run_dir=str(tmp_path / "run")))
    observation = trainer.learner.collector._observations["vector"].copy()
    taken: list[Any] = []
    step = trainer.learner.envs.step
    monkeypatch.setattr(trainer.learner.envs, "step", lambda a: taken.append(a.copy()) or step(a))
    trainer.policy.actor_parameters.vector.data.mul_(8)
    trainer.policy.actor.head.log_std.data.fill_(-20.0)
    save_checkpoint(tmp_path / "kept.pt", trainer.learner.state_dict())
    trainer.learner.collector.collect()
    trained = rlkl.load_policy(tmp_path / "kept.pt")
    for row, action in zip(observation, taken[0], strict=True):
        np.testing.assert_allclose(trained.act(row), action, atol=1e-5)
        mean = (
            trained.policy.step(
                trained.policy.tensors({"vector": row[None]}), trained.policy.initial_state(1)
            )[0]
            .mode()
            .detach()
        )
        assert float(action[0]) == pytest.approx(float(mean) * (2 if scale else 1), abs=1e-5)


# Configs from before the key.


def without_key(path: Path) -> None:
    """Remove the key from a checkpoint."""
    state = load_checkpoint(path)
    for part in (state["config"]["policy"], state["policy_description"]["config"]):
        del part["scale_actions"]
    save_checkpoint(path, {key: value for key, value in state.items() if key != "format"})


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A stopped run from before the key."""
    run = tmp_path / "old"
    given = replace(config(scale_actions=False, log_std=1.0), run_dir=str(run))
    rlkl.train(replace(given, total_env_steps=128))
    for path in (run / "checkpoints").glob("*.pt"):
        without_key(path)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    del saved["policy"]["scale_actions"]
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    return run


def test_config_without_key_is_unscaled(old_run: Path) -> None:
    saved = yaml.safe_load((old_run / "config.yaml").read_text())
    assert "scale_actions" not in saved["policy"]
    assert saved_config(saved).policy.scale_actions is False
    assert rlkl.load_policy(old_run).policy.config.scale_actions is False
    state = load_checkpoint(old_run / "checkpoints" / "last.pt")
    assert saved_config(state["config"]).policy.scale_actions is False


def test_old_run_resumes_unscaled(old_run: Path, tmp_path: Path) -> None:
    steps = 256
    rlkl.resume(old_run, lambda before: replace(before, total_env_steps=steps))
    new = tmp_path / "new"
    given = replace(config(scale_actions=False, log_std=1.0), run_dir=str(new))
    rlkl.train(replace(given, total_env_steps=128))
    rlkl.resume(new, lambda before: replace(before, total_env_steps=steps))
    vectors = [
        torch.cat([t.flatten() for t in rlkl.load_policy(run).policy.actor_parameters.tensors])
        for run in (old_run, new)
    ]
    assert torch.equal(*vectors)


def test_old_run_is_compared_as_unscaled(old_run: Path) -> None:
    found = read(old_run)
    assert isinstance(found, Run)
    settings = found.settings
    assert settings["policy.scale_actions"] is False
    assert settings["policy.image_encoder"] == "nature_or_small"


def test_old_folder_matches_an_unscaled_run(old_run: Path) -> None:
    given = replace(config(scale_actions=False, log_std=1.0), total_env_steps=128)
    assert run_status(old_run, given) is RunStatus.FINISHED
    with pytest.raises(rlkl.ConfigError, match=r"policy\.scale_actions=False, but policy"):
        run_status(old_run, config(log_std=1.0))


# Warnings.


@pytest.mark.parametrize(
    ("space", "settings", "warns"),
    [
        (Box(100, 200, (1,)), {"scale_actions": False}, True),
        (Box(np.float32([-1, -9]), np.float32([1, -7])), {"scale_actions": False}, True),
        (Box(100, 200, (1,)), {}, False),
        (Box(0, 1, (1,)), {"scale_actions": False}, False),
        (Box(5, INF, (1,)), {}, True),
        (Box(np.float32([-1, -INF]), np.float32([9, -7])), {}, True),
        (Box(5, 9, (1,)), {"scale_actions": False, "log_std": 1.0}, False),
        (Box(100, 200, (1,)), {"box_distribution": "tanh_gaussian"}, False),
        (Discrete(3), {"scale_actions": False}, False),
    ],
)
def test_unscaled_actions_far_from_bounds_warn(
    space: Any, settings: dict[str, Any], warns: bool
) -> None:
    caution = small_policy(2, space, **{"log_std": 0.0} | settings).caution
    assert ("far from the bounds of Box" in caution) == warns
    assert ("policy.scale_actions=true" in caution) == (warns and "scale_actions" in settings)
    assert "\n" not in caution


def test_run_warns_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scale, lines in ((False, 1), (True, 0)):
        given = config("Far-v0", scale_actions=scale)
        rlkl.train(replace(given, run_dir=str(tmp_path / str(scale))))
        assert capsys.readouterr().err.count("far from the bounds") == lines
