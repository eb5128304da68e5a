"""A packaged policy acts like the original, loads without training code, or is refused in words."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from learning_loop import small_policy
from torch import Generator

import rlkl
from rlkl.engines.acting import TrainedPolicy
from rlkl.engines.policy_package import load_package, weights_of
from rlkl.envs.observations import ObservationEncoder
from rlkl.models.policy_description import describe_policy
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.utils.errors import ConfigError

if importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs the extra safetensors", allow_module_level=True)

NESTED = Dict({"picture": Box(0, 255, (4, 4, 1), np.uint8), "place": Discrete(3, start=1)})
WIDE = Box(np.array([-1.0, -np.inf]), np.array([3.0, np.inf]), dtype=np.float64)
POLICIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "discrete": (Box(-2, 2, (3,), np.float32), Discrete(3, start=3), {}),
    "multi_discrete": (WIDE, MultiDiscrete([2, 3], start=[5, -1]), {}),
    "multi_binary": (NESTED, MultiBinary([2, 2]), {"image_features": 8}),
    "box": (WIDE, Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64), {}),
    "beta": (WIDE, Box(-3, 1, (2, 2)), {"box_distribution": "beta", "log_std": 0.0}),
    "tanh": (WIDE, Box(-3, 1, (2,)), {"box_distribution": "tanh_gaussian"}),
    "gru": (WIDE, Discrete(3), {"memory": "gru", "memory_size": 8, "share_encoder": True}),
    "lstm": (NESTED, Discrete(2), {"memory": "lstm", "memory_size": 4, "image_features": 8}),
    "normed": (WIDE, Discrete(3), {"actor_layer_norm": True, "encoder_hidden_sizes": [5]}),
}


def made(name: str, *, normalized: bool = False) -> TrainedPolicy:
    observations, actions, settings = POLICIES[name]
    encoder = ObservationEncoder(observations)
    policy = small_policy(encoder, actions, **settings | {"actor_gain": 2.0})
    normalizer = None
    if normalized:
        normalizer = ObservationNormalizer((encoder.vector_size,), 0.75, encoder.is_measured)
        normalizer.update(np.array([[1.0, -2.0], [4.0, 7.0], [2.5, 1e6 + 0.4]]))
    return TrainedPolicy(policy, normalizer)


def written(folder: Path, trained: TrainedPolicy, **changes: Any) -> Path:
    """Write the two files that are read."""
    content = {"format": 1, "checkpoint": "last", "policy": describe_policy(trained.policy)}
    (folder / "policy.yaml").write_text(yaml.safe_dump(content | changes))
    (folder / "policy.safetensors").write_bytes(weights_of(trained))
    return folder


def actions_of(trained: TrainedPolicy) -> list[Any]:
    """Return deterministic and sampled actions, one after the other for a memory."""
    trained.policy.encoder.space.seed(0)
    observations = [trained.policy.encoder.space.sample() for _ in range(6)]
    generator = Generator().manual_seed(0)
    return [trained.act(o) for o in observations] + [
        trained.act(o, generator) for o in observations
    ]


@pytest.mark.parametrize("name", POLICIES)
def test_packaged_policy_acts_like_the_original(name: str, tmp_path: Path) -> None:
    trained = made(name)
    back = rlkl.load_policy(written(tmp_path, trained))
    assert back.policy.encoder.space == trained.policy.encoder.space
    assert back.policy.decoder.space == trained.policy.decoder.space
    for a, b in zip(actions_of(back), actions_of(trained), strict=True):
        np.testing.assert_array_equal(a, b)


def test_normalizer_is_restored_exactly(tmp_path: Path) -> None:
    trained = made("box", normalized=True)
    back = load_package(written(tmp_path, trained))[0]
    assert back.normalizer is not None
    assert back.normalizer.clip == 0.75
    assert back.normalizer.moments.count == 3
    assert back.normalizer.moments.mean.tolist() == pytest.approx(
        [2.5, 333335.1333333333], rel=1e-14
    )
    assert trained.normalizer is not None
    np.testing.assert_array_equal(back.normalizer.scale, trained.normalizer.scale)
    for a, b in zip(actions_of(back), actions_of(trained), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_loading_needs_no_training_and_no_pickle(tmp_path: Path) -> None:
    written(tmp_path, made("box", normalized=True))
    code = f"""
