"""Measures all who take part in a work in turns, and compares what they made of it."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rlkl.tools.bench.clock import Measurement
from rlkl.tools.bench.work import RLKL, ROOFS, BenchConfig, Entry


class MeasurementError(Exception):
    """A measurement failed; the message is one line."""


@dataclass
class Result:
    """What one who took part came to.

    Attributes:
        entry: who.
        measurements: one for each repetition, as far as it came.
        error: why it came no further; empty if it did all.
    """

    entry: Entry
    measurements: list[Measurement] = field(default_factory=list)
    error: str = ""

    def median(self, value: Callable[[Measurement], float]) -> float:
        """Return the median of something measured, over the repetitions."""
        return statistics.median(map(value, self.measurements))

    @property
    def rate(self) -> float:
        """Median environment steps per second."""
        return self.median(lambda measurement: measurement.rate)


@dataclass(frozen=True)
class Spread:
    """Several values of the same thing.

    Attributes:
        median: of them.
        least: of them.
        most: of them.
    """

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the spread of values, at least one."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str) -> str:
        """Return `median [least, most]`, each in a format such as `.2f`."""
        return f"{self.median:{form}} [{self.least:{form}}, {self.most:{form}}]"


def rates(result: Result) -> Spread:
    """Return the environment steps per second of each repetition."""
    return Spread.of(measurement.rate for measurement in result.measurements)


def ratios(one: Result, other: Result) -> Spread:
    """Return how many times as fast `one` was as `other`, repetition by repetition.

    Both ran right after each other in each repetition, so what else the machine did in the
    meantime falls out of their ratio to a large part. Repetitions that only one of them has are
    left out; there is at least one that both have.
    """
    pairs = zip(one.measurements, other.measurements, strict=False)
    return Spread.of(first.rate / second.rate for first, second in pairs)


def interleave(
    entries: list[Entry],
    repetitions: int,
    run: Callable[[Entry], Measurement],
    tell: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measure everyone once, then everyone again, and so on.

    Args:
        entries: who takes part, in the order of each repetition.
        repetitions: of every measurement.
        run: measures one once; `MeasurementError` ends its part, and the others go on.
        tell: is told of each measurement in one line.
    """
    results = [Result(entry) for entry in entries]
    for repetition in range(repetitions):
        for result in results:
            if result.error:
                continue
            try:
                measurement = run(result.entry)
                result.measurements.append(measurement)
                said = f"{measurement.rate:,.0f} environment steps per second"
            except MeasurementError as error:
                result.error = said = str(error)
            who = f"{result.entry} × {result.entry.num_envs}"
            tell(f"{repetition + 1}/{repetitions} {who}: {said}")
    return results


def run_apart(config: BenchConfig, entry: Entry) -> Measurement:
    """Measure in a fresh process.

    Raises:
        MeasurementError: the process failed; the message is the last line of its error.
    """
    asked = {
        "config": asdict(replace(config, output=None)),
        "entry": asdict(entry),
        "launched": time.monotonic(),
    }
    command = [sys.executable, "-m", "rlkl.tools.bench.measure", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MeasurementError(lines[-1])
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def reference(results: list[Result], num_envs: int) -> Result | None:
    """Return rlkl's first result with so many environments, which the others are compared with."""
    for result in results:
        if (result.entry.contestant, result.entry.num_envs) == (RLKL, num_envs):
            return result if result.measurements else None
    return None


def conclusions(config: BenchConfig, results: list[Result]) -> list[str]:
    """Return the sentences that a work comes down to."""
    said = []
    done = [result for result in results if result.measurements]
    for num_envs in config.num_envs:
        first = reference(results, num_envs)
        if first is None:
            continue
        others = [r for r in done if r.entry.num_envs == num_envs and r is not first]
        peers = [r for r in others if r.entry.contestant not in (RLKL, *ROOFS)]
        peers = [r for r in peers if r.entry.algo == first.entry.algo]
        own = [r for r in others if r.entry.contestant == RLKL]
        copies = f" on {num_envs} environments" if len(config.num_envs) > 1 else ""
        if peers:
            fastest = max(peers, key=lambda result: result.rate)
            ratio = ratios(first, fastest).text(".2f")
            said.append(
                f"{first.entry} makes {ratio} times the steps per second of {fastest.entry}, "
                f"the fastest peer{copies}."
            )
        if own:
            slowest = min(own, key=lambda result: result.rate)
            ratio = ratios(slowest, first).text(".2f")
            said.append(
                f"{slowest.entry}, the slowest of the others{copies}, makes {ratio} times the "
                f"steps per second of {first.entry}."
            )
    return said + _memory(config, results)


def _memory(config: BenchConfig, results: list[Result]) -> list[str]:
    """Say how memory grows from the fewest environments to the most."""
    few, many = (reference(results, number(config.num_envs)) for number in (min, max))
    if few is None or many is None or few is many:
        return []
    grown = [
        many.median(value) - few.median(value)
        for value in (lambda m: m.peak_megabytes, lambda m: m.rollout_megabytes or 0.0)
    ]
    ends = [result.median(added_megabytes) for result in (few, many)]
    return [
        f"From {few.entry.num_envs} to {many.entry.num_envs} environments "
        f"({many.entry.num_envs / few.entry.num_envs:g} times) the rollout of {many.entry} grows "
        f"by {grown[1]:.1f} MB, its peak memory by {grown[0]:.1f} MB; what training adds to the "
        f"memory of its start goes from {ends[0]:.1f} to {ends[1]:.1f} MB."
    ]


def added_megabytes(measurement: Measurement) -> float:
    """Return by how much the peak is above what the first environment step found."""
    return measurement.peak_megabytes - measurement.start_megabytes


def as_json(config: BenchConfig, results: list[Result]) -> dict[str, Any]:
    """Return a work and everything measured."""
    return {"config": asdict(config), "results": [asdict(result) for result in results]}
