"""A stack's data on its device: inputs once, as uint8 for images; indices, labels and scaling per replica."""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from regrun import augment
from regrun.data.source import Source
from regrun.data.split import Split
from regrun.meter import Meter
from regrun.settings import Settings
from regrun.streams import epoch_order, generator

Streams = dict[str, list[Generator]]

EVAL_BATCH = 1024  # examples: fixed, so that what an evaluation gives never depends on the stack's size


class Batches:
    """Batches for R replicas, each with its own split, labels, order and augmentation."""

    def __init__(self, source: Source, splits: Sequence[Split], runs: Sequence[Settings], device: torch.device) -> None:
        self.source, self.splits, self.runs, self.device = source, splits, runs, device
        # Kept as uint8: a quarter of the memory of float32.
        self.inputs = source.inputs.flatten(1).to(device)
        self.targets = torch.stack([s.targets for s in splits]).to(device)
        self.indices = {
            name: torch.stack([getattr(s, name) for s in splits]).to(device) for name in ("train", "val", "test")
        }
        self.offset = torch.stack([s.offset for s in splits]).unsqueeze(1).to(device)  # (R, 1, D)
        self.scale = torch.stack([s.scale for s in splits]).unsqueeze(1).to(device)
        self.fill = torch.stack([s.fill for s in splits]).unsqueeze(1).to(device)
        self.memory = torch.empty(0, device=device)
        self.is_centered = bool((self.offset != 0).any())
        self.noise = torch.tensor([r.reg.noise.std for r in runs], device=device).view(-1, 1, 1)
        self.flips, self.paddings = [r.reg.flip.rate for r in runs], [r.reg.crop.padding for r in runs]
        self.has_images_augmented = any(self.flips) or any(self.paddings)
        self.has_noise = any(r.reg.noise.std for r in runs)

    def select(self, keep: list[int]) -> "Batches":
        """The same for some of the replicas."""
        splits, runs = [self.splits[r] for r in keep], [self.runs[r] for r in keep]
        return Batches(self.source, splits, runs, self.device)

    def order(self, epoch: int) -> Tensor:
        """(R, n) indices into the source, in the order in which each replica visits its train set."""
        size = self.indices["train"].shape[1]
        orders = [epoch_order(run.seeds.order or 0, epoch, size) for run in self.runs]
        return self.indices["train"].gather(1, torch.stack(orders).to(self.device))

    def augmenters(self, epoch: int) -> Streams:
        """Each augmentation's stream for each replica, for one epoch: no augmentation moves another."""
        return {
            name: [generator(r.seeds.augment or 0, "augment", name, epoch, device=self.device) for r in self.runs]
            for name in ("flip", "crop", "noise")
        }

    def train_batch(self, indices: Tensor, streams: Streams, meter: Meter | None = None) -> tuple[Tensor, Tensor]:
        """(R, B) indices -> augmented inputs (R, B, D), valid until the next batch, and targets (R, B) or (R, B, T)."""
        x = self._rows(indices)
        if self.has_images_augmented:
            x = self._augmented(x, streams, meter)
        x = self._scaled(x)
        if self.has_noise:
            clean, x = x, augment.noise(x, self.noise, streams["noise"])
            if meter is not None:
                meter.add("noise", (x - clean).flatten(1).std(1))
        return x, self._targets(indices)

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

    def eval_batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The plain inputs (R, B, D), each valid until the next, and targets (R, B) of a split, in a fixed order."""
        for indices in self.indices[name].split(EVAL_BATCH, dim=1):
            yield self.eval_batch(indices)

    def eval_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(R, B) indices -> plain inputs (R, B, D), valid until the next batch, and targets (R, B)."""
        return self._scaled(self._rows(indices)), self._targets(indices)

    def spread(self, name: str) -> Tensor:
        """(R, T) sums of squares of a regression's targets around their means in a split, float64 on the CPU."""
        y = self._targets(self.indices[name]).cpu().double()
        return (y - y.mean(1, keepdim=True)).square().sum(1)

    def _targets(self, indices: Tensor) -> Tensor:
        if self.targets.dim() == 2:
            return self.targets.gather(1, indices)
        return self.targets.gather(1, indices.unsqueeze(2).expand(*indices.shape, self.targets.shape[2]))

    def _rows(self, indices: Tensor) -> Tensor:
        return self.inputs.index_select(0, indices.flatten()).view(*indices.shape, -1)

    def _scaled(self, x: Tensor) -> Tensor:
        # Into the same memory each time: fresh pages cost more than the cast (0.09 ms of 0.11 at 1,024 x 784).
        if self.memory.numel() < x.numel():
            self.memory = torch.empty(x.numel(), device=self.device)
        x = self.memory[: x.numel()].view(x.shape).copy_(x)
        if self.source.has_missing:
            torch.where(x.isnan(), self.fill, x, out=x)
        return (x.sub_(self.offset) if self.is_centered else x).mul_(self.scale)
