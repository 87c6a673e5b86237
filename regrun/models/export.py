"""Ops and one replica's weights -> an ordinary torch.nn network, for people to use without regrun."""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrun.layers import widen
from regrun.models import attention, dropping, mixture, norms, ops, vision
from regrun.models.rates import realized

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
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
    """shortcut(x) + branch(x)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.branch(x)
        return y


class Widen(nn.Module):
    """Every other pixel, and channels of zeros."""

    def __init__(self, channels: int, more: int) -> None:
        super().__init__()
        self.channels, self.more = channels, more

    def forward(self, x: Tensor) -> Tensor:
        return widen(x, self.channels, self.more)


class Rgb(nn.Module):
    """Grey images as three equal channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(3, 1)


class Patches(nn.Module):
    """Images (B, C * H * W) -> square patches (B, N, D)."""

    def __init__(self, shape: tuple[int, int, int], side: int) -> None:
        super().__init__()
        self.shape, self.side = shape, side

    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x.unflatten(1, self.shape), self.side, stride=self.side).transpose(1, 2)


class Positions(nn.Module):
    """A learned vector is added to the token at each place, (B, N, D)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Attention(nn.Module):
    """Queries, keys and values (B, N, 3 D) -> (B, N, D)."""

    def __init__(self, heads: int, rate: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = x.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate).transpose(1, 2).flatten(2)


class MeanTokens(nn.Module):
    """The mean of the tokens, (B, N, D) -> (B, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Mixture(nn.Module):
    """The experts' outputs, mixed by the softmax of the gate's."""

    def __init__(self, experts: Sequence[nn.Module], gate: nn.Module, top_k: int | None) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate, self.top_k = gate, top_k

    def forward(self, x: Tensor) -> Tensor:
        gates = mixture.gate_shares(self.gate(x), self.top_k)
        return mixture.mix(gates, [expert(x) for expert in self.experts])


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
    is_image = any(isinstance(op, ops.ToImage) for op in network)
    layers = _modules(network, weights, rates, is_image)
    named = [("normalize", normalize), *layers]
    if "target.mean" in weights:
        named.append(("denormalize", Denormalize(weights["target.mean"], weights["target.scale"])))
    return nn.Sequential(OrderedDict(named)).eval()


def _modules(
    network: tuple[ops.Op, ...], weights: dict[str, Tensor], rates: dict[str, float], is_image: bool
) -> list[tuple[str, nn.Module]]:
    named: list[tuple[str, nn.Module]] = []
    for i, op in enumerate(network):
        name = getattr(op, "name", None) or f"{type(op).__name__.lower()}{i}"
        name = f"dropout_{name}" if isinstance(op, dropping.Dropout) else name
        module = _module(op, weights, rates, is_image)
        prefix = f"{getattr(op, 'name', '')}."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if own and not isinstance(op, dropping.Dropout):
            module.load_state_dict(own, strict=False)
        named.append((name, module))
    return named


def _sequential(
    part: tuple[ops.Op, ...], weights: dict[str, Tensor], rates: dict[str, float], is_image: bool
) -> nn.Sequential:
    return nn.Sequential(OrderedDict(_modules(part, weights, rates, is_image)))


def _module(op: ops.Op, weights: dict[str, Tensor], rates: dict[str, float], is_image: bool) -> nn.Module:
    match op:
        case ops.Linear():
            return nn.Linear(op.fan_in, op.fan_out, bias=op.bias)
        case ops.Conv():
            return nn.Conv2d(op.fan_in, op.fan_out, op.kernel, op.stride, op.kernel // 2, bias=op.bias)
        case norms.BatchNorm():
            norm = nn.BatchNorm2d if is_image else nn.BatchNorm1d
            return norm(op.width, eps=op.eps, momentum=op.momentum)
        case norms.GroupNorm():
            return nn.GroupNorm(op.groups, op.width, eps=op.eps)
        case norms.LayerNorm():
            return nn.GroupNorm(1, op.width, eps=op.eps) if is_image else nn.LayerNorm(op.width, eps=op.eps)
        case ops.Activation():
            return ACTIVATIONS[op.kind]()
        case dropping.StochasticDepth():
            return StochasticDepth(rates[op.name])
        case dropping.SpatialDropout():
            return nn.Dropout2d(rates[op.name])
        case dropping.Dropout(kind="classic"):
            return ClassicDropout(realized(rates[op.name]))
        case dropping.Dropout():
            return nn.Dropout(rates[op.name])
        case ops.MaxPool():
            return nn.MaxPool2d(2)
        case ops.ToImage():
            return nn.Unflatten(1, op.shape)
        case ops.ToFeatures():
            return nn.Flatten()
        case ops.ToRgb():
            return Rgb()
        case ops.MeanPool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case ops.Widen():
            return Widen(op.channels, op.more)
        case ops.Skip():
            return Residual(*(_sequential(part, weights, rates, is_image) for part in (op.branch, op.shortcut)))
        case attention.Patches():
            return Patches(op.shape, op.side)
        case attention.Positions():
            return Positions(op.tokens, op.width)
        case attention.Attention():
            return Attention(op.heads, rates[op.drop.name])
        case attention.MeanTokens():
            return MeanTokens()
        case mixture.Mixture():
            *experts, gate = (_sequential(part, weights, rates, is_image) for part in (*op.experts, (op.gate,)))
            return Mixture(experts, gate, op.top_k)
        case vision.Network():
            module = copy.deepcopy(op.module)
            module.load_state_dict({k: v for k, v in weights.items() if k in module.state_dict()}, strict=False)
            return module
    raise TypeError(f"{type(op).__name__}: has no torch.nn counterpart here")
