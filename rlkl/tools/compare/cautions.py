"""What to be wary of in a comparison, each in words that say what it does to the figures."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkl.tools.compare.rows import Rows
from rlkl.tools.compare.runs import RUNNING, UNKNOWN, Run
from rlkl.tools.compare.scores import FEW, Entry, Field, common, groups

ENOUGH = 10
"""Seeds of a group in an environment: fewer than `FEW` claim nothing, fewer than these rank little.
"""

MOST_NAMED = 6
"""Things that a sentence lists before it says how many more there are."""

MOST_UNREAD = 50
"""Folders that a sentence names because they cannot be compared."""


@dataclass(frozen=True)
class Caution:
    """A sentence or two.

    Attributes:
        kind: what it is about, in a word or three.
        text: what was found, and what follows from it.
        grave: whether it may turn a conclusion over; else it is good to know.
    """

    kind: str
    text: str
    grave: bool = True


def cautions(found: Sequence[Field], pairs: Rows, unread: dict[str, str]) -> list[Caution]:
    """Return all that there is to be wary of, the grave first.

    Args:
        found: environments.
        pairs: `pair_rows` of them.
        unread: folders of runs that cannot be compared, and why.
    """
    entries = [entry for field in found for entry in field.entries]
    told = [
        *_alone(found),
        *_few_seeds(found),
        *_unequal_seeds(found),
        *_unequal_steps(found),
        *_ends(entries),
        *_left_out(entries, unread),
        *_missing(found),
        *_overlaps(pairs),
        *_not_finite(entries),
        *_differing(entries),
    ]
    return sorted(told, key=lambda caution: not caution.grave)


def listed(names: Iterable[str], most: int = MOST_NAMED) -> str:
    """Return `a, b and c`, or `a, b and 5 more`."""
    each = list(names)
    if len(each) > most:
        each = [*each[: most - 1], f"{len(each) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(each[:-1]), *each[-1:])))


def plural(count: int, what: str) -> str:
    """Return `1 run` or `3 runs`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _alone(found: Sequence[Field]) -> list[Caution]:
    if len(groups(found)) > 1:
        return []
    return [
        Caution("one group", "All runs are of one group, so there is nothing to compare it with.")
    ]


def _counts(found: Sequence[Field]) -> dict[tuple[str, str], int]:
    counts = {(field.env, label): len(field.of(label)) for field in found for label in field.labels}
    return {place: count for place, count in counts.items() if count}


def _few_seeds(found: Sequence[Field]) -> list[Caution]:
    counts = _counts(found)
    least = min(counts.values(), default=ENOUGH)
    if least >= ENOUGH:
        return []
    if least >= FEW:
        return [
            Caution(
                "seeds",
                f"{_whose(counts, ENOUGH)}. That is enough to claim a large difference; to rank "
                f"groups that are close, {ENOUGH} or more are wanted.",
                grave=False,
            )
        ]
    text = f"{_whose(counts, FEW)}; {FEW} or more are wanted for a claim."
    if least == 1:
        text += " With one seed there is no interval, and a difference may be luck alone."
    several = min((count for count in counts.values() if count > 1), default=FEW)
    if several < FEW:
        chance = 2 / math.comb(2 * several, several)
        text += (
            " Intervals from so few are too narrow: even if nothing but the seeds differed, one "
            f"group of {several} would lie wholly above another of {several} in {chance:.0%} of "
            "all draws."
        )
    return [Caution("too few seeds", text)]


def _whose(counts: dict[tuple[str, str], int], wanted: int) -> str:
    """Say which groups have fewer seeds than wanted in which environments."""
    few = {place: count for place, count in counts.items() if count < wanted}
    if len(few) == len(counts) and len(set(few.values())) == 1:
        return f"All groups have {plural(next(iter(few.values())), 'seed')} in each environment"
    named = listed(
        f"{label} in {env} has {plural(count, 'seed')}" for (env, label), count in few.items()
    )
    return f"{len(few)} of {len(counts)} have fewer than {wanted} seeds: {named}"


