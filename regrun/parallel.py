"""Data parallelism: the processes of one run that `torchrun` has started, as one of them sees them.

Each has the whole model and all data, computes its shard of every batch, and makes the same update from the sum of all
shards' gradients. Rank 0 alone prints and writes. torch is imported only where something is said between processes.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from regrun.errors import ConfigError, RegrunError, clip

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# What torchrun tells each process.
RANK, SIZE, LOCAL_RANK = VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Peers:
    """The processes that train one run together. One that is `ALONE` says nothing to anybody.

    What is said between processes must be said by all of them, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine: the number of its GPU

    @property
    def is_writer(self) -> bool:
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        return self.size > 1

    def shard(self, batch: int) -> "Shard":
        """The part of a batch that is this process's: a stretch; those of all differ by one example at most."""
        return Shard(self, self.rank * batch // self.size, (self.rank + 1) * batch // self.size, batch)

    def add(self, t: "Tensor") -> "Tensor":
        """The sum over all processes, in place, of the same bits in each."""
        if self.are_several:
            _torch().all_reduce(t)
        return t

    def mean(self, t: "Tensor") -> "Tensor":
        """The mean over all processes, in place."""
        return self.add(t).div_(self.size) if self.are_several else t

    def copy(self, t: "Tensor") -> None:
        """Rank 0's values, in place."""
        if self.are_several:
            _torch().broadcast(t, 0)

    def told(self, value: T) -> T:
        """What rank 0 says."""
        return self._all(value)[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self._all(None)

    def agreed(self, work: Callable[[], T]) -> T:
        """What `work` returns, rank 0 going first. An error of regrun's in any process is raised in all of them."""
        results, error = [], None
        for is_turn in (self.is_writer, not self.is_writer):
            if is_turn:
                try:
                    results.append(work())
                except RegrunError as raised:
                    error = raised
            for each in self._all(error):
                if each is not None:
                    raise each
        return results[0]

    def _all(self, value: T) -> list[T]:
        """What each process says, by rank."""
        if not self.are_several:
            return [value]
        values = [value] * self.size
        _torch().all_gather_object(values, value)
        return values


ALONE = Peers()


@dataclass(frozen=True)
class Shard:
    """Examples `begin` to `end` of a batch of `batch`."""

    peers: Peers
    begin: int
    end: int
    batch: int

    @property
    def slice(self) -> slice:
        return slice(self.begin, self.end)

    @property
    def share(self) -> float:
        """Of the batch."""
        return (self.end - self.begin) / self.batch

    def mean(self, t: "Tensor") -> "Tensor":
        """The mean over the batch of what `t` is the mean of over the shard."""
        return self.peers.add(t * self.share)

    def total(self, rows: int) -> int:
        """How many rows the batch has, where the shard has `rows`: those of each example are as many."""
        return rows * self.batch // (self.end - self.begin)


def peers(environment: Mapping[str, str] = os.environ) -> Peers:
    """Who torchrun says there is; ALONE where it says nothing. Raises ConfigError where that is no number."""
    if not all(name in environment for name in (*VARIABLES, "MASTER_ADDR")):
        return ALONE
    for name in VARIABLES:
        if not environment[name].isdecimal():
            raise ConfigError(f"{name}: must be torchrun's number, got {clip(environment[name])!r}; unset it")
    return Peers(*(int(environment[name]) for name in VARIABLES))


@contextmanager
def joined(peers: Peers) -> Iterator[None]:
    """While it lasts, processes hear each other: by gloo, tensors on GPUs by NCCL. Each has the GPU of its number."""
    if not peers.are_several:
        yield
        return
    import torch

    has_gpus = torch.cuda.is_available()
    if has_gpus and peers.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(peers.local_rank)
    _torch().init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo")
    yield
    # Not after an error: the others may never come.
    _torch().destroy_process_group()


def _torch() -> ModuleType:
    from torch import distributed

    return distributed
