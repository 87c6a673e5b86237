"""The pieces of a network. Each op is plain data; `forward` computes it for all replicas of a stack at once.

Adding a piece is one class here (its slots, its `compute`) and one line in `export`; autograd finds its
gradients. The pieces of an MLP bring their own `backward`, which writes straight into the stack's gradient
tensor: without graph, dispatch and copies a small network's step takes 0.6 of the time.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from regrun import layers
from regrun.meter import Meter
from regrun.parallel import Shard


@dataclass(frozen=True)
class Slot:
    """One named tensor of a network. `role` is weight, bias, gain or shift; only weights are decayed."""

    name: str
    shape: tuple[int, ...]
    role: str


def realized(rate: float) -> float:
    """The drop probability that 16-bit draws give: the nearest multiple of 1 / 65,536 below 1."""
    return min(round(rate * 65536), 65535) / 65536


@dataclass
class Rates:
    """The drop probabilities of one place, per replica, ready for `layers.dropout`."""

    threshold: Tensor  # (R, 1) int16: a 16-bit draw below it is dropped
    scale: Tensor  # (R, 1) float: what survivors are multiplied by, 1 / (1 - realized rate)
    mean: Tensor | None = None  # (R, 1) float: what all are multiplied by where nothing is drawn; None for 1

    @classmethod
    def of(cls, rates: list[float], device: torch.device) -> "Rates":
        """Inverted dropout: it keeps the mean."""
        share = torch.tensor([realized(rate) for rate in rates], dtype=torch.float64).unsqueeze(1)
        threshold = (share * 65536 - 32768).to(torch.int16)
        return cls(threshold.to(device), (1 / (1 - share)).float().to(device))

    @classmethod
    def classic(cls, rates: list[float], device: torch.device) -> "Rates":
        """Classic dropout: survivors stay as they are, and evaluation multiplies by the share that is kept."""
        kept = torch.tensor([1 - realized(rate) for rate in rates], device=device).unsqueeze(1)
        return cls(cls.of(rates, device).threshold, torch.ones_like(kept), kept)

    def some(self, replicas: slice) -> "Rates":
        """Those of some replicas."""
        mean = None if self.mean is None else self.mean[replicas]
        return Rates(self.threshold[replicas], self.scale[replicas], mean)

    @property
    def is_on(self) -> Tensor:
        """(R,) which replicas drop at all."""
        return self.threshold.squeeze(1) > -32768


@dataclass
class Pass:
    """One pass through a network, forward and perhaps back: what the ops read, and what they leave behind."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    rows: int  # examples of the batch that are real; the rest is padding
    training: bool
    dtype: torch.dtype = torch.float32  # of the matrix products
    ghost: int | None = None  # examples whose statistics batch norm takes together in training; None for all
    shard: Shard | None = None  # of the batch whose statistics batch norm takes in training; None: x is all of it
    rates: dict[str, Rates] = field(default_factory=dict)
    masks: Callable[[str, int], Tensor] | None = None
    meter: Meter | None = None
    outputs: dict[str, Tensor] | None = None  # the last value of each layer, when somebody asks
    gradients: dict[str, Tensor] = field(default_factory=dict)  # where backward writes, by slot
    tape: list[Any] | None = None  # what each op keeps for its backward, last op last; None: no backward
    kept: list[Tensor] | None = None  # all tensors of the tape, when somebody asks

    def record(self, layer: str, x: Tensor) -> None:
        if self.outputs is not None:
            self.outputs[layer] = x

    def keep(self, *saved: Any) -> None:
        if self.tape is not None:
            self.tape.append(saved)
        if self.kept is not None:
            self.kept += [value for value in saved if isinstance(value, Tensor)]

    def take(self) -> Any:
        assert self.tape is not None
        return self.tape.pop()


