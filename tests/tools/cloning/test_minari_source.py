"""Minari data sets: what is read of them, and what is refused."""

import importlib.util
import json
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from cloning_data import SPACES, learner_for
from gymnasium.spaces import Box, Dict, Discrete

import rlkl
from rlkl.cli import main
from rlkl.tools.cloning.clone import open_source
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.demonstrations import Demonstrations
from rlkl.tools.cloning.minari_source import MinariSource
from rlkl.utils.errors import ConfigError

needs_minari = pytest.mark.skipif(
    not importlib.util.find_spec("minari"), reason="needs the extra minari"
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    return tmp_path / "sets"


def make(
    name: str, episodes: list[dict[str, Any]], observations: gym.Space[Any],
    actions: gym.Space[Any], env: str | None = None,
) -> str:  # fmt: skip
    """Write a data set; each episode has the fields of Minari's EpisodeBuffer."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [EpisodeBuffer(id=number, **episode) for number, episode in enumerate(episodes)]
    with warnings.catch_warnings(action="ignore"):  # of fields that are left out
        minari.create_dataset_from_buffers(
            name, buffers, env=env, observation_space=observations, action_space=actions
        )
    return name


def episode(shown: Any, actions: Any, terminated: bool = True, **more: Any) -> dict[str, Any]:
    steps = len(actions)
    ends = [False] * (steps - 1) + [True]
    none = [False] * steps
    return {
        "observations": shown, "actions": actions, "rewards": list(map(float, range(steps))),
        "terminations": ends if terminated else none, "truncations": none if terminated else ends,
    } | more  # fmt: skip


def states(*numbers: int) -> list[np.int64]:
    return [np.int64(number) for number in numbers]


def read(name: str, env: str = "StatesDiscrete-v0", **settings: Any) -> Demonstrations:
    source = open_source(name)
    assert isinstance(source, MinariSource)
    with closing(learner_for(env)) as learner:
        return source.demonstrations(learner, CloneConfig(**settings))


EPISODES = [
    episode(states(0, 1, 0), states(2, 1)),
    episode(states(0, 1), states(0), terminated=False),
    episode(states(0, 1, 0, 1), states(1, 2, 0)),
]


def small_set(name: str = "small/set-v0") -> str:
    """Write `EPISODES` as a data set, and return its name."""
    return make(name, EPISODES, Discrete(2), Discrete(3))


@needs_minari
def test_episodes_are_read_in_order() -> None:
    data = read(small_set())
    assert data.observations["vector"].argmax(1).tolist() == [0, 1, 0, 0, 1, 0]
    assert data.final_observations["vector"].argmax(1).tolist() == [0, 1, 1]
    assert data.actions.tolist() == [2, 1, 0, 1, 2, 0]
    assert data.rewards.tolist() == [0, 1, 0, 0, 1, 2]
    assert data.lengths.tolist() == [2, 1, 3]
    assert data.terminated.tolist() == [True, False, True]
    assert data.parameters.shape == (6, 0)


@needs_minari
def test_first_episodes_are_read(root: Path) -> None:
    small_set()
    assert read("small/set-v0", episodes=2).lengths.tolist() == [2, 1]
    assert read(str(root / "small/set-v0"), env_steps=3).lengths.tolist() == [2, 1]
    assert read(str(root / "small/set-v0" / "data"), env_steps=1).lengths.tolist() == [2]


@needs_minari
@pytest.mark.parametrize("space", ["Shifted", "MultiDiscrete", "MultiBinary", "Box"])
def test_actions_become_samples(space: str) -> None:
    SPACES[space].seed(0)
    actions = [SPACES[space].sample() for _ in range(2)]
    name = make("small/set-v0", [episode(states(0, 1, 0), actions)], Discrete(2), SPACES[space])
    with closing(learner_for(f"States{space}-v0")) as learner:
        source = open_source(name)
        data = source.demonstrations(learner, CloneConfig())
        again = learner.policy.decoder(data.actions)
    np.testing.assert_allclose(again, np.array(actions), atol=1e-6)


@needs_minari
def test_nested_observations_are_encoded() -> None:
    space = Dict(a=Discrete(2), b=Box(-9, 9, (2,)))
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2)
    shown = {"a": states(1, 0, 1), "b": list(numbers)}
    name = make("small/set-v0", [episode(shown, states(0, 2))], space, Discrete(3))
    gym.register("Nested-v0", lambda: _Shows(space))
    data = read(name, "Nested-v0")
    assert data.observations["vector"].tolist() == [[0, 1, 0, 1], [1, 0, 2, 3]]
    assert data.final_observations["vector"].tolist() == [[0, 1, 4, 5]]


class _Shows(gym.Env[Any, Any]):
    """Shows random observations of a space."""

    action_space = Discrete(3)

    def __init__(self, space: gym.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, {}


@needs_minari
def test_masks_are_read_from_the_infos() -> None:
    masks = [np.array(row, np.int8) for row in ([1, 1, 1], [1, 1, 0], [0, 0, 0])]
    with_masks = episode(states(0, 1, 0), states(2, 1), infos={"action_mask": masks})
    make("small/set-v0", [with_masks], Discrete(2), Discrete(3))
    data = read("small/set-v0", "StatesMasked-v0")
    assert data.observations["action_mask"].tolist() == [[True] * 3, [True, True, False]]
    small_set("small/bare-v0")
    with pytest.raises(ConfigError, match="episode 0: the environment has action masks, and"):
        read("small/bare-v0", "StatesMasked-v0")


@needs_minari
def test_broken_data_is_named() -> None:
    nan = episode([np.zeros(1, np.float32), np.full(1, np.nan, np.float32)], states(0))
    gym.register("Line-v0", lambda: _Shows(Box(-1, 1, (1,))))
    make("small/nan-v0", [nan], Box(-1, 1, (1,)), Discrete(3))
    with pytest.raises(ConfigError, match="small/nan-v0, episode 0: the observation of step 1 is"):
        read("small/nan-v0", "Line-v0")
    make("small/five-v0", [episode(states(0, 1), states(5))], Discrete(2), Discrete(3))
    with pytest.raises(ConfigError, match="episode 0: an action is not in its space"):
        read("small/five-v0")
    wrong = episode(states(0, 1), states(0), rewards=[np.inf])
    make("small/inf-v0", [wrong], Discrete(2), Discrete(3))
    with pytest.raises(ConfigError, match="episode 0: a reward is not finite"):
        read("small/inf-v0")


@needs_minari
def test_other_spaces_are_refused() -> None:
    small_set()
    with pytest.raises(ConfigError, match=r"small/set-v0 has actions Discrete\(3\), but the env"):
        read("small/set-v0", "StatesMultiBinary-v0")


@needs_minari
def test_damaged_data_set_is_one_line(root: Path) -> None:
    small_set()
    metadata = root / "small/set-v0/data/metadata.json"
    content = json.loads(metadata.read_text())
    del content["action_space"]
    metadata.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="it does not store its spaces"):
        open_source("small/set-v0")
    metadata.write_text("{")
    with pytest.raises(ConfigError, match="small/set-v0 cannot be read as a Minari data set"):
        open_source("small/set-v0")


@needs_minari
def test_data_set_without_environment_needs_one() -> None:
    small_set()
    with pytest.raises(ConfigError, match=r"does not say in which env.*env\.id=ID"):
        _ = open_source("small/set-v0").train


@needs_minari
@pytest.mark.slow
def test_command_clones_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Of the same environment, with keywords, and a policy that pushes towards where the pole leans.
    env = gym.make("CartPole-v1", sutton_barto_reward=True)
    rng, episodes = np.random.default_rng(0), []
    for _ in range(6):
        shown, actions = [rng.normal(0, 0.1, 4).astype(np.float32)], []
        for _ in range(30):
            actions.append(np.int64(shown[-1][2] > 0))
            shown.append(rng.normal(0, 0.1, 4).astype(np.float32))
        episodes.append(episode(shown, actions))
    spaces = env.observation_space, env.action_space
    name = make("small/lean-v0", episodes, *spaces, env=env)
    out = str(tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        main(["clone", name, f"run_dir={out}", "epochs=150", "learning_rate=0.01", "patience=null",
              "eval_episodes=2", "env.num_envs=2", "logger.progress=none"])  # fmt: skip
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == out
    policy = rlkl.load_policy(out)
    assert [policy.act(np.array([0, 0, lean, 0], np.float32)) for lean in (-0.1, 0.1)] == [0, 1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["data"], summary["env_id"]) == (name, "CartPole-v1")
    assert (summary["steps_fitted"], summary["steps_held_out"]) == (150, 30)
    assert "sutton_barto_reward: true" in (tmp_path / "run" / "config.yaml").read_text()


def test_missing_package_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "set" / "data").mkdir(parents=True)
    (root / "set" / "data" / "metadata.json").write_text("{}")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "minari" else find(n))
    with pytest.raises(ConfigError, match="which the extra 'minari' installs"):
        open_source("set")


def test_unknown_name_says_how_to_fetch() -> None:
    with pytest.raises(ConfigError, match="minari download D4RL/pen/human-v2"):
        open_source("D4RL/pen/human-v2")
