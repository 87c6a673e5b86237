"""The report's tables for a terminal, or as aligned lines elsewhere."""

from collections.abc import Sequence

from regrun import gridview
from regrun.report.figures import is_figure
from regrun.report.sections import Section
from regrun.report.tables import Table

ROWS, LONGEST = 20, 60  # of a table, of a cell


def tell(sections: Sequence[Section]) -> None:
    """Print every section but for its pictures and its long tables."""
    for section in sections:
        short = [table for table in section.tables if not table.is_long and table.rows]
        if not short and (section.drawings or section.tables):
            continue
        for line in ["", section.title, *section.lines]:
            gridview.say(line)
        for table in short:
            if len(short) > 1:
                gridview.say(f"\n{table.title}")
            gridview.show(_rows(table), left=[name for name in table.head if not _is_figure(table, name)])
            if (left := len(table.rows) - ROWS) > 0:
                gridview.say(f"and {left:,} more rows in report.html")


def _rows(table: Table) -> list[dict[str, str]]:
    rows = [
        [cell if len(cell) <= LONGEST else cell[: LONGEST - 3] + "..." for cell in row] for row in table.rows[:ROWS]
    ]
    return [dict(zip(table.head, row, strict=True)) for row in rows]


def _is_figure(table: Table, name: str) -> bool:
    """Whether a column has figures alone."""
    place = table.head.index(name)
    return all(is_figure(row[place]) or row[place] == "none" for row in table.rows)
