"""A stack's data on its device: inputs once, as uint8 for images; indices, labels and scaling per replica."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from regrun import augment
from regrun.data.sources import Source
from regrun.data.split import Split
from regrun.meter import Meter
from regrun.settings import Settings
from regrun.streams import epoch_order, generator

Streams = dict[str, list[Generator]]
ALL = slice(None)

EVAL_BATCH = 1024  # examples: fixed, so that what an evaluation gives never depends on the stack's size


class Batches:
    """Batches for R replicas, each with its own split, labels, order and augmentation."""

    def __init__(self, source: Source, splits: Sequence[Split], runs: Sequence[Settings], device: torch.device) -> None:
        self.source, self.device = source, device
        # Kept as uint8: a quarter of the memory of float32.
        self.inputs = source.inputs.flatten(1).to(device)
        self.targets = _per_replica([s.targets for s in splits], torch.int64, device)  # (R, N)
        self.indices = {
            name: _per_replica([getattr(s, name) for s in splits], torch.int32, device)  # (R, n)
            for name in ("train", "val", "test")
        }
        self.offset = _per_replica([s.offset for s in splits], torch.float32, device).unsqueeze(1)  # (R, 1, D)
        self.scale = _per_replica([s.scale for s in splits], torch.float32, device).unsqueeze(1)
        self.memory = torch.empty(0, device=device)
        self._bind(splits, runs)

    def _bind(self, splits: Sequence[Split], runs: Sequence[Settings]) -> None:
        """Read the settings of the runs that are (still) here."""
        self.splits, self.runs = list(splits), list(runs)
        self.is_centered = bool((self.offset != 0).any())
        self.noise = torch.tensor([r.reg.noise.std for r in runs], device=self.device).view(-1, 1, 1)
        self.flips, self.paddings = [r.reg.flip.rate for r in runs], [r.reg.crop.padding for r in runs]
        self.has_images_augmented = any(self.flips) or any(self.paddings)
        self.has_noise = any(r.reg.noise.std for r in runs)

    def select(self, keep: list[int]) -> "Batches":
        """The same for some of the replicas; the inputs are shared."""
        some = copy.copy(self)
        some.targets, some.offset, some.scale = (_rows(t, keep) for t in (self.targets, self.offset, self.scale))
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
        """Each augmentation's stream for each replica, for one epoch: no augmentation moves another."""
        return {
            name: [generator(r.seeds.augment or 0, "augment", name, epoch, device=self.device) for r in self.runs]
            for name in ("flip", "crop", "noise")
        }

    def train_batch(self, indices: Tensor, streams: Streams, meter: Meter | None = None) -> tuple[Tensor, Tensor]:
        """(R, B) indices -> augmented inputs (R, B, D), valid until the next batch, and targets (R, B)."""
        x = self._gathered(indices)
        if self.has_images_augmented:
            x = self._augmented(x, streams, meter)
        x = self._scaled(x)
        if self.has_noise:
            clean, x = x, augment.noise(x, self.noise, streams["noise"])
            if meter is not None:
                meter.add("noise", (x - clean).flatten(1).std(1))
        return x, self.targets.gather(1, indices.long())

    def _augmented(self, x: Tensor, streams: Streams, meter: Meter | None) -> Tensor:
        images: Tensor = x.unflatten(2, self.source.shape)
        if any(self.flips):
            before, images = images, augment.flip(images, self.flips, streams["flip"])
            if meter is not None:
                meter.add("flip", (before != images).flatten(2).any(2).float().mean(1))
        if any(self.paddings):
            before, images = images, augment.crop(images, self.paddings, streams["crop"])
            if meter is not None:
                meter.add("crop", (before != images).flatten(1).float().mean(1))
        return images.flatten(2)

    def eval_batches(self, name: str, replicas: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """The plain inputs (R, B, D), each valid until the next, and targets (R, B) of a split, in a fixed order."""
        for indices in self.indices[name][replicas].split(EVAL_BATCH, dim=1):
            yield self.eval_batch(indices, replicas)

    def eval_batch(self, indices: Tensor, replicas: slice = ALL) -> tuple[Tensor, Tensor]:
        """(R, B) indices -> plain inputs (R, B, D), valid until the next batch, and targets (R, B)."""
        x = self._scaled(self._gathered(indices), replicas)
        return x, self.targets[replicas].gather(1, indices.long())

    def _gathered(self, indices: Tensor) -> Tensor:
        return self.inputs.index_select(0, indices.flatten()).view(*indices.shape, -1)

    def _scaled(self, x: Tensor, replicas: slice = ALL) -> Tensor:
        # Into the same memory each time: fresh pages cost more than the cast (0.09 ms of 0.11 at 1,024 x 784).
        if self.memory.numel() < x.numel():
            self.memory = torch.empty(x.numel(), device=self.device)
        x = self.memory[: x.numel()].view(x.shape).copy_(x)
        return (x.sub_(self.offset[replicas]) if self.is_centered else x).mul_(self.scale[replicas])


def _per_replica(rows: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(R, n) one row for each replica, on the device; in memory a single one where all are equal."""
    first = rows[0]
    if all(row is first or torch.equal(row, first) for row in rows):
        return first.to(device, dtype).expand(len(rows), -1)
    return torch.stack([row.to(dtype) for row in rows]).to(device)


def _rows(t: Tensor, keep: list[int]) -> Tensor:
    """Some replicas' rows of such a tensor."""
    return t[: len(keep)] if t.stride(0) == 0 else t[keep]
