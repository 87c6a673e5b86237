"""Every demonstration by name, and what is printed of it."""

import textwrap
from collections.abc import Callable

from threadpoolctl import threadpool_limits

from regrun.conversion import nearest
from regrun.demos import approximation, depth, descent, dropout, shrinkage, symmetry, variance
from regrun.demos.shown import Shown
from regrun.errors import ConfigError, clip

DEMOS: dict[str, Callable[[], Shown]] = {
    "chain": depth.chain,
    "vanishing": depth.vanishing,
    "residual_paths": depth.paths,
    "symmetries": symmetry.symmetries,
    "approximation": approximation.approximation,
    "dropout": dropout.geometric,
    "early_stopping": shrinkage.early_stopping,
    "weight_decay": shrinkage.weight_decay,
    "l1": shrinkage.l1,
    "adam": shrinkage.adam,
    "momentum": descent.momentum,
    "double_well": descent.double_well,
    "schedules": descent.schedules,
    "double_descent": variance.double_descent,
    "bias_variance": variance.bias_variance,
    "ensemble": variance.ensemble,
    "bootstrap": variance.bootstrap,
}


def claim(name: str) -> str:
    """What a demonstration claims: the first line of its function's docstring."""
    return (DEMOS[name].__doc__ or "").splitlines()[0]


def listed(width: int) -> list[str]:
    """Each name with its claim, in lines of at most `width`."""
    indent = 2 + max(map(len, DEMOS))
    room = max(width - indent, 20)
    parts = [(name, textwrap.wrap(claim(name), room)) for name in DEMOS]
    return [f"{name if i == 0 else '':<{indent}}{line}" for name, wrapped in parts for i, line in enumerate(wrapped)]


def lines(name: str) -> list[str]:
    """The claim, the table, and what it shows. Raises ConfigError where there is no such demonstration."""
    if name not in DEMOS:
        near = nearest(name, list(DEMOS))
        raise ConfigError(f"demo: no such demonstration, got {clip(name)!r}; {near}regrun demo lists them")
    # The matrices are small, and on a busy machine OpenBLAS's threads wait for each other: 10 CPU seconds instead of 1.
    with threadpool_limits(1):
        shown = DEMOS[name]()
    cells = [list(shown.header), *([_cell(value) for value in row] for row in shown.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = ["  ".join(part.rjust(width) for part, width in zip(row, widths, strict=True)) for row in cells]
    return [claim(name), *table, shown.meaning]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
