"""Cases are measured in turns, and compared within repetitions."""

import pytest
from measurements import measured

from rlkl.tools.bench.clock import Measurement
from rlkl.tools.bench.compare import (
    MeasurementError,
    Result,
    conclusions,
    interleave,
    ratios,
    run_in_process,
    spread,
)
from rlkl.tools.bench.work import BenchConfig, Case


def test_cases_are_measured_in_turns() -> None:
    order: list[str] = []

    def run(case: Case) -> Measurement:
        order.append(case.library)
        if case.library == "skrl" and len(order) > 3:
            raise MeasurementError("it broke")
        return measured(len(order))

    lines: list[str] = []
    names = ["rlkl", "skrl", "upper_bound"]
    results = interleave([Case(name, 8) for name in names], 3, run, lines.append)
    assert order == [*names, *names, "rlkl", "upper_bound"]
    assert [round(m.rate) for m in results[0].measurements] == [1, 4, 7]
    assert [result.error for result in results] == ["", "it broke", ""]
    assert len(lines) == len(order)
    assert lines[4] == "2/3 skrl × 8: it broke"


def test_ratios_compare_within_repetitions() -> None:
    rlkl = Result(Case("rlkl", 8), [measured(rate) for rate in (100.0, 400.0, 90.0)])
    peer = Result(Case("sb3", 8), [measured(rate) for rate in (50.0, 100.0, 60.0)])
    assert rlkl.rates == pytest.approx([100.0, 400.0, 90.0])
    assert ratios(rlkl, peer) == pytest.approx([2.0, 4.0, 1.5])
    del peer.measurements[1:]
    assert ratios(rlkl, peer) == pytest.approx([2.0])


def test_spread_shows_median_and_range() -> None:
    assert spread([20000.0, 1234.5, 999.0], ",.0f") == "1,234 [999, 20,000]"


def test_algorithms_are_compared_with_the_first() -> None:
    config = BenchConfig(algos=["ppo_clip", "vanilla_pg", "npg"])
    rate_of = {"ppo_clip": 10.0, "vanilla_pg": 40.0, "npg": 20.0}
    results = [Result(Case("rlkl", 8, algo), [measured(rate_of[algo])]) for algo in config.algos]
    assert conclusions(config, results) == [
        "rlkl npg, the slowest of the others, makes 2.00 [2.00, 2.00] times the steps per second "
        "of rlkl ppo_clip."
    ]


def test_memory_growth_is_compared_with_rollout() -> None:
    config = BenchConfig(num_envs=[64, 1])
    results = [
        Result(Case("rlkl", n, "ppo_clip"), [measured(1.0, peak_megabytes=p, rollout_megabytes=r)])
        for n, p, r in ((64, 230.0, 6.4), (1, 205.0, 0.1))
    ]
    assert conclusions(config, results) == [
        "From 1 to 64 environments (64 times) the rollout of rlkl ppo_clip grows by 6.3 MB, its "
        "peak memory by 25.0 MB. The memory that training adds after its start rises from 5.0 to "
        "30.0 MB."
    ]


@pytest.mark.slow
def test_error_is_last_line_of_failed_process() -> None:
    with pytest.raises(MeasurementError, match=r"^KeyError: 'unknown'$"):
        run_in_process(BenchConfig(), Case("unknown", 8))
