"""The critic's fit beside the actor's update: the same bits, when it is done, and how it ends."""

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.algos import parallel_critic as critic_worker
from rlkl.algos.base import Metrics
from rlkl.algos.critic import CriticConfig
from rlkl.algos.parallel_critic import PERIOD, PROBES, Updates
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.rollouts.rollout import Batch
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.validation import ConfigError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a Unix")


def config(worker: str, algo: str = "ppo_clip", env_id: str = "CartPole-v1") -> TrainConfig:
    return TrainConfig(
        algo=ALGORITHMS[algo].config(),
        env=EnvConfig(id=env_id, num_envs=4),
        critic=CriticConfig(worker=worker, value_clip=0.5),
        rollout_steps=32,
        scale_rewards=True,
    )


@pytest.fixture
def learner() -> Iterator[Learner]:
    learner = Learner(config("always"))
    yield learner
    learner.close()


def pid_of(learner: Learner) -> int:
    worker = learner.updates._worker
    assert worker is not None
    return worker._pid


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [("ppo_clip", "CartPole-v1"), ("trpo", "Pendulum-v1"), ("ppo_kl", "FrozenLake-v1")],
)
def test_at_once_gives_the_bits_of_in_turn(algo: str, env_id: str) -> None:
    states, rows = [], []
    for worker in ("never", "always"):
        learner = Learner(config(worker, algo, env_id))
        reports = [learner.iterate()[1] for _ in range(4)]
        assert (learner.updates._worker is not None) == (worker == "always")
        rows.append([{k: v for k, v in r.items() if "time/" not in k} for r in reports])
        states.append(learner.state_dict() | {"config": None})
        learner.close()
    torch.testing.assert_close(rows[1], rows[0], rtol=0, atol=0, equal_nan=True)
    assert_same(*states)


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        for ours, theirs in zip(left, right, strict=True):
            assert_same(ours, theirs)
    elif isinstance(left, torch.Tensor):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    else:
        assert left == right or (math.isnan(left) and math.isnan(right))