class Op:
    """A piece of a network. Subclasses give `compute`; autograd then gives its gradients."""

    def inside(self) -> tuple["Op", ...]:
        """The ops that this one is made of, in the order of the forward pass."""
        return ()

    def slots(self) -> Iterator[Slot]:
        for op in self.inside():
            yield from op.slots()

    def weighted(self) -> Iterator["Linear | Conv"]:
        """The layers that have a weight matrix or kernel: the op itself, or what an op that is not from here has."""
        return iter(())

    def running(self) -> Iterator[tuple[str, int, float]]:
        """Name, width and momentum of each batch norm, whose running statistics are kept."""
        return iter(())

    def begin(self, seed: int) -> dict[str, Tensor]:
        """How slots start that no init scheme fills, by name."""
        return {}

    def begin_running(self) -> dict[str, Tensor]:
        """How running statistics start that are not 0 and 1, by name."""
        return {}

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        """The op's output; with a tape, what `backward` needs is kept."""
        if on.tape is None:
            return self.compute(x, on)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self.compute(x, on)
        on.keep(x, y)
        return y.detach()

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        """The gradient by the input, from that by the output; those by parameters go to `on.gradients`."""
        x, y = on.take()
        names = [slot.name for slot in self.slots()]
        wanted = [*(on.params[name] for name in names), *([x] if needs_input else [])]
        gradients = torch.autograd.grad(y, wanted, gradient)
        for name, value in zip(names, gradients, strict=False):
            on.gradients[name].copy_(value)
        return gradients[-1] if needs_input else None


@dataclass(frozen=True)
class Linear(Op):
    """A dense layer, (R, B, fan_in) -> (R, B, fan_out)."""

    name: str
    fan_in: int
    fan_out: int
    bias: bool
    # Which init it takes: hidden, output, gate, residual_end (zeros on request), or given (a file's values).
    start: str = "hidden"

    def weighted(self) -> Iterator["Linear | Conv"]:
        yield self

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.fan_out, self.fan_in), "weight")
        if self.bias:
            yield Slot(f"{self.name}.bias", (self.fan_out,), "bias")

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        x, weight = x.to(on.dtype), on.params[f"{self.name}.weight"].to(on.dtype)
        bias = on.params[f"{self.name}.bias"].to(on.dtype) if self.bias else None
        y = (layers.output if self.start == "output" else layers.linear)(x, weight, bias)
        on.record(self.name, y)
        on.keep(x, weight)
        return y

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        x, weight = on.take()
        gradient = gradient.to(on.dtype)
        _into(on.gradients[f"{self.name}.weight"], torch.bmm, gradient.transpose(1, 2), x)
        if self.bias:
            _into(on.gradients[f"{self.name}.bias"], torch.sum, gradient, 1)
        return layers.product(gradient, weight) if needs_input else None


def _into(out: Tensor, function: Callable[..., Tensor], *arguments: Any) -> None:
    """out = function(*arguments), without a copy where the types agree."""
    if arguments[0].dtype == out.dtype:
        function(*arguments, out=out)
    else:
        out.copy_(function(*arguments))


@dataclass(frozen=True)
class Conv(Op):
    """A convolution, (B, R * fan_in, H, W) -> (B, R * fan_out, H, W); at stride 1 it keeps the size."""

    name: str
    fan_in: int
    fan_out: int
    bias: bool
    start: str = "hidden"
    kernel: int = 3  # odd
    stride: int = 1

    def weighted(self) -> Iterator["Linear | Conv"]:
        yield self

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.fan_out, self.fan_in, self.kernel, self.kernel), "weight")
        if self.bias:
            yield Slot(f"{self.name}.bias", (self.fan_out,), "bias")

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        weight = on.params[f"{self.name}.weight"].to(on.dtype)
        bias = on.params[f"{self.name}.bias"].to(on.dtype) if self.bias else None
        x = layers.conv(x.to(on.dtype), weight, bias, stride=self.stride)
        on.record(self.name, x)
        return x


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
        return layers.from_pixels(_required(by_x), gradient.shape)

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


