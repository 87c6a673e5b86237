"""The pieces of a network. Each op is plain data; `forward` computes it for all replicas of a stack at once.

Adding a piece is one class here (its slots, its `compute`) and one line in `export`; autograd finds its
gradients. The pieces of an MLP bring their own `backward`, which writes straight into the stack's gradient
tensor: without graph, dispatch and copies a small network's step takes 0.6 of the time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regrun import layers
from regrun.meter import Meter
from regrun.models.rates import Rates
from regrun.parallel import Shard


@dataclass(frozen=True)
class Slot:
    """One named tensor of a network. `role` is weight, bias, gain or shift; only weights are decayed."""

    name: str
    shape: tuple[int, ...]
    role: str


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
        out = on.gradients[f"{self.name}.weight"]
        if min(self.fan_in, self.fan_out) > 1:
            _into(out, torch.bmm, gradient.transpose(1, 2), x)
        else:  # torch takes another routine for a vector of a replica alone, which rounds otherwise
            out.copy_((gradient * x).sum(1).view_as(out))
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
