"""Cells -> numbers, numbers -> means with intervals, and how both are shown. A cell that is no number is None."""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Cells = Mapping[str, str]


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
    n = len(values)
    if n == 0:
        return None
    middle = math.fsum(values) / n
    if n == 1:
        return Mean(1, middle)
    half = _t(n - 1) * math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (n - 1) / n)
    return Mean(n, middle, middle - half, middle + half)


@functools.cache
def _t(freedom: int) -> float:
    from scipy.special import stdtrit  # the t quantile; scipy.stats would cost 0.4 s to import

    return float(stdtrit(freedom, 0.975))


def scaled(value: Mean | None, quantity: str) -> Mean | None:
    """In the unit of the screen: percent for accuracies."""
    if value is None or quantity != "accuracy":
        return value
    parts = (None if v is None else 100 * v for v in (value.low, value.high))
    return Mean(value.n, 100 * value.mean, *parts)


def shown(value: Mean | None, quantity: str) -> str:
    """`94.5 [92.7, 96.3]`; the mean alone where there is no interval, `none` where there is no mean."""
    found, form = scaled(value, quantity), ".1f" if quantity == "accuracy" else ".3f"
    if found is None:
        return "none"
    interval = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.mean:{form}}{interval}"


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
