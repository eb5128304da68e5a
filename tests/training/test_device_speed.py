"""The warning that a device is slower than the CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines_available import needs_numpy_engine
from fake_device import fake_device

import rlkl
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.training import device_speed
from rlkl.training.checkpoint import as_bytes, load_checkpoint
from rlkl.training.config import TrainConfig
from rlkl.training.device_speed import device_warning, gradient_seconds
from rlkl.training.learner import Learner
from rlkl.training.loggers import LoggerConfig


def config(device: str, **settings: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "algo": PPOClipConfig(num_epochs=2, num_minibatches=2),
        "env": EnvConfig("CartPole-v1", 4, "sync"),
        "logger": LoggerConfig(progress="none", tensorboard=False),
        "rollout_steps": 128,
        "total_env_steps": 1024,
        "eval_episodes": 0,
    }
    return TrainConfig(device=device, **defaults | settings)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the measurement by `cpu` and `cuda` seconds, and note which were asked for."""
    seconds: dict[str, Any] = {"cpu": 0.0004, "cuda": 0.0023, "asked": []}

    def gradient(engine: Any, rows: int) -> float:
        device = engine.policy.device.type
        seconds["asked"].append((device, engine.name, rows))
        return float(seconds[device])

    monkeypatch.setattr(device_speed, "gradient_seconds", gradient)
    return seconds


def warning(**settings: Any) -> str:
    with fake_device() as device:
        learner = Learner(config(device, **settings))
        learner.close()
        return device_warning(learner)


@needs_numpy_engine
def test_slower_device_is_named_with_figures(measured: dict[str, Any]) -> None:
    assert warning() == (
        "warning: device=cuda:0 is slower than the CPU here: 2.3 ms against 0.4 ms for the "
        "actor's gradient on a minibatch of 256; device=cpu trains faster"
    )
    # The CPU's own engine; small minibatches first.
    sizes = [("cpu", "numpy", 64), ("cpu", "numpy", 256), ("cuda", "torch", 256)]
    assert measured["asked"] == sizes


def test_minibatch_without_epochs_is_the_batch(measured: dict[str, Any]) -> None:
    assert "a minibatch of 512;" in warning(algo=TRPOConfig())
    assert measured["asked"][-1] == ("cuda", "torch", 512)


def test_faster_device_is_silent(measured: dict[str, Any]) -> None:
    measured["cuda"] = 1.19 * measured["cpu"]
    assert warning() == ""
    measured["cuda"] = 1.21 * measured["cpu"]
    assert warning() != ""


@needs_numpy_engine
def test_long_gradients_are_not_measured_further(measured: dict[str, Any]) -> None:
    measured["cpu"], measured["cuda"] = 0.06, 1.0
    assert warning() == ""
    assert measured["asked"] == [("cpu", "numpy", 64)]


def test_environments_on_the_device_are_silent(measured: dict[str, Any]) -> None:
    assert warning(env=EnvConfig("CartPole-v1", 4, "tensor")) == ""
    assert measured["asked"] == []


def test_cpu_is_silent(measured: dict[str, Any]) -> None:
    learner = Learner(config("cpu"))
    learner.close()
    assert device_warning(learner) == ""
    assert measured["asked"] == []


def test_full_device_memory_is_silent(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(engine: Any, rows: int) -> float:
        if engine.policy.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.0004

    monkeypatch.setattr(device_speed, "gradient_seconds", gradient)
    assert warning() == ""


NETWORKS: dict[str, tuple[str, PolicyConfig]] = {
    "vector": ("CartPole-v1", PolicyConfig()),
    "continuous": ("Pendulum-v1", PolicyConfig(state_dependent_std=True)),
    "gru": ("CartPole-v1", PolicyConfig(memory="gru", memory_size=4, sequence_length=24)),
    "shared lstm": (
        "CartPole-v1",
        PolicyConfig(memory="lstm", memory_size=4, encoder_hidden_sizes=[4], share_encoder=True),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_measuring_changes_no_state(network: str) -> None:
    env_id, policy = NETWORKS[network]
    with fake_device() as device:
        learner = Learner(config(device, env=EnvConfig(env_id, 4, "sync"), policy=policy))
        before, drawn = as_bytes(learner.state_dict()), torch.get_rng_state()
        for of in ("cpu", device):
            engine = device_speed._engine(learner, torch.device(of))
            assert 0 < gradient_seconds(engine, 100) < 60
            gradient = engine.policy.actor_parameters.gradient.cpu()
            assert gradient.isfinite().all()
            assert gradient.any()
        assert as_bytes(learner.state_dict()) == before
        assert torch.equal(torch.get_rng_state(), drawn)
        learner.close()


def test_run_is_the_same_with_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_speed, "CLEARLY", 0.0)  # warns whatever was measured
    with fake_device() as device:
        chosen = config(device, total_env_steps=512)
        rlkl.train(replace(chosen, run_dir=str(tmp_path / "warned")))
        assert capfd.readouterr().err.count("device=cpu trains faster") == 1
        monkeypatch.setattr("rlkl.training.trainer.device_warning", lambda learner: "")
        rlkl.train(replace(chosen, run_dir=str(tmp_path / "silent")))
        assert capfd.readouterr().err == ""
    warned, silent = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt")
        for name in ("warned", "silent")
    )
    for part in ("policy", "policy_optimizer", "critic_fit", "collector"):
        assert as_bytes({part: warned[part]}) == as_bytes({part: silent[part]})
