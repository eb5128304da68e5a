"""The critic's worker: identical results, when it is used, and how it ends."""

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
from engines_available import HAS_NUMPY_ENGINE

import rlkl
from rlkl.algos import ALGORITHMS, parallel_critic
from rlkl.algos.base import Outcome
from rlkl.algos.critic import CriticConfig
from rlkl.algos.parallel_critic import PERIOD, PROBES, Updates
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.rollouts.batch import Batch
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not HAS_NUMPY_ENGINE, reason="needs a Unix and the NumPy engine"
)


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
def test_parallel_and_sequential_results_are_identical(algo: str, env_id: str) -> None:
    states, rows = [], []
    for worker in ("never", "always"):
        learner = Learner(config(worker, algo, env_id))
        reports = [learner.iterate().scalars for _ in range(4)]
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


def test_restoring_trainer_restores_worker(learner: Learner) -> None:
    learner.iterate()
    learner.guard.remember()
    critic = learner.policy.critic_parameters.vector
    before = critic.detach().clone()
    learner.iterate()
    assert not torch.equal(critic, before)
    learner.guard._restore()
    generator = learner.critic_fit.state_dict()["generator"].clone()
    restored = critic.detach().clone()
    rollout = learner.collector.collect()
    batch = rlkl.rollouts.make.make_batch(rollout, make_engine(learner.policy), 0.99, 0.95)
    learner.critic_fit.update(batch, 0.0)
    expected = critic.detach().clone()
    learner.critic_fit.generator.set_state(generator)
    learner.guard._restore()
    assert torch.equal(critic, restored)
    learner.updates.update(batch, 0.0)
    assert torch.equal(critic, expected)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Stub:
    """A policy-optimizer, a fit and a worker that take a given time and change nothing."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def update(self, batch: Any, progress: float) -> Outcome:
        self.clock.now += self.seconds
        return Outcome({})

    def start(self, batch: Any, progress: float) -> None: ...

    def finish(self) -> Outcome:
        return self.update(None, 0.0)

    def end(self) -> None: ...


@pytest.mark.parametrize(
    ("fit", "wait", "expected"),
    [
        (0.05, 0.01, {False: PROBES, True: PERIOD - PROBES}),  # parallel is faster
        (0.05, 0.09, {False: PERIOD - PROBES, True: PROBES}),  # slower: the core is busy
        (0.001, 0.0, {False: PERIOD, True: 0}),  # too short to try
    ],
)
def test_faster_mode_is_used_and_remeasured(
    fit: float,
    wait: float,
    expected: dict[bool, int],
    learner: Learner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(parallel_critic, "time", clock)
    monkeypatch.setattr(parallel_critic, "CriticWorker", lambda *_: Stub(clock, wait))
    monkeypatch.setattr(parallel_critic, "has_another_core", lambda: True)
    critic_fit: Any = Stub(clock, fit)
    critic_fit.config, critic_fit.engine = CriticConfig(), learner.engine
    updates = Updates(Stub(clock, 0.1), critic_fit, 1)  # type: ignore[arg-type]
    for _ in range(2):
        modes = []
        for _ in range(PERIOD):
            before = clock.now
            updates.update(None, 0.0)  # type: ignore[arg-type]
            modes.append(clock.now - before == pytest.approx(0.1 + wait))
        assert {mode: modes.count(mode) for mode in (False, True)} == expected
        assert modes[: 2 * PROBES] == [False, expected[True] > 0] * PROBES  # in turns


def test_fit_that_becomes_long_is_parallelized(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(parallel_critic, "time", clock)
    monkeypatch.setattr(parallel_critic, "CriticWorker", lambda *_: Stub(clock, 0.01))
    monkeypatch.setattr(parallel_critic, "has_another_core", lambda: True)
    critic_fit: Any = Stub(clock, 0.001)
    critic_fit.config, critic_fit.engine = CriticConfig(), learner.engine
    updates = Updates(Stub(clock, 0.1), critic_fit, 1)  # type: ignore[arg-type]
    for number in range(PERIOD):
        critic_fit.seconds = 0.001 if number < 3 * PROBES else 0.05
        updates.update(None, 0.0)  # type: ignore[arg-type]
    # After two long fits the median is long, and all later updates are parallel.
    assert clock.now == pytest.approx(PERIOD * 0.1 + 9 * 0.001 + 2 * 0.05 + (PERIOD - 11) * 0.01)


def test_single_core_has_no_worker(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_critic, "has_another_core", lambda: False)
    sequential = Learner(config("auto"))
    monkeypatch.setattr(parallel_critic, "WORTHWHILE", 0.0)
    for _ in range(2 * PROBES):
        sequential.iterate()
    assert sequential.updates._worker is None
    sequential.close()


def test_closing_ends_worker(learner: Learner) -> None:
    learner.iterate()
    pid = pid_of(learner)
    assert is_running(pid)
    learner.close()
    assert not is_running(pid)


def test_dead_worker_is_reported(learner: Learner) -> None:
    learner.iterate()
    os.kill(pid_of(learner), signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=r"worker process died.*critic\.worker=never"):
        learner.iterate()


def test_worker_ignores_stop_signals(learner: Learner) -> None:
    learner.iterate()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(learner), number)
    learner.iterate()


def test_worker_error_is_raised_in_trainer(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: Batch, progress: float) -> Outcome:
        raise ZeroDivisionError("of the critic")

    monkeypatch.setattr(learner.critic_fit, "update", broken)
    with pytest.raises(ZeroDivisionError, match="of the critic"):
        learner.iterate()


def test_worker_needs_numpy_engine() -> None:
    torch_engine = PolicyConfig(engine="torch")
    with pytest.raises(ConfigError, match=r"critic\.worker=always: it needs .*critic\.worker=auto"):
        Learner(replace(config("always"), policy=torch_engine))
    learner = Learner(replace(config("auto"), policy=torch_engine))
    assert learner.updates._mode == "never"
    learner.close()
    with pytest.raises(ConfigError, match=r"critic\.worker='?sometimes"):
        CriticConfig(worker="sometimes")


@pytest.mark.slow
def test_worker_ends_when_trainer_is_killed(tmp_path: Path) -> None:
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


def test_critic_is_fitted_sequentially_if_fork_fails(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("rlkl.algos.parallel_critic.os.fork", no_fork)
    monkeypatch.setattr(learner.updates, "_is_parallel", lambda: learner.updates._mode != "never")
    for mode, fails in (("always", True), ("auto", False)):
        learner.updates._mode = mode
        if fails:
            with pytest.raises(ChildProcessError, match="Resource temporarily"):
                learner.iterate()
        else:
            learner.iterate()
            learner.iterate()
    errors = capfd.readouterr().err
    assert errors.count("the critic's worker process cannot be started") == 1
