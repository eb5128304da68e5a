"""Environment ids are found; wrong ones give a message with a suggestion."""

import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from rlkl.envs.ids import find_spec, import_module_of, newest_id
from rlkl.utils.errors import ConfigError

MISSING = {"ale_py", "minigrid", "jax", "gymnasium_robotics", "shimmy", "highway_env", "panda_gym"}


@pytest.fixture
def packages_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages that register environments."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in MISSING else real(name)
    )


HAS_ALE = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="extra atari")

ATARI = {
    "PongNoFrameskip-v4": "ALE/Pong-v5",
    "PongDeterministic-v4": "ALE/Pong-v5",
    "Pong-v5": "ALE/Pong-v5",
    "Pong-v0": "ALE/Pong-v5",
    "pong": "ALE/Pong-v5",
    "ALE/Pong": "ALE/Pong-v5",
    "ALE/Pong-v4": "ALE/Pong-v5",
    "ALE/Pong-ram-v5": "ALE/Pong-v5",
    "SpaceInvaders-ramNoFrameskip-v4": "ALE/SpaceInvaders-v5",
}

OTHERS = {
    "CartPole": "did you mean CartPole-v1?",
    "cartpole": "did you mean CartPole-v1?",
    "CartPole-v7": "did you mean CartPole-v1?",
    "CartPol-v1": "did you mean CartPole-v1?",
    "LunarLander-v2": "did you mean LunarLander-v3?",
    "Taxi-v3": "did you mean Taxi-v4?",
    "Pendulum-v0": "did you mean Pendulum-v1?",
    "HalfCheetah": "did you mean HalfCheetah-v5?",
    "HalfCheetah-v2": "use env.id=HalfCheetah-v5 (extra: mujoco)",
    "Hopper-v3": "use env.id=Hopper-v5 (extra: mujoco)",
    "dm_control/walker-walk-v0": "pip install 'shimmy[dm-control]', then env.id=shimmy:dm_control/",
    "FetchReach-v4": "pip install gymnasium-robotics, then env.id=gymnasium_robotics:FetchReach-v4",
    "AntMaze_UMaze-v5": "then env.id=gymnasium_robotics:AntMaze_UMaze-v5",
    "highway-v0": "pip install highway-env, then env.id=highway_env:highway-v0",
    "PandaReach-v3": "pip install panda-gym, then env.id=panda_gym:PandaReach-v3",
    "Unheard-v0": "for one of another package use env.id=MODULE:Unheard-v0",
    "json:Env-v0": "registers none",
    "no_such_package:X-v0": "expected no_such_package.py or no_such_package/ in ",
    "no-such-package:X-v0": "did you mean no_such_package?",
    "no_such.py:X-v0": "did you mean no_such?",
    "highway_env:highway-v0": "No module named 'highway_env'; pip install highway-env",
}


def message_for(env_id: str) -> str:
    with pytest.raises(ConfigError) as caught:
        find_spec(env_id)
    assert str(caught.value).startswith(f"env.id={env_id}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@HAS_ALE
@pytest.mark.parametrize("env_id", ATARI)
def test_old_atari_ids_suggest_ale(env_id: str) -> None:
    assert f"use env.id={ATARI[env_id]} (extra: atari)" in message_for(env_id)
    assert f"use env.id={ATARI[env_id]} (extra: atari)" in message_for(
        env_id
    )  # with ale_py imported


@pytest.mark.usefixtures("packages_missing")
@pytest.mark.parametrize("env_id", ["PongNoFrameskip-v4", "Pong-v5", "BankHeistNoFrameskip-v4"])
def test_atari_ids_are_known_without_ale(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in [known for known in gym.registry if "Pong" in known or "BankHeist" in known]:
        monkeypatch.delitem(gym.registry, known)
    assert "-v5 (extra: atari)" in message_for(env_id)


@pytest.mark.parametrize("env_id", OTHERS)
def test_wrong_ids_get_a_suggestion(env_id: str) -> None:
    assert OTHERS[env_id] in message_for(env_id)


@pytest.mark.usefixtures("packages_missing")
@pytest.mark.parametrize("env_id", ["MiniGrid-Empty-8x8-v0", "BabyAI-GoToLocal-v0"])
def test_minigrid_names_its_extra(env_id: str) -> None:
    assert "pip install 'rlkl[minigrid]'" in message_for(env_id)


@pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="extra minigrid")
def test_babyai_needs_no_module_name() -> None:
    assert find_spec("BabyAI-GoToLocal-v0").id == "BabyAI-GoToLocal-v0"


def test_tasks_of_rlkl_need_no_module_name() -> None:
    assert find_spec("rlkl/Recall-v0").id == "rlkl/Recall-v0"


def test_newest_version_wins() -> None:
    assert newest_id("hopper-v2") == "Hopper-v5"
    assert newest_id("Unheard-v3") == "Unheard-v3"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is not in sys.path, as for the console script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [text for text in sys.path if text != ""])
    return tmp_path


def test_modules_of_the_working_directory_are_found(own_folder: Path) -> None:
    (own_folder / "beside_me.py").write_text(
        "import gymnasium as gym\ngym.register('BesideMe-v3', 'beside_me:Env')\n"
    )
    assert find_spec("beside_me:BesideMe-v3").id == "BesideMe-v3"
    assert sys.path[-1] == str(own_folder)
    assert "did you mean beside_me:BesideMe-v3?" in message_for("beside_me:BesideMe")
    assert "did you mean beside_me:BesideMe-v3?" in message_for("beside_me:Another")


def test_installed_modules_precede_working_directory(own_folder: Path) -> None:
    (own_folder / "colorsys.py").write_text("raise SystemExit('the wrong one')\n")
    sys.modules.pop("colorsys", None)
    import_module_of("colorsys:X-v0")
    assert Path(str(sys.modules["colorsys"].__file__)).parent != own_folder
