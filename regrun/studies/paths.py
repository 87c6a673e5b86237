"""Residual networks as many paths (Veit, Wilber and Belongie 2016): leave a block out, or add all paths up."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from regrun.data.sources import Source
from regrun.models.export import Residual
from regrun.settings import Settings
from regrun.studies.found import Found

DEPTH, WIDTH = 10, 32


def lesioned(network: nn.Module) -> list[nn.Sequential]:
    """The network without one of its blocks, for each that may be left out: it has as many outputs as inputs.

    A block is a residual one, or a hidden linear layer with what comes before the next one.
    """
    children = list(network.named_children())
    starts = [i for i, (_, child) in enumerate(children) if isinstance(child, nn.Linear | Residual)]
    found = []
    for start, end in itertools.pairwise(starts):
        child = children[start][1]
        if isinstance(child, Residual):
            end = start + 1
        if isinstance(child, Residual) or child.in_features == child.out_features:
            found.append(nn.Sequential(OrderedDict(children[:start] + children[end:])))
    return found


def linear_paths(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """A linear residual network of 10 blocks, forward and as the sum over all 2^10 paths; the power of short ones.

    Weights are normal with variance 1 / (10 width), so that a block adds a tenth to the signal's power.
    """
    g = torch.Generator().manual_seed(seed)
    blocks = torch.randn(DEPTH, WIDTH, WIDTH, generator=g, dtype=torch.float64) / (DEPTH * WIDTH) ** 0.5
    x = torch.randn(WIDTH, generator=g, dtype=torch.float64)
    forward = x
    for w in blocks:
        forward = forward + w @ forward
    by_length = expanded(blocks, x)
    off = (by_length.sum(0) - forward).norm() / forward.norm()
    yield Found("all paths", "relative_error", float(off))
    power = by_length.square().sum(1)
    yield Found("all paths", "short_share", float(power[: DEPTH // 2].sum() / power.sum()))


def expanded(blocks: Tensor, x: Tensor) -> Tensor:
    """What all paths of 0, 1, ... L blocks give, added up by length, (L + 1, D). blocks: (L, D, D)."""
    total = torch.zeros(len(blocks) + 1, len(x), dtype=x.dtype)
    for taken in itertools.product((False, True), repeat=len(blocks)):
        path = x
        for w in itertools.compress(blocks, taken):
            path = w @ path
        total[sum(taken)] += path
    return total
