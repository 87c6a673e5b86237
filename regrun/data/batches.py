"""A stack's data on its device: inputs once, as uint8 for images; indices, labels and scaling per replica."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from regrun.data import stream
from regrun.data.augmentation import Augmentation, Streams
from regrun.data.source import Source
from regrun.data.split import Split
from regrun.meter import Meter
from regrun.parallel import ALONE, Peers
from regrun.settings import Settings
from regrun.streams import epoch_order

ALL = slice(None)

EVAL_BATCH = 1024  # examples: fixed, so that what an evaluation gives never depends on the stack's size


class Halt(Exception):
    """Training is to end, and an evaluation has seen it between two of its batches."""


class Batches:
    """Batches for R replicas, each with its own split, labels, order and augmentation."""

    def __init__(self, source: Source, splits: Sequence[Split], runs: Sequence[Settings], device: torch.device) -> None:
        self.source, self.device = source, device
        # Kept as uint8: a quarter of the memory of float32.
        self.is_streamed = stream.is_streamed(runs[0].data, source.inputs, device)
        self.inputs = source.inputs.flatten(1).to("cpu" if self.is_streamed else device)
        kind = torch.float32 if source.is_regression else torch.int64
        self.targets = _per_replica([s.targets for s in splits], kind, device)  # (R, N) or (R, N, T)
        self.indices = {
            name: _per_replica([getattr(s, name) for s in splits], torch.int32, device)  # (R, n)
            for name in ("train", "val", "test")
        }
        self.offset = _per_replica([s.offset for s in splits], torch.float32, device).unsqueeze(1)  # (R, 1, D)
        self.scale = _per_replica([s.scale for s in splits], torch.float32, device).unsqueeze(1)
        self.fill = _per_replica([s.fill for s in splits], torch.float32, device).unsqueeze(1)
        self.memory = torch.empty(0, device=device)
        self.is_over: Callable[[], bool] = lambda: False
        self._bind(splits, runs)
        self.windows = None if self.is_streamed else self.augmentation.windows(self.inputs)

    def _bind(self, splits: Sequence[Split], runs: Sequence[Settings]) -> None:
        """Read the settings of the runs that are (still) here."""
        self.splits, self.runs = list(splits), list(runs)
        self.spreads: dict[str, Tensor] = {}
        self.is_centered = bool((self.offset != 0).any())
        self.augmentation = Augmentation(self.source, runs, self.device)

    def select(self, keep: list[int]) -> "Batches":
        """The same for some of the replicas; the inputs are shared."""
        some = copy.copy(self)
        some.targets, some.offset, some.scale, some.fill = (
            _rows(t, keep) for t in (self.targets, self.offset, self.scale, self.fill)
        )
        some.indices = {name: _rows(indices, keep) for name, indices in self.indices.items()}
        some._bind([self.splits[r] for r in keep], [self.runs[r] for r in keep])
        return some

    def order(self, epoch: int) -> Tensor:
        """(R, n) indices into the source, in the order in which each replica visits its train set."""
        order = torch.empty(self.indices["train"].shape, dtype=torch.int32)
        for row, own, run in zip(order, self.splits, self.runs, strict=True):
            row.copy_(own.train.index_select(0, epoch_order(run.seeds.order or 0, epoch, len(own.train))))
        return order.to(self.device)

    def augmenters(self, epoch: int) -> Streams:
        """The streams of the augmentations that are asked for, for one epoch."""
        return self.augmentation.streams(epoch)

    def rows(self, parts: Sequence[Tensor]) -> Iterator[Tensor | None]:
        """For each (R, B) of indices the inputs (R, B, D) as they are in the source; None unless they are streamed."""
        if self.is_streamed:
            return stream.rows(self.inputs, parts, self.device, workers=self.runs[0].data.workers)
        return itertools.repeat(None, len(parts))

    def train_batch(
        self, indices: Tensor, streams: Streams, meter: Meter | None = None, *, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(R, B) indices -> augmented inputs (R, B, D), valid until the next batch, and targets (R, B) or (R, B, T).

        Targets of classes are shares (R, B, K) where examples are mixed. rows: what `rows` gives for these indices.
        """
        changes = self.augmentation
        if self.windows is not None and changes.moving and meter is None:
            x = changes.gathered(self.windows, indices, streams)
        else:
            x = changes.moved(self._gathered(indices) if rows is None else rows, streams, meter)
        x = self._scaled(changes.recolored(x, streams, meter))
        return changes.finished(x, self._targets(indices), streams, meter)

    def eval_batches(self, name: str, replicas: slice = ALL, peers: Peers = ALONE) -> Iterator[tuple[Tensor, Tensor]]:
        """The plain inputs (R, B, D), each valid until the next, and targets (R, B) of a split, in a fixed order.

        Of several peers each gets its own part of the split. Raises Halt as soon as `is_over`.
        """
        indices = self.indices[name][replicas]
        parts = indices[:, peers.shard(indices.shape[1]).slice].split(EVAL_BATCH, dim=1)
        for indices, rows in zip(parts, self.rows(parts), strict=True):
            if self.is_over():
                raise Halt
            x = self._gathered(indices) if rows is None else rows
            yield self._scaled(x, replicas), self._targets(indices, replicas)

    def eval_batch(self, indices: Tensor, replicas: slice = ALL) -> tuple[Tensor, Tensor]:
        """(R, B) indices -> plain inputs (R, B, D), valid until the next batch, and targets (R, B)."""
        return self._scaled(self._gathered(indices), replicas), self._targets(indices, replicas)

    def spread(self, name: str, replicas: slice = ALL) -> Tensor:
        """(R, T) sums of squares of a regression's targets around their means in a split, float64 on the CPU."""
        if name not in self.spreads:
            self.spreads[name] = torch.stack([_spread(own, name) for own in self.splits])
        return self.spreads[name][replicas]

    def _targets(self, indices: Tensor, replicas: slice = ALL) -> Tensor:
        """Classes (R, B) int64, or numbers (R, B, T)."""
        targets, at = self.targets[replicas], indices.long()
        if targets.dim() == 2:
            return targets.gather(1, at)
        return targets.gather(1, at.unsqueeze(2).expand(*at.shape, targets.shape[2]))

    def _gathered(self, indices: Tensor) -> Tensor:
        at = indices.flatten().to(self.inputs.device)
        return self.inputs.index_select(0, at).view(*indices.shape, -1).to(self.device)

    def _scaled(self, x: Tensor, replicas: slice = ALL) -> Tensor:
        # Into the same memory each time: fresh pages cost more than the cast (0.09 ms of 0.11 at 1,024 x 784).
        if self.memory.numel() < x.numel():
            self.memory = torch.empty(x.numel(), device=self.device)
        x = self.memory[: x.numel()].view(x.shape).copy_(x).flatten(2)
        if self.source.has_missing:
            torch.where(x.isnan(), self.fill[replicas], x, out=x)
        return (x.sub_(self.offset[replicas]) if self.is_centered else x).mul_(self.scale[replicas])


def _per_replica(rows: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(R, ...) one row for each replica, on the device; in memory a single one where all are equal."""
    first = rows[0]
    if all(row is first or torch.equal(row, first) for row in rows):
        return first.to(device, dtype).expand(len(rows), *first.shape)
    return torch.stack([row.to(dtype) for row in rows]).to(device)


def _rows(t: Tensor, keep: list[int]) -> Tensor:
    """Some replicas' rows of such a tensor."""
    return t[: len(keep)] if t.stride(0) == 0 else t[keep]


def _spread(own: Split, name: str) -> Tensor:
    y = own.targets[getattr(own, name)].double()
    return (y - y.mean(0)).square().sum(0)
