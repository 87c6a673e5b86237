"""How a setting is declared: its default (neutral) value, its range, and whether runs of a stack may differ in it."""

from collections.abc import Collection, Sequence
from dataclasses import field
from typing import Any

FLOAT32_MAX = 3.4e38


def number(default: Any, interval: str = "(-inf, inf)", *, stackable: bool = False) -> Any:
    """A field whose number (or each number of a list) lies in `interval`, written as in "[0, 1)"."""
    return field(default=default, metadata={"interval": interval, "stackable": stackable})


def numbers(default: Sequence[float], interval: str, *, length: int | None = None, stackable: bool = False) -> Any:
    """A field with a list of numbers in `interval`, of any length unless one is given."""
    metadata = {"interval": interval, "stackable": stackable} | ({} if length is None else {"length": length})
    return field(default_factory=lambda: list(default), metadata=metadata)


def choice(default: str, options: tuple[str, ...], *, stackable: bool = False) -> Any:
    """A field that is one of `options`."""
    return field(default=default, metadata={"options": options, "stackable": stackable})


def choices(options: Collection[str]) -> Any:
    """A field that is a list of some of `options`, empty by default."""
    return field(default_factory=list, metadata={"options": tuple(options)})


def plain(default: Any, *, stackable: bool = False) -> Any:
    """A field that only its type restricts."""
    return field(default=default, metadata={"stackable": stackable})


def group(cls: type, *, stackable: bool = False) -> Any:
    """A field that holds another dataclass, neutral by default; all of it may differ in a stack, or not."""
    return field(default_factory=cls, metadata={"stackable": stackable})


def is_within(value: float, interval: str) -> bool:
    """Whether `value` lies in an interval written as in "[0, 1)" and float32 can hold it. A NaN lies in none."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below and abs(value) < FLOAT32_MAX
