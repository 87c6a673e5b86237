"""Which runs may share a stack: those that differ only in what their settings mark as stackable."""

from collections.abc import Sequence
from typing import Any

from regrun.settings import Settings, flatten, stackable


def structure(run: Settings) -> tuple[tuple[str, Any], ...]:
    """What the runs of one stack must have in common: every setting that is not stackable, by flat name."""
    free = stackable(run)
    return tuple((name, repr(value)) for name, value in flatten(run).items() if name not in free)


def differences(runs: Sequence[Settings]) -> list[str]:
    """The flat names that keep the runs from sharing a stack; empty if they may."""
    first = dict(structure(runs[0]))
    others = [dict(structure(run)) for run in runs[1:]]
    names = dict.fromkeys(name for other in (first, *others) for name in other)
    return [name for name in names if any(other.get(name) != first.get(name) for other in others)]
