"""Numbers of threads are restored after training."""

import threading

import pytest
import torch

from rlkl import ConfigError, EnvConfig, LoggerConfig, TrainConfig, Trainer
from rlkl.utils.thread_limit import ThreadLimit


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    # Learners that other tests never closed still hold limits.
    monkeypatch.setattr(ThreadLimit, "_own", threading.local())
    monkeypatch.setattr(ThreadLimit, "_users", 0)
    monkeypatch.setattr(ThreadLimit, "_blas", None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def config(**given: object) -> TrainConfig:
    quiet = LoggerConfig(progress="none", tensorboard=False)
    return TrainConfig(total_env_steps=64, rollout_steps=8, eval_episodes=0, logger=quiet, **given)


def test_training_restores_torch_threads(tmp_path: object) -> None:
    trainer = Trainer(config(run_dir=f"{tmp_path}/run"))
    assert torch.get_num_threads() == 1
    trainer.train()
    assert torch.get_num_threads() == 2


def test_failed_construction_restores_torch_threads() -> None:
    with pytest.raises(ConfigError):
        Trainer(config(env=EnvConfig(id="NoSuchThing-v0")))
    assert torch.get_num_threads() == 2


def test_taken_folder_restores_torch_threads(tmp_path: object) -> None:
    made = Trainer(config(run_dir=str(tmp_path)))
    with pytest.raises(ConfigError):
        made.train()
    assert torch.get_num_threads() == 2


def test_release_keeps_another_limit() -> None:
    first, second = ThreadLimit(1), ThreadLimit(1)
    first.release()
    first.release()
    assert torch.get_num_threads() == 1
    second.release()
    assert torch.get_num_threads() == 2


def test_limit_of_another_thread_changes_nothing_here() -> None:
    thread = threading.Thread(target=lambda: ThreadLimit(1).release())
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 2
