"""One order of examples whose every beginning is stratified: test, val and nested subsets are all its prefixes."""

import torch
from torch import Generator, Tensor


def stratified_order(labels: Tensor, source: Generator) -> Tensor:
    """A random order of the examples in which any first m hold each class about m * share times.

    Off by at most 1/2 + share * (K - 2) / 2: within one wherever no class has more than 1 / (K - 2) of all.

    labels: (N,) classes. Returns (N,) positions. The k-th example of a class of n, in a random order, is
    placed at (k + 1/2) / n.
    """
    shuffled = torch.randperm(len(labels), generator=source)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[torch.argsort(place[shuffled], stable=True)]


def shuffled_order(targets: Tensor, source: Generator) -> Tensor:
    """A random order of the examples, (N,) positions: stratified for classes (N,), plain for numbers (N, T)."""
    return torch.randperm(len(targets), generator=source) if targets.dim() > 1 else stratified_order(targets, source)
