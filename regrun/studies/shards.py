"""A batch in shards: the gradient that several processes add up, against that of one process with the whole batch."""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from regrun import optim
from regrun.data.batches import Batches
from regrun.data.source import Source
from regrun.data.split import split
from regrun.parallel import ALONE, Peers
from regrun.settings import BatchNorm, LayerNorm, Reg, Seeds, Settings, resolve
from regrun.stack import new_stack
from regrun.studies.found import Found

SHARDS = (2, 4, 8)
NORMS = {
    "no norm": Reg(),
    "layer norm": Reg(layernorm=LayerNorm(active=True)),
    "batch norm": Reg(batchnorm=BatchNorm(active=True)),
    "synchronized batch norm": Reg(batchnorm=BatchNorm(active=True, sync=True)),
}


class Meeting:
    """Where threads add up what each of them brings."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.brought = dict[int, Tensor]()

    def total(self, rank: int, t: Tensor) -> Tensor:
        """The sum over ranks, in their order, once all are here; nobody goes on before all have it."""
        self.brought[rank] = t.clone()
        self.barrier.wait()
        total = sum(self.brought[i] for i in range(self.barrier.parties))
        self.barrier.wait()
        assert isinstance(total, Tensor)
        return total


@dataclass(frozen=True)
class Thread(Peers):
    """One of several threads that train one run together, as processes do under torchrun."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def add(self, t: Tensor) -> Tensor:
        return t.copy_(self.meeting.total(self.rank, t))


def gradients(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """How far the gradient of a batch's shards, added up, is from the batch's own, relative to its norm.

    Of the first batch of training. log10_difference by the number of shards, relative_difference of the most.
    """
    for arm, reg in NORMS.items():
        own = resolve(replace(run, seed=seed, seeds=Seeds(), reg=reg))
        whole = gradient(own, source, 1)
        for shards in SHARDS:
            difference = float((gradient(own, source, shards) - whole).norm() / whole.norm())
            yield Found(arm, "log10_difference", math.log10(max(difference, 1e-12)), shards)
            yield Found(f"{arm}, {shards} shards", "relative_difference", difference)


def gradient(run: Settings, source: Source, shards: int) -> Tensor:
    """(P,), of the first batch's loss, by the steps that so many threads make together; all have the same one."""
    meeting = Meeting(shards)
    places = [Thread(rank, shards, rank, meeting) for rank in range(shards)] if shards > 1 else [ALONE]
    with ThreadPoolExecutor(shards) as pool:
        found = list(pool.map(lambda peers: _own_gradient(run, source, peers), places))
    assert all(torch.equal(one, found[0]) for one in found)
    return found[0]


def _own_gradient(run: Settings, source: Source, peers: Peers) -> Tensor:
    batches = Batches(source, [split(source, run.data, run.seeds)], [run], torch.device("cpu"))
    stack = new_stack([run], batches, peers)
    x, targets = batches.train_batch(batches.order(1)[:, : run.trainer.batch_size], batches.augmenters(1))
    rates = np.full((1, 1), run.optimizer.lr)
    (at,) = optim.epoch_table([run.optimizer], rates, first_step=1, device=torch.device("cpu"))
    stack.step(x, targets, at, {})
    return stack.gradient[0].clone()
