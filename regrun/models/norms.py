"""The pieces of a network that normalize."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from regrun import layers
from regrun.models.ops import Op, Pass, Slot


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalization of `width` features or channels."""

    name: str
    width: int
    momentum: float
    eps: float

    def running(self) -> Iterator[tuple[str, int, float]]:
        yield self.name, self.width, self.momentum

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.width,), "gain")
        yield Slot(f"{self.name}.bias", (self.width,), "shift")

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        how = self._how(on) | {"rows": on.rows, "ghost": on.ghost}
        return layers.batch_norm(x.float(), *self._affine(on), *self._running(on), **how)

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        if on.meter is not None and not on.training:
            on.meter.add(f"batchnorm/{self.name}", torch.ones(1))
        if x.dim() == 4:
            return super().forward(x, on) if on.shard is None else self._forward_synchronized(x, on)
        gain, shift = self._affine(on)
        how = self._how(on) | {"shard": on.shard}
        parts = [
            layers.batch_standardize(part, *self._running(on), rows=rows, **how)
            for part, rows in self._ghosts(x.float(), on)
        ]
        normal = layers.joined([part for part, _ in parts], dim=1)
        on.keep(normal, *(inverse for _, inverse in parts))
        return torch.addcmul(shift.unsqueeze(1), normal, gain.unsqueeze(1))

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        if gradient.dim() == 4:
            return super().backward(gradient, on) if on.shard is None else self._backward_synchronized(gradient, on)
        gain, _ = self._affine(on)
        normal, *inverses = on.take()
        parts = zip(self._ghosts(gradient.float(), on), self._ghosts(normal, on), inverses, strict=True)
        gradients = [
            layers.batch_norm_backward(by_y, part, inverse, gain, rows=rows, training=on.training, shard=on.shard)
            for (by_y, rows), (part, _), inverse in parts
        ]
        by_x, by_gain, by_shift = zip(*gradients, strict=True)
        on.gradients[f"{self.name}.weight"].copy_(reduce(torch.add, by_gain))
        on.gradients[f"{self.name}.bias"].copy_(reduce(torch.add, by_shift))
        return layers.joined(list(by_x), dim=1)

    def _forward_synchronized(self, x: Tensor, on: Pass) -> Tensor:
        """Images by the statistics of all processes: their pixels are the rows of one dense batch."""
        return layers.from_pixels(self.forward(layers.to_pixels(x), _by_pixel(on, x)), x.shape)

    def _backward_synchronized(self, gradient: Tensor, on: Pass) -> Tensor:
        by_x = self.backward(layers.to_pixels(gradient), _by_pixel(on, gradient))
        assert by_x is not None
        return layers.from_pixels(by_x, gradient.shape)

    def _ghosts(self, x: Tensor, on: Pass) -> list[tuple[Tensor, int]]:
        return layers.ghosts(x, rows=on.rows, size=on.ghost if on.training else None)

    def _affine(self, on: Pass) -> tuple[Tensor, Tensor]:
        return on.params[f"{self.name}.weight"], on.params[f"{self.name}.bias"]

    def _running(self, on: Pass) -> tuple[Tensor, Tensor]:
        return on.buffers[f"{self.name}.running_mean"], on.buffers[f"{self.name}.running_var"]

    def _how(self, on: Pass) -> dict[str, Any]:
        return {"training": on.training, "momentum": self.momentum, "eps": self.eps}


def _by_pixel(on: Pass, images: Tensor) -> Pass:
    """The same pass with each pixel of the images as an example."""
    return replace(on, rows=on.rows * math.prod(images.shape[2:]))


@dataclass(frozen=True)
class LayerNorm(Op):
    """Layer normalization of `width` features, or of an image of `width` channels."""

    name: str
    width: int
    eps: float
    groups: int = 1

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.width,), "gain")
        yield Slot(f"{self.name}.bias", (self.width,), "shift")

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        gain, shift = on.params[f"{self.name}.weight"], on.params[f"{self.name}.bias"]
        if on.meter is not None:
            on.meter.add(f"{type(self).__name__.lower()}/{self.name}", torch.ones(1))
        return layers.group_norm(x.float(), gain, shift, groups=self.groups, eps=self.eps)


@dataclass(frozen=True)
class GroupNorm(LayerNorm):
    """The same within each of `groups` groups of features or channels."""