import pickle, sys, torch
def refuse(*_, **__): raise AssertionError("a pickle")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = torch.load = refuse
import rlkl
print(rlkl.load_policy({str(tmp_path)!r}).act([0.5, 2.0]).shape)
parts = {{name.split(".")[1] for name in sys.modules if name.startswith("rlkl.")}}
print(sorted(parts & {{"rollouts", "algos", "training", "tools", "cli"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["(2,)", "[]"], done.stderr


@pytest.mark.slow
def test_public_names_are_there_at_first_use() -> None:
    code = (
        "import sys, rlkl; assert 'torch' not in sys.modules; from rlkl import *; train, SPOConfig"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"PPOClipConfig", "load_policy", "package", "train", "__version__"} < set(rlkl.__all__)
    assert all(hasattr(rlkl, name) for name in rlkl.__all__)
    assert not hasattr(rlkl, "unknown")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a package."""
    import safetensors.torch

    tensors = safetensors.torch.load((folder / "policy.safetensors").read_bytes())
    change(tensors)
    (folder / "policy.safetensors").write_bytes(safetensors.torch.save(tensors))


def redescribe(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description of a package."""
    content = yaml.safe_load((folder / "policy.yaml").read_text())
    change(content)
    (folder / "policy.yaml").write_text(yaml.safe_dump(content))


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder, change)


def described(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: redescribe(folder, change)


def halve(folder: Path) -> None:
    path = folder / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


WEIGHT = "actor.head.network.0.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda f: (f / "policy.yaml").unlink(), r"policy.yaml: there is no such"),
    "no weights": (lambda f: (f / "policy.safetensors").unlink(), "tensors: there is no such file"),
    "bad yaml": (text("policy.yaml", "a: [1"), "policy.yaml cannot be read: line 1"),
    "a list": (text("policy.yaml", "- 1"), "policy.yaml is no mapping"),
    "newer": (described(lambda c: c.update(format=2)), r"has format 2, newer than 1 .*; upgrade"),
    "no format": (described(lambda c: c.pop("format")), "KeyError: 'format'"),
    "odd format": (described(lambda c: c.update(format="one")), "format 'one'"),
    "no policy": (described(lambda c: c.pop("policy")), "KeyError: 'policy'"),
    "odd policy": (described(lambda c: c.update(policy=3)), "TypeError"),
    "unknown setting": (described(lambda c: c["policy"]["config"].update(x=1)), "argument 'x'"),
    "huge network": (
        described(lambda c: c["policy"]["config"].update(actor_hidden_sizes=[9999, 9999])),
        "at least 99,9",
    ),
    "other network": (
        described(lambda c: c["policy"]["config"].update(actor_hidden_sizes=[8])),
        "size mismatch",
    ),
    "empty weights": (text("policy.safetensors", ""), "policy.safetensors: "),
    "a pickle": (text("policy.safetensors", "cos\nsystem\n(S'true'\ntR."), "policy.safetensors: "),
    "cut weights": (halve, "policy.safetensors: "),
    "missing tensor": (tensors(lambda t: t.pop("critic.head.0.bias")), "Missing key"),
    "unknown tensor": (tensors(lambda t: t.update(more=torch.zeros(1))), "KeyError: 'more'"),
    "not finite": (tensors(lambda t: t[WEIGHT].fill_(torch.nan)), "numbers that are not finite"),
    "half a normalizer": (tensors(lambda t: t.pop("normalizer.count")), "are incomplete"),
    "negative": (tensors(lambda t: t["normalizer.squares"].mul_(-1)), "a negative variance"),
    "other normalizer": (
        tensors(lambda t: t.update({"normalizer.mean": torch.zeros(1, dtype=torch.float64)})),
        "normalizer is not of 2 numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_package_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    written(tmp_path, made("box", normalized=True))
    change, words = DAMAGES[damage]
    change(tmp_path)
    with pytest.raises(ConfigError, match=words) as refused:
        rlkl.load_policy(tmp_path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith((str(tmp_path), "the policy has"))


def test_package_has_only_its_own_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, made("discrete"))
    assert rlkl.load_policy(tmp_path, "last").policy.num_parameters > 0
    with pytest.raises(ConfigError, match="is a package of the checkpoint last only"):
        rlkl.load_policy(tmp_path, "best")
    written(tmp_path, made("discrete"), checkpoint="best")
    assert rlkl.load_policy(tmp_path, "best").policy.num_parameters > 0


def test_missing_safetensors_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, made("discrete"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "safetensors" else find(name)
    )
    with pytest.raises(ConfigError, match=r"pip install 'rlkl\[safetensors\]'"):
        rlkl.load_policy(tmp_path)


def test_settings_that_need_a_run_refuse_a_package(tmp_path: Path) -> None:
    from rlkl.training.checkpoint import checkpoint_path

    written(tmp_path, made("discrete"))
    with pytest.raises(ConfigError, match="is a packaged policy, and the folder of a run"):
        checkpoint_path(tmp_path)
