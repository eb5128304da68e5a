"""Run a function on several ranks, as torchrun would."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from rlkl.utils.ranks import Ranks, join_ranks

SECONDS = 120
"""How long the processes may take."""


def on_ranks(
    size: int, tmp_path: Path, work: Callable[[Ranks], Any], dying: Sequence[int] = ()
) -> list[Any]:
    """Return `work(ranks)` of each rank; an exception is returned, not raised.

    Args:
        size: number of ranks.
        tmp_path: where they find each other.
        work: a function of a module.
        dying: ranks whose process ends without a result; theirs is None.
    """
    context = multiprocessing.get_context("forkserver")  # torch's threads do not survive a fork
    context.set_forkserver_preload(["rlkl.api"])
    queue: Queue[Any] = context.Queue()
    processes = [
        context.Process(target=_be_rank, args=(rank, size, tmp_path, queue, work))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        results: dict[int, Any] = dict.fromkeys(dying)
        while len(results) < size:
            rank, result = queue.get(timeout=SECONDS)
            results[rank] = pickle.loads(result)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return [results[rank] for rank in range(size)]


def _be_rank(
    rank: int,
    size: int,
    tmp_path: Path,
    queue: "Queue[Any]",
    work: Callable[[Ranks], Any],
) -> None:
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=size
    )
    ranks: Ranks = join_ranks()
    try:
        result = work(ranks)
    except Exception as error:
        result = error
    queue.put((rank, pickle.dumps(result)))  # a tensor would need this process
