"""Looks at test in a folder: looks.csv, a line per command that reads it, and the summaries -> ledger.csv.

A command's line is written before it trains, with the number of stacks that there were: the runs that it has read test
for are those of the stacks from there on. So a killed command has its look, a run counts once however often it was
tried, and the ledger can be made anew at any time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from regrun import collect, foreign, gridview, overrides, records, rows, settings, stats
from regrun.errors import DataError, clip
from regrun.findings import LedgerRow
from regrun.overrides import Cells

NAME, LOOKS = "ledger.csv", "looks.csv"
TRAINING = ("run", "sweep", "resume", "search", "confirm", "variance", "study")
BY = (*TRAINING, "ensemble")


@dataclass(frozen=True)
class Look:
    """A command that reads test: when it began, its name, and how many stacks there were."""

    when: str | None
    by: str
    stacks: int


@dataclass(frozen=True)
class Read:
    """A run whose test figures are known."""

    run_id: str
    stack: int
    configuration: tuple[str, ...]  # its settings, seeds aside
    has_curve: bool
    accuracy: float  # NaN where it has none
    r2: float


def look(root: Path, by: str) -> None:
    """Note that a command is about to read test. One short line, appended: several commands may look at once."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    stacks = collect.next_stack(root) if (root / "plan.csv").is_file() else 1  # a run is a stack of one
    records.append(root / LOOKS, ("when", "by", "stacks"), [(when, by, stacks)])


def write(root: Path) -> str:
    """Write ledger.csv, and give what every table that shows test figures says below it (`line`)."""
    own = reads(root)
    records.replace(root / NAME, records.table([rows.columns(LedgerRow), *map(rows.values, _ledger(root, own))]))
    return _line({root: own})


def ledger(root: Path) -> list[LedgerRow]:
    """A row for each look; a command that had nothing to read is none. Raises DataError."""
    return _ledger(root, reads(root))


def _ledger(root: Path, own: Sequence[Read]) -> list[LedgerRow]:
    looks = _looks(root)
    first = min((look.stacks for look in looks if look.by in TRAINING), default=math.inf)
    if any(read.stack < first for read in own):  # a single run, or what an older version has trained
        looks = [Look(None, "sweep" if (root / "plan.csv").is_file() else "run", 0), *looks]
    found = list[LedgerRow]()
    for number, now in enumerate(looks):
        trains = now.by in TRAINING
        later = (other.stacks for other in looks[number + 1 :] if other.by in TRAINING)
        end = next(later, math.inf) if trains else now.stacks
        before = [read for read in own if read.stack < end]
        new = [read for read in before if read.stack >= now.stacks]
        if new or not trains:
            found.append(_row(len(found) + 1, now, new, before))
    return found


def tell(root: Path) -> None:
    """Print the looks at test in a folder."""
    gridview.say(str(root))
    found = [
        dict(zip(rows.columns(LedgerRow), map(records.cell, rows.values(row)), strict=True)) for row in ledger(root)
    ]
    if found:
        gridview.show(found, left=["when", "by"])


def line(*roots: Path) -> str:
    """`test: look 2, 12 configurations tried; ...`.

    Several folders count together: the looks of all, and each configuration once.
    """
    return _line({root: reads(root) for root in roots})


def _line(found: Mapping[Path, Sequence[Read]]) -> str:
    looks = sum(len(_ledger(root, own)) for root, own in found.items())
    own = list({read.run_id: read for reads in found.values() for read in reads}.values())
    tried = len({read.configuration for read in own})
    curves = sum(read.has_curve for read in own)
    told = f"test: look {looks}, {tried} configuration{'s' * (tried != 1)} tried"
    told += f", {curves} test curves" if curves else ""
    return told if tried < 2 else f"{told}; {_luck(own, tried)}"


def reads(root: Path) -> list[Read]:
    """The runs whose test figures are known: a sweep's in the order of its stacks; else those of a summary.csv.

    root: a folder, or a summary.csv by whatever name. Tables that came without their stacks are one look.
    """
    found = [(_stack(folder), collect.cells(folder, text)) for folder, _, text in collect.summaries(root).values()]
    if not found:
        path = root / "summary.csv" if root.is_dir() else root
        found = [(0, row) for row in (foreign.rows(path) if path.is_file() else [])]
    names = [n for n in overrides.without_seeds(settings.columns()) if n not in settings.WITHOUT_EFFECT]
    return [_read(stack, row, names) for stack, row in found if row.get("test_loss_best", "none") != "none"]


def spread(own: Sequence[Read]) -> tuple[float, float, str]:
    """Deviation over seeds within configurations, pooled; the harmonic mean of their sizes; of accuracy or R2."""
    name = "r2" if all(math.isnan(read.accuracy) for read in own) else "accuracy"
    groups: dict[tuple[str, ...], list[float]] = {}
    for read in own:
        if math.isfinite(value := getattr(read, name)):
            groups.setdefault(read.configuration, []).append(value)
    squares = [(stats.deviation(g) ** 2, len(g) - 1) for g in groups.values() if len(g) > 1]
    freedom = sum(df for _, df in squares)
    if not freedom:
        return math.nan, math.nan, name
    size = len(groups) / sum(1 / len(g) for g in groups.values())
    return math.sqrt(math.fsum(s * df for s, df in squares) / freedom), size, name


def _luck(own: Sequence[Read], tried: int) -> str:
    """Each configuration's figure is a mean over n seeds: equals differ by sd / sqrt(n)."""
    sd, n, name = spread(own)
    if math.isnan(sd):
        return f"what luck alone gives the best of {tried} takes several seeds of each to know"
    luck, points = stats.expected_luck(tried) * sd / math.sqrt(n), (100, ".2f", " points")
    scale, form, unit = points if name == "accuracy" else (1, ".3f", " of R2")
    size = f"{n:.0f}" if math.isclose(n, round(n)) else f"about {n:.1f}"
    return (
        f"the best of {tried} by luck alone is expected about {scale * luck:{form}}{unit} above their mean "
        f"(sd over seeds {scale * sd:{form}}, n = {size})"
    )


def _row(number: int, now: Look, new: Sequence[Read], before: Sequence[Read]) -> LedgerRow:
    return LedgerRow(
        look=number,
        when=now.when,
        by=now.by,
        new_runs=len(new),
        runs=len(before),
        configurations=len({read.configuration for read in before}),
        test_curves=sum(read.has_curve for read in new),
    )


def _read(stack: int, row: Cells, names: Sequence[str]) -> Read:
    return Read(
        run_id=row["run_id"],
        stack=stack,
        configuration=tuple(row.get(name, "") for name in names),
        has_curve=row.get("trainer.test_curve") == "true",
        accuracy=_number(row.get("test_accuracy_best", "none")),
        r2=_number(row.get("test_r2_best", "none")),
    )


def _stack(folder: Path) -> int:
    return int(folder.name) if folder.name.isdecimal() else 0


def _number(cell: str) -> float:
    try:
        return foreign.figure(cell)
    except ValueError:
        raise DataError(f"summary.csv: test figures must be numbers, got {clip(cell)!r}; regrun collect DIR") from None


def _looks(root: Path) -> list[Look]:
    return list(_parsed(root / LOOKS)) if (root / LOOKS).is_file() else []


def _parsed(path: Path) -> Iterator[Look]:
    for row in foreign.rows(path, ("when", "by", "stacks")):
        if row["by"] not in BY or not collect.COUNT.fullmatch(row["stacks"]):
            raise DataError(f"{path}: is no list of regrun's; remove it, and the looks at test are one")
        yield Look(row["when"], row["by"], int(row["stacks"]))
