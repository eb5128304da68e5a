"""The threads that a program had are there again after training."""

import threading

import pytest
import torch

from rlkl import ConfigError, EnvConfig, LoggerConfig, TrainConfig, Trainer
from rlkl.utils.thread_limit import ThreadLimit


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    # Learners of other tests that were never closed hold limits of their own.
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


def test_training_puts_torch_threads_back(tmp_path: object) -> None:
    trainer = Trainer(config(run_dir=f"{tmp_path}/run"))
    assert torch.get_num_threads() == 1
    trainer.train()
    assert torch.get_num_threads() == 2


def test_failed_construction_puts_torch_threads_back() -> None:
    with pytest.raises(ConfigError):
        Trainer(config(env=EnvConfig(id="NoSuchThing-v0")))
    assert torch.get_num_threads() == 2


def test_taken_folder_puts_torch_threads_back(tmp_path: object) -> None:
    made = Trainer(config(run_dir=str(tmp_path)))
    with pytest.raises(ConfigError):
        made.train()
    assert torch.get_num_threads() == 2


def test_first_of_two_limits_leaves_the_other() -> None:
    first, second = ThreadLimit(1), ThreadLimit(1)
    first.release()
    first.release()
    assert torch.get_num_threads() == 1
    second.release()
    assert torch.get_num_threads() == 2


def test_limit_in_another_thread_leaves_this_one() -> None:
    thread = threading.Thread(target=lambda: ThreadLimit(1).release())
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 2
