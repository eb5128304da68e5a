"""Whether two runs are the same, bit for bit, but for times and places."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rlkl.training.checkpoint import load_checkpoint


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, part in node.items():
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(node, list | tuple):
        for i, part in enumerate(node):
            yield from leaves(part, f"{path}/{i}")
    else:
        yield path, node


def assert_same_run(first: Path, second: Path) -> None:
    """Compare two runs to the last bit, but for time and place."""
    ours, theirs = (load_checkpoint(run / "checkpoints" / "last.pt") for run in (first, second))
    for state in (ours, theirs):
        del state["config"], state["policy_description"], state["run"]["wall_seconds"]
        # Of rows with times, and times.
        del state["run"]["files"], state["run"]["evaluation_seconds"]
    a, b = dict(leaves(ours)), dict(leaves(theirs))
    assert a.keys() == b.keys()
    for path, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[path]), path
        else:
            assert value == b[path], path
    assert rows(first) == rows(second)
    assert (first / "episodes.csv").read_bytes() == (second / "episodes.csv").read_bytes()
    ends = [json.loads((run / "summary.json").read_text()) for run in (first, second)]
    for end in ends:
        del end["wall_seconds"], end["env_steps_per_second"], end["eval_seconds"]
    assert ends[0] == ends[1]
