"""Signals and gradients through the layers of untrained networks, on real images. One seed's figures by arm."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regrun.data.sources import Source
from regrun.initializers import init_bias, init_weight
from regrun.layers import ACTIVATIONS
from regrun.settings import Init, Settings
from regrun.streams import generator
from regrun.studies.found import Found

IMAGES = 256
WIDE, DEEP = 512, 20
STARTS = {
    "He": Init(scheme="he_normal", gain=math.sqrt(2)),
    "Xavier": Init(scheme="xavier_normal"),
    "torch's default": Init(scheme="torch", bias="torch"),
    "N(0, 1)": Init(scheme="normal", std=1.0),
    "N(0, 0.001)": Init(scheme="normal", std=0.001),
}
SIGNALS = [(start, name) for name in ("relu", "tanh") for start in ("He", "Xavier", "torch's default")]
SIGNALS += [("N(0, 1)", "relu"), ("N(0, 0.001)", "relu")]
SCALES = (0.5, 0.8, 1.0, 1.25, 2.0)


class Layer(NamedTuple):
    """Weight (out, in) and bias (out,)."""

    weight: Tensor
    bias: Tensor


def network(widths: Sequence[int], init: Init, *, activation: str, seed: int) -> list[Layer]:
    """Layers between neighbouring widths that start as a run's do, in float64."""
    own = generator(seed, "init")
    found = []
    for fan_in, fan_out in pairwise(widths):
        weight, bias = torch.empty(fan_out, fan_in), torch.empty(fan_out)
        init_weight(weight, init, activation=activation, generator=own)
        init_bias(bias, init, fan_in=fan_in, generator=own)
        found.append(Layer(weight.double(), bias.double()))
    return found


def images(source: Source, seed: int) -> tuple[Tensor, Tensor]:
    """(256, D) training inputs in float64, scaled to a root mean square of 1, and their targets."""
    chosen = source.train[torch.randperm(len(source.train), generator=generator(seed, "order"))[:IMAGES]]
    x = source.inputs[chosen].flatten(1).double()
    return x / x.square().mean().sqrt(), source.targets[chosen]


