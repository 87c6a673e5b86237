"""The pieces of a network. Each op is plain data; `forward` computes it for all replicas of a stack at once.

Adding a piece is one class here (its shapes, its forward) and one line in `export`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from regrun import layers
from regrun.meter import Meter


@dataclass(frozen=True)
class Slot:
    """One named tensor of a network. `role` is weight, bias, gain or shift; only weights are decayed."""

    name: str
    shape: tuple[int, ...]
    role: str


@dataclass
class Rates:
    """The drop probabilities of one place, per replica, ready for `layers.dropout`."""

    threshold: Tensor  # (R, 1) int16: a 16-bit draw below it is dropped
    scale: Tensor  # (R, 1) float: 1 / (1 - realized rate)

    @classmethod
    def of(cls, rates: list[float], device: torch.device) -> "Rates":
        counts = torch.tensor([min(round(rate * 65536), 65535) for rate in rates]).unsqueeze(1)
        scale = 65536 / (65536 - counts.double())
        return cls((counts - 32768).to(torch.int16).to(device), scale.float().to(device))


@dataclass
class Pass:
    """One forward pass: the tensors that the ops read, and what they leave behind."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    rows: int  # examples of the batch that are real; the rest is padding
    training: bool
    rates: dict[str, Rates] = field(default_factory=dict)
    masks: Callable[[str, int], Tensor] | None = None
    meter: Meter | None = None
    outputs: dict[str, Tensor] | None = None  # the last value of each layer, when somebody asks

    def record(self, layer: str, x: Tensor) -> None:
        if self.outputs is not None:
            self.outputs[layer] = x


class Op(Protocol):
    """A piece of a network."""

    def slots(self) -> Iterator[Slot]: ...

    def forward(self, x: Tensor, on: Pass) -> Tensor: ...


class _Parameterless:
    def slots(self) -> Iterator[Slot]:
        return iter(())


@dataclass(frozen=True)
class Linear:
    """A dense layer, (R, B, fan_in) -> (R, B, fan_out)."""

    name: str
    fan_in: int
    fan_out: int
    bias: bool
    start: str = "hidden"  # which init it takes: hidden, output, or residual_end (zeros on request)

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.fan_out, self.fan_in), "weight")
        if self.bias:
            yield Slot(f"{self.name}.bias", (self.fan_out,), "bias")

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        x = layers.linear(x, on.params[f"{self.name}.weight"], on.params.get(f"{self.name}.bias"))
        on.record(self.name, x)
        return x


@dataclass(frozen=True)
class Conv:
    """A 3 x 3 convolution that keeps the size, (B, R * fan_in, H, W) -> (B, R * fan_out, H, W)."""

    name: str
    fan_in: int
    fan_out: int
    bias: bool
    start: str = "hidden"

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.fan_out, self.fan_in, 3, 3), "weight")
        if self.bias:
            yield Slot(f"{self.name}.bias", (self.fan_out,), "bias")

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        x = layers.conv(x, on.params[f"{self.name}.weight"], on.params.get(f"{self.name}.bias"))
        on.record(self.name, x)
        return x


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization of `width` features or channels."""

    name: str
    width: int
    momentum: float
    eps: float

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.width,), "gain")
        yield Slot(f"{self.name}.bias", (self.width,), "shift")

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        if on.meter is not None and not on.training:
            on.meter.add(f"batchnorm/{self.name}", torch.ones(on.params[f"{self.name}.weight"].shape[0]))
        return layers.batch_norm(
            x,
            on.params[f"{self.name}.weight"],
            on.params[f"{self.name}.bias"],
            on.buffers[f"{self.name}.running_mean"],
            on.buffers[f"{self.name}.running_var"],
            rows=on.rows,
            training=on.training,
            momentum=self.momentum,
            eps=self.eps,
        )


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization of `width` features, or of an image of `width` channels."""

    name: str
    width: int
    eps: float

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.width,), "gain")
        yield Slot(f"{self.name}.bias", (self.width,), "shift")

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        if on.meter is not None:
            on.meter.add(f"layernorm/{self.name}", torch.ones(on.params[f"{self.name}.weight"].shape[0]))
        gain, shift = on.params[f"{self.name}.weight"], on.params[f"{self.name}.bias"]
        return layers.layer_norm(x, gain, shift, eps=self.eps)


@dataclass(frozen=True)
class Activation(_Parameterless):
    """A nonlinearity, element by element; its output counts as that of `layer`."""

    kind: str
    layer: str | None = None

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        x = layers.ACTIVATIONS[self.kind](x)
        if self.layer is not None:
            on.record(self.layer, x)
        return x


@dataclass(frozen=True)
class Dropout(_Parameterless):
    """Dropout at a named place; `size` elements per example. Where no replica asks for it, nothing happens."""

    name: str
    size: int

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        if not on.training or self.name not in on.rates or on.masks is None:
            return x
        rates = on.rates[self.name]
        replicas = rates.threshold.shape[0]
        split = x if x.dim() == 3 else x.unflatten(1, (replicas, -1)).transpose(0, 1)
        mask = on.masks(self.name, split.shape[1] * self.size).view(split.shape)
        per_replica = (replicas, *[1] * (split.dim() - 1))
        y = layers.dropout(split, rates.threshold.view(per_replica), rates.scale.view(per_replica), mask)
        if on.meter is not None:
            share = _share_zeroed(split, y)
            on.meter.add(f"dropout/{self.name}", share.where(rates.scale.squeeze(1) > 1, torch.nan))
        return y if x.dim() == 3 else y.transpose(0, 1).flatten(1, 2)


def _share_zeroed(before: Tensor, after: Tensor) -> Tensor:
    """(R,) the share of each replica's nonzero elements that became zero."""
    alive = (before != 0).flatten(1).sum(1)
    return 1 - (after != 0).flatten(1).sum(1) / alive.clamp(min=1)


@dataclass(frozen=True)
class MaxPool(_Parameterless):
    """2 x 2 max pooling, stride 2."""

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        return F.max_pool2d(x, 2)


@dataclass(frozen=True)
class ToImage(_Parameterless):
    """Rows of pixels to images."""

    shape: tuple[int, int, int]

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        return layers.to_image(x, self.shape)


@dataclass(frozen=True)
class ToFeatures(_Parameterless):
    """Images to rows of features."""

    replicas_from: str  # a weight, whose leading axis says how many replicas share the channels

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        return layers.to_features(x, on.params[self.replicas_from].shape[0])


@dataclass(frozen=True)
class Skip:
    """x + branch(x) (He et al. 2016, identity mappings)."""

    branch: tuple[Op, ...]

    def slots(self) -> Iterator[Slot]:
        for op in self.branch:
            yield from op.slots()

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        return x + run(self.branch, x, on)


def run(ops: tuple[Op, ...], x: Tensor, on: Pass) -> Tensor:
    """The ops one after another."""
    for op in ops:
        x = op.forward(x, on)
    return x


def walk(ops: tuple[Op, ...]) -> Iterator[Op]:
    """Every op, those inside of skips included, in the order of the forward pass."""
    for op in ops:
        if isinstance(op, Skip):
            yield from walk(op.branch)
        else:
            yield op
