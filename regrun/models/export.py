"""Ops and one replica's weights -> an ordinary torch.nn network, for people to use without regrun."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from regrun.models import ops

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


class Normalize(nn.Module):
    """Raw inputs (B, ...) -> (B, D), filled and scaled as the run's own training data was. NaN is a missing number."""

    offset: Tensor
    scale: Tensor
    fill: Tensor

    def __init__(self, offset: Tensor, scale: Tensor, fill: Tensor) -> None:
        super().__init__()
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)
        self.register_buffer("fill", fill)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).float()
        return (torch.where(x.isnan(), self.fill, x) - self.offset) * self.scale


class Denormalize(nn.Module):
    """Predictions of standardized targets (B, T) -> predictions in the targets' own units."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, y: Tensor) -> Tensor:
        return y * self.scale + self.mean


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


class ClassicDropout(nn.Module):
    """Dropout as Srivastava et al. (2014) have it: no scaling in training, all times 1 - rate in evaluation."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.rate) if self.training else x * (1 - self.rate)


class StochasticDepth(nn.Module):
    """In training, 0 for each example with probability `rate`, and 1 / (1 - rate) of the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


def export(network: tuple[ops.Op, ...], weights: dict[str, Tensor], rates: dict[str, float]) -> nn.Module:
    """The network in eval mode. rates: the drop probability of each place, for those who train on."""
    offset, scale = weights["input.offset"], weights["input.scale"]
    normalize = Normalize(offset, scale, weights.get("input.fill", torch.zeros_like(offset)))
    is_image = any(isinstance(op, ops.Conv) for op in network)
    layers = _modules(network, weights, rates, is_image)
    named = [("normalize", normalize), *layers]
    if "target.mean" in weights:
        named.append(("denormalize", Denormalize(weights["target.mean"], weights["target.scale"])))
    return nn.Sequential(OrderedDict(named)).eval()


def _modules(
    network: tuple[ops.Op, ...], weights: dict[str, Tensor], rates: dict[str, float], is_image: bool
) -> list[tuple[str, nn.Module]]:
    named = []
    for i, op in enumerate(network):
        name = getattr(op, "name", None) or f"{type(op).__name__.lower()}{i}"
        name = f"dropout_{name}" if isinstance(op, ops.Dropout) else name
        module = _module(op, weights, rates, is_image)
        prefix = f"{getattr(op, 'name', '')}."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if own and not isinstance(op, ops.Dropout):
            module.load_state_dict(own, strict=False)
        named.append((name, module))
    return named


def _module(op: ops.Op, weights: dict[str, Tensor], rates: dict[str, float], is_image: bool) -> nn.Module:
    match op:
        case ops.Linear():
            return nn.Linear(op.fan_in, op.fan_out, bias=op.bias)
        case ops.Conv():
            return nn.Conv2d(op.fan_in, op.fan_out, 3, padding=1, bias=op.bias)
        case ops.BatchNorm():
            norm = nn.BatchNorm2d if is_image else nn.BatchNorm1d
            return norm(op.width, eps=op.eps, momentum=op.momentum)
        case ops.GroupNorm():
            return nn.GroupNorm(op.groups, op.width, eps=op.eps)
        case ops.LayerNorm():
            return nn.GroupNorm(1, op.width, eps=op.eps) if is_image else nn.LayerNorm(op.width, eps=op.eps)
        case ops.Activation():
            return ACTIVATIONS[op.kind]()
        case ops.StochasticDepth():
            return StochasticDepth(rates[op.name])
        case ops.SpatialDropout():
            return nn.Dropout2d(rates[op.name])
        case ops.Dropout(kind="classic"):
            return ClassicDropout(ops.realized(rates[op.name]))
        case ops.Dropout():
            return nn.Dropout(rates[op.name])
        case ops.MaxPool():
            return nn.MaxPool2d(2)
        case ops.ToImage():
            return nn.Unflatten(1, op.shape)
        case ops.ToFeatures():
            return nn.Flatten()
        case ops.Skip():
            return Residual(nn.Sequential(OrderedDict(_modules(op.branch, weights, rates, is_image))))
    raise TypeError(f"{type(op).__name__}: has no torch.nn counterpart here")
