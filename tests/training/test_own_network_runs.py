"""Runs with networks of users: the documented example, its folder, exact resume and export."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import exit_code
from gymnasium.spaces import Box, Dict
from same_runs import assert_same_run
from torch import nn

import rlkl
from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.observations import ObservationEncoder
from rlkl.models import own_networks
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.tools.export import export_onnx
from rlkl.training.checkpoint import load_checkpoint

needs_export = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="needs the extra export",
)

PAGE = Path(__file__).parents[2] / "docs" / "own_networks.md"
BLOCKS = re.findall(r"```(?:python)?\n(.*?)```", PAGE.read_text(), re.DOTALL)
SMALL = ["total_env_steps=512", "rollout_steps=32", "eval_episodes=2", "logger.progress=none"]


def forget() -> None:
    for registry in own_networks.REGISTRIES.values():
        registry.clear()
    sys.modules.pop("my_networks", None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "my_networks.py").write_text(BLOCKS[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    importlib.invalidate_caches()
    forget()
    yield tmp_path
    forget()


@pytest.mark.slow
def test_documented_command_trains_and_run_asks_for_module(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = BLOCKS[1].split()[1:]
    assert exit_code(*typed, *SMALL, "run_dir=run") == 0
    state = load_checkpoint(folder / "run" / "checkpoints" / "last.pt")
    assert state["config"]["policy"]["encoder_kwargs"] == {"width": 32}
    forget()
    for arguments in (["evaluate", "run"], ["export", "run"], ["resume", "run"]):
        more = ["total_env_steps=1024"] if arguments[0] == "resume" else []
        assert exit_code(*arguments, *more) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "--module my_networks" in said
        assert "my_networks" not in sys.modules
    assert exit_code("evaluate", "run", "--module", "my_networks", "--episodes", "2") == 0
    forget()
    resumed = ["policy.module=my_networks", "total_env_steps=1024", "logger.progress=none"]
    assert exit_code("resume", "run", *resumed) == 0


@pytest.mark.slow
def test_module_in_run_folder_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(*BLOCKS[1].split()[1:], *SMALL, "run_dir=run") == 0
    forget()
    (folder / "my_networks.py").rename(folder / "run" / "my_networks.py")
    monkeypatch.syspath_prepend(str(folder / "run"))
    capsys.readouterr()
    assert exit_code("evaluate", "run", "--module", "my_networks") == 2
    assert "lies in the run's folder" in capsys.readouterr().err


@pytest.mark.slow
def test_documented_python_example_runs(folder: Path) -> None:
    sys.path.append(str(folder))
    code = BLOCKS[2].replace("20_000", "512")
    assert code != BLOCKS[2]
    found: dict[str, object] = {}
    exec(code, found)
    assert found["action"] in (0, 1)


def config(name: str, total: int) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        algo=rlkl.PPOClipConfig(learning_rate_schedule="constant", num_epochs=2),
        env="CartPole-v1",
        policy=rlkl.PolicyConfig(encoder="residual", memory="gru", memory_size=4),
        critic=rlkl.CriticConfig(num_epochs=2),
        total_env_steps=total,
        rollout_steps=16,
        eval_episodes=0,
        run_dir=name,
        logger=rlkl.LoggerConfig(progress="none", tensorboard=False),
    )


@pytest.mark.slow
def test_resumed_run_is_bit_for_bit_identical(folder: Path) -> None:
    exec(BLOCKS[0], {"__name__": "my_networks"})
    rlkl.train(config("whole", 512))
    rlkl.train(config("parts", 256))
    rlkl.resume("parts", lambda saved: replace(saved, total_env_steps=512))
    assert_same_run(folder / "whole", folder / "parts")
    policy = rlkl.load_policy("whole")
    assert policy.act(np.zeros(4, np.float32)) in (0, 1)


class Privileged(nn.Module):
    """An encoder that asserts what it sees."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.layer = nn.Linear(shapes["vector"][0], 4)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.layer(observations["vector"]).tanh()


@needs_export
@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"memory": "gru", "memory_size": 4}, {"encoder": "own"}])
def test_exported_model_takes_parts_of_actor(settings: dict[str, Any]) -> None:
    rlkl.register_encoder("own")(Privileged)
    parts = {"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (3,)), "c": Box(-1, 1, (1,))}
    config = rlkl.PolicyConfig(
        [8], [8], actor_observation_keys=["a", "c"], critic_observation_keys=["b"], **settings
    )
    encoder = ObservationEncoder(Dict(parts))
    policy = Policy(config, encoder, Box(-1, 1, (1,)), torch.Generator().manual_seed(0))
    normalizer = ObservationNormalizer((6,))
    normalizer.update(np.random.default_rng(0).normal(3, 2, (50, 6)))
    exported = export_onnx(TrainedPolicy(policy, normalizer))
    assert exported.inputs["vector"] == "tensor(float) ['batch', 3]"
    assert exported.columns == {"a": (0, 2), "c": (2, 3)}
    forget()
