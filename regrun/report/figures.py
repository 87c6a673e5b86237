"""Cells -> numbers, numbers -> means with intervals, and how both are shown. A cell that is no number is None."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from regrun.stats import t_interval

Cells = Mapping[str, str]
LIMITS = {"accuracy": (0.0, 100.0), "r2": (-1.0, 1.0), "change": (-100.0, 100.0), "change of r2": (-1.0, 1.0)}


@dataclass(frozen=True)
class Mean:
    """The mean of n values and its 95 % t interval; without one (low = high = None) where n is 1."""

    n: int
    mean: float
    low: float | None = None
    high: float | None = None


def number(cell: str | None) -> float | None:
    """A finite number, or None: `none`, a blank, a word, what overflowed."""
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(rows: Iterable[Cells], column: str) -> list[float]:
    """A column's numbers."""
    return [value for row in rows if (value := number(row.get(column))) is not None]


def mean(values: Sequence[float]) -> Mean | None:
    """Their mean; None of nothing."""
    if len(values) < 2:
        return Mean(1, values[0]) if values else None
    return Mean(len(values), *t_interval(values))


def scaled(value: Mean | None, quantity: str) -> Mean | None:
    """In the unit of the screen: percent for accuracies."""
    return value if value is None or quantity != "accuracy" else percent(value)


def percent(share: Mean) -> Mean:
    """Of a share."""
    parts = (None if v is None else 100 * v for v in (share.low, share.high))
    return Mean(share.n, 100 * share.mean, *parts)


def shown(value: Mean | None, quantity: str) -> str:
    """`94.5 [92.7, 96.3]`; the mean alone where there is no interval, `none` where there is no mean."""
    found = scaled(value, quantity)
    return "none" if found is None else with_interval(found, 1 if quantity == "accuracy" else 3)


def change(value: Mean | None, quantity: str) -> str:
    """A difference: points of accuracy have two digits."""
    found = scaled(value, quantity)
    return "none" if found is None else with_interval(found, 2 if quantity == "accuracy" else 3)


def with_interval(value: Mean, digits: int) -> str:
    """`94.5 [92.7, 96.3]`."""
    if value.low is None or value.high is None:
        return fixed(value.mean, digits)
    return f"{fixed(value.mean, digits)} [{fixed(value.low, digits)}, {fixed(value.high, digits)}]"


def fixed(value: float, digits: int) -> str:
    """With so many digits; no zero is negative."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def within(values: Sequence[float], quantity: str) -> list[float]:
    """The values that an axis is made for: a few from runs that exploded must not press the others into a line.

    No accuracy is outside of 0 to 100 %, no R2 above 1; an R2 below -1 is as bad as any; a loss may be 30 times the
    median.
    """
    low, high = LIMITS.get(quantity, (-math.inf, 30 * sorted(values)[len(values) // 2]))
    if quantity not in LIMITS and high <= 0:
        return list(values)
    return [min(high, max(low, value)) for value in values]


def plain(value: Mean | None, digits: int = 1) -> str:
    """The mean alone."""
    return "none" if value is None else f"{value.mean:,.{digits}f}"


def counted(words: Iterable[str]) -> str:
    """`patience (2), max_epochs (1)`; the word alone where there is no other."""
    found = Counter(words).most_common()
    return found[0][0] if len(found) == 1 else ", ".join(f"{word} ({count})" for word, count in found)


def count_of(count: int, what: str) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def short(value: float) -> str:
    """For an axis: 0.001, 250, 20k, 1e-5."""
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if unit <= abs(value) < 1e9:
            return f"{value / min(unit, 1e3 if letter == 'k' else unit):.4g}{letter}"
    if value != 0 and not 1e-3 <= abs(value) < 1e9:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.4g}"
