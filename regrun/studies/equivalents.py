"""Other networks that compute the same: a product of layers; units permuted, flipped, scaled; blocks left out.

Of networks as `regrun.load` gives them: linear layers in a row, an activation between two of them.
"""

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from regrun.models.export import Residual


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    """From input to output."""
    return [child for child in network.children() if isinstance(child, nn.Linear)]


def collapsed(network: nn.Module) -> nn.Sequential:
    """Its linear layers as one, their product, whatever lies between them; what comes before the first one is kept."""
    layers = linear_layers(network)
    weight = torch.eye(layers[0].in_features, dtype=torch.float64)
    bias = torch.zeros(layers[0].in_features, dtype=torch.float64)
    for layer in layers:
        own = layer.weight.detach().double()
        weight, bias = own @ weight, own @ bias + layer.bias.detach().double()
    one = nn.Linear(layers[0].in_features, layers[-1].out_features)
    one.load_state_dict({"weight": weight, "bias": bias})
    children = list(network.children())
    return nn.Sequential(*children[: children.index(layers[0])], one)


def permuted(network: nn.Module, g: torch.Generator) -> nn.Module:
    """A copy with the units of each hidden layer in another order."""

    def reorder(first: nn.Linear, second: nn.Linear) -> None:
        order = torch.randperm(first.out_features, generator=g)
        first.weight.copy_(first.weight[order])
        first.bias.copy_(first.bias[order])
        second.weight.copy_(second.weight[:, order])

    return _changed(network, reorder)


def flipped(network: nn.Module, g: torch.Generator) -> nn.Module:
    """A copy with the sign of half of all hidden units changed, as Chen, Lu and Hecht-Nielsen (1993) do for tanh."""
    return _scaled(network, lambda units: 1 - 2.0 * torch.randint(2, (units,), generator=g))


def rescaled(network: nn.Module, g: torch.Generator) -> nn.Module:
    """A copy with what enters a hidden unit times a in 1/4 to 4, what leaves it over a (Neyshabur et al. 2015)."""
    return _scaled(network, lambda units: 4 ** (2 * torch.rand(units, generator=g) - 1))


def _scaled(network: nn.Module, draw: Callable[[int], Tensor]) -> nn.Module:
    def scale(first: nn.Linear, second: nn.Linear) -> None:
        factors = draw(first.out_features)
        first.weight.mul_(factors[:, None])
        first.bias.mul_(factors)
        second.weight.div_(factors)

    return _changed(network, scale)


@torch.no_grad()
def _changed(network: nn.Module, change: Callable[[nn.Linear, nn.Linear], None]) -> nn.Module:
    other = copy.deepcopy(network)
    for first, second in pairwise(linear_layers(other)):
        change(first, second)
    return other


def without_blocks(network: nn.Module) -> nn.Sequential:
    """A residual network without its blocks."""
    return nn.Sequential(*(child for child in network.children() if not isinstance(child, Residual)))


def log10_count(network: nn.Module) -> float:
    """log10 of prod M! 2^M over the hidden layers, M units each: the settings of tanh that compute the same."""
    units = [layer.out_features for layer in linear_layers(network)[:-1]]
    return math.fsum(math.lgamma(m + 1) / math.log(10) + m * math.log10(2) for m in units)


def distance(one: nn.Module, other: nn.Module) -> float:
    """Distance between two networks' parameters, relative to the first one's norm."""
    first, second = (torch.cat([w.detach().double().flatten() for w in n.parameters()]) for n in (one, other))
    return float((first - second).norm() / first.norm())
