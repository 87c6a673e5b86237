"""Figures of an arm whose runs vary one setting: a slope over it, a spread, the value that val chooses."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from regrun.studies.runs import Run

# The settings that arms vary and slopes are taken over; of several the first one that differs.
LADDER = ("data.train_size", "model.width", "model.depth", "reg.batchnorm.ghost_batch", "model.init.std")


def gap(run: Run) -> float:
    """Val error minus train error after the last epoch."""
    return run.error("val", "last") - run.error("train", "last")


def ladder(runs: Sequence[Run]) -> list[float]:
    """The setting that differs between runs, one value each. Raises ValueError where none of `LADDER` does."""
    for column in LADDER:
        values = [run.number(column) for run in runs]
        if len(set(values)) > 1:
            return values
    raise ValueError(f"none of {', '.join(LADDER)} differs")


def slope(figure: Callable[[Run], float]) -> Callable[[Sequence[Run]], float]:
    """By how much a figure changes where the setting doubles: the least-squares line over log2 of it."""

    def found(runs: Sequence[Run]) -> float:
        return float(np.polyfit([math.log2(at) for at in ladder(runs)], [figure(run) for run in runs], 1)[0])

    return found


def spread(figure: Callable[[Run], float]) -> Callable[[Sequence[Run]], float]:
    """The largest minus the smallest of a figure."""

    def found(runs: Sequence[Run]) -> float:
        values = [figure(run) for run in runs]
        return max(values) - min(values)

    return found


def chosen(runs: Sequence[Run]) -> float:
    """The setting whose run has the lowest val error after the last epoch; the smallest such setting."""
    return min(zip((run.error("val", "last") for run in runs), ladder(runs), strict=True))[1]


def largest_rise(figure: Callable[[Run], float]) -> Callable[[Sequence[Run]], float]:
    """The largest step up of a figure from a setting to the next larger one; below 0 where it falls throughout."""

    def found(runs: Sequence[Run]) -> float:
        values = [value for _, value in sorted(zip(ladder(runs), map(figure, runs), strict=True))]
        return max(b - a for a, b in pairwise(values))

    return found
