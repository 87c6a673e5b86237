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

    def some(self, replicas: slice) -> "Rates":
        """Those of some replicas."""
        return Rates(self.threshold[replicas], self.scale[replicas])


@dataclass
class Pass:
    """One pass through a network, forward and perhaps back: what the ops read, and what they leave behind."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    rows: int  # examples of the batch that are real; the rest is padding
    training: bool
    dtype: torch.dtype = torch.float32  # of the matrix products
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

    def slots(self) -> Iterator[Slot]:
        return iter(())

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
        by_x, *by_params = torch.autograd.grad(y, [x, *(on.params[name] for name in names)], gradient)
        for name, value in zip(names, by_params, strict=True):
            on.gradients[name].copy_(value)
        return by_x


@dataclass(frozen=True)
class Linear(Op):
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

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        weight = on.params[f"{self.name}.weight"].to(on.dtype)
        bias = on.params[f"{self.name}.bias"].to(on.dtype) if self.bias else None
        x = layers.conv(x.to(on.dtype), weight, bias)
        on.record(self.name, x)
        return x


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalization of `width` features or channels."""

    name: str
    width: int
    momentum: float
    eps: float

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.width,), "gain")
        yield Slot(f"{self.name}.bias", (self.width,), "shift")

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return layers.batch_norm(x.float(), *self._affine(on), *self._running(on), **self._how(on))

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        if on.meter is not None and not on.training:
            on.meter.add(f"batchnorm/{self.name}", torch.ones(1))
        if x.dim() == 4:
            return super().forward(x, on)
        gain, shift = self._affine(on)
        normal, inverse = layers.batch_standardize(x.float(), *self._running(on), **self._how(on))
        on.keep(normal, inverse)
        return torch.addcmul(shift.unsqueeze(1), normal, gain.unsqueeze(1))

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        if gradient.dim() == 4:
            return super().backward(gradient, on)
        gain, _ = self._affine(on)
        normal, inverse = on.take()
        by_x, by_gain, by_shift = layers.batch_norm_backward(
            gradient.float(), normal, inverse, gain, rows=on.rows, training=on.training
        )
        on.gradients[f"{self.name}.weight"].copy_(by_gain)
        on.gradients[f"{self.name}.bias"].copy_(by_shift)
        return by_x

    def _affine(self, on: Pass) -> tuple[Tensor, Tensor]:
        return on.params[f"{self.name}.weight"], on.params[f"{self.name}.bias"]

    def _running(self, on: Pass) -> tuple[Tensor, Tensor]:
        return on.buffers[f"{self.name}.running_mean"], on.buffers[f"{self.name}.running_var"]

    def _how(self, on: Pass) -> dict[str, Any]:
        return {"rows": on.rows, "training": on.training, "momentum": self.momentum, "eps": self.eps}


@dataclass(frozen=True)
class LayerNorm(Op):
    """Layer normalization of `width` features, or of an image of `width` channels."""

    name: str
    width: int
    eps: float

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.width,), "gain")
        yield Slot(f"{self.name}.bias", (self.width,), "shift")

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        gain, shift = on.params[f"{self.name}.weight"], on.params[f"{self.name}.bias"]
        if on.meter is not None:
            on.meter.add(f"layernorm/{self.name}", torch.ones(1))
        return layers.layer_norm(x.float(), gain, shift, eps=self.eps)


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
    """Dropout at a named place; `size` elements per example. Where the pass has no rates for it, nothing happens."""

    name: str
    size: int

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        if self.name not in on.rates or on.masks is None:
            on.keep(None)
            return x
        rates = on.rates[self.name]
        replicas = rates.threshold.shape[0]
        split = x if x.dim() == 3 else x.unflatten(1, (replicas, -1)).transpose(0, 1)
        mask = on.masks(self.name, split.shape[1] * self.size).view(split.shape)
        per_replica = (replicas, *[1] * (split.dim() - 1))
        factors = layers.dropout_factors(rates.threshold.view(per_replica), rates.scale.view(per_replica), mask)
        factors = factors if x.dim() == 3 else factors.transpose(0, 1).flatten(1, 2)
        on.keep(factors)
        y = x * factors
        if on.meter is not None:
            share = _share_zeroed(x, y, replicas)
            on.meter.add(f"dropout/{self.name}", share.where(rates.scale.squeeze(1) > 1, torch.nan))
        return y

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        (factors,) = on.take()
        return gradient if factors is None else gradient * factors


def _share_zeroed(before: Tensor, after: Tensor, replicas: int) -> Tensor:
    """(R,) the share of each replica's nonzero elements that became zero."""
    counts = [(x != 0) if x.dim() == 3 else layers.to_features(x != 0, replicas) for x in (before, after)]
    alive, kept = (count.sum((1, 2)) for count in counts)
    return 1 - kept / alive.clamp(min=1)


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
class ToFeatures(Op):
    """Images to rows of features."""

    replicas_from: str  # a weight, whose leading axis says how many replicas share the channels

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        return layers.to_features(x, on.params[self.replicas_from].shape[0])


@dataclass(frozen=True)
class Skip(Op):
    """x + branch(x) (He et al. 2016, identity mappings)."""

    branch: tuple[Op, ...]

    def slots(self) -> Iterator[Slot]:
        for op in self.branch:
            yield from op.slots()

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        return x + run(self.branch, x, on)

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        by_branch = gradient
        for op in reversed(self.branch):
            by_branch = _required(op.backward(by_branch, on))
        return gradient + by_branch


def run(ops: tuple[Op, ...], x: Tensor, on: Pass) -> Tensor:
    """The ops one after another."""
    for op in ops:
        x = op.forward(x, on)
    return x


def run_back(ops: tuple[Op, ...], gradient: Tensor, on: Pass) -> None:
    """All parameters' gradients, into `on.gradients`; what lies before the first of them is not computed."""
    first = next(i for i, op in enumerate(ops) if any(op.slots()))
    for op in reversed(ops[first + 1 :]):
        gradient = _required(op.backward(gradient, on))
    ops[first].backward(gradient, on, needs_input=False)


def _required(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def walk(ops: tuple[Op, ...]) -> Iterator[Op]:
    """Every op, those inside of skips included, in the order of the forward pass."""
    for op in ops:
        if isinstance(op, Skip):
            yield from walk(op.branch)
        else:
            yield op
