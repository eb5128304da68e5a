"""A run from start to end: failures, evaluations, warnings, and a folder that is moved."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_environments import Endless
from test_evaluation import tiny
from test_learner import config
from test_strangers import SMALL, Calls

import rlkl
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.evaluation import Evaluation
from rlkl.training.learner import Learner
from rlkl.training.resource_checks import DeviceMemoryError
from rlkl.training.run_folder import FolderError
from rlkl.training.trained_policy import load_run


def test_failure_is_summarized_and_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rlkl.Trainer(config(run_dir=str(tmp_path / "run")))
    step, calls = trainer.learner.envs.step, iter(range(1000))

    def failing(actions: Any) -> Any:
        if next(calls) == 40:
            raise RuntimeError("the motor burned out")
        return step(actions)

    monkeypatch.setattr(trainer.learner.envs, "step", failing)
    with pytest.raises(RuntimeError, match="burned out"):
        trainer.train()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"] == "RuntimeError: the motor burned out"
    assert summary["iterations"] == 2
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert len(list(csv.reader(file))) == 3
    rlkl.load_policy(tmp_path / "run")


def test_logger_that_exits_is_a_failure(tmp_path: Path) -> None:
    class Exits:
        def log(self, report: Any) -> None:
            raise SystemExit(0)

        def close(self, status: str) -> None:
            raise SystemExit(0)

    config = rlkl.TrainConfig(
        total_env_steps=256,
        eval_episodes=0,
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        run_dir=str(tmp_path / "run"),
    )
    with pytest.raises(RuntimeError, match="SystemExit: 0: a logger or a callback ended the run"):
        rlkl.Trainer(config).train(loggers=[Exits()])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"


def metrics_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_endless_episodes_are_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkl.training.run.QUIET_STEPS", 100)
    env = rlkl.EnvConfig("SmallEndless-v0", num_envs=2, kwargs={"max_episode_steps": None})
    monkeypatch.setattr(Endless, "step", lambda env, action: (np.zeros(1, "f4"), 1.0, 0, 0, {}))
    settings: dict[str, Any] = {"env": env, "eval_interval": 2, "eval_max_episode_steps": 7}
    summary = rlkl.train(tiny(tmp_path / "run", **settings))
    assert (summary.status, summary.episodes) == ("finished", 0)
    assert (summary.eval_return, summary.eval_unended) == (None, 2)
    told = capfd.readouterr().err.splitlines()
    assert [line.split(" in the last ")[0] for line in told] == [
        "rlkl: none of 2 evaluation episodes ended within 7 steps (eval_max_episode_steps), so "
        "there is no mean return",
        "rlkl: no episode has ended",
        "rlkl: none of 2 evaluation episodes ended within 7 steps (eval_max_episode_steps), so "
        "there is no mean return",
    ]


def test_best_policy_is_of_the_best_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returns = iter([1.0, 5.0, 5.0, 4.0])
    monkeypatch.setattr(Learner, "evaluate", lambda learner, stop: Evaluation([next(returns)], [1]))
    summary = rlkl.train(tiny(tmp_path / "run", eval_interval=2))
    shown = [row["return/eval"] for row in metrics_of(tmp_path / "run")]
    assert [text and float(text) for text in shown] == ["", 1.0, "", 5.0, "", 5.0, 4.0]
    assert summary.eval_return == 4.0
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")["iterations"] == 4
    assert load_run(tmp_path / "run", "best").env_steps == 256
    assert load_run(tmp_path / "run").env_steps == 448


def test_stopped_run_has_no_final_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(learner: Learner, stop: Any) -> Evaluation:
        os.kill(os.getpid(), signal.SIGINT)
        return Evaluation([3.0], [1])

    monkeypatch.setattr(Learner, "evaluate", interrupted)
    summary = rlkl.train(tiny(tmp_path / "run", eval_interval=1))
    assert (summary.status, summary.iterations, summary.eval_return) == ("stopped", 1, None)


def test_wall_seconds_exclude_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def tick() -> float:
        clock[0] += 1
        return clock[0]

    def slow(*given: Any, **more: Any) -> Evaluation:
        clock[0] += 1e6
        return Evaluation([1.0], [1])

    monkeypatch.setattr("time.perf_counter", tick)
    monkeypatch.setattr("rlkl.training.learner.evaluate", slow)
    summary = rlkl.train(tiny(tmp_path / "run", eval_interval=1))
    assert 7 < summary.wall_seconds < 1000


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not say where")
def test_moved_folder_gets_the_summary(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved here"

    def move() -> None:
        run.rename(moved)
        run.mkdir()  # another takes its place, and nothing is written to it

    with pytest.raises(FolderError) as told:
        rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **SMALL)).train([Calls(move)])
    assert str(told.value) == (
        f"{run} was moved to {moved} while the run was writing to it; "
        f"continue with: rlkl resume '{moved}'"
    )
    assert json.loads((moved / "summary.json").read_text())["status"] == "failed"
    assert not any(run.iterdir())
    assert rlkl.resume(moved).status == "finished"


def test_deleted_folder_is_an_error(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(
        FolderError, match=f"^{run} was moved or deleted while the run was writing to it$"
    ):
        rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **SMALL)).train(
            [Calls(lambda: shutil.rmtree(run))]
        )
    assert not run.exists()


def test_device_without_memory_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def iterate(learner: Learner) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")

    monkeypatch.setattr(Learner, "iterate", iterate)
    with pytest.raises(DeviceMemoryError) as raised:
        rlkl.train(tiny(tmp_path / "run"))
    assert str(raised.value) == (
        "CUDA out of memory: a batch has 64 steps (rollout_steps=32 × env.num_envs=2), a minibatch "
        "1/2 of them, and the networks 9,155 parameters; expected fewer steps or sub-environments, "
        "more algo.num_minibatches, or smaller networks"
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"].startswith("DeviceMemoryError: CUDA out of memory: a batch has 64")
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "step_0.pt")["env_steps"] == 0
