"""`rlkl export`: the ONNX model acts like the policy."""

import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import exit_code
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from learning_loop import small_policy
from torch import nn

import rlkl
from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.observations import ObservationEncoder
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.tools import export
from rlkl.tools.export import export_onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
needs_export = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)), reason="needs the extra export"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run on Pendulum."""
    folder = tmp_path_factory.mktemp("export")
    config = rlkl.TrainConfig(
        env=rlkl.EnvConfig("Pendulum-v1", num_envs=2),
        total_env_steps=400,
        rollout_steps=50,
        eval_episodes=0,
        normalize_observations=True,
        algo=rlkl.PPOClipConfig(num_minibatches=2),
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        run_dir=str(folder / "run"),
    )
    rlkl.train(config)
    return folder


run = partial(exit_code, "export")


def session_of(model: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@needs_export
@pytest.mark.slow
def test_exported_file_acts_like_the_policy(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.onnx"
    assert run(runs / "run", "--output", path) == 0
    printed = capsys.readouterr()
    assert "vector: tensor(float) ['batch', 3]" in printed.out
    assert "opset 18; largest difference from the policy on 64 random observations: " in printed.out
    assert printed.out.splitlines()[-1] == str(path)
    assert printed.err == ""
    policy, session = rlkl.load_policy(runs / "run"), session_of(path)
    assert policy.normalizer is not None
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * [1, 1, 8]
    observations = observations.astype(np.float32)
    parameters, actions = session.run(["parameters", "action"], {"vector": observations})
    assert parameters.shape == (5, 2)
    acted = [policy.act(observation) for observation in observations]
    np.testing.assert_allclose(actions, acted, rtol=1e-5, atol=1e-6)
    assert actions.dtype == acted[0].dtype
    # Without its normalizer the policy acts differently.
    bare = TrainedPolicy(policy.policy, None)
    assert np.abs(actions - [bare.act(o) for o in observations]).max() > 1e-4


NESTED = Dict(
    place=Discrete(4, start=2), speed=Box(-9, 9, (2,)), view=Box(0, 255, (6, 5, 3), np.uint8)
)


def to_vectors(observations: list[Any], columns: dict[str, list[int]]) -> np.ndarray:
    """Encode observations of NESTED with the columns in the model's metadata."""
    vectors = np.zeros((len(observations), 6), np.float32)
    for vector, observation in zip(vectors, observations, strict=True):
        vector[columns["place"][0] + observation["place"] - 2] = 1
        vector[slice(*columns["speed"])] = observation["speed"]
    return vectors


@pytest.mark.slow
@needs_export
@pytest.mark.parametrize("is_normalized", [True, False])
def test_wide_observations_become_float32(is_normalized: bool) -> None:
    space = Box(np.array([-1.0, -np.inf]), np.array([3.0, np.inf]), dtype=np.float64)
    encoder = ObservationEncoder(space)
    normalizer = ObservationNormalizer((2,)) if is_normalized else None
    if normalizer is not None:
        normalizer.update(np.array([[1.0, -2.0], [4.0, 7.0]]))
    exported = export_onnx(TrainedPolicy(small_policy(encoder, Discrete(2)), normalizer))
    assert exported.inputs == {"vector": "tensor(float) ['batch', 2]"}
    assert exported.difference < 1e-5
    assert b"site-packages" not in exported.model


