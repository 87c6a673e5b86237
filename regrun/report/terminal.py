"""The report's tables for a terminal, or as aligned lines elsewhere."""

import sys
from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from regrun import display
from regrun.report.sections import Section
from regrun.report.tables import Table

ROWS, LONGEST = 20, 60  # of a table, of a cell


def tell(sections: Sequence[Section]) -> None:
    """Print every section but for its pictures and its long tables."""
    is_rich = display.way("auto", sys.stdout) == "rich"
    console, write = display.console(sys.stdout), display.writer(sys.stdout)
    for section in sections:
        short = [table for table in section.tables if not table.is_long and table.rows]
        if not short and (section.drawings or section.tables):
            continue
        for line in ["", section.title, *section.lines]:
            write(line)
        for table in short:
            if len(short) > 1:
                write(f"\n{table.title}")
            if is_rich:
                console.print(_table(table))
            for line in _more(table) if is_rich else [*_aligned(table), *_more(table)]:
                write(line)


def _clipped(row: Sequence[str]) -> list[str]:
    return [cell if len(cell) <= LONGEST else cell[: LONGEST - 3] + "..." for cell in row]


def _more(table: Table) -> list[str]:
    left = len(table.rows) - ROWS
    return [f"and {left:,} more rows in report.html"] if left > 0 else []


def _table(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in _clipped(table.head):
        shown.add_column(Text(name))
    for row in table.rows[:ROWS]:
        shown.add_row(*map(Text, _clipped(row)))
    return shown


def _aligned(table: Table) -> list[str]:
    rows = [_clipped(row) for row in [table.head, *table.rows[:ROWS]]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
