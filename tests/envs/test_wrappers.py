"""`env.wrappers`: found by name, checked, and put around each sub-environment."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.envs.classic_control import PendulumEnv

import rlkl
from rlkl.envs import ids, wrappers
from rlkl.envs.make import EnvConfig, choose_backend, episode_limit, make_vector_env
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.training.config import saved_config
from rlkl.training.loggers import as_yaml
from rlkl.utils.errors import ConfigError


class AddReward(gym.Wrapper[Any, Any, Any, Any]):
    """Adds a number to each reward."""

    def __init__(self, env: gym.Env[Any, Any], bonus: float = 1.0) -> None:
        super().__init__(env)
        self.bonus = bonus

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) + self.bonus, *rest


def ignore_all(env: gym.Env[Any, Any], *ignored: Any, **options: Any) -> gym.Env[Any, Any]:
    """Wrap nothing, whatever it is given."""
    return env


class Film(gym.wrappers.RecordVideo):
    """Records nothing, and says where it is."""

    def __init__(self, env: gym.Env[Any, Any], video_folder: str) -> None:
        gym.Wrapper.__init__(self, env)
        assert env.render_mode == "rgb_array"
        with Path(video_folder).open("a") as file:
            file.write("made\n")

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, _, *rest = self.env.step(action)
        return observation, 99.0, *rest

    def close(self) -> None:
        self.env.close()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the wrappers of this file."""
    monkeypatch.setattr(wrappers, "_registered", {})
    rlkl.register_wrapper("AddReward", AddReward)
    rlkl.register_wrapper("Film", Film)
    rlkl.register_wrapper("IgnoreAll", ignore_all)


def rewards(envs: VectorEnvironment, steps: int = 1) -> list[list[float]]:
    envs.reset(list(range(envs.num_envs)))
    actions = np.zeros(envs.num_envs, np.int64)
    found = [envs.step(actions).rewards.tolist() for _ in range(steps)]
    envs.close()
    return found


@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
def test_wrappers_apply_from_the_inside(backend: str) -> None:
    limit, bonus = {"TimeLimit": {"max_episode_steps": 2}}, {"AddReward": {"bonus": 4}}
    config = EnvConfig("CartPole-v1", 2, backend, wrappers=[limit, bonus, "AddReward"])
    envs = make_vector_env(config)
    envs.reset([0, 1])
    steps = [envs.step(np.array([0, 1])) for _ in range(2)]
    envs.close()
    assert [step.rewards.tolist() for step in steps] == [[6, 6], [6, 6]]  # 1 + 4 + 1
    assert [step.truncated.tolist() for step in steps] == [[False, False], [True, True]]


def test_actions_are_rescaled_as_by_gymnasium() -> None:
    rescale: dict[str, Any] = {"RescaleAction": {"min_action": -1, "max_action": 1}}
    envs = make_vector_env(EnvConfig("Pendulum-v1", 1, wrappers=[rescale]))
    plain = PendulumEnv()
    first, expected = envs.reset([3])["vector"][0], plain.reset(seed=3)[0]
    assert np.array_equal(first, expected)
    assert (envs.action_space.low, envs.action_space.high) == (-1, 1)
    step = envs.step(np.array([[0.5]], np.float32))  # half of the largest torque, 2
    assert np.allclose(step.observations["vector"][0], plain.step(np.array([1.0]))[0], atol=1e-6)
    envs.close()


def test_lists_become_the_tuples_that_wrappers_take() -> None:
    config = EnvConfig("CartPole-v1", 1, wrappers=[{"ReshapeObservation": {"shape": [2, 2]}}])
    envs = make_vector_env(config)
    assert envs.encoder.space.shape == (2, 2)
    envs.close()


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_lists_become_arrays_and_null_is_no_argument() -> None:
    rescale = {"RescaleAction": {"min_action": [-3.0], "max_action": [3.0]}}
    envs = make_vector_env(EnvConfig("Pendulum-v1", 1, wrappers=[rescale, {"AddReward": None}]))
    assert (envs.action_space.low, envs.action_space.high) == (-3, 3)
    envs.close()


def test_wrappers_of_any_argument_take_any() -> None:
    config = EnvConfig("CartPole-v1", 1, wrappers=["IgnoreAll", {"IgnoreAll": {"any": 3}}])
    assert rewards(make_vector_env(config)) == [[1]]