@pytest.mark.slow
@needs_export
@pytest.mark.parametrize(
    ("space", "settings"),
    [
        pytest.param(
            Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64),
            {"box_distribution": "tanh_gaussian", "image_encoder": "impala"},
            marks=pytest.mark.slow),
        pytest.param(
            Box(np.float32([2, -7]), np.float32([10, 0.5])),
            {"box_distribution": "beta", "log_std": 0.0}, marks=pytest.mark.slow),
        (Box(np.float32([2, -np.inf]), np.float32([10, 0.5])), {}),
        pytest.param(
            Box(-0.01, 0.01, (2,)), {"clip_actions": False}, marks=pytest.mark.slow),
        pytest.param(
            MultiDiscrete([2, 3], start=[5, -1]), {"memory": "gru", "state_dependent_std": True},
            marks=pytest.mark.slow),
        pytest.param(
            MultiBinary([2, 2]), {"memory": "lstm", "share_encoder": True, "activation": "gelu"},
            marks=pytest.mark.slow),
        pytest.param(
            Discrete(3, start=3), {"encoder_hidden_sizes": [7], "activation": "silu"},
            marks=pytest.mark.slow),
        pytest.param(
            Discrete(3), {"encoder_hidden_sizes": [7], "actor_layer_norm": True},
            marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_images_memories_and_all_action_spaces(space: Any, settings: dict[str, Any]) -> None:
    encoder = ObservationEncoder(NESTED)
    policy = small_policy(encoder, space, **(settings | {"image_features": 8, "actor_gain": 5.0}))
    normalizer = ObservationNormalizer((6,), is_measured=encoder.is_measured)
    normalizer.update(2 + 3 * np.random.default_rng(0).standard_normal((50, 6)))
    trained = TrainedPolicy(policy, normalizer)
    exported = export_onnx(trained)
    assert exported.difference < 1e-4
    assert exported.action_difference < 1e-4
    session = session_of(exported.model)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["rlkl"] == rlkl.__version__
    encoder.space.seed(1)
    episodes = [[encoder.space.sample() for _ in range(3)] for _ in range(5)]
    expected = []
    for episode in episodes:
        trained.reset()
        expected.append([trained.act(observation) for observation in episode])
    memory = policy.actor.memory
    state = np.zeros((5, memory.state_size if memory else 0), np.float32)
    for step in range(3):
        now = [episode[step] for episode in episodes]
        inputs = {
            "vector": to_vectors(now, json.loads(metadata["vector_columns"])),
            "image/view": np.stack([o["view"].transpose(2, 0, 1) for o in now]),
        }
        if memory:
            inputs["state"] = state
        _, actions, *rest = session.run(None, inputs)
        state = rest[0] if rest else state
        np.testing.assert_allclose(actions, [acts[step] for acts in expected], atol=1e-4)
        is_inside = all(space.contains(action) for action in actions)
        assert is_inside == policy.decoder.clips or isinstance(space, Discrete)
    assert bool(state.any()) == bool(memory)


@needs_export
def test_model_that_differs_is_not_written(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    init = export._DeterministicActor.__init__

    def wrong(self: Any, trained: TrainedPolicy) -> None:
        init(self, trained)
        nn.Module.__setattr__(self, "mean", self.mean + 1)

    monkeypatch.setattr(export._DeterministicActor, "__init__", wrong)
    assert run(runs / "run", "--output", tmp_path / "policy.onnx") == 1
    assert "the ONNX model's parameters differ from the policy's by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


BAD: dict[str, str] = {
    "nowhere": "there is no such folder",
    "bare --checkpoint best": "has no checkpoints/best.pt",
    "run --output file.txt": "ends in .onnx",
    "run --output there.onnx": "it exists already",
    "run --out there.onnx": "there is no such flag (did you mean --output or --module?)",
}


@pytest.mark.parametrize("arguments", BAD)
def test_invalid_export_prints_one_line(
    arguments: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    (tmp_path / "run").symlink_to(runs / "run")
    shutil.copytree(runs / "run", tmp_path / "bare")
    (tmp_path / "bare" / "checkpoints" / "best.pt").unlink()
    assert run(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD[arguments] in printed.err
    assert len(list(tmp_path.iterdir())) == 3


def test_default_file_is_not_overwritten(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "run" / "last.onnx"
    path.touch()
    assert run(runs / "run") == 2
    assert "last.onnx exists already and is not overwritten" in capsys.readouterr().err
    assert path.read_bytes() == b""
    path.unlink()


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_export_extra_is_named(
    package: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == package else object() if name in PACKAGES else real(name),
    )
    assert run(runs / "run") == 2
    error = capsys.readouterr().err
    assert f"needs the package {package}, which the extra 'export' installs" in error


def test_export_help_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: rlkl export RUN_DIR [FLAG ...]\n")
    assert max(map(len, printed.splitlines())) <= 100
