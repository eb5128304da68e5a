"""`rlkl evaluate`: returns of a trained policy in new environments."""

import json
from argparse import Namespace
from dataclasses import asdict
from functools import partial

from rich.table import Column, Table

from rlkl.cli.flags import MAX_STEPS, Flag, RunCommand, choice, new_file, open_run, whole_number
from rlkl.cli.text import wide_console
from rlkl.tools.model_card import COLUMNS, score_cells
from rlkl.training.trained_policy import ACTIONS, run_episodes
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import tell
from rlkl.version import __version__

COMMAND = RunCommand(
    "evaluate",
    "Runs a trained policy in new environments, made as in training, with deterministic actions\n"
    "(the most probable, or the mean) and with sampled ones. The normalizer does not change.",
    {
        "rlkl evaluate RUN_DIR": "100 episodes with each kind of action",
        "rlkl evaluate RUN_DIR --checkpoint best --seed 1": "the best policy, other episodes",
        "rlkl evaluate RUN_DIR --actions sampled --output FILE.json": "one kind, written to a file",
        "rlkl evaluate RUN_DIR env.kwargs.length=9 env.num_envs=16": "other environments, and more",
        "rlkl evaluate RUN_DIR env.id=my_package:make_env": "the environment of your own callable",
    },
    (
        Flag("--episodes", "N", "of each kind (100)",
             partial(whole_number, at_least=1, at_most=10**6), 100),
        Flag("--seed", "N", "of environments and actions (0)", whole_number, 0),
        Flag("--actions", "KIND", "deterministic or sampled; by default both",
             partial(choice, choices=ACTIONS)),
        MAX_STEPS,
        Flag("--output", "FILE.json", "write returns, lengths and statistics to a new file",
             partial(new_file, suffixes=(".json",))),
    ),
    ("env.id", "env.num_envs", "env.backend", "env.wrappers"),
)  # fmt: skip


def _evaluate(given: Namespace) -> None:
    run = open_run(given)
    kinds = ACTIONS if given.actions is None else (given.actions,)
    found = {kind: run_episodes(run, given.episodes, given.seed, kind) for kind in kinds}
    statistics = {kind: evaluation.statistics(given.seed) for kind, evaluation in found.items()}
    print(
        f"{for_terminal(run.env.id)}, checkpoint {for_terminal(run.checkpoint)} at "
        f"{run.env_steps} environment steps, {given.episodes} episodes of each, seed {given.seed}"
    )
    wide_console(100).print(_table(statistics))
    for kind in kinds:
        if warning := found[kind].warning(run.max_episode_steps, "--max-steps"):
            tell(f"{kind}: {warning}")
    if given.output is not None:
        content = {
            "run_dir": str(given.run_dir),
            "checkpoint": run.checkpoint,
            "env_id": run.env.id,
            "env_steps": run.env_steps,
            "seed": given.seed,
            "max_episode_steps": run.max_episode_steps,
            "rlkl": __version__,
            "actions": {kind: statistics[kind] | asdict(found[kind]) for kind in kinds},
        }
        with given.output.open("x", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
        print(given.output)


def _table(statistics: dict[str, dict[str, float | None]]) -> Table:
    columns = [Column(heading, justify="right") for heading in COLUMNS]
    table = Table("actions", *columns, box=None, pad_edge=False)
    for kind, values in statistics.items():
        table.add_row(kind, *score_cells(values))
    return table


help_text, main = COMMAND.help_text, partial(COMMAND.run, _evaluate)