def _unequal_seeds(found: Sequence[Field]) -> list[Caution]:
    texts = []
    for field in found:
        seeds = {
            label: tuple(sorted(entry.run.seed for entry in field.of(label)))
            for label in field.labels
            if field.of(label)
        }
        if len(set(seeds.values())) > 1:
            which = (f"{label} {seeds_text(own)}" for label, own in seeds.items())
            texts.append(f"{field.env}: {listed(which)}")
    if not texts:
        return []
    text = (
        f"The groups do not have the same seeds ({'; '.join(texts)}). Seeds decide the initial "
        "weights and the environments' chance, so groups with other seeds had other luck, too."
    )
    return [Caution("unequal seeds", text, grave=False)]


def seeds_text(seeds: Sequence[int]) -> str:
    """Return `0-4` for a row of seeds, else `0, 2, 5`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _unequal_steps(found: Sequence[Field]) -> list[Caution]:
    told = []
    for field in found:
        ran = [entry for entry in field.entries if not entry.left_out]
        budgets = {entry.run.budget for entry in ran if entry.run.budget}
        further = [entry for entry in ran if entry.at < len(entry.run.steps) - 1]
        if not further:
            continue
        shown = listed(f"{budget:,}" for budget in sorted(budgets)) or "unknown"
        text = (
            f"{field.env}: runs were compared at {field.horizon:,} environment steps, which cuts "
            f"off the end of {plural(len(further), 'run')} (budgets: {shown}). Learning rates and "
            "trust regions that shrink over the budget were not yet small there."
        )
        none_ended = all(entry.run.status != "finished" for entry in ran)
        told.append(Caution("unequal steps", text, grave=len(budgets) > 1 or none_ended))
    return told


def _ends(entries: Sequence[Entry]) -> list[Caution]:
    told = []
    means = {
        "failed": "failed. Where failing has to do with the group, the scores of its other runs "
        "flatter it",
        "stopped": "stopped by the user",
        RUNNING: "unfinished: still being written, or its process was killed, ran out of memory, "
        "or was ended by its environment (os._exit). Curves show it as far as it got",
        UNKNOWN: "with a summary.json that cannot be read, so that nothing tells how they ended",
    }
    for status, meaning in means.items():
        these = [entry for entry in entries if entry.run.status == status]
        if these:
            by_group: dict[str, int] = {}
            for entry in these:
                place = f"{entry.member.label} on {entry.member.env}"
                by_group[place] = by_group.get(place, 0) + 1
            where = listed(f"{count} of {place}" for place, count in by_group.items())
            reasons = listed(dict.fromkeys(e.run.reason for e in these if e.run.reason), 2)
            kind = {"failed": "failed runs", UNKNOWN: "unknown ends"}.get(status, "unfinished runs")
            if status == UNKNOWN:
                where = listed(f"{entry.run.shown}/summary.json" for entry in these)
            text = f"{plural(len(these), 'run')} {meaning} ({where})."
            if status == "failed" and reasons:
                text += f" What they said: {reasons[:300]}."
            told.append(Caution(kind, text))
    return told


def _left_out(entries: Sequence[Entry], unread: dict[str, str]) -> list[Caution]:
    told = []
    out = [entry for entry in entries if entry.left_out]
    if out:
        why = listed(f"{entry.run.shown}: {entry.left_out}" for entry in out)
        text = f"{plural(len(out), 'run')} without a score: {why}."
        told.append(Caution("left out", text))
    bare = [entry for entry in entries if not entry.run.settings]
    if bare:
        text = (
            f"{plural(len(bare), 'run')} without a config.yaml that can be read, taken for runs "
            f"with the default settings: {listed(entry.run.shown for entry in bare)}."
        )
        told.append(Caution("unknown settings", text))
    if unread:
        why = listed((f"{folder}: {reason}" for folder, reason in unread.items()), MOST_UNREAD)
        told.append(Caution("not read", f"{plural(len(unread), 'folder')} without a run: {why}."))
    return told


def _missing(found: Sequence[Field]) -> list[Caution]:
    shared, labels = common(found)
    told = []
    unscaled = [field.env for field in found if field.reference is None]
    if unscaled:
        text = (
            f"{listed(unscaled)}: no two runs ended with different returns, so there is no scale "
            "to "
            "normalise with; references={ENV: [LOW, HIGH]} would give one."
        )
        told.append(Caution("no scale", text, grave=False))
    lacking = []
    for field in found:
        absent = [label for label in labels if not field.of(label)]
        if absent:
            named = listed(absent) if len(absent) < 3 else f"{len(absent)} of {len(labels)} groups"
            lacking.append(f"{field.env} lacks {named}")
    if lacking:
        text = f"Not every group was run in every environment: {listed(lacking)}. "
        if shared:
            text += f"Scores are put together over {listed(field.env for field in shared)} alone."
        else:
            text += "No environment has all of them, so there are no scores of all together."
        told.append(Caution("mixed environments", text))
    relative = [f.env for f in shared if f.reference and f.reference.relative]
    if relative:
        text = (
            f"{listed(relative)}: 0 is the worst and 1 the best of these very runs, since no "
            "other scale is known. Such scores change with the set of runs; only their order "
            "carries over."
        )
        told.append(Caution("scale of these runs", text, grave=False))
    return told


def _overlaps(pairs: Rows) -> list[Caution]:
    close = [f"{row['first']} and {row['second']}" for row in pairs if not row["told_apart"]]
    if not close:
        return []
    text = (
        f"{len(close)} of {plural(len(pairs), 'pair')} cannot be told apart: the 95% interval of "
        f"the probability of improvement has 0.5 in it, or a group has fewer than {FEW} seeds "
        f"({listed(close)}). A higher score there is no finding."
    )
    return [Caution("overlapping intervals", text)]


def _not_finite(entries: Sequence[Entry]) -> list[Caution]:
    told = []
    rows = {
        entry.run.shown: int((~np.isfinite(entry.run.columns["kl/old_new"])).sum())
        for entry in entries
    }
    bad = {folder: count for folder, count in rows.items() if count}
    if bad:
        where = listed(f"{folder}: {count}" for folder, count in bad.items())
        text = (
            f"{plural(sum(bad.values()), 'update')} without a finite KL ({where}): NaN where it "
            "was taken back, infinite where the new policy left out what the old one did. Curves "
            "leave them out."
        )
        told.append(Caution("NaN rows", text))
    damaged = {e.run.shown: e.run.damaged for e in entries if e.run.damaged}
    if damaged:
        where = listed(f"{folder}: {count}" for folder, count in damaged.items())
        text = (
            f"{plural(sum(damaged.values()), 'line')} of metrics.csv could not be read ({where})."
        )
        told.append(Caution("damaged lines", text))
    return told


def _differing(entries: Sequence[Entry]) -> list[Caution]:
    checks: list[tuple[str, Callable[[Run], Any], str, bool]] = [
        (
            "different versions",
            lambda run: ", ".join(f"{name} {version}" for name, version in run.versions.items()),
            "The same config and seed may give other numbers in another version",
            True,
        ),
        (
            "different revisions",
            lambda run: run.revision[:12],
            "CHANGELOG.md says what changes results between revisions",
            True,
        ),
        (
            "different hardware",
            lambda run: ", ".join(map(str, run.hardware.values())),
            "Wall times of different machines cannot be compared",
            False,
        ),
        (
            "different devices",
            lambda run: ", ".join(f"{key} {run.settings[key]}" for key in ("device", "threads")
                                  if key in run.settings),
            "Wall times cannot be compared",
            False,
        ),
    ]  # fmt: skip
    told = []
    for kind, value, meaning, grave in checks:
        values: dict[str, int] = {}
        for entry in entries:
            if value(entry.run):  # what was not noted down may be the same
                values[value(entry.run)] = values.get(value(entry.run), 0) + 1
        if len(values) > 1:
            which = listed(f"{text} ({plural(count, 'run')})" for text, count in values.items())
            told.append(Caution(kind, f"{which}. {meaning}.", grave))
    return told
