"""Figures of runs that differ in one seed at a time -> the variance that each seed makes. Pure functions of numbers.

The variance of one seed with all others fixed, as Bouthillier et al. 2021 (MLSys) measure it, is the mean square
within groups of a one-way analysis of variance whose groups are the contexts. It holds what the seed does alone and
what it does together with others (a total effect: Homma and Saltelli 1996). So the shares of effects that add up sum
to 1, and those of seeds that interact to more. The intervals are those of normal figures.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from regrun.stats import Interval


class Component(NamedTuple):
    """A pooled variance with its degrees of freedom, of which it takes one to be known."""

    variance: float
    freedom: int


def within(groups: Sequence[Sequence[float]]) -> Component:
    """The mean square within groups: exactly 0 where the values of each are equal."""
    squares = [square for group in groups for square in _squares(group)]
    freedom = sum(len(group) - 1 for group in groups if group)
    return Component(math.fsum(squares) / freedom if freedom else math.nan, freedom)


def interval(own: Component, level: float = 0.95) -> Interval:
    """The variance and its chi-square interval."""
    if not own.freedom:
        return Interval(math.nan, math.nan, math.nan)
    from scipy.special import chdtri

    total, tail = own.variance * own.freedom, (1 - level) / 2
    return Interval(own.variance, total / chdtri(own.freedom, tail), total / chdtri(own.freedom, 1 - tail))


def share(own: Component, together: Component, level: float = 0.95) -> Interval:
    """The ratio of two variances of different runs, and its F interval. NaN where there is nothing to share."""
    if not own.freedom or not together.freedom or together.variance == 0:
        return Interval(math.nan, math.nan, math.nan)
    from scipy.special import fdtri

    ratio, tail = own.variance / together.variance, (1 - level) / 2
    low, high = (ratio / float(fdtri(own.freedom, together.freedom, p)) for p in (1 - tail, tail))
    return Interval(ratio, low, high)


def _squares(group: Sequence[float]) -> list[float]:
    """Squared distances from the mean, counted from the first value: those of equal values are exactly 0."""
    steps = [value - group[0] for value in group]
    mean = math.fsum(steps) / len(steps) if steps else 0.0
    return [(step - mean) ** 2 for step in steps]
