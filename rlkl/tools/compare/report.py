"""A whole comparison: from run folders to the rows of all tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlkl.tools.compare import curves, groups, runs, scores
from rlkl.tools.compare.cautions import MAX_UNREAD, Caution, cautions
from rlkl.tools.compare.runs import Run
from rlkl.tools.compare.scores import MIN_SEEDS, Entry, Environment
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.compare.text import listed, listed_items, plural, seeds_text, spread
from rlkl.tools.rows import Rows, distinct, select
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.untrusted_files import ALREADY_VISITED

STATISTIC_NAMES = {
    "iqm": "interquartile mean",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap (less is better)",
}


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Attributes:
        labels: of all groups, in the order in which they are shown.
        tables: rows by name; each becomes a CSV file.
        findings: results, one sentence each.
    """

    config: CompareConfig
    environments: list[Environment]
    labels: list[str]
    cautions: list[Caution]
    tables: dict[str, Rows]
    findings: list[str]

    @property
    def statistic(self) -> str:
        """Name of the center over seeds."""
        return STATISTIC_NAMES[self.config.statistic]


def compare(paths: Sequence[str], config: CompareConfig) -> Comparison:
    """Compare the runs in run folders, in folders that contain run folders, or of patterns.

    Raises:
        ConfigError: there is nothing to compare.
    """
    skipped_links: dict[Path, str] = {}
    results = {folder: runs.read(folder) for folder in runs.find(paths, skipped_links)}
    bad = {folder: result for folder, result in results.items() if isinstance(result, str)}
    bad |= {link: reason for link, reason in skipped_links.items() if reason != ALREADY_VISITED}
    unread = {for_terminal(str(folder)): reason for folder, reason in bad.items()}
    readable = [result for result in results.values() if isinstance(result, Run)]
    if not readable:
        raise ConfigError(f"there is no run to compare yet; {listed_items(unread, MAX_UNREAD)}")
    members = groups.group_runs(readable)
    _check_environments(config, [member.env for member in members])
    envs = scores.environments(members, config)
    entries = [entry for env in envs for entry in env.entries]
    if all(entry.left_out for entry in entries):
        why = {entry.run.shown: entry.left_out for entry in entries}
        raise ConfigError(f"no run has a score to compare; {listed_items(why)}")
    tables = {
        "runs": scores.run_rows(envs),
        "results": scores.result_rows(envs, config),
        "aggregates": scores.aggregate_rows(envs, config),
        "profiles": scores.profile_rows(envs, config),
        "improvement": scores.pair_rows(envs, config),
        "pairs": scores.pair_rows_by_environment(envs, config),
        "thresholds": curves.threshold_rows(envs, config),
        "stability": curves.stability_rows(envs, config),
        "curves": curves.curve_rows(envs, config),
        "together": curves.together_rows(envs, config),
        "updates": curves.update_rows(envs, config),
        "settings": groups.differences(members),
        "provenance": provenance_rows(envs),
    }
    warnings = cautions(envs, tables["improvement"], tables["pairs"], unread)
    found = findings(envs, tables, config)
    return Comparison(config, envs, scores.all_labels(envs), warnings, tables, found)


def _check_environments(config: CompareConfig, envs: Sequence[str]) -> None:
    by_env = config.threshold if isinstance(config.threshold, dict) else {}
    for key, named in (("threshold", by_env), ("references", config.references)):
        for env in named:
            if env not in envs:
                known = ", ".join(dict.fromkeys(envs))
                raise ConfigError(
                    f"{key}={{{env}: ...}}: no run has this environment; expected one of {known}"
                )


def provenance_rows(envs: Sequence[Environment]) -> Rows:
    """Return a row for each combination of versions, revision, hardware and device."""
    rows: dict[tuple[str, ...], list[Entry]] = {}
    for entry in (entry for env in envs for entry in env.entries):
        rows.setdefault(tuple(entry.run.provenance.values()), []).append(entry)
    return [
        {
            **{key: text or "–" for key, text in entries[0].run.provenance.items()},
            "runs": len(entries),
            "seeds": seeds_text(sorted({entry.run.seed for entry in entries})),
            "groups": ", ".join(dict.fromkeys(entry.label for entry in entries)),
        }
        for entries in rows.values()
    ]


def findings(
    envs: Sequence[Environment], tables: dict[str, Rows], config: CompareConfig
) -> list[str]:
    """Return the results in sentences that claim no more than the tests of pairs show."""
    sentences = []
    center = STATISTIC_NAMES[config.statistic]
    shared, labels = scores.common(envs)
    aggregates = select(tables["aggregates"], aggregate=config.statistic)
    if len(labels) > 1 and aggregates and len(shared) > 1:
        place, what = f"Over {plural(len(shared), 'environment')}", f"{center} of normalized scores"
        seeds = {label: min(len(env.scored(label)) for env in shared) for label in labels}
        pairs = tables["improvement"]
        sentences.append(_finding(place, what, "value", aggregates, seeds, pairs))
    for env in envs:
        rows = select(tables["results"], environment=env.name)
        if len(rows) > 1:
            place = f"{env.name}, at {env.horizon:,} environment steps"
            seeds = {row["group"]: row["seeds"] for row in rows}
            pairs = select(tables["pairs"], environment=env.name)
            what, key = f"{center} return", config.statistic
            sentences.append(_finding(place, what, key, rows, seeds, pairs))
    return sentences


def _finding(
    place: str, what: str, key: str, rows: Rows, seeds: dict[str, int], pairs: Rows
) -> str:
    """Return which group is best in a column, and from which others it is told apart."""
    ranked = [row for row in rows if seeds[row["group"]] >= MIN_SEEDS]
    if len(ranked) < 2:
        counts = listed(f"{label} {count}" for label, count in seeds.items())
        return (
            f"{place}: too few seeds to tell which group is better ({counts}); that needs "
            f"{MIN_SEEDS} or more of two groups."
        )
    best = max(ranked, key=lambda row: row[key])
    others = [row for row in ranked if row is not best]
    value = spread(best[key], best["low"], best["high"])
    text = f"{place}: {best['group']} has the highest {what}, {value}."
    text += _rivals(best["group"], distinct(others, "group"), pairs)
    if few := [f"{label} ({count})" for label, count in seeds.items() if count < MIN_SEEDS]:
        text += f"; not compared, with fewer than {MIN_SEEDS} seeds: {listed(few)}"
    return f"{text}."


def _rivals(best: str, others: list[str], pairs: Rows) -> str:
    """Return which groups the best one is and is not told apart from, and which beat it."""
    behind, close, ahead = [], [], []
    for other in others:
        (pair,) = (row for row in pairs if {row["first"], row["second"]} == {best, other})
        if not pair["told_apart"]:
            close.append(other)
        elif (pair["first"] == best) == (pair["probability"] < 0.5):
            ahead.append(other)
        else:
            behind.append(other)
    text = ""
    if behind:
        text += f" It is told apart from {listed(behind)}"
    if close:
        text += f"{';' if behind else ' It'} cannot be told apart from {listed(close)}"
    if ahead:
        text += (
            f"{'.' if text else ''} But a run of {listed(ahead)} is more often than not better "
            f"than one of {best}, whose score comes from few environments or runs"
        )
    return f"{text} ({plural(pairs[0]['tested'], 'pair')} tested)"
