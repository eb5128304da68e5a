"""What a stranger's run folder holds is data: nothing outside it is written, no code of it runs."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import rlkl
from rlkl.durable import FolderTakenError
from rlkl.rollout import Episode
from rlkl.standing import clean_up

SMALL: dict[str, Any] = {
    "env": rlkl.EnvConfig("CartPole-v1", 2),
    "policy": rlkl.PolicyConfig([8], [8]),
    "algo": rlkl.PPOClipConfig(num_epochs=1, num_minibatches=1),
    "critic": rlkl.CriticConfig(num_epochs=1, num_minibatches=1),
    "checkpoint": rlkl.CheckpointConfig(interval=2),
    "logger": rlkl.LoggerConfig(progress="none"),
    "rollout_steps": 8,
    "total_env_steps": 64,
    "eval_episodes": 0,
}


class Calls:
    """A logger that calls something once, in the third iteration."""

    def __init__(self, what: Any) -> None:
        self.what, self.iterations = what, 0

    def log(self, env_steps: int, metrics: Any, histograms: Any) -> None:
        self.iterations += 1
        if self.iterations == 3:
            self.what()

    def log_episodes(self, episodes: Iterable[Episode]) -> None:
        pass

    def close(self, status: str) -> None:
        pass


def lost() -> None:
    raise RuntimeError("the power went")


def unfinished(run: Path) -> Path:
    """Make a run that broke off behind its first checkpoints."""
    with pytest.raises(RuntimeError, match="power"):
        rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **SMALL)).train([Calls(lost)])
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


WRITTEN = [
    ".lock",
    "metrics.csv",
    "episodes.csv",
    "summary.json",
    "resumed.yaml",
    "config.yaml",
    "events.out.tfevents.1.x",
    "checkpoints/last.pt",
    "checkpoints/step_32.pt",
]


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
@pytest.mark.parametrize("name", WRITTEN)
def test_resume_refuses_files_that_are_links_or_pipes(name: str, kind: str, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    victim = tmp_path / "start-up"
    if kind == "link":
        victim.write_text("mine")
    path = run / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(victim)
    before = contents(run)
    words = "something else" if kind == "pipe" else "a symbolic link"
    with pytest.raises(rlkl.ConfigError, match=rf"/{name} is {words}, and rlkl writes to a file"):
        rlkl.resume(run)
    assert contents(run) == before
    assert victim.exists() == (kind == "link")
    if kind == "link":
        assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "bad_updates"])
def test_resume_refuses_folders_that_are_links(name: str, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    if name == "checkpoints":
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    before = contents(elsewhere)
    with pytest.raises(
        rlkl.ConfigError, match=rf"/{name} is a symbolic link, .* folder of its own"
    ):
        rlkl.resume(run)
    assert contents(elsewhere) == before


def test_resume_writes_through_no_name_that_can_be_guessed(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    victim = tmp_path / "start-up"
    victim.write_text("mine")
    for name in ("summary.json", "resumed.yaml", "checkpoints/last.pt", "checkpoints/step_64.pt"):
        (run / f"{name}.partial").symlink_to(victim)
    assert rlkl.resume(run).status == "finished"
    assert victim.read_text() == "mine"


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    assert rlkl.resume(tmp_path / "link").status == "finished"


def test_resume_removes_what_killed_writers_left(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    left = [run / f"summary.json.{'a' * 16}.partial", run / f"checkpoints/x.pt.{'b' * 16}.partial"]
    for path in left:
        path.write_bytes(b"half")
    rlkl.resume(run)
    assert not any(path.exists() for path in left)
    clean_up(tmp_path / "nowhere")  # as of a run without the folders


def test_two_threads_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused: list[str] = []

    def again() -> None:
        for path in (run, tmp_path / "run" / ".." / "run"):
            with pytest.raises(FolderTakenError) as error:
                rlkl.resume(path)
            refused.append(str(error.value))

    def beside() -> None:
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()

    rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **SMALL)).train([Calls(beside)])
    assert len(refused) == 2
    assert len((run / "metrics.csv").read_text().splitlines()) == 5
