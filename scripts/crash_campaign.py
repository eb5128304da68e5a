"""Kills a run at random moments, resumes it each time, and compares its end with one left alone.

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

from rlkl.cli.compose import load, register_schemas
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.config import TrainConfig
from rlkl.training.trainer import resume, train
from rlkl.utils.validation import ConfigError

TIMES = ("wall_seconds", "env_steps_per_second", "eval_seconds")


@dataclass
class Tally:
    """What was counted.

    Attributes:
        kills: processes that were killed by SIGKILL.
        before_the_first: kills that left no checkpoint yet, after which the run was begun again.
        unreadable: checkpoints that a kill left damaged.
        lost: kills after which the run stood before its newest checkpoint of the time of the kill.
        ran_out: processes that finished before their time to die came.
    """

    kills: int = 0
    before_the_first: int = 0
    unreadable: int = 0
    lost: int = 0
    ran_out: int = 0


def begin(config: TrainConfig) -> None:
    """Train in a process of its own."""
    torch.set_num_threads(1)
    train(config)


def process_of(target: Callable[..., Any], *given: Any) -> Any:
    """Start a process that has imported everything already: it is the run that is to be met."""
    process = multiprocessing.get_context("fork").Process(target=target, args=given)
    process.start()
    return process


def finished(process: Any) -> None:
    """Wait for a process that should end well."""
    process.join()
    if process.exitcode != 0:
        raise SystemExit("a process that was left alone failed")


def checkpoints(run: Path, tally: Tally) -> list[int]:
    """Return the environment steps of all checkpoints, each of which must be readable."""
    found = []
    for path in (run / "checkpoints").glob("*.pt"):
        try:
            found.append(int(load_checkpoint(path)["env_steps"]))
        except ConfigError as error:
            print(error)
            tally.unreadable += 1
    return sorted(found)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all numbers, strings and tensors of a state."""
    if isinstance(node, dict | list | tuple):
        for key, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(part, f"{path}/{key}")
    else:
        yield path, node


def differences(first: Path, second: Path) -> list[str]:
    """Return what differs between two runs but for time and place."""
    states = []
    for run in (first, second):
        state = load_checkpoint(run / "checkpoints" / "last.pt")
        del state["run"]["wall_seconds"], state["run"]["evaluation_seconds"]
        del state["run"]["files"], state["config"]["run_dir"]
        # `auto` in a run that was begun, what it stood for in one that was resumed.
        del state["policy_description"]["config"]["differentiation"]
        states.append(dict(leaves(state)))
    a, b = states
    found = [f"{key} is in one alone" for key in a.keys() ^ b.keys()]
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
    ends = [json.loads((run / "summary.json").read_text()) for run in (first, second)]
    same_keys = ends[0].keys() - set(TIMES)
    found += [f"summary.json: {key}" for key in same_keys if ends[0][key] != ends[1][key]]
    return found


def is_under_way(run: Path, tally: Tally) -> bool:
    """Return whether there is a run that was killed and can be gone on with."""
    return not (run / "summary.json").exists() and bool(checkpoints(run, tally))


def campaign(folder: Path, kills: int, seed: int, pause: float, settings: list[str]) -> int:
    """Run it; return the exit code.

    Args:
        folder: for the runs; made if need be.
        kills: how many.
        seed: of the moments.
        pause: the longest time until a process is killed, in seconds.
        settings: as for `rlkl train`.
    """
    register_schemas()
    quiet = ["logger.progress=none", "logger.tensorboard=false"]
    config = load([*settings, *quiet])
    chance, tally = random.Random(seed), Tally()
    whole, run = folder / "whole", folder / "killed"
    failures: list[str] = []

    def compare() -> None:
        found = differences(whole, run)
        failures.extend(found)
        verdict = f"differs in {', '.join(found[:5])}" if found else "the same to the bit"
        print(f"a run ended after {tally.kills} kills: {verdict}", flush=True)

    finished(process_of(begin, replace(config, run_dir=str(whole))))
    while tally.kills < kills:
        if is_under_way(run, tally):
            process = process_of(resume, run)
        else:
            if (run / "summary.json").exists():
                compare()
            shutil.rmtree(run, ignore_errors=True)
            process = process_of(begin, replace(config, run_dir=str(run)))
        before = checkpoints(run, tally)
        process.join(chance.uniform(0, pause))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            tally.ran_out += 1
            if process.exitcode != 0:
                failures.append("a process failed by itself")
                break
            continue
        tally.kills += 1
        after = checkpoints(run, tally)
        tally.before_the_first += not after
        tally.lost += bool(before) and (not after or after[-1] < before[-1])
    if is_under_way(run, tally):
        finished(process_of(resume, run))
    if (run / "summary.json").exists():
        compare()
    print(tally)
    return int(bool(tally.unreadable or tally.lost or failures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the runs; one that does not exist")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--pause", type=float, default=1.0, help="longest life of a process, in s")
    parser.add_argument("settings", nargs="*", help="as for rlkl train")
    given = parser.parse_intermixed_args()
    raise SystemExit(campaign(given.folder, given.kills, given.seed, given.pause, given.settings))
