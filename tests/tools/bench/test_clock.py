"""The benchmark's clock measures whole iterations after the warm-up."""

import pytest
import torch

from rlkl.tools.bench.clock import Clock, after_each_call, before_first_call


def test_clock_measures_whole_iterations_after_warm_up() -> None:
    clock = Clock(launched=0.0, warmup=2, measured=3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    clock.start()
    measured_iterations = []
    for iteration in range(6):
        for _ in range(4):
            optimizer.step()
        measured_iterations.append(clock.is_measuring)
        clock.tick(10**iteration)
    assert measured_iterations == [False, False, True, True, True, False]
    measurement = clock.measurement()
    assert measurement.env_steps == 11100
    assert measurement.iterations == 3
    assert measurement.optimizer_steps == 4
    assert clock.optimizer_steps == 8
    assert measurement.seconds == clock.ended - clock.started


def test_too_few_iterations_raise() -> None:
    clock = Clock(launched=0.0, warmup=1, measured=2)
    clock.start()
    for _ in range(2):
        clock.tick(1)
    with pytest.raises(RuntimeError, match="made 2 iterations, expected 3"):
        clock.measurement()


def test_hooked_methods_return_the_same_results() -> None:
    class Counter:
        def add(self, number: int, *, twice: bool) -> int:
            return number * (1 + twice)

    counter, seen = Counter(), []
    before_first_call(counter, "add", lambda: seen.append("first"))
    assert [counter.add(1, twice=True), counter.add(2, twice=False)] == [2, 2]
    after_each_call(counter, "add", seen.append)
    assert [counter.add(3, twice=True), counter.add(4, twice=False)] == [6, 4]
    assert seen == ["first", 6, 4]
