"""`rlkl evaluate`: episodes of a trained policy in fresh environments, and what they come to."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlkl.cli.flags import (
    ACTIONS,
    CHECKPOINT,
    MAX_STEPS,
    Flag,
    RunCommand,
    choice,
    new_file,
    open_run,
    whole_number,
)
from rlkl.training.checkpoint import TrainedRun
from rlkl.training.evaluation import Evaluation, evaluate
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.streams import tell
from rlkl.version import __version__

COMMAND = RunCommand(
    "evaluate",
    "Runs a trained policy in fresh environments made as in training, its normaliser standing\n"
    "still, with deterministic actions (the most probable, or the mean) and with sampled ones.",
    {
        "rlkl evaluate RUN_DIR": "100 episodes of each kind of actions",
        "rlkl evaluate RUN_DIR --checkpoint best --seed 1": "the best policy, other episodes",
        "rlkl evaluate RUN_DIR --actions sampled --output FILE.json": "one kind, kept in a file",
    },
    (
        Flag("--episodes", "N", "of each kind (100)", whole_number("--episodes", 1, 10**6), 100),
        Flag("--seed", "N", "of environments and actions (0)", whole_number("--seed", 0), 0),
        Flag("--actions", "KIND", "deterministic or sampled; by default both",
             choice("--actions", ACTIONS)),
        CHECKPOINT,
        MAX_STEPS,
        Flag("--output", "FILE.json", "write returns, lengths and statistics; must not exist yet",
             new_file("--output", ".json")),
    ),
)  # fmt: skip

COLUMNS = {
    "mean": "mean",
    "95% interval": "mean_low mean_high",
    "interquartile mean": "interquartile_mean",
    "std": "standard_deviation",
    "min": "min",
    "max": "max",
    "mean length": "mean_length",
}

WIDTH = 100


def main(arguments: list[str]) -> int:
    """Evaluate; return the exit code."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(COMMAND.help_text())
        return 0
    given = COMMAND.parse(arguments)
    run = open_run(given)
    kinds = ACTIONS if given.actions is None else (given.actions,)
    found = {kind: run_episodes(run, given.episodes, given.seed, kind) for kind in kinds}
    statistics = {kind: evaluation.statistics(given.seed) for kind, evaluation in found.items()}
    print(
        f"{for_terminal(run.env.id)}, checkpoint {given.checkpoint} at "
        f"{run.env_steps} environment steps, {given.episodes} episodes of each, seed {given.seed}"
    )
    # Narrow terminals wrap lines; that is easier to read than columns cut short.
    Console(width=max(WIDTH, Console().width), highlight=False).print(_table(statistics))
    for kind in kinds:
        if warning := found[kind].warning(run.max_episode_steps, "--max-steps"):
            tell(f"{kind}: {warning}")
    if given.output is not None:
        content = {
            "run_dir": str(given.run_dir),
            "checkpoint": given.checkpoint,
            "env_id": run.env.id,
            "env_steps": run.env_steps,
            "seed": given.seed,
            "max_episode_steps": run.max_episode_steps,
            "rlkl": __version__,
            "actions": {kind: statistics[kind] | asdict(found[kind]) for kind in kinds},
        }
        _write(given.output, content)
        print(given.output)
    return 0


def run_episodes(run: TrainedRun, num_episodes: int, seed: int, actions: str) -> Evaluation:
    """Evaluate with chance that depends on the seed alone; both kinds meet the same environments.

    Args:
        run: which policy, and where.
        num_episodes: how many.
        seed: of environments and actions.
        actions: one of `ACTIONS`.
    """
    streams = RandomStreams(seed)
    sampled = actions == "sampled"
    return evaluate(
        run.policy.policy,
        run.env,
        num_episodes,
        # Not the stream of the evaluation that a run of the same seed ends with.
        streams.integers("fresh environments", num_episodes),
        streams.torch("fresh actions") if sampled else None,
        run.policy.normalizer,
        run.max_episode_steps,
    )


def _table(statistics: dict[str, dict[str, float | None]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("actions")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for kind, values in statistics.items():
        cells = [[_text(values[key]) for key in keys.split()] for keys in COLUMNS.values()]
        table.add_row(kind, *(" to ".join(cell) for cell in cells))
    return table


def _text(number: float | None) -> str:
    """Return a number to six digits, without an exponent where it can be."""
    return "-" if number is None else f"{number:.6g}"


def _write(path: Path, content: dict[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
