"""A comparison whole: from folders to all rows that tables and figures are made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlkl.tools.compare import curves, groups, runs, scores, stability
from rlkl.tools.compare.cautions import MOST_UNREAD, Caution, cautions, listed, plural, seeds_text
from rlkl.tools.compare.rows import Rows
from rlkl.tools.compare.runs import Run
from rlkl.tools.compare.scores import FEW, Entry, Field
from rlkl.tools.compare.settings import CompareConfig
from rlkl.utils.found_files import SEEN
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.validation import ConfigError


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown.

    Attributes:
        config: settings.
        fields: environments and their runs.
        labels: of all groups, in the order in which they are shown.
        cautions: what to be wary of.
        tables: rows by name, one CSV file each.
        findings: what came out, a sentence each.
    """

    config: CompareConfig
    fields: list[Field]
    labels: list[str]
    cautions: list[Caution]
    tables: dict[str, Rows]
    findings: list[str]


def compare(paths: Sequence[str], config: CompareConfig) -> Comparison:
    """Read runs and compare them.

    Args:
        paths: folders of runs, folders of such folders, or patterns.
        config: settings.

    Raises:
        ConfigError: nothing is there that could be compared.
    """
    passed: dict[Path, str] = {}
    read = {folder: runs.read(folder) for folder in runs.find(paths, passed)}
    bad = {folder: found for folder, found in read.items() if isinstance(found, str)}
    bad |= {link: reason for link, reason in passed.items() if reason != SEEN}
    unread = {for_terminal(str(folder)): reason for folder, reason in bad.items()}
    there = [found for found in read.values() if isinstance(found, Run)]
    if not there:
        why = listed((f"{folder}: {reason}" for folder, reason in unread.items()), MOST_UNREAD)
        raise ConfigError(f"there is no run to compare yet; {why}")
    members = groups.sort(there)
    _check_environments(config, [member.env for member in members])
    found = scores.fields(members, config)
    if all(entry.left_out for field in found for entry in field.entries):
        why = listed(f"{e.run.shown}: {e.left_out}" for field in found for e in field.entries)
        raise ConfigError(f"no run has a score to compare; {why}")
    tables = {
        "runs": scores.run_rows(found),
        "results": scores.result_rows(found, config),
        "aggregates": scores.aggregate_rows(found, config),
        "profiles": scores.profile_rows(found, config),
        "improvement": scores.pair_rows(found, config),
        "thresholds": stability.threshold_rows(found, config),
        "stability": stability.stability_rows(found),
        "curves": curves.curve_rows(found, config),
        "together": curves.together_rows(found, config),
        "updates": curves.update_rows(found, config),
        "settings": groups.differences(members),
        "provenance": provenance_rows(found),
    }
    return Comparison(
        config,
        found,
        scores.groups(found),
        cautions(found, tables["improvement"], unread),
        tables,
        findings(found, tables, config),
    )


def _check_environments(config: CompareConfig, envs: Sequence[str]) -> None:
    """Raise unless the environments that settings name are among those compared."""
    by_env = config.threshold if isinstance(config.threshold, dict) else {}
    for key, named in (("threshold", by_env), ("references", config.references)):
        for env in named:
            if env not in envs:
                known = ", ".join(dict.fromkeys(envs))
                raise ConfigError(f"{key}={{{env}: ...}}: no run is of it; expected one of {known}")


def provenance_rows(found: Sequence[Field]) -> Rows:
    """Return what the runs of each group were made with and on, a row for each kind."""
    rows: dict[tuple[str, str, str, str], list[Entry]] = {}
    for field in found:
        for entry in field.entries:
            run = entry.run
            device = " ".join(str(run.settings.get(key, "")) for key in ("device", "threads"))
            kind = (
                ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "–",
                run.revision[:12] or "–",
                ", ".join(map(str, run.hardware.values())) or "–",
                f"{device} thread(s)" if run.settings else "–",
            )
            rows.setdefault(kind, []).append(entry)
    return [
        {
            "versions": versions,
            "revision": revision,
            "hardware": hardware,
            "device": device,
            "runs": len(entries),
            "seeds": seeds_text(sorted({entry.run.seed for entry in entries})),
            "groups": ", ".join(dict.fromkeys(entry.member.label for entry in entries)),
        }
        for (versions, revision, hardware, device), entries in rows.items()
    ]