def test_what_is_restored_in_the_trainer_is_restored_in_the_worker(learner: Learner) -> None:
    learner.iterate()
    learner.safeguard.remember()
    critic = learner.policy.critic_parameters.vector
    before = critic.detach().clone()
    learner.iterate()
    assert not torch.equal(critic, before)
    learner.safeguard._restore()
    once = [learner.critic_fit.state_dict()["generator"].clone(), critic.detach().clone()]
    rollout = learner.collector.collect()
    batch = rlkl.rollouts.rollout.make_batch(rollout, learner.policy, 0.99, 0.95)
    learner.critic_fit.update(batch, 0.0)
    expected = critic.detach().clone()
    learner.critic_fit.generator.set_state(once[0])
    learner.safeguard._restore()
    assert torch.equal(critic, once[1])
    learner.updates.update(batch, 0.0)
    assert torch.equal(critic, expected)


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Stub:
    """A policy-optimizer, a fit and a worker that take a given time, and change nothing."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def update(self, batch: Any, progress: float) -> Metrics:
        self.clock.now += self.seconds
        return {}

    def start(self, batch: Any, progress: float) -> None: ...

    def finish(self) -> Metrics:
        return self.update(None, 0.0)

    def end(self) -> None: ...


@pytest.mark.parametrize(
    ("fit", "wait", "expected"),
    [
        (0.05, 0.01, {False: PROBES, True: PERIOD - PROBES}),  # at once is faster
        (0.05, 0.09, {False: PERIOD - PROBES, True: PROBES}),  # slower: the core is taken
        (0.001, 0.0, {False: PERIOD, True: 0}),  # not worth a question
    ],
)
def test_the_faster_way_is_taken_and_measured_again(
    fit: float,
    wait: float,
    expected: dict[bool, int],
    learner: Learner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(critic_worker, "time", clock)
    monkeypatch.setattr(critic_worker, "CriticWorker", lambda *_: Stub(clock, wait))
    monkeypatch.setattr(critic_worker, "has_another_core", lambda: True)
    critic_fit: Any = Stub(clock, fit)
    critic_fit.config, critic_fit.policy = CriticConfig(), learner.policy
    updates = Updates(Stub(clock, 0.1), critic_fit, 1)  # type: ignore[arg-type]
    for _ in range(2):
        ways = []
        for _ in range(PERIOD):
            before = clock.now
            updates.update(None, 0.0)  # type: ignore[arg-type]
            ways.append(clock.now - before == pytest.approx(0.1 + wait))
        assert {way: ways.count(way) for way in (False, True)} == expected


def test_a_fit_that_becomes_worthwhile_between_two_probes_is_tried(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(critic_worker, "time", clock)
    monkeypatch.setattr(critic_worker, "CriticWorker", lambda *_: Stub(clock, 0.01))
    monkeypatch.setattr(critic_worker, "has_another_core", lambda: True)
    critic_fit: Any = Stub(clock, 0.001)
    critic_fit.config, critic_fit.policy = CriticConfig(), learner.policy
    updates = Updates(Stub(clock, 0.1), critic_fit, 1)  # type: ignore[arg-type]
    for number in range(PERIOD):
        critic_fit.seconds = 0.001 if number < 3 * PROBES else 0.05
        updates.update(None, 0.0)  # type: ignore[arg-type]
    # Two fits of the new length make the median, and from then on all are at once.
    assert clock.now == pytest.approx(PERIOD * 0.1 + 9 * 0.001 + 2 * 0.05 + (PERIOD - 11) * 0.01)


def test_one_core_alone_is_left_alone(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_worker, "has_another_core", lambda: False)
    alone = Learner(config("auto"))
    monkeypatch.setattr(critic_worker, "WORTHWHILE", 0.0)
    for _ in range(2 * PROBES):
        alone.iterate()
    assert alone.updates._worker is None
    alone.close()


def test_closing_ends_the_process(learner: Learner) -> None:
    learner.iterate()
    pid = pid_of(learner)
    assert is_running(pid)
    learner.close()
    assert not is_running(pid)


def test_a_worker_that_dies_is_told_of(learner: Learner) -> None:
    learner.iterate()
    os.kill(pid_of(learner), signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=r"critic died.*critic\.worker=never"):
        learner.iterate()


def test_the_worker_leaves_signals_to_the_trainer(learner: Learner) -> None:
    learner.iterate()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(learner), number)
    learner.iterate()


def test_what_fails_in_the_worker_is_raised_in_the_trainer(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: Batch, progress: float) -> Metrics:
        raise ZeroDivisionError("of the critic")

    monkeypatch.setattr(learner.critic_fit, "update", broken)
    with pytest.raises(ZeroDivisionError, match="of the critic"):
        learner.iterate()


def test_it_needs_networks_done_by_hand() -> None:
    by_autograd = PolicyConfig(differentiation="autograd")
    with pytest.raises(ConfigError, match=r"critic\.worker=always: it needs .*critic\.worker=auto"):
        Learner(replace(config("always"), policy=by_autograd))
    learner = Learner(replace(config("auto"), policy=by_autograd))
    assert learner.updates._wanted == "never"
    learner.close()
    with pytest.raises(ConfigError, match=r"critic\.worker='?sometimes"):
        CriticConfig(worker="sometimes")


@pytest.mark.slow
def test_no_worker_outlives_a_trainer_that_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        learner = Learner(config("always"))
        learner.iterate()
        os.write(writing, str(pid_of(learner)).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reading, 20))
    assert is_running(worker)
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    for _ in range(100):
        if not is_running(worker):
            break
        time.sleep(0.05)
    assert not is_running(worker)
    os.close(reading)
    os.close(writing)


def test_without_a_process_the_critic_is_fitted_in_turn(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("rlkl.algos.parallel_critic.os.fork", no_fork)
    monkeypatch.setattr(learner.updates, "_at_once", lambda: learner.updates._wanted != "never")
    for wanted, ends in (("always", True), ("auto", False)):
        learner.updates._wanted = wanted
        if ends:
            with pytest.raises(ChildProcessError, match="Resource temporarily"):
                learner.iterate()
        else:
            learner.iterate()
            learner.iterate()
    told = capfd.readouterr().err
    assert told.count("no process to fit the critic can be started") == 1