def signals(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """How 20 layers of 512 units pass a signal on: its scale, and what of it still tells examples apart.

    log10_rms: root mean square of a layer's output. log10_variation: the standard deviation across examples (root mean
    square over units) relative to it; both by layer, and after the last one.
    """
    x, _ = images(source, seed)
    for start, name in SIGNALS:
        arm, h, forward = f"{start}, {name}", x, ACTIVATIONS[name].forward
        for number, layer in enumerate(
            network([x.shape[1], *[WIDE] * DEEP], STARTS[start], activation=name, seed=seed), start=1
        ):
            h = forward(h @ layer.weight.T + layer.bias)
            yield Found(arm, "log10_rms", _log10(_rms(h)), number)
        yield Found(arm, "log10_rms", _log10(_rms(h)))
        yield Found(arm, "log10_variation", _log10(_rms(h - h.mean(0)) / _rms(h)))


def _rms(h: Tensor) -> float:
    return float(h.square().mean().sqrt())


def _log10(value: float) -> float:
    return math.log10(max(value, 1e-300))


DEPTHS = (2, 5, 10, 20)
UNITS = 100
SLOPES = {"sigmoid, Xavier": ("sigmoid", 1.0), "sigmoid, 4 x Xavier": ("sigmoid", 4.0), "relu, He": ("relu", 1.0)}


def gradients(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """What the loss's gradient by the pre-activations of a layer has lost at the first hidden layer.

    gradient_factor: of one layer, the root of the ratio of the first to the last. share_of_bound: that ratio over
    prod (0.25 |W_l|_2), which no sigmoid network exceeds; share_of_quarters: over 0.25^(L-1), the bound of weights of
    norm 1. At 10 layers; log10_gradient_ratio by depth.
    """
    x, targets = images(source, seed)
    for arm, (activation, factor) in SLOPES.items():
        init = Init(scheme="he_normal" if activation == "relu" else "xavier_normal")
        for depth in DEPTHS:
            layers = network([x.shape[1], *[UNITS] * depth, 10], init, activation=activation, seed=seed)
            layers = [Layer(factor * layer.weight, layer.bias) for layer in layers]
            ratio = gradient_ratio(layers, x, targets, ACTIVATIONS[activation].forward)
            yield Found(arm, "log10_gradient_ratio", _log10(ratio), depth)
            if depth == 10:
                norms = [float(torch.linalg.matrix_norm(layer.weight, 2)) for layer in layers[1:-1]]
                yield Found(arm, "gradient_factor", ratio ** (1 / (depth - 1)))
                yield Found(arm, "share_of_bound", ratio / math.prod(0.25 * norm for norm in norms))
                yield Found(arm, "share_of_quarters", ratio / 0.25 ** (depth - 1))


def gradient_ratio(layers: Sequence[Layer], x: Tensor, targets: Tensor, forward: Callable[[Tensor], Tensor]) -> float:
    """Norm of the cross-entropy's gradient by the first hidden layer's pre-activations, over that of the last's."""
    found, h = list[Tensor](), x
    for weight, bias in layers:
        z = (h @ weight.T + bias).requires_grad_()
        z.retain_grad()
        found.append(z)
        h = forward(z)
    torch.nn.functional.cross_entropy(found[-1], targets).backward()
    first, last = (torch.zeros(()) if z.grad is None else z.grad for z in (found[0], found[-2]))
    return float(first.norm() / last.norm())


def scales(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """All weights of a ReLU network of m layers times S: the gradient of its logits by the first weights is S^(m-1).

    Without biases a ReLU network is homogeneous, so that the chain of 1 x 1 matrices of the lectures stands for it.
    off_the_law: the slope of log gradient over log S, minus (m - 1), in absolute value.
    """
    x, _ = images(source, seed)
    for depth in (2, 5, 10, 20):
        layers = network([x.shape[1], *[UNITS] * (depth - 1), 10], STARTS["He"], activation="relu", seed=seed)
        norms = [first_gradient([scale * layer.weight for layer in layers], x) for scale in SCALES]
        slope = np.polyfit(np.log(SCALES), np.log(norms), 1)[0]
        yield Found(f"{depth} layers", "off_the_law", abs(float(slope) - (depth - 1)))
        yield Found(f"{depth} layers", "slope", float(slope))


def first_gradient(weights: Sequence[Tensor], x: Tensor) -> float:
    """Norm of the gradient of the mean logit by the first weight of a ReLU network without biases."""
    own = weights[0].clone().requires_grad_()
    h = x @ own.T
    for weight in weights[1:]:
        h = torch.relu(h) @ weight.T
    (gradient,) = torch.autograd.grad(h.mean(), own)
    return float(gradient.norm())


NARROWER = tuple(round(1024 * 2 ** (-0.4 * i)) for i in range(11))  # to 64 units, by about a quarter each


def fan_modes(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """What weights that go by fan-in, fan-out or their mean do to a ReLU network that gets narrower.

    log2_signal: root mean square of the last hidden layer's output over that of the first. log2_gradient: that of the
    gradient by the first one's pre-activations over that by the last one's.
    """
    x, targets = images(source, seed)
    for mode, arm in (("fan_in", "fan-in"), ("fan_out", "fan-out"), ("fan_avg", "their mean")):
        init = Init(scheme="he_normal", mode=mode)
        layers = network([x.shape[1], *NARROWER, 10], init, activation="relu", seed=seed)
        scales, h = list[float](), x
        for layer in layers[:-1]:
            h = torch.relu(h @ layer.weight.T + layer.bias)
            scales.append(_rms(h))
        ratio = gradient_ratio(layers, x, targets, torch.relu) * math.sqrt(NARROWER[-1] / NARROWER[0])
        yield Found(arm, "log2_signal", math.log2(scales[-1] / scales[0]))
        yield Found(arm, "log2_gradient", math.log2(ratio))
        yield from (Found(arm, "log2_signal", math.log2(at / scales[0]), i) for i, at in enumerate(scales))


SKIPPED = {"plain": (False, "torch's default"), "plain, He": (False, "He"), "skips": (True, "torch's default")}


def skip_gradients(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """The loss's gradient by the outputs of the first layer, with and without skips over each two of the next.

    log10_gradient_ratio: its norm over that by the outputs of the last of them, which is what the skips alone bring to
    the first; by the number of these layers, and of 100. direct_cosine: between the two, of 100 layers.
    gradient_factor: what one of 100 leaves.
    """
    x, targets = images(source, seed)
    for arm, (skips, start) in SKIPPED.items():
        for depth in (2, 10, 20, 50, 100):
            layers = network([x.shape[1], *[UNITS] * (depth + 1), 10], STARTS[start], activation="relu", seed=seed)
            first, last = end_gradients(layers, x, targets, skips=skips)
            ratio = float(first.norm() / last.norm())
            yield Found(arm, "log10_gradient_ratio", _log10(ratio), depth)
        yield Found(arm, "log10_gradient_ratio", _log10(ratio))
        yield Found(arm, "gradient_factor", ratio ** (1 / depth))
        yield Found(arm, "direct_cosine", float((first * last).sum() / (first.norm() * last.norm())))


def end_gradients(layers: Sequence[Layer], x: Tensor, targets: Tensor, *, skips: bool) -> tuple[Tensor, Tensor]:
    """The cross-entropy's gradient by the outputs of the first layer and of the last but one, before activation.

    Between them are pairs of ReLU layers, which skips pass by.
    """

    def out(h: Tensor, layer: Layer) -> Tensor:
        return h @ layer.weight.T + layer.bias

    stem, *inner, output = layers
    first = h = out(x, stem).requires_grad_()
    for a, b in zip(inner[::2], inner[1::2], strict=True):
        branch = out(torch.relu(out(torch.relu(h), a)), b)
        h = h + branch if skips else branch
    loss = torch.nn.functional.cross_entropy(out(torch.relu(h), output), targets)
    by_first, by_last = torch.autograd.grad(loss, (first, h))
    return by_first, by_last