@dataclass(frozen=True)
class Activation(Op):
    """A nonlinearity, element by element; its output counts as that of `layer`."""

    kind: str
    layer: str | None = None

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        y = layers.ACTIVATIONS[self.kind].forward(x)
        if self.layer is not None:
            on.record(self.layer, y)
        on.keep(y, x)
        return y

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        y, x = on.take()
        return layers.ACTIVATIONS[self.kind].backward(gradient.to(y.dtype), y, x)


@dataclass(frozen=True)
class Dropout(Op):
    """Dropout at a named place; `size` draws per example. Where no replica asks for it, nothing happens.

    Inverted, or classic (Srivastava et al. 2014): then whatever is measured without draws is scaled down instead.
    """

    name: str
    size: int
    kind: str = "inverted"
    mechanism: str = "dropout"  # whose figure it is
    axes: ClassVar[int] = 5  # of (R, B, D) or (R, B, C, H, W), the first ones along which draws differ: all

    def dropped(self, x: Tensor, on: Pass) -> tuple[Tensor, Tensor | None]:
        """x times factors of 0 or more, and these; None where nothing is dropped. (R, B, D) or images."""
        rates = on.rates.get(self.name)
        factors = None if rates is None else self._factors(x, rates, on)
        if rates is None or factors is None:
            return x, None
        y = x * factors
        if on.meter is not None and on.training:
            parts = [t if t.dim() == 3 else layers.to_features(t, len(rates.threshold)) for t in (x, y, factors)]
            share = self._share_zeroed(*parts, rows=on.rows)
            on.meter.add(f"{self.mechanism}/{self.name}", share.where(rates.is_on, torch.nan))
        return y, factors

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        y, factors = self.dropped(x, on)
        on.keep(factors)
        return y

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        (factors,) = on.take()
        return gradient if factors is None else gradient * factors

    def _factors(self, x: Tensor, rates: Rates, on: Pass) -> Tensor | None:
        """What x is multiplied by, broadcasting against it; None for 1."""
        replicas = len(rates.threshold)
        split = x if x.dim() == 3 else x.unflatten(1, (replicas, -1)).transpose(0, 1)
        per_replica = (replicas, *[1] * (split.dim() - 1))
        if on.masks is not None:
            drawn = (*split.shape[: self.axes], *[1] * (split.dim() - self.axes))
            mask = on.masks(self.name, math.prod(drawn[1:])).view(drawn)
            factors = layers.dropout_factors(rates.threshold.view(per_replica), rates.scale.view(per_replica), mask)
        elif rates.mean is None:
            return None
        else:
            factors = rates.mean.view(per_replica)
        if x.dim() == 3:
            return factors
        return factors.expand(-1, -1, split.shape[2], -1, -1).transpose(0, 1).flatten(1, 2)

    def _share_zeroed(self, x: Tensor, y: Tensor, factors: Tensor, *, rows: int) -> Tensor:
        """(R,) the share of each replica's nonzero elements that became zero. All are (R, B, D)."""
        alive, kept = ((t != 0).sum((1, 2)) for t in (x, y))
        return 1 - kept / alive.clamp(min=1)


@dataclass(frozen=True)
class SpatialDropout(Dropout):
    """Dropout of whole feature maps (Tompson et al. 2015): `size` channels, one draw for each of an example's.

    Survivors are scaled up as those of dropout, so that evaluation needs no rescaling.
    """

    mechanism: str = "spatial_dropout"
    axes: ClassVar[int] = 3

    def _share_zeroed(self, x: Tensor, y: Tensor, factors: Tensor, *, rows: int) -> Tensor:
        """(R,) the share of the draws of real examples that dropped."""
        return (factors[:, :rows] == 0).float().mean((1, 2))


