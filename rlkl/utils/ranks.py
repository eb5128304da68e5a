"""The processes that train one policy together, as torchrun starts them: sums and gathers."""

import atexit
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from rlkl.utils.errors import BrokenEnvironmentError, ConfigError, OtherRankError, RankError
from rlkl.utils.validation import described, one_line

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: an evaluation on rank 0 may take long."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train one policy together; by default this one alone.

    Every method except `share` is collective: all ranks call it, in the same order.

    Attributes:
        rank: of this process, 0 to `size` - 1.
        size: number of processes.
        local_rank: of this process among those of its machine.
        places: host and process id of each rank.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    places: list[tuple[str, int]] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's contiguous share of `count` items; shares differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the elementwise sum over all ranks; it is bit-for-bit identical on each.

        Raises:
            RankError: another rank is gone.
        """
        if self.size > 1:
            self._reached(lambda: distributed.all_reduce(tensor))
        return tensor

    def gather(self, item: T) -> list[T]:
        """Return the items of all ranks, in order of rank.

        Raises:
            RankError: another rank is gone.
        """
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        self._reached(lambda: distributed.all_gather_object(items, item))
        return items

    def any(self, flag: bool) -> bool:
        """Return whether any rank has the flag."""
        return flag if self.size == 1 else any(self.gather(flag))

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do work on every rank, and return all results, in order of rank.

        Raises:
            Exception: what it raised here; the message names the rank if there are several.
            OtherRankError: it raised on another rank.
        """
        if self.size == 1:
            return [work()]
        try:
            result = work()
        except Exception as error:
            self.gather(OtherRankError(described(error)))  # instead of a result
            if isinstance(error, ConfigError | BrokenEnvironmentError):
                raise type(error)(f"rank {self.rank}: {one_line(error)}") from error
            raise RankError(f"rank {self.rank}: {described(error)}") from error
        items = self.gather(result)
        for rank, item in enumerate(items):
            if isinstance(item, OtherRankError):
                raise OtherRankError(f"rank {rank}: {item}")
        return items

    def _reached(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:
            gone = self._gone()
            is_first_left = self.rank == min(set(range(self.size)) - set(gone))
            kind = RankError if is_first_left else OtherRankError
            if gone:
                names = " and ".join(f"rank {rank}" for rank in gone)
                raise kind(f"{names} ended without an error message, perhaps killed") from error
            raise kind(f"another rank, or the network to it, is gone: {one_line(error)}") from error

    def _gone(self) -> list[int]:
        """Return the ranks whose process has ended; its connections may end a moment earlier."""
        for _ in range(20):
            gone = [rank for rank, place in enumerate(self.places) if not _is_running(*place)]
            if gone:
                return gone
            time.sleep(0.1)
        return []


ALONE = Ranks()


def join_ranks() -> Ranks:
    """Join the processes that torchrun started together with this one.

    CPU tensors are reduced by gloo, those on CUDA by NCCL.

    Returns:
        `ALONE` if torchrun started one process, or did not start this one.
    """
    if not distributed.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not distributed.is_initialized():
        has_cuda = torch.cuda.is_available() and distributed.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps its store when it restarts ranks, with the addresses of those that died.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"rlkl/{attempt}", store)
        distributed.init_process_group(
            backend, timeout=PATIENCE, store=store, rank=rank, world_size=size
        )
        # Threads of gloo that still run when Python ends would abort the process.
        atexit.register(distributed.destroy_process_group)
    ranks = Ranks(
        distributed.get_rank(),
        distributed.get_world_size(),
        int(os.environ.get("LOCAL_RANK", "0")),
    )
    ranks.places.extend(ranks.gather((socket.gethostname(), os.getpid())))
    return ranks


def _is_running(host: str, process: int) -> bool:
    """Return whether a process runs, as far as this machine can tell."""
    if host != socket.gethostname():
        return True
    with suppress(OSError):
        os.kill(process, 0)
        # A process that ended stays a zombie until torchrun has noticed.
        stat = Path(f"/proc/{process}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