@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
def test_wrapper_of_another_package_by_its_module(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halved_rewards.py").write_text(
        "import gymnasium as gym\n"
        "class Halved(gym.RewardWrapper):\n"
        "    def __init__(self, env, by=2):\n"
        "        super().__init__(env)\n"
        "        self.by = by\n"
        "    def reward(self, reward):\n"
        "        return reward / self.by\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen: list[Any] = ["halved_rewards.Halved", {"halved_rewards.Halved": {"by": 8}}]
    envs = make_vector_env(EnvConfig("CartPole-v1", 2, backend, wrappers=chosen))
    assert rewards(envs) == [[1 / 16, 1 / 16]]


def test_wrappers_are_not_imported_from_a_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "_run_folders", set())
    (tmp_path / "planted_wrapper.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    ids.check_place("", "", tmp_path)
    with pytest.raises(ConfigError, match="from which no code is run"):
        make_vector_env(EnvConfig("CartPole-v1", 2, wrappers=["planted_wrapper.Wrapper"]))


def test_missing_package_of_a_wrapper_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError("no module named cv2")

    monkeypatch.setattr(wrappers, "GYMNASIUM", ["NeedsPackage"])
    monkeypatch.setattr(gym.wrappers, "__getattr__", missing)
    with pytest.raises(ConfigError, match="NeedsPackage needs a package: no module named cv2"):
        choose_backend(EnvConfig("CartPole-v1", wrappers=["NeedsPackage"]))


def test_only_the_first_sub_environment_records(tmp_path: Path) -> None:
    film = {"Film": {"video_folder": str(tmp_path / "films")}}
    config = EnvConfig("CartPole-v1", 3, "sync", wrappers=[film, "AddReward"])
    assert rewards(make_vector_env(config)) == [[100, 2, 2]]
    assert (tmp_path / "films").read_text() == "made\n"
    assert wrappers.without_videos(config.wrappers) == ["AddReward"]


def test_auto_takes_a_backend_with_sub_environments() -> None:
    assert choose_backend(EnvConfig("CartPole-v1", 8)) == "native"
    assert choose_backend(EnvConfig("CartPole-v1", 8, wrappers=["AddReward"])) == "sync"


def test_time_limits_of_wrappers_count() -> None:
    limit = {"TimeLimit": {"max_episode_steps": 30}}
    assert episode_limit(EnvConfig("CartPole-v1")) == 500
    assert episode_limit(EnvConfig("CartPole-v1", wrappers=[limit])) == 30
    assert episode_limit(EnvConfig(PendulumEnv, wrappers=[limit])) == 30
    other = {"IgnoreAll": {"max_episode_steps": 20}}
    assert episode_limit(EnvConfig(PendulumEnv, wrappers=[other])) == 0
    assert episode_limit(EnvConfig(PendulumEnv)) == 0
    assert episode_limit(EnvConfig("CartPole-v1", kwargs={"max_episode_steps": 9})) == 9


def test_wrappers_come_back_from_the_saved_config() -> None:
    chosen: list[Any] = ["ClipAction", {"TimeLimit": {"max_episode_steps": 30}}]
    config = rlkl.TrainConfig(env=EnvConfig("Pendulum-v1", wrappers=chosen))
    assert saved_config(yaml.safe_load(as_yaml(asdict(config)))) == config


BAD: dict[str, tuple[Any, str]] = {
    "name": (["TimeLimitt"], "no wrapper 'TimeLimitt' (did you mean TimeLimit"),
    "own name": (["AdReward"], "(did you mean AddReward"),
    "argument": ([{"TimeLimit": {"max_steps": 3}}], "TimeLimit has no argument 'max_steps' (did"),
    "none": ([{"ClipAction": {"low": 3}}], "ClipAction has no argument 'low'; it takes none"),
    "missing": (["TimeLimit"], "TimeLimit needs the argument 'max_episode_steps', as in"),
    "two names": ([{"ClipAction": {}, "ClipReward": {}}], "is no wrapper; expected a name, or a"),
    "number": ([3], "3 is no wrapper"),
    "number as name": ([{3: {}}], "is no wrapper"),
    "no class": (["vector"], "there is no wrapper 'vector'"),
    "arguments": ([{"TimeLimit": 3}], "is no wrapper"),
    "text": ("TimeLimit", "env.wrappers='TimeLimit': expected a list"),
    "code": ([{"TransformReward": {"func": abs}}], "TransformReward.func is code"),
    "statistics": (["NormalizeObservation"], "use normalize_observations=true"),
    "statistics of Gymnasium": (["gymnasium.wrappers.NormalizeReward"], "use scale_rewards=true"),
    "package": (["no_such_package.Wrapper"], "'no_such_package' cannot be imported"),
    "function of a package": (["os.path.abspath"], "os.path.abspath is not a wrapper; expected"),
    "class of a package": (["gymnasium.Env"], "gymnasium.Env is not a wrapper; expected"),
    "argument of a package": ([{"gymnasium.wrappers.ClipAction": {"low": 3}}], "has no argument"),
    "value": ([{"TimeLimit": {"max_episode_steps": -3}}], "could not be made: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_wrappers_give_one_line(case: str) -> None:
    chosen, words = BAD[case]
    with pytest.raises(ConfigError) as raised:
        make_vector_env(EnvConfig("CartPole-v1", 2, wrappers=chosen))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", ["native", "tensor", "envpool"])
def test_backends_without_sub_environments_refuse_wrappers(backend: str) -> None:
    with pytest.raises(ConfigError, match=f"env.backend={backend} has no single sub-environments"):
        choose_backend(EnvConfig("CartPole-v1", 8, backend, wrappers=["AddReward"]))


def test_atari_refuses_wrappers() -> None:
    pytest.importorskip("ale_py", reason="extra atari")
    with pytest.raises(ConfigError, match="has the usual preprocessing"):
        choose_backend(EnvConfig("ALE/Pong-v5", wrappers=["AddReward"]))


def test_registered_names_are_unique() -> None:
    rlkl.register_wrapper("AddReward", AddReward)  # the same again
    for name in ("AddReward", "TimeLimit"):
        with pytest.raises(ConfigError, match="a wrapper has this name already"):
            rlkl.register_wrapper(name, Film)
    with pytest.raises(ConfigError, match="expected a name of letters and digits"):
        rlkl.register_wrapper("a-b", Film)
    with pytest.raises(ConfigError, match="expected a wrapper's class"):
        rlkl.register_wrapper("Number", 3)  # type: ignore[arg-type]
