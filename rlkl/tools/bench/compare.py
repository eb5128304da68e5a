"""Measures all participants of a work in turns and compares their results."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rlkl.tools.bench.clock import Measurement
from rlkl.tools.bench.work import RLKL, UPPER_BOUNDS, BenchConfig, Entry


class MeasurementError(Exception):
    """A measurement failed; the message is one line."""


@dataclass
class Result:
    """Measurements of one participant.

    Attributes:
        entry: the participant.
        measurements: one per repetition, until an error.
        error: why a measurement failed; empty if none did.
    """

    entry: Entry
    measurements: list[Measurement] = field(default_factory=list)
    error: str = ""

    def median(self, value: Callable[[Measurement], float]) -> float:
        """Return the median of a value over the repetitions."""
        return statistics.median(map(value, self.measurements))

    @property
    def rate(self) -> float:
        """Median environment steps per second."""
        return self.median(lambda measurement: measurement.rate)


@dataclass(frozen=True)
class Spread:
    """Median and range of several values."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the spread of at least one value."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str) -> str:
        """Return `median [least, most]` in a format such as `.2f`."""
        return f"{self.median:{form}} [{self.least:{form}}, {self.most:{form}}]"


def rates(result: Result) -> Spread:
    """Return the spread of the environment steps per second over the repetitions."""
    return Spread.of(measurement.rate for measurement in result.measurements)


def ratios(one: Result, other: Result) -> Spread:
    """Return how many times as fast `one` was as `other`, over the repetitions of both.

    In each repetition both run shortly after each other, so most of the other load on the machine
    cancels out in the ratio. Both must have at least one measurement.
    """
    pairs = zip(one.measurements, other.measurements, strict=False)
    return Spread.of(first.rate / second.rate for first, second in pairs)


def interleave(
    entries: list[Entry],
    repetitions: int,
    run: Callable[[Entry], Measurement],
    tell: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measure every participant once per repetition.

    Args:
        entries: the participants, in the order of each repetition.
        repetitions: number of measurements of each.
        run: measures once. A participant that raises `MeasurementError` is not measured again.
        tell: reports each measurement in one line.
    """
    results = [Result(entry) for entry in entries]
    for repetition in range(repetitions):
        for result in results:
            if result.error:
                continue
            try:
                measurement = run(result.entry)
                result.measurements.append(measurement)
                outcome = f"{measurement.rate:,.0f} environment steps per second"
            except MeasurementError as error:
                result.error = outcome = str(error)
            name = f"{result.entry} × {result.entry.num_envs}"
            tell(f"{repetition + 1}/{repetitions} {name}: {outcome}")
    return results


def run_in_process(config: BenchConfig, entry: Entry) -> Measurement:
    """Measure once in a new process.

    Raises:
        MeasurementError: the process failed; the message is the last line of its stderr.
    """
    request = {
        "config": asdict(replace(config, output=None)),
        "entry": asdict(entry),
        "launched": time.monotonic(),
    }
    command = [sys.executable, "-m", "rlkl.tools.bench.measure", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MeasurementError(lines[-1])
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def reference(results: list[Result], num_envs: int, contestant: str = RLKL) -> Result | None:
    """Return the first result with `num_envs` sub-environments, or None if it was not measured."""
    for result in results:
        if (result.entry.contestant, result.entry.num_envs) == (contestant, num_envs):
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
        others = [r for r in done if r.entry.num_envs == num_envs and r is not first]
        peers = [r for r in others if r.entry.contestant not in (RLKL, *UPPER_BOUNDS)]
        peers = [r for r in peers if r.entry.algo == first.entry.algo]
        own = [r for r in others if r.entry.contestant == RLKL]
        where = f" on {num_envs} environments" if len(config.num_envs) > 1 else ""
        if peers:
            fastest = max(peers, key=lambda result: result.rate)
            ratio = ratios(first, fastest).text(".2f")
            sentences.append(
                f"{first.entry} makes {ratio} times the steps per second of {fastest.entry}, "
                f"the fastest peer{where}."
            )
        if own:
            slowest = min(own, key=lambda result: result.rate)
            ratio = ratios(slowest, first).text(".2f")
            sentences.append(
                f"{slowest.entry}, the slowest of the others{where}, makes {ratio} times the "
                f"steps per second of {first.entry}."
            )
    return sentences + _memory(config, results)


def _memory(config: BenchConfig, results: list[Result]) -> list[str]:
    """Return a sentence on how memory grows with the number of environments."""
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
        f"by {grown[1]:.1f} MB, its peak memory by {grown[0]:.1f} MB. The memory that training "
        f"adds after its start rises from {ends[0]:.1f} to {ends[1]:.1f} MB."
    ]


def added_megabytes(measurement: Measurement) -> float:
    """Return the peak minus the memory at the first environment step."""
    return measurement.peak_megabytes - measurement.start_megabytes


def as_json(config: BenchConfig, results: list[Result]) -> dict[str, Any]:
    """Return a work and all measurements."""
    return {"config": asdict(config), "results": [asdict(result) for result in results]}
