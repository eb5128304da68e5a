"""Measures all cases of a work in turns and compares their results."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from statistics import median

from rlkl.tools.bench.clock import Measurement
from rlkl.tools.bench.work import PEERS, RLKL, BenchConfig, Case


class MeasurementError(Exception):
    """A measurement failed; the message is one line."""


@dataclass
class Result:
    """Measurements of one case, one per repetition until an error."""

    case: Case
    measurements: list[Measurement] = field(default_factory=list)
    error: str = ""

    @property
    def rates(self) -> list[float]:
        """Environment steps per second of each repetition."""
        return [measurement.rate for measurement in self.measurements]

    def median(self, value: Callable[[Measurement], float]) -> float:
        """Return the median of a value over the repetitions."""
        return median(map(value, self.measurements))


def ratios(one: Result, other: Result) -> list[float]:
    """Return how many times as fast `one` was as `other` in each repetition of both.

    In each repetition both run shortly after each other, so most of the other load on the machine
    cancels out in the ratio.
    """
    return [first / second for first, second in zip(one.rates, other.rates, strict=False)]


def spread(values: list[float], form: str) -> str:
    """Return `median [least, most]` in a format such as `.2f`."""
    return f"{median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def interleave(
    cases: list[Case],
    repetitions: int,
    run: Callable[[Case], Measurement],
    tell: Callable[[str], None],
) -> list[Result]:
    """Measure every case once per repetition, until `run` raises MeasurementError."""
    results = [Result(case) for case in cases]
    for repetition in range(repetitions):
        for result in results:
            if result.error:
                continue
            try:
                measurement = run(result.case)
                result.measurements.append(measurement)
                outcome = f"{measurement.rate:,.0f} environment steps per second"
            except MeasurementError as error:
                result.error = outcome = str(error)
            name = f"{result.case} × {result.case.num_envs}"
            tell(f"{repetition + 1}/{repetitions} {name}: {outcome}")
    return results


def run_in_process(config: BenchConfig, case: Case) -> Measurement:
    """Measure once in a new process.

    Raises:
        MeasurementError: the process failed; the message is the last line of its stderr.
    """
    request = {
        "config": asdict(replace(config, output=None)),
        "case": asdict(case),
        "launched": time.monotonic(),
    }
    command = [sys.executable, "-m", "rlkl.tools.bench.libraries", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MeasurementError(lines[-1])
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def reference(results: list[Result], num_envs: int, library: str = RLKL) -> Result | None:
    """Return the first result with `num_envs` sub-environments, or None if it was not measured."""
    for result in results:
        if (result.case.library, result.case.num_envs) == (library, num_envs):
            return result if result.measurements else None
    return None


def conclusions(config: BenchConfig, results: list[Result]) -> list[str]:
    """Return sentences that sum up a work."""
    sentences = []
    done = [result for result in results if result.measurements]
    for num_envs in config.num_envs:
        first = reference(results, num_envs)
        if first is None:
            continue
        others = [r for r in done if r.case.num_envs == num_envs and r is not first]
        peers = [r for r in others if r.case.library in PEERS and r.case.algo == first.case.algo]
        own = [r for r in others if r.case.library == RLKL]
        where = f" on {num_envs} environments" if len(config.num_envs) > 1 else ""
        if peers:
            fastest = max(peers, key=lambda result: median(result.rates))
            sentences.append(
                f"{first.case} makes {spread(ratios(first, fastest), '.2f')} times the steps per "
                f"second of {fastest.case}, the fastest peer{where}."
            )
        if own:
            slowest = min(own, key=lambda result: median(result.rates))
            sentences.append(
                f"{slowest.case}, the slowest of the others{where}, makes "
                f"{spread(ratios(slowest, first), '.2f')} times the steps per second of "
                f"{first.case}."
            )
    return sentences + _memory(config, results)


def _memory(config: BenchConfig, results: list[Result]) -> list[str]:
    """Return a sentence on how memory grows with the number of environments."""
    few, many = (reference(results, number(config.num_envs)) for number in (min, max))
    if few is None or many is None or few is many:
        return []
    peaks, rollouts, added = (
        [result.median(value) for result in (few, many)]
        for value in (
            lambda m: m.peak_megabytes,
            lambda m: m.rollout_megabytes or 0.0,
            lambda m: m.added_megabytes,
        )
    )
    return [
        f"From {few.case.num_envs} to {many.case.num_envs} environments "
        f"({many.case.num_envs / few.case.num_envs:g} times) the rollout of {many.case} grows "
        f"by {rollouts[1] - rollouts[0]:.1f} MB, its peak memory by {peaks[1] - peaks[0]:.1f} MB. "
        f"The memory that training adds after its start rises from {added[0]:.1f} to "
        f"{added[1]:.1f} MB."
    ]
