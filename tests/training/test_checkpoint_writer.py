"""Checkpoints that a run writes: what is in them, and the best policy."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlkl
from rlkl.training.callbacks import Callbacks
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.checkpoint_writer import CheckpointWriter, RunRecord
from rlkl.training.learner import Learner


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[CheckpointWriter]:
    checkpoint = rlkl.CheckpointConfig(keep=2)
    config = rlkl.TrainConfig(rollout_steps=8, total_env_steps=64, checkpoint=checkpoint)
    learner = Learner(config)
    (tmp_path / "checkpoints").mkdir()
    yield CheckpointWriter(learner, tmp_path, RunRecord({}, exact=True), Callbacks(()))
    learner.close()


def names(writer: CheckpointWriter) -> list[str]:
    return sorted(path.name for path in writer.folder.iterdir())


def test_oldest_checkpoints_are_removed(writer: CheckpointWriter) -> None:
    steps = []
    for _ in range(3):
        steps.append(writer.learner.env_steps)
        writer.save()
        writer.learner.iterate()
    assert names(writer) == sorted(["last.pt", f"step_{steps[1]}.pt", f"step_{steps[2]}.pt"])
    assert writer.saved_iteration == 2


def test_last_checkpoint_is_written_once(writer: CheckpointWriter) -> None:
    writer.save_last()
    (writer.folder / "last.pt").unlink()
    writer.save_last()
    assert names(writer) == []
    writer.learner.iterate()
    writer.is_between_iterations = False
    writer.save_last()
    state = load_checkpoint(writer.folder / "last.pt")
    assert (state["resumable"], state["whole"], state["iterations"]) == (False, False, 1)


def test_best_policy_is_copied(writer: CheckpointWriter) -> None:
    for value in (math.nan, 3.0, 2.0):
        writer.note_best(value)
        writer.learner.iterate()
    writer.save()
    best = load_checkpoint(writer.folder / "best.pt")
    assert (best["iterations"], best["run"]["best"], best["resumable"]) == (1, 3.0, False)
    last = load_checkpoint(writer.folder / "last.pt")
    assert (last["iterations"], last["run"]["best_policy"]["iterations"]) == (3, 1)


def test_record_continues_that_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.0, 108.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    record = RunRecord({"wall_seconds": 50.0, "best": 2.0, "exact": False, "files": {}}, exact=True)
    record.add_evaluation(3.0)
    assert record.wall_seconds == 54.0
    assert record.as_dict() == {
        "evaluation_seconds": 3.0, "best": 2.0, "best_policy": None, "unlogged": None,
        "exact": False, "wall_seconds": 55.0, "stop_reason": "", "tracker": "",
    }  # fmt: skip
