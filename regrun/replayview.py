"""What rules of early stopping would have come to, from their rows: a table for each setting."""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from regrun import display, ledger, overrides
from regrun.errors import clip
from regrun.findings import StoppingRow
from regrun.replay import NAME, Replay

GROUPS = 6  # of settings that are shown; the table on disk has all
COLUMNS = {  # figure -> heading, factor, digits
    "stop_epoch": ("stops at", 1, 1),
    "best_epoch": ("best epoch", 1, 1),
    "share_saved": ("% saved", 100, 1),
    "val_loss_lost": ("val loss lost", 1, 4),
    "val_accuracy_lost": ("val points lost", 100, 2),
    "val_r2_lost": ("val R2 lost", 1, 4),
    "test_loss_lost": ("test loss lost", 1, 4),
    "test_accuracy_lost": ("test points lost", 100, 2),
    "test_r2_lost": ("test R2 lost", 1, 4),
}
NOTES = (
    "lost: the best epoch by then against the whole curve's, both chosen by val; means and 95 % t intervals over runs",
    "test is blank where not all runs have read it at both epochs: they read it at the best and at the last one",
)


def tell(found: Replay, root: Path) -> None:
    """Print the tables, and what to know of them."""
    groups = [(values, [row for _, row in own]) for values, own in groupby(found.lines, key=lambda line: line[0])]
    write = display.writer(sys.stdout)
    for values, own in groups[:GROUPS]:
        write(f"{_words(values)}, n = {own[0].n}")
        lines = [_cells(list(rows)) for _, rows in groupby(own, key=_rule)]
        if over := [line for line in lines if line["stopped"] != "0"]:
            _show(_without_blanks(over))
        if never := [line["rule"] for line in lines if line["stopped"] == "0"]:
            write(f"  never over: {'; '.join(never)}")
    more = [f"and {len(groups) - GROUPS} more settings in {NAME}"] if len(groups) > GROUPS else []
    for line in [*more, *NOTES, *found.notes, ledger.line(root), f"table: {root / NAME}"]:
        write(line)


def _words(values: dict[str, str]) -> str:
    return clip(overrides.words(values, list(values)), 100) or "all runs"


def _rule(row: StoppingRow) -> str:
    """`patience 5`, `generalization_loss 2, smoothed 0.5`."""
    smoothed = [f"smoothed {row.smoothing:g}"] if row.smoothing else []
    by = [f"by {row.monitor}"] if row.monitor != "val_loss" else []
    least = [f"min_delta {row.min_delta:g}"] if row.min_delta else []
    return ", ".join([f"{row.rule} {row.limit:g}", *smoothed, *by, *least])


def _cells(rows: Sequence[StoppingRow]) -> dict[str, str]:
    """One rule's line."""
    own = {row.figure: row for row in rows}
    cells = {"rule": _rule(rows[0]), "stopped": f"{own['stopped'].mean * own['stopped'].n:.0f}"}
    for figure, (heading, factor, digits) in COLUMNS.items():
        cells[heading] = _interval(own[figure], factor, digits) if figure in own else ""
    return cells


def _interval(row: StoppingRow, factor: int, digits: int) -> str:
    """5.3 [2.8, 7.9]; of one run the figure alone."""
    numbers = [f"{factor * value:.{digits}f}" for value in (row.mean, row.low, row.high) if value is not None]
    return numbers[0] + (f" [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else "")


def _without_blanks(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    return [{name: row[name] for name in names} for row in rows]


def _show(rows: list[dict[str, str]]) -> None:
    """A table in a terminal, aligned lines elsewhere."""
    if display.way("auto", sys.stdout) != "rich":
        write = display.writer(sys.stdout)
        for line in display.aligned(rows):
            write(f"  {line}")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in rows[0]:
        table.add_column(Text(name), justify="left" if name == "rule" else "right")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    display.console(sys.stdout).print(table)
