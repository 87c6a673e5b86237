"""The level that is best by val, and which others are within its bounds: not shown to be worse.

Levels are ranked by runs that all of them have: a mean over other seeds is no fair one.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

from regrun import paired
from regrun.findings import CompareRow
from regrun.pairing import Values

Key = TypeVar("Key", bound=Hashable)


def complete(figures: Mapping[Values, Mapping[Key, float]]) -> dict[Values, dict[Key, float]]:
    """Each level's figures where all of them have one (those without any aside); its own where they share none."""
    having = [set(own) for own in figures.values() if own]
    shared = set.intersection(*having) if having else set[Key]()
    return {level: {k: v for k, v in own.items() if not shared or k in shared} for level, own in figures.items()}


def leader(index: paired.Index, metric: str) -> Values | None:
    """The level with the best mean, the first in the plan of equals; None where no run has the figure."""
    figures = {
        level: {key: v for key, run in runs.items() if (v := run.figure(metric)) is not None}
        for level, runs in index.items()
    }
    means = {level: fmean(own.values()) for level, own in complete(figures).items() if own}
    sign = -1 if "_loss_" in metric else 1
    return max(means, key=lambda level: sign * means[level]) if means else None


def rows(
    index: paired.Index, names: dict[Values, str], metrics: Sequence[str], *, data: str, delta: float
) -> Iterator[CompareRow]:
    """Each level against the best by val, where there are more than two levels."""
    metric = next((metric for metric in metrics if metric.startswith("val_")), None)
    first = leader(index, metric) if metric is not None and len(index) > 2 else None
    if metric is None or first is None:
        return
    for level in index:
        if level != first:
            yield replace(paired.pair(index, level, first, names, data=data, metric=metric, delta=delta), kind="best")