def findings(found: Sequence[Field], tables: dict[str, Rows], config: CompareConfig) -> list[str]:
    """Return what came out, in sentences that claim no more than the intervals do.

    Nothing is said to be higher than something else unless both have `FEW` seeds.
    """
    told = []
    shared, labels = scores.common(found)
    aggregates = [row for row in tables["aggregates"] if row["aggregate"] == config.statistic]
    if len(labels) > 1 and aggregates and len(shared) > 1:
        seeds = {label: min(len(field.of(label)) for field in shared) for label in labels}
        place = f"Over {plural(len(shared), 'environment')}"
        told.append(f"{place}{_together(aggregates, seeds, tables['improvement'], config)}.")
    for field in found:
        rows = [row for row in tables["results"] if row["environment"] == field.env]
        if len(rows) > 1:
            place = f"{field.env}, at {field.horizon:,} environment steps"
            told.append(f"{place}: {_result(rows, config)}.")
    return told


STATISTIC_NAMES = {"iqm": "interquartile mean", "mean": "mean"}


def _together(aggregates: Rows, seeds: dict[str, int], pairs: Rows, config: CompareConfig) -> str:
    judged = [row for row in aggregates if seeds[row["group"]] >= FEW]
    if len(judged) < 2:
        return f": {_not_judged(seeds)}"
    best = max(judged, key=lambda row: row["value"])
    names = {row["group"] for row in judged}
    rivals = [row for row in pairs if {row["first"], row["second"]} <= names]
    text = (
        f", {best['group']} has the highest {STATISTIC_NAMES[config.statistic]} of normalised "
        f"scores: {spread(best['value'], best['low'], best['high'])}. "
        f"{_rivals(best['group'], rivals)}"
    )
    return text + _passed_over(seeds)


def _result(rows: Rows, config: CompareConfig) -> str:
    seeds = {row["group"]: row["seeds"] for row in rows}
    judged = [row for row in rows if row["seeds"] >= FEW]
    if len(judged) < 2:
        return _not_judged(seeds)
    best = max(judged, key=lambda row: row[config.statistic])
    others = [row for row in judged if row is not best]
    clear = [row["group"] for row in others if best["low"] > row["high"]]
    close = [row["group"] for row in others if best["low"] <= row["high"]]
    text = (
        f"{best['group']} has the highest {STATISTIC_NAMES[config.statistic]} return, "
        f"{spread(best[config.statistic], best['low'], best['high'])}"
    )
    if clear:
        text += f"; its interval lies above that of {listed(clear)}"
    if close:
        text += f"; {'its interval' if not clear else 'it'} overlaps that of {listed(close)}"
    return text + _passed_over(seeds)


def _not_judged(seeds: dict[str, int]) -> str:
    own = listed(f"{label} {count}" for label, count in seeds.items())
    return f"no comparison, which takes {FEW} seeds of two groups; there are {own}"


def _passed_over(seeds: dict[str, int]) -> str:
    few = [f"{label} ({count})" for label, count in seeds.items() if count < FEW]
    return f"; not compared, with fewer than {FEW} seeds: {listed(few)}" if few else ""


def _rivals(best: str, pairs: Rows) -> str:
    close, ahead = [], []
    for row in pairs:
        if best in (row["first"], row["second"]):
            is_first = row["first"] == best
            other = row["second"] if is_first else row["first"]
            if not row["told_apart"]:
                close.append(other)
            elif is_first == (row["probability"] < 0.5):
                ahead.append(other)
    told = []
    if close:
        told.append(f"It cannot be told apart from {listed(close)}")
    if ahead:
        told.append(
            f"But a run of {listed(ahead)} is more often than not better than one of its own: its "
            "score is made by few environments or runs"
        )
    return ". ".join(told) or "It is told apart from every other group"


def spread(value: float, low: float, high: float) -> str:
    """Return a number and its interval, with the decimals that the interval gives meaning to."""
    if math.isnan(low):
        return number(value)
    width = high - low
    decimals = 1 - math.floor(math.log10(width)) if width > 0 else 3
    each = (f"{x:,.{min(max(decimals, 0), 6)}f}".replace("-", "−") for x in (value, low, high))
    return "{} [{}, {}]".format(*each)


def number(value: float | str) -> str:
    """Return a number as tables show it: four digits that count, no exponent where it can be."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return (
        f"{value:.4g}".replace("-", "−") if abs(value) >= 100 else f"{value:.3g}".replace("-", "−")
    )