@dataclass(frozen=True)
class StochasticDepth(SpatialDropout):
    """The end of a branch beside a skip: for some examples the branch is left out (Huang et al. 2016).

    `share`: of the last block's rate, l / L for block l of L as in the paper (timm's is (l - 1) / (L - 1)). Drawn
    for each example and with survivors scaled by 1 / (1 - rate), as timm and torchvision do it; the paper leaves a
    block out for a whole batch, and scales in evaluation.
    """

    mechanism: str = "stochastic_depth"
    axes: ClassVar[int] = 2
    share: float = 1.0
    tokens: int = 1  # rows of an example

    def dropped(self, x: Tensor, on: Pass) -> tuple[Tensor, Tensor | None]:
        if self.tokens == 1:
            return super().dropped(x, on)
        y, factors = super().dropped(x.reshape(len(x), -1, self.tokens * x.shape[2]), on)
        return y.view_as(x), None if factors is None else factors.repeat_interleave(self.tokens, 1)


@dataclass(frozen=True)
class MaxPool(Op):
    """2 x 2 max pooling, stride 2."""

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return F.max_pool2d(x, 2)


@dataclass(frozen=True)
class ToImage(Op):
    """Rows of pixels to images."""

    shape: tuple[int, int, int]

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return layers.to_image(x, self.shape)


@dataclass(frozen=True)
class ToRgb(Op):
    """Grey images as three equal channels, (B, R, H, W) -> (B, 3 R, H, W)."""

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return x.repeat_interleave(3, 1)


@dataclass(frozen=True)
class ToFeatures(Op):
    """Images to rows of features."""

    replicas_from: str  # a weight, whose leading axis says how many replicas share the channels

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return layers.to_features(x, on.params[self.replicas_from].shape[0])


@dataclass(frozen=True)
class MeanPool(Op):
    """The mean over each channel's image, (B, R * channels, H, W) -> (R, B, channels) (Lin et al. 2014)."""

    channels: int

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return layers.to_features(x.float().mean((2, 3)), x.shape[1] // self.channels)


@dataclass(frozen=True)
class Widen(Op):
    """A shortcut without parameters: every other pixel, and channels of zeros (He et al. 2016, option A)."""

    channels: int
    more: int  # channels that are added

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return layers.widen(x, self.channels, self.more)


@dataclass(frozen=True)
class Skip(Op):
    """shortcut(x) + branch(x), where no shortcut is x itself (He et al. 2016, identity mappings).

    `build` ends each branch with a `StochasticDepth`.
    """

    branch: tuple[Op, ...]
    shortcut: tuple[Op, ...] = ()

    def inside(self) -> tuple[Op, ...]:
        return self.shortcut + self.branch

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        return run(self.shortcut, x, on) + run(self.branch, x, on)

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        by_branch = back(self.branch, gradient, on)
        return back(self.shortcut, gradient, on) + by_branch


def run(ops: tuple[Op, ...], x: Tensor, on: Pass) -> Tensor:
    """The ops one after another."""
    for op in ops:
        x = op.forward(x, on)
    return x


def back(ops: tuple[Op, ...], gradient: Tensor, on: Pass) -> Tensor:
    """The gradient by the ops' input, from that by their output; those by parameters go to `on.gradients`."""
    for op in reversed(ops):
        gradient = _required(op.backward(gradient, on))
    return gradient


def run_back(ops: tuple[Op, ...], gradient: Tensor, on: Pass) -> None:
    """All parameters' gradients, into `on.gradients`; what lies before the first of them is not computed."""
    first = next(i for i, op in enumerate(ops) if any(op.slots()))
    ops[first].backward(back(ops[first + 1 :], gradient, on), on, needs_input=False)


def _required(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def walk(ops: tuple[Op, ...]) -> Iterator[Op]:
    """Every op, those inside of others included and not these, in the order of the forward pass."""
    for op in ops:
        if inside := op.inside():
            yield from walk(inside)
        else:
            yield op
