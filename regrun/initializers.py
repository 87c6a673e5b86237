"""Initial weights and biases. Pure functions of a shape, a scheme and a generator."""

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor

from regrun.settings import Init

# 1 / sqrt(E[f(z)^2]) for z ~ N(0, 1) keeps the mean square of a layer's output at that of its input; tanh,
# sigmoid and leaky_relu follow torch.nn.init.calculate_gain, which is 5/3 and 1 for the first two by
# convention. Not in torch's table: E[gelu(z)^2] = 1/3 + 1/(2 pi sqrt(3)); E[elu(z)^2] = 1 + e^2 F(-2) - 2 sqrt(e) F(-1)
# with F the normal distribution's; that of silu has no closed form.
GAINS = {
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "tanh": 5 / 3,
    "sigmoid": 1.0,
    "gelu": 1 / math.sqrt(1 / 3 + 1 / (2 * math.pi * math.sqrt(3))),
    "silu": 1 / math.sqrt(0.35577551981441646),
    "elu": 1 / math.sqrt(0.6449454174929239),
    "identity": 1.0,
}


def gain(scheme: str, activation: str) -> float:
    """The gain of a scheme that was given none.

    He et al. (2015) and orthogonal (Saxe et al. 2014) weights follow the activation. Xavier weights keep
    Glorot and Bengio's (2010) formula, which has none: with ReLU they vanish with depth, as the lectures say.
    """
    return 1.0 if scheme.startswith("xavier") else GAINS[activation]


def weight_std(scheme: str, *, fan_in: int, fan_out: int, mode: str, gain: float, std: float) -> float:
    """The standard deviation that a random scheme aims at; `constant`, `zeros` and `orthogonal` aim at none.

    he: gain / sqrt(fan), with the fan that `mode` names (fan_avg is the mean of both: 4 / (in + out) for
    ReLU). xavier: gain * sqrt(2 / (fan_in + fan_out)). torch: 1 / sqrt(3 fan_in), as nn.Linear starts.
    """
    if scheme == "torch":
        return 1 / math.sqrt(3 * fan_in)
    if scheme in ("normal", "uniform"):
        return std
    if scheme.startswith("xavier"):
        return gain * math.sqrt(2 / (fan_in + fan_out))
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return gain / math.sqrt(fan)


def fans(shape: torch.Size) -> tuple[int, int]:
    """fan_in and fan_out of a weight (out, in) or (out, in, height, width), as in torch: times height * width."""
    area = math.prod(shape[2:])
    return shape[1] * area, shape[0] * area


def target_std(shape: torch.Size, init: Init, *, activation: str) -> float:
    """The standard deviation of a weight of this shape that follows `init`; 0 for constant and zeros.

    Orthogonal: the rows or the columns of (out, fan_in) are orthonormal, times the gain.
    """
    if init.scheme in ("zeros", "constant"):
        return 0.0
    factor, (fan_in, fan_out) = _gain(init, activation), fans(shape)
    if init.scheme == "orthogonal":
        return factor / math.sqrt(max(shape[0], fan_in))
    return weight_std(init.scheme, fan_in=fan_in, fan_out=fan_out, mode=init.mode, gain=factor, std=init.std)


def _gain(init: Init, activation: str) -> float:
    return gain(init.scheme, activation) if init.gain is None else init.gain


def output_init(init: Init) -> Init:
    """The settings of the output layer: the network's own but for what `output_*` overrides."""
    return replace(
        init,
        scheme=init.scheme if init.output_scheme == "same" else init.output_scheme,
        std=init.std if init.output_std is None else init.output_std,
        value=init.value if init.output_value is None else init.output_value,
    )


def init_weight(weight: Tensor, init: Init, *, activation: str, generator: Generator) -> None:
    """Fill `weight`, (out, in) or (out, in, height, width), in place as `init` says.

    Values are drawn on the CPU, so that a run starts from the same weights on every device.
    """
    std = target_std(weight.shape, init, activation=activation)
    values = torch.empty(weight.shape)
    if init.scheme == "zeros":
        values.zero_()
    elif init.scheme == "constant":
        values.fill_(init.value)
    elif init.scheme == "orthogonal":
        torch.nn.init.orthogonal_(values, gain=_gain(init, activation), generator=generator)
    elif init.scheme.endswith("normal"):
        values.normal_(0.0, std, generator=generator)
    else:
        bound = math.sqrt(3) * std
        values.uniform_(-bound, bound, generator=generator)
    weight.copy_(values)


def init_bias(bias: Tensor, init: Init, *, fan_in: int, generator: Generator) -> None:
    """Fill `bias` in place: zeros, a constant, or torch's U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    values = torch.zeros(bias.shape)
    if init.bias == "constant":
        values.fill_(init.bias_value)
    elif init.bias == "torch":
        bound = 1 / math.sqrt(fan_in)
        values.uniform_(-bound, bound, generator=generator)
    bias.copy_(values)
