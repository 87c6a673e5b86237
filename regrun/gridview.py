"""Rows of text: a table where a terminal has room for it, else an entry of some lines each; aligned lines elsewhere."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from regrun import display

Row = Mapping[str, str]
UNBOUNDED = 10_000  # columns: more than any table has
SHORT = 30  # letters: two figures with an interval; a cell that is longer may have several lines


def say(line: str, style: str = "") -> None:
    """Print a line. A terminal breaks it between words; not one with a long path, which somebody may copy."""
    if display.way("auto", sys.stdout) == "rich":
        console = display.console(sys.stdout)
        console.print(Text(line, style=style), soft_wrap=any(len(word) > console.width for word in line.split()))
    else:
        display.writer(sys.stdout)(line)


def show(
    rows: Sequence[Row],
    *,
    left: Collection[str],
    optional: Sequence[str] = (),
    is_strong: Callable[[Row], bool] = lambda _: False,
) -> None:
    """Print rows of the same columns.

    left: the words, with which an entry begins. optional: the columns that are left out first for want of room.
    """
    if display.way("auto", sys.stdout) != "rich":
        write = display.writer(sys.stdout)
        for line in display.aligned(rows, left):
            write(line)
        return
    console = display.console(sys.stdout)
    for left_out in range(len(optional) + 1):
        kept = [{name: cell for name, cell in row.items() if name not in optional[:left_out]} for row in rows]
        table = _table(kept, left, is_strong)
        if Measurement.get(console, console.options.update(width=UNBOUNDED), table).minimum <= console.width:
            console.print(table)
            return
    for row in rows:
        _entry(row, left, console)


def _table(rows: Sequence[Row], left: Collection[str], is_strong: Callable[[Row], bool]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in rows[0]:
        side: Literal["left", "right"] = "left" if name in left else "right"
        cells = [row[name] for row in rows]
        parts = cells if max(map(len, cells)) <= SHORT else [word for cell in cells for word in cell.split()]
        table.add_column(Text(name), justify=side, min_width=max(map(len, [*parts, *name.split()]), default=0))
    for row in rows:
        table.add_row(*map(Text, row.values()), style="bold" if is_strong(row) else "")
    return table


def _entry(row: Row, left: Collection[str], console: Console) -> None:
    """`dropout vs none, val`, and below it the figures with their names."""
    heads = [row[name] for name in row if name in left and row[name]]
    figures = ", ".join(f"{name} {cell}" for name, cell in row.items() if cell and name not in left)
    console.print(Text(", ".join(heads)), Padding(Text(figures), (0, 0, 0, 4), expand=False))
