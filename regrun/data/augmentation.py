"""What the runs of a stack have done to their training batches, and in which order.

The bytes of images are mirrored, cropped, rotated, and recolored by policies and jitter; normalized inputs are cut out,
erased, mixed with one another, and get noise. Each change has its own stream in each run, so none moves another's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from regrun import augment, mixing, policies
from regrun.data.source import Source
from regrun.data.windows import MOST_BYTES, Windows, num_bytes
from regrun.meter import Meter
from regrun.objective import distributions
from regrun.settings import Reg, Settings, requested
from regrun.streams import generator

Streams = dict[str, list[Generator]]
Change = Callable[[Tensor, list[Reg], list[Generator]], Tensor]

# Each takes images (R, B, C, H, W), what the runs ask for, and their streams.
MOVING: dict[str, Change] = {  # bytes
    "flip": lambda x, reg, g: augment.flip(x, [r.flip.rate for r in reg], g),
    "crop": lambda x, reg, g: augment.crop(x, [r.crop.padding for r in reg], g),
}
RECOLORING: dict[str, Change] = {  # bytes up to 255
    "rotation": lambda x, reg, g: augment.rotation(x, [r.rotation.degrees for r in reg], g),
    "randaugment": lambda x, reg, g: policies.randaugment(
        x, [r.randaugment.num_ops for r in reg], [r.randaugment.magnitude for r in reg], g
    ),
    "trivialaugment": lambda x, reg, g: policies.trivialaugment(x, [r.trivialaugment.active for r in reg], g),
    "jitter": lambda x, reg, g: augment.jitter(
        x, [(r.jitter.brightness, r.jitter.contrast, r.jitter.saturation) for r in reg], g
    ),
}
ERASING: dict[str, Change] = {  # normalized
    "cutout": lambda x, reg, g: augment.cutout(x, [r.cutout.size for r in reg], g),
    "erasing": lambda x, reg, g: augment.erasing(x, [r.erasing.rate for r in reg], g),
}
MIXING = ("mixup", "cutmix")
PER_IMAGE = ("flip", "randaugment", "trivialaugment")  # their figure is a share of images, the others' of pixels


class Augmentation:
    """The changes that R runs ask for; a run that asks for none of a kind keeps its batches as they are."""

    def __init__(self, source: Source, runs: Sequence[Settings], device: torch.device) -> None:
        self.source, self.device = source, device
        self.seeds, self.reg = [r.seeds.augment or 0 for r in runs], [r.reg for r in runs]
        names = {name for run in runs for name in requested(run)}
        moving, recoloring, erasing = ([n for n in table if n in names] for table in (MOVING, RECOLORING, ERASING))
        self.moving, self.recoloring, self.erasing = moving, recoloring, erasing
        self.mixing, self.has_noise = [n for n in MIXING if n in names], "noise" in names
        self.names = [*moving, *recoloring, *erasing, *self.mixing, *(["noise"] if self.has_noise else [])]
        self.noise = torch.tensor([r.noise.std for r in self.reg], device=device).view(-1, 1, 1)

    def streams(self, epoch: int) -> Streams:
        """Each change's stream for each replica, for one epoch."""
        devices = dict.fromkeys(self.names, self.device) | dict.fromkeys(self.mixing, torch.device("cpu"))
        if len(self.mixing) == 2:
            devices["mixing"] = torch.device("cpu")
        return {
            name: [generator(seed, "augment", name, epoch, device=device) for seed in self.seeds]
            for name, device in devices.items()
        }

    def windows(self, inputs: Tensor) -> Windows | None:
        """What images are cropped and mirrored from as they are gathered. None on a GPU, or if they are too many.

        inputs: (N, D) bytes.
        """
        if not self.moving or self.device.type != "cpu":
            return None
        images = inputs.unflatten(1, self.source.shape)
        return Windows.of(images, **self._kept()) if num_bytes(images.shape, **self._kept()) <= MOST_BYTES else None

    def _kept(self) -> dict[str, Any]:
        return {"padding": max(r.crop.padding for r in self.reg), "mirrored": "flip" in self.moving}

    def gathered(self, windows: Windows, indices: Tensor, streams: Streams) -> Tensor:
        """(R, B) indices -> images (R, B, C, H, W), mirrored and cropped: the bits of `moved`."""
        batch, mirrored, shifts = indices.shape[1], None, None
        if "flip" in self.moving:
            mirrored = augment.mirrored(batch, [r.flip.rate for r in self.reg], streams["flip"])
        if "crop" in self.moving:
            shifts = augment.shifts(batch, [r.crop.padding for r in self.reg], streams["crop"])
        return windows.gather(indices, mirrored, shifts)

    def moved(self, x: Tensor, streams: Streams, meter: Meter | None) -> Tensor:
        """Inputs (R, B, D) as they are in the source, mirrored and cropped. On a CPU six times as fast unmeasured."""
        if not self.moving:
            return x
        images = x.unflatten(2, self.source.shape)
        if meter is not None or self.device.type != "cpu":
            return self._changed(images, MOVING, self.moving, streams, meter)
        windows = Windows.of(images.flatten(0, 1), **self._kept())
        return self.gathered(windows, torch.arange(windows.count).view(x.shape[:2]), streams)

    def recolored(self, x: Tensor, streams: Streams, meter: Meter | None) -> Tensor:
        """Inputs (R, B, D) or images, in bytes, rotated and recolored: on the whole range of a byte."""
        if not self.recoloring:
            return x
        top = self.source.top or 255.0
        images = x if x.dim() == 5 else x.unflatten(2, self.source.shape)
        images = images if top == 255 else (images * (255 / top)).round_().byte()
        images = self._changed(images, RECOLORING, self.recoloring, streams, meter)
        return images if top == 255 else (images * (top / 255)).round_().byte()

    def finished(self, x: Tensor, targets: Tensor, streams: Streams, meter: Meter | None) -> tuple[Tensor, Tensor]:
        """Normalized inputs (R, B, D) and their targets: erased in places, mixed, with noise."""
        if self.erasing:
            images = x.unflatten(2, self.source.shape)
            x = self._changed(images, ERASING, self.erasing, streams, meter).flatten(2)
        if self.mixing:
            x, targets = self._mixed(x, distributions(targets, self.source.num_classes), streams, meter)
        if self.has_noise:
            clean, x = x, augment.noise(x, self.noise, streams["noise"])
            if meter is not None:
                meter.add("noise", (x - clean).flatten(1).std(1))
        return x, targets

    def _mixed(self, x: Tensor, targets: Tensor, streams: Streams, meter: Meter | None) -> tuple[Tensor, Tensor]:
        """By mixup or cutmix; a run that asks for both gets one of them for each batch, at random."""
        weights = {
            name: mixing.weights([getattr(r, name).alpha for r in self.reg], streams[name]) for name in self.mixing
        }
        if len(weights) == 2:
            weights = dict(
                zip(MIXING, mixing.either(weights["mixup"], weights["cutmix"], streams["mixing"]), strict=True)
            )
        for name, own in weights.items():
            if name == "mixup":
                x, targets, shares = mixing.mixup(x, targets, own, streams[name])
            else:
                images = x.unflatten(2, self.source.shape)
                images, targets, shares = mixing.cutmix(images, targets, own, streams[name])
                x = images.flatten(2)
            if meter is not None:
                meter.add(name, shares)
        return x, targets

    def _changed(
        self, images: Tensor, table: dict[str, Change], names: list[str], streams: Streams, meter: Meter | None
    ) -> Tensor:
        for name in names:
            before, images = images, table[name](images, self.reg, streams[name])
            if meter is not None:
                different = (before != images).flatten(2)
                meter.add(name, (different.any(2) if name in PER_IMAGE else different.flatten(1)).float().mean(1))
        return images
