"""The zoo of packaged policies: small, complete, listed, and each repeats its score."""

import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

import rlkl
from rlkl.training.summary import hardware, versions

ZOO = Path(__file__).resolve().parent.parent / "docs" / "zoo"
CHOSEN = sorted(path.parent for path in ZOO.glob("*/policy.yaml"))
CELLS = sorted(path.parent for path in ZOO.glob("leaderboard/*/policy.yaml"))
FOLDERS = [*CHOSEN, *CELLS]
FILES = ["README.md", "policy.onnx", "policy.safetensors", "policy.yaml"]

each = pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
needs_safetensors = pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None, reason="needs the extra safetensors"
)


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "policy.yaml").read_text())
    return content


def test_zoo_is_small_and_complete() -> None:
    assert len(CHOSEN) == 8
    assert len(CELLS) >= 45
    for folder in FOLDERS:
        files = [name for name in FILES if folder in CHOSEN or not name.endswith(".onnx")]
        assert sorted(path.name for path in folder.iterdir()) == files
        assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


@each
def test_index_shows_the_score_of_each_card(folder: Path) -> None:
    scores = content_of(folder)["evaluation"]["deterministic"]
    shown = rf"\[{folder.name}\]" if folder in CHOSEN else f"`{folder.name}`"
    (row,) = re.findall(rf"^\| {shown}.*$", (ZOO / "README.md").read_text(), re.M)
    mean, low, high = (f"{scores[key]:,.1f}" for key in ("mean", "mean_low", "mean_high"))
    assert f"| {mean} | {low} to {high} |" in row


@each
def test_files_name_no_path_of_a_machine(folder: Path) -> None:
    for path in folder.iterdir():
        assert not re.search(rb"site-packages|/(home|root|tmp|Users)/", path.read_bytes())


@needs_safetensors
@each
def test_policy_loads_and_acts(folder: Path) -> None:
    policy = rlkl.load_policy(folder)
    space = policy.policy.encoder.space
    space.seed(0)
    assert policy.policy.decoder.space.contains(policy.act(space.sample()))


@needs_safetensors
@pytest.mark.slow
@pytest.mark.parametrize("folder", [*CHOSEN, *CELLS[::11]], ids=lambda folder: folder.name)
def test_evaluation_repeats_the_score(folder: Path) -> None:
    content = content_of(folder)
    is_same = True
    if content["env"]["id"].endswith("-v5"):
        mujoco = pytest.importorskip("mujoco", reason="needs the extra mujoco")
        is_same = mujoco.__version__ == "3.10.0"  # with which it was evaluated
    card = content["evaluation"]
    found = rlkl.evaluate(folder, card["episodes"], seed=card["seed"])
    scores = card["deterministic"]
    if is_same and (card["cpu"], card["versions"]) == (hardware("cpu")["cpu"], versions()):
        assert found.mean_return == scores["mean"]
    else:  # other rounding changes single episodes
        error = scores["standard_deviation"] / math.sqrt(card["episodes"])
        assert abs(found.mean_return - scores["mean"]) <= 6 * error


@needs_safetensors
@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "low", "turned"), [("HalfCheetah", 2000, 90), ("Swimmer", 200, 60)]
)
def test_posture_decides_the_mode(env: str, low: float, turned: float) -> None:
    """Policies with low scores are on the back, or bent (docs/results/leaderboard.md)."""
    pytest.importorskip("mujoco", reason="needs the extra mujoco")
    made, modes = gymnasium.make(f"{env}-v5"), set()
    for folder in (ZOO / "leaderboard").glob(f"{env.lower()}-*"):
        policy = rlkl.load_policy(folder)
        observation, _ = made.reset(seed=0)
        angles = []
        for _ in range(500):
            observation, *_ = made.step(policy.act(observation))
            angles.append(observation[1])  # of HalfCheetah's trunk, of Swimmer's first joint
        angle = np.degrees(np.mean(angles[200:]))
        is_low = content_of(folder)["evaluation"]["deterministic"]["mean"] < low
        assert is_low == (abs(angle) > turned), folder.name
        modes.add(is_low)
    assert modes == {True, False}
