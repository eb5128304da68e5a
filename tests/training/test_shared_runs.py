"""Runs with `env.backend=shared` have the results of those with `sync`, resumed or not."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import rlkl
from rlkl.training.checkpoint import LAST, load_checkpoint
from rlkl.training.learner import Learner
from rlkl.training.report import Report
from rlkl.utils.cpu import has_another_core
from rlkl.utils.errors import BrokenEnvironmentError

pytestmark = pytest.mark.skipif(not has_another_core(), reason="shared has no workers on one core")


def config(backend: str, run_dir: Path | None = None, **more: Any) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        env=rlkl.EnvConfig("Pendulum-v1", 3, backend, kwargs={"max_episode_steps": 25}),
        rollout_steps=40,
        total_env_steps=720,
        eval_episodes=0,
        logger=rlkl.LoggerConfig(progress="none", tensorboard=False),
        run_dir=run_dir and str(run_dir),
        **more,
    )


@pytest.mark.parametrize(("first", "second"), [("sync", "shared"), ("shared", "sync")])
def test_each_backend_resumes_the_other(first: str, second: str) -> None:
    with closing(Learner(config(first))) as one, closing(Learner(config(second))) as other:
        assert "environments reset every" not in one.title + other.title
        one.iterate()
        one.iterate()
        other.load_state_dict(one.state_dict())
        for _ in range(2):
            one.iterate()
            other.iterate()
        ours, theirs = (learner.policy.actor_parameters.vector for learner in (one, other))
        assert torch.equal(ours, theirs)
        states = [str(learner.state_dict()["collector"]) for learner in (one, other)]
        assert states[0] == states[1]


class Killer:
    """A logger that kills a worker of the environments after an iteration."""

    def __init__(self, trainer: rlkl.Trainer, at: int) -> None:
        self.envs, self.at = trainer.learner.envs, at

    def log(self, report: Report) -> None:
        self.at -= 1
        if self.at == 0:
            process = self.envs._envs.processes[0]  # type: ignore[union-attr]
            process.kill()
            process.join()

    def close(self, status: str) -> None:
        pass


@pytest.mark.slow
def test_run_resumes_from_before_the_lost_state(tmp_path: Path) -> None:
    checkpoint = rlkl.CheckpointConfig(2)
    whole = rlkl.Trainer(config("sync", tmp_path / "whole", checkpoint=checkpoint))
    whole.train()
    broken = rlkl.Trainer(config("shared", tmp_path / "broken", checkpoint=checkpoint))
    with pytest.raises(BrokenEnvironmentError, match="the process of a sub-environment died"):
        broken.train(loggers=[Killer(broken, at=4)])  # its checkpoint lacks the environments
    rlkl.resume(tmp_path / "broken")
    last = [load_checkpoint(tmp_path / name / "checkpoints" / LAST) for name in ("whole", "broken")]
    assert last[0]["env_steps"] == last[1]["env_steps"] == 720
    assert str(last[0]["policy"]) == str(last[1]["policy"])
    assert str(last[0]["collector"]) == str(last[1]["collector"])
