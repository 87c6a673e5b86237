"""What a sweep came to, from the rows of effects.csv: as text however wide it gets, or as a terminal has room."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from regrun import overrides
from regrun.overrides import Cells

ROWS, ENTRIES = 20, 6  # settings in a table; where each takes some lines
UNBOUNDED = 10_000  # columns: more than any table has
FILES = "  summary.csv: every run; effects.csv: means over seeds; curves.csv: every epoch"


def lines(effects: Sequence[Cells], folder: Path) -> list[str]:
    """The best settings as an aligned table, the best one as overrides to copy, and where everything lies."""
    rows = [_keys(row) | _figures(row, effects) for row in effects[:ROWS]]
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return [*text, *_closing(effects, folder, ROWS)]


def tell(effects: Sequence[Cells], folder: Path, console: Console) -> None:
    """The same for a terminal; in one too narrow for the table, each setting has an entry of some lines."""
    table = _table(effects)
    has_room = Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum <= console.width
    if has_room:
        console.print(table)
    for row in [] if has_room else effects[:ENTRIES]:
        figures = ", ".join(f"{name} {value}" for name, value in _figures(row, effects).items())
        console.print(Text(figures), Padding(Text(_words(row)), (0, 0, 0, 4), expand=False))
    for line in _closing(effects, folder, ROWS if has_room else ENTRIES):
        console.print(Text(line), soft_wrap=True)


def _table(effects: Sequence[Cells]) -> Table:
    rows = [_keys(row) | _figures(row, effects) for row in effects[:ROWS]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in rows[0]:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


def _closing(effects: Sequence[Cells], folder: Path, shown: int) -> list[str]:
    """What was left out; `best: optimizer.lr=0.1  val accuracy 0.956 [0.946, 0.966], n = 3`, unless all failed."""
    more = [f"and {len(effects) - shown} more settings in effects.csv"] if len(effects) > shown else []
    first, name = effects[0], f"val {_measure(effects)}"
    words, n = _words(first) or "the only settings", int(first["n"]) - int(first["failed"])
    best = f"best: {words}  {name} {_figures(first, effects)[name]}, n = {n}"
    return [*more, *([best] if n else []), *_unequal(effects), f"folder: {folder}", FILES]


def _unequal(effects: Sequence[Cells]) -> list[str]:
    """Where failures make means ones of other seeds."""
    sizes = sorted({int(row["n"]) - int(row["failed"]) for row in effects} - {0})
    if len(sizes) < 2:
        return []
    return [f"means are of {sizes[0]} to {sizes[-1]} runs, not all of the same seeds; regrun compare pairs them"]


def _words(row: Cells) -> str:
    return overrides.words(row, list(_keys(row)))


def _keys(row: Cells) -> dict[str, str]:
    """The settings of a row: what comes before its counts."""
    names = list(row)
    return {name: row[name] for name in names[: names.index("n")]}


def _figures(row: Cells, effects: Sequence[Cells]) -> dict[str, str]:
    """Counts, but for those that are 0 everywhere, and val and test with their intervals."""
    counts = {name: row[name] for name in ("failed", "diverged") if any(other[name] != "0" for other in effects)}
    measure = _measure(effects)
    means = {f"{part} {measure}": _with_interval(row, f"{part}_{measure}_best") for part in ("val", "test")}
    return {"n": row["n"]} | counts | means


def _measure(effects: Sequence[Cells]) -> str:
    """Accuracy or R2, or loss where no setting has either."""
    found = [name for name in ("accuracy", "r2") if any(_mean(row, name) != "none" for row in effects)]
    return found[0] if found else "loss"


def _mean(row: Cells, name: str) -> str:
    return row.get(f"val_{name}_best_mean", "none")


def _with_interval(row: Cells, name: str) -> str:
    """0.945 [0.927, 0.963], or the mean alone where there is no interval."""
    mean, low, high = (row[f"{name}_{part}"] for part in ("mean", "low", "high"))
    if mean == "none":
        return mean
    return f"{float(mean):.3f}" + ("" if low == "none" else f" [{float(low):.3f}, {float(high):.3f}]")
