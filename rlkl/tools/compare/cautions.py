"""Warnings and notes: what may distort a comparison, and how."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlkl.tools.compare.runs import UNFINISHED, UNKNOWN
from rlkl.tools.compare.scores import MIN_SEEDS, SIGNIFICANCE, Entry, Environment, common
from rlkl.tools.compare.text import listed, listed_items, plural, seeds_text
from rlkl.tools.rows import Rows, grouped, select

SEEDS_TO_RANK = 10
"""Seeds of a group in an environment that are needed to rank close groups."""

MAX_UNREAD = 50
"""Folders that a sentence names because they cannot be compared."""


class Caution(NamedTuple):
    """A warning, which may overturn a conclusion, or a note."""

    kind: str
    text: str
    is_warning: bool = True


def cautions(
    envs: Sequence[Environment], pairs: Rows, by_env: Rows, unread: Mapping[str, str]
) -> list[Caution]:
    """Return all cautions, warnings first.

    The pairs are `pair_rows` and `pair_rows_by_environment`; `unread` has a reason for each folder.
    """
    entries = [entry for env in envs for entry in env.entries]
    found = [
        *_few_seeds(envs), *_unequal_seeds(envs), *_unequal_steps(envs), *_not_finished(entries),
        *_left_out(entries, unread), *_environments(envs), *_not_told_apart(pairs, by_env),
        *_many_pairs(envs, by_env), *_damaged(entries), *_differences(entries),
    ]  # fmt: skip
    return sorted(found, key=lambda caution: not caution.is_warning)


def _few_seeds(envs: Sequence[Environment]) -> Iterator[Caution]:
    if len({label for env in envs for label in env.labels}) < 2:
        yield Caution("one group", "There is only one group, so nothing to compare it with.")
    counts = {(env.name, label): len(runs) for env in envs for label, runs in env.groups.items()}
    least = min(counts.values(), default=SEEDS_TO_RANK)
    if least >= MIN_SEEDS:
        if least < SEEDS_TO_RANK:
            text = (
                f"{_which_lack(counts, SEEDS_TO_RANK)}. This is enough to claim a large "
                f"difference; ranking close groups needs {SEEDS_TO_RANK} or more."
            )
            yield Caution("seeds", text, is_warning=False)
        return
    text = f"{_which_lack(counts, MIN_SEEDS)}; a claim needs {MIN_SEEDS} or more."
    if least == 1:
        text += " With one seed there is no interval, and a difference may be luck alone."
    several = min((count for count in counts.values() if count > 1), default=MIN_SEEDS)
    if several < MIN_SEEDS:
        probability = 2 / math.comb(2 * several, several)
        text += (
            " Intervals from so few seeds are too narrow: if only the seeds differed, one group "
            f"of {several} would still lie wholly above another of {several} in {probability:.0%} "
            "of all draws."
        )
    yield Caution("too few seeds", text)


def _which_lack(counts: dict[tuple[str, str], int], wanted: int) -> str:
    """Return which groups have fewer seeds than wanted in which environments."""
    few = {place: count for place, count in counts.items() if count < wanted}
    if len(few) == len(counts) and len(set(few.values())) == 1:
        return f"All groups have {plural(next(iter(few.values())), 'seed')} in each environment"
    named = (f"{label} in {env} has {plural(n, 'seed')}" for (env, label), n in few.items())
    return f"{len(few)} of {len(counts)} have fewer than {wanted} seeds: {listed(named)}"


def _unequal_seeds(envs: Sequence[Environment]) -> Iterator[Caution]:
    texts = []
    for env in envs:
        by_label = {x: sorted(e.run.seed for e in entries) for x, entries in env.groups.items()}
        if len(set(map(tuple, by_label.values()))) > 1:
            shown = listed(f"{label} {seeds_text(seeds)}" for label, seeds in by_label.items())
            texts.append(f"{env.name}: {shown}")
    if texts:
        text = (
            f"The groups do not have the same seeds ({'; '.join(texts)}). Seeds determine the "
            "initial weights and the random numbers of environments, so chance differs too."
        )
        yield Caution("unequal seeds", text, is_warning=False)


def _unequal_steps(envs: Sequence[Environment]) -> Iterator[Caution]:
    for env in envs:
        entries = [entry for entry in env.entries if not entry.left_out]
        budgets = {entry.run.budget for entry in entries if entry.run.budget}
        cut = [entry for entry in entries if entry.last < len(entry.run.steps) - 1]
        if not cut:
            continue
        shown = listed(f"{budget:,}" for budget in sorted(budgets)) or "unknown"
        text = (
            f"{env.name}: runs were compared at {env.horizon:,} environment steps, which cuts "
            f"off the end of {plural(len(cut), 'run')} (budgets: {shown}). Learning rates and "
            "trust regions that shrink over the budget were still large there."
        )
        none_finished = all(entry.run.status != "finished" for entry in entries)
        yield Caution("unequal steps", text, is_warning=len(budgets) > 1 or none_finished)


STATUSES = {
    "failed": (
        "failed runs",
        "failed. If failures depend on the group, its other runs make it look too good",
    ),
    "stopped": ("unfinished runs", "stopped by the user"),
    UNFINISHED: (
        "unfinished runs",
        "unfinished: still being written, or its process was killed, ran out of memory, or was "
        "ended by its environment (os._exit). Curves show it as far as it got",
    ),
    UNKNOWN: ("unknown ends", "with an unreadable summary.json, so how they ended is unknown"),
}
"""Kind and text of the caution about runs that did not finish, by status."""


def _not_finished(entries: Sequence[Entry]) -> Iterator[Caution]:
    for status, (kind, meaning) in STATUSES.items():
        these = [entry for entry in entries if entry.run.status == status]
        if not these:
            continue
        groups = Counter(f"{entry.label} on {entry.env}" for entry in these)
        where = listed(f"{count} of {group}" for group, count in groups.items())
        reasons = listed(dict.fromkeys(e.run.reason for e in these if e.run.reason), 2)
        if status == UNKNOWN:
            where = listed(f"{entry.run.shown}/summary.json" for entry in these)
        text = f"{plural(len(these), 'run')} {meaning} ({where})."
        if status == "failed" and reasons:
            text += f" Reported reasons: {reasons[:300]}."
        yield Caution(kind, text)


def _left_out(entries: Sequence[Entry], unread: Mapping[str, str]) -> Iterator[Caution]:
    if left_out := [entry for entry in entries if entry.left_out]:
        why = listed(f"{entry.run.shown}: {entry.left_out}" for entry in left_out)
        yield Caution("left out", f"{plural(len(left_out), 'run')} without a score: {why}.")
    if no_config := [entry.run.shown for entry in entries if not entry.run.settings]:
        text = (
            f"{plural(len(no_config), 'run')} without a readable config.yaml, compared as if with "
            f"the default settings: {listed(no_config)}."
        )
        yield Caution("unknown settings", text)
    if unread:
        why = listed_items(unread, MAX_UNREAD)
        yield Caution("not read", f"{plural(len(unread), 'folder')} without a run: {why}.")


def _environments(envs: Sequence[Environment]) -> Iterator[Caution]:
    if no_scale := [env.name for env in envs if env.reference is None]:
        text = (
            f"{listed(no_scale)}: no two runs ended with different returns, so there is no scale "
            "for normalized scores; references={ENV: [LOW, HIGH]} sets one."
        )
        yield Caution("no scale", text, is_warning=False)
    shared, labels = common(envs)
    lacking = []
    for env in envs:
        if absent := [label for label in labels if not env.scored(label)]:
            named = listed(absent) if len(absent) < 3 else f"{len(absent)} of {len(labels)} groups"
            lacking.append(f"{env.name} lacks {named}")
    if lacking:
        text = f"Not every group was run in every environment: {listed(lacking)}. "
        if shared:
            text += f"Scores are aggregated over {listed(env.name for env in shared)} only."
        else:
            text += "No environment has all groups, so there are no aggregate scores."
        yield Caution("mixed environments", text)
    if relative := [env.name for env in shared if env.reference and env.reference.relative]:
        text = (
            f"{listed(relative)}: 0 is the worst and 1 the best of the compared runs, because no "
            "other scale is known. Such scores change with the set of runs; only their order is "
            "meaningful."
        )
        yield Caution("scale of these runs", text, is_warning=False)


def _not_told_apart(pairs: Rows, by_env: Rows) -> Iterator[Caution]:
    close = [f"{row['first']} and {row['second']}" for row in pairs if not row["told_apart"]]
    counts = []
    envs = grouped(by_env, "environment")
    for env, rows in envs.items() if len(envs) > 1 else ():
        if count := len(select(rows, told_apart=False)):
            counts.append(f"{count} of {len(rows)} in {env}")
    if close or counts:
        text = (
            f"{len(close)} of {plural(len(pairs), 'pair')} cannot be told apart"
            f"{f' ({listed(close)})' if close else ''}"
            f"{f', and by environment {listed(counts)}' if counts else ''}: the corrected p-value "
            f"is {SIGNIFICANCE} or more, or a group has fewer than {MIN_SEEDS} seeds. A higher "
            "score there is not evidence."
        )
        yield Caution("not told apart", text)


def _many_pairs(envs: Sequence[Environment], by_env: Rows) -> Iterator[Caution]:
    crowded = []
    for env in envs:
        tested = [
            (len(env.scored(row["first"])), len(env.scored(row["second"])))
            for row in by_env
            if row["environment"] == env.name and row["seeds"] >= MIN_SEEDS
        ]
        # The p-value of two groups whose runs do not overlap, corrected as the smallest of all.
        smallest = min((2 / math.comb(n + m, n) for n, m in tested), default=0.0)
        if len(tested) * smallest >= SIGNIFICANCE:
            crowded.append(f"{env.name} ({plural(len(tested), 'pair')})")
    if crowded:
        text = (
            f"{listed(crowded)}: so many pairs that even two groups whose runs do not overlap have "
            f"a corrected p-value of {SIGNIFICANCE} or more, so no pair can be told apart in one "
            "environment. Compare fewer groups, or run more seeds."
        )
        yield Caution("many pairs", text, is_warning=False)


def _damaged(entries: Sequence[Entry]) -> Iterator[Caution]:
    kls = {entry.run.shown: entry.run.columns["kl/old_new"] for entry in entries}
    if not_finite := +Counter({run: int((~np.isfinite(kl)).sum()) for run, kl in kls.items()}):
        text = (
            f"{plural(not_finite.total(), 'update')} without a finite KL "
            f"({listed_items(not_finite)}): NaN if the update was rolled back, infinite if the new "
            "policy excludes actions of the old one. Curves leave them out."
        )
        yield Caution("NaN rows", text)
    if damaged := +Counter({entry.run.shown: entry.run.damaged for entry in entries}):
        lines, where = plural(damaged.total(), "line"), listed_items(damaged)
        yield Caution("damaged lines", f"{lines} of metrics.csv could not be read ({where}).")


def _differences(entries: Sequence[Entry]) -> Iterator[Caution]:
    checks = (
        ("versions", "The same config and seed may give other numbers in another version", True),
        ("revisions", "CHANGELOG.md lists changes of results between revisions", True),
        ("hardware", "Wall times of different machines cannot be compared", False),
        ("devices", "Wall times cannot be compared", False),
    )
    found = [entry.run.provenance.values() for entry in entries]
    for (name, meaning, is_warning), values in zip(checks, zip(*found, strict=True), strict=True):
        counts = Counter(values)
        del counts[""]  # not recorded, so perhaps the same
        if len(counts) > 1:
            which = listed(f"{text} ({plural(count, 'run')})" for text, count in counts.items())
            yield Caution(f"different {name}", f"{which}. {meaning}.", is_warning)
