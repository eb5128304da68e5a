"""Kills a run at random moments, resumes it, and compares the result with an undisturbed run.

    python scripts/crash_campaign.py /tmp/campaign --kills 200 total_env_steps=100000 \\
        checkpoint.interval=3
"""

import argparse
import csv
import json
import multiprocessing
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlkl.cli.compose import load
from rlkl.cli.schema import register_schemas
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.config import TrainConfig
from rlkl.training.trainer import resume, train
from rlkl.utils.errors import ConfigError

TIMES = ("wall_seconds", "env_steps_per_second", "eval_seconds")


@dataclass
class Tally:
    """Counts of the campaign.

    Attributes:
        kills: processes killed by SIGKILL.
        before_first_checkpoint: kills before the first checkpoint; the run starts again.
        unreadable: checkpoints damaged by a kill.
        lost: kills after which the newest checkpoint is older than before.
        finished: processes that finished before they were killed.
    """

    kills: int = 0
    before_first_checkpoint: int = 0
    unreadable: int = 0
    lost: int = 0
    finished: int = 0


def train_run(config: TrainConfig) -> None:
    """Train on one thread."""
    torch.set_num_threads(1)
    train(config)


def start(target: Callable[..., Any], *args: Any) -> Any:
    """Start a forked process: its imports are done, so kills hit the run itself."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def finish(process: Any) -> None:
    """Wait for a process that must succeed."""
    process.join()
    if process.exitcode != 0:
        raise SystemExit("an undisturbed process failed")


def checkpoints(run: Path, tally: Tally) -> list[int]:
    """Return the environment steps of all checkpoints, and count those that cannot be read."""
    env_steps = []
    for path in (run / "checkpoints").glob("*.pt"):
        try:
            env_steps.append(int(load_checkpoint(path)["env_steps"]))
        except ConfigError as error:
            print(error)
            tally.unreadable += 1
    return sorted(env_steps)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all numbers, strings and tensors of a state, with their paths."""
    if isinstance(node, dict | list | tuple):
        for key, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(part, f"{path}/{key}")
    else:
        yield path, node


def differences(first: Path, second: Path) -> list[str]:
    """Return what differs between two runs, except times and paths."""
    states = []
    for run in (first, second):
        state = load_checkpoint(run / "checkpoints" / "last.pt")
        del state["run"]["wall_seconds"], state["run"]["evaluation_seconds"]
        del state["run"]["files"], state["config"]["run_dir"]
        # `auto` in a new run, the chosen engine in a resumed one.
        del state["policy_description"]["config"]["engine"]
        states.append(dict(leaves(state)))
    a, b = states
    found = [f"{key} is in only one" for key in a.keys() ^ b.keys()]
    for key in a.keys() & b.keys():
        same = torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        if not same:
            found.append(f"last.pt: {key}")
    tables = []
    for run in (first, second):
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        tables.append([[v for k, v in row.items() if not k.startswith("time/")] for row in rows])
    if tables[0] != tables[1]:
        found.append("metrics.csv")
    if (first / "episodes.csv").read_bytes() != (second / "episodes.csv").read_bytes():
        found.append("episodes.csv")
    a, b = (json.loads((run / "summary.json").read_text()) for run in (first, second))
    return found + [f"summary.json: {key}" for key in a.keys() - set(TIMES) if a[key] != b[key]]


def can_resume(run: Path, tally: Tally) -> bool:
    """Return whether the run is unfinished and has a checkpoint."""
    return not (run / "summary.json").exists() and bool(checkpoints(run, tally))


def campaign(folder: Path, kills: int, seed: int, pause: float, settings: list[str]) -> int:
    """Run the campaign and return the exit code.

    Args:
        folder: for the runs; created if missing.
        kills: number of kills.
        seed: of the moments of the kills.
        pause: longest time until a process is killed, in seconds.
        settings: overrides of `rlkl train`.
    """
    register_schemas()
    quiet = ["logger.progress=none", "logger.tensorboard=false"]
    config = load([*settings, *quiet])
    random_numbers, tally = random.Random(seed), Tally()
    whole, run = folder / "whole", folder / "killed"
    failures: list[str] = []

    def compare() -> None:
        found = differences(whole, run)
        failures.extend(found)
        verdict = f"differs in {', '.join(found[:5])}" if found else "bit-for-bit identical"
        print(f"a run finished after {tally.kills} kills: {verdict}", flush=True)

    finish(start(train_run, replace(config, run_dir=str(whole))))
    while tally.kills < kills:
        if can_resume(run, tally):
            process = start(resume, run)
        else:
            if (run / "summary.json").exists():
                compare()
            shutil.rmtree(run, ignore_errors=True)
            process = start(train_run, replace(config, run_dir=str(run)))
        before = checkpoints(run, tally)
        process.join(random_numbers.uniform(0, pause))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            tally.finished += 1
            if process.exitcode != 0:
                failures.append("a process failed before its kill")
                break
            continue
        tally.kills += 1
        after = checkpoints(run, tally)
        tally.before_first_checkpoint += not after
        tally.lost += bool(before) and (not after or after[-1] < before[-1])
    if can_resume(run, tally):
        finish(start(resume, run))
    if (run / "summary.json").exists():
        compare()
    print(tally)
    return int(bool(tally.unreadable or tally.lost or failures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the runs; must not exist")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--pause", type=float, default=1.0, help="longest time to a kill, in s")
    parser.add_argument("settings", nargs="*", help="overrides of rlkl train")
    given = parser.parse_intermixed_args()
    raise SystemExit(campaign(given.folder, given.kills, given.seed, given.pause, given.settings))
