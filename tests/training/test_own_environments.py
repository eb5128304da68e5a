"""Runs whose environment is a callable: recorded, evaluated, and resumed exactly."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
import yaml
from same_runs import assert_same_run

import rlkl
from rlkl.cli import main
from rlkl.envs import own

LIMIT: list[Any] = [{"TimeLimit": {"max_episode_steps": 20}}, "RecordEpisodeStatistics"]


def make_cartpole(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", **kwargs)


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of the user's in the working directory, and a process that passed nothing yet."""
    (tmp_path / "own_runs").mkdir()
    (tmp_path / "own_runs" / "envs.py").write_text(
        "import gymnasium as gym\n\n\ndef make_env(**kwargs):\n"
        "    return gym.make('CartPole-v1', **kwargs)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(own, "GIVEN", {})
    for name in ("own_runs", "own_runs.envs"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def config(made_by: Any, run: str, steps: int = 64, **settings: Any) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        env=rlkl.EnvConfig(made_by, 2, "sync", wrappers=LIMIT),
        algo=rlkl.PPOClipConfig(num_epochs=1, num_minibatches=1),
        critic=rlkl.CriticConfig(num_epochs=1, num_minibatches=1),
        policy=rlkl.PolicyConfig([8], [8]),
        logger=rlkl.LoggerConfig(progress="none", tensorboard=False),
        rollout_steps=8,
        total_env_steps=steps,
        eval_episodes=2,
        run_dir=run,
        **settings,
    )


class Stop:
    """A logger that ends a run in its second iteration."""

    def __init__(self) -> None:
        self.count = 0

    def log(self, report: Any) -> None:
        self.count += 1
        if self.count == 2:
            raise RuntimeError("the power went")

    def close(self, status: str) -> None:
        pass


def stopped(made_by: Any, run: str) -> None:
    with pytest.raises(RuntimeError, match="power"):
        rlkl.Trainer(config(made_by, run)).train([Stop()])
    own.GIVEN.clear()  # a new process


def test_a_modules_callable_is_recorded_and_resumed() -> None:
    rlkl.train(config("own_runs.envs:make_env", "whole"))
    stopped("own_runs.envs:make_env", "run")
    saved = yaml.safe_load(Path("run", "config.yaml").read_text())["env"]
    assert (saved["id"], saved["wrappers"]) == ("own_runs.envs:make_env", LIMIT)
    with pytest.raises(rlkl.ConfigError, match="only if you name it too"):
        rlkl.resume("run")
    assert rlkl.resume("run", env="own_runs.envs:make_env").exact
    assert_same_run(Path("whole"), Path("run"))


def test_a_lambda_is_resumed_with_what_is_passed() -> None:
    rlkl.train(config(lambda: make_cartpole(max_episode_steps=500), "whole"))
    own.GIVEN.clear()
    stopped(lambda: make_cartpole(max_episode_steps=500), "run")
    with pytest.raises(rlkl.ConfigError, match="pass it again: env=CALLABLE in Python"):
        rlkl.resume("run")
    assert rlkl.resume("run", env=lambda: make_cartpole(max_episode_steps=500)).exact
    assert_same_run(Path("whole"), Path("run"))


def test_the_command_resumes_what_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    stopped(lambda: make_cartpole(max_episode_steps=500), "run")
    for typed, code, words in (
        ([], 2, "env.id=module:function on the command line"),
        (["env.id=own_runs.envs:make_emv"], 2, "expected a callable, as module:function"),
        (["env.id=own_runs.envs:make_env"], 0, ""),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["resume", "run", *typed])
        assert (ended.value.code, words in capsys.readouterr().err) == (code, True)
    assert "finished" in Path("run", "summary.json").read_text()


def test_evaluate_takes_callables_arguments_and_limits() -> None:
    rlkl.train(config(make_cartpole, "run"))
    own.GIVEN.clear()
    for env in ("own_runs.envs:make_env", make_cartpole, "CartPole-v1"):
        found = rlkl.evaluate("run", 4, env=env, num_envs=4)
        assert len(found.lengths) == 4
        assert max(found.lengths) <= 20  # the run's TimeLimit
        assert found.returns == [float(length) for length in found.lengths]
    cut = rlkl.evaluate("run", 3, env=make_cartpole, max_episode_steps=2)
    assert cut.unended == [2.0, 2.0]  # of two sub-environments
    short = rlkl.evaluate("run", 3, env=make_cartpole, kwargs={"max_episode_steps": 3})
    assert short.lengths == [3, 3, 3]
    with pytest.raises(rlkl.ConfigError, match="policy was trained with observations Box"):
        rlkl.evaluate("run", 1, env="MountainCar-v0")
    assert rlkl.load_policy("run").act([0.0, 0.0, 0.0, 0.0]) in (0, 1)


def test_the_command_evaluates_with_changes(capsys: pytest.CaptureFixture[str]) -> None:
    rlkl.train(config("own_runs.envs:make_env", "run"))
    own.GIVEN.clear()
    named = ["env.id=own_runs.envs:make_env", "env.kwargs.max_episode_steps=3"]
    changes = [*named, "env.num_envs=4", "--episodes", "4", "--actions", "sampled"]
    for typed, code, words in (
        (["--episodes", "2"], 2, "only if you name it too: env.id=own_runs.envs:make_env"),
        (changes, 0, "own_runs.envs:make_env, checkpoint last at 64 environment steps"),
        ([*changes, "max_steps=2"], 0, "none of 4 evaluation episodes ended within 2 steps"),
        ([*named, "env.numenvs=4"], 2, "did you mean env.num_envs"),
        ([*named, "num_envs=0"], 2, "env.num_envs=0: expected"),
        ([*named, "max_steps=0"], 2, "max_steps=0: expected"),
        ([*named, "env.wrappers=[TimeLimitt]"], 2, "did you mean TimeLimit"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "run", *typed])
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        assert words in printed.out + printed.err
    mean_length = ["sampled", "3", "3", "to", "3", "3", "0", "3", "3", "3"]
    with pytest.raises(SystemExit):
        main(["evaluate", "run", *changes])
    assert capsys.readouterr().out.splitlines()[2].split() == mean_length


def test_strangers_functions_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    code = types.ModuleType("some_code")
    vars(code).update(run=lambda **kwargs: called.append(kwargs))
    rlkl.train(config(make_cartpole, "run"))
    path = Path("run", "checkpoints", "last.pt")
    state = torch.load(path, weights_only=True)
    state["config"]["env"] |= {"id": "some_code:run", "kwargs": {"command": "anything"}}
    torch.save(state, path)
    monkeypatch.setitem(sys.modules, "some_code", code)
    with pytest.raises(rlkl.ConfigError, match=r"env\.id=some_code:run is code that run names"):
        rlkl.evaluate("run", 1)
    for command in (["evaluate", "run"], ["watch", "run", "--video", "film.gif"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
    assert called == []


class Gravity:
    """A logger that changes the gravity of sub-environments, and ends the run if it is told to."""

    def __init__(self, learner: Any, stop: bool) -> None:
        self.learner, self.stop = learner, stop

    def log(self, report: Any) -> None:
        if self.learner.iterations == 1:
            self.learner.envs.set_attr("gravity", [5.0, 20.0])
        if self.learner.iterations == 3 and self.stop:
            raise RuntimeError("the power went")

    def close(self, status: str) -> None:
        pass


@pytest.mark.parametrize("backend", ["sync", "async"])  # restored, and recreated at checkpoints
def test_set_attributes_survive_checkpoints_and_resume(backend: str) -> None:
    for run, stop in (("whole", False), ("run", True)):
        settings = config(make_cartpole, run, checkpoint=rlkl.CheckpointConfig(interval=1))
        env = rlkl.EnvConfig(make_cartpole, 2, backend)
        trainer = rlkl.Trainer(replace(settings, env=env))
        try:
            trainer.train([Gravity(trainer.learner, stop)])
        except RuntimeError:
            assert stop
    assert rlkl.resume("run").status == "finished"
    assert_same_run(Path("whole"), Path("run"))
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    gravities = state["env_attributes"]
    assert gravities == {"keys": ["gravity"], "values": [[5.0, 20.0]]}
