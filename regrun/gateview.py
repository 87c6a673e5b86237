"""What a check came to, in lines: each figure that is off, by how much, and what its limit was."""

import sys
from pathlib import Path

from regrun import display, gate, ledger, overrides
from regrun.errors import clip
from regrun.findings import CheckRow
from regrun.gate import NAME, Check

SHOWN = 20  # figures that are off; the table on disk has all


def tell(found: Check, new: Path) -> None:
    """Print what is off, what was not compared, and how it stands."""
    off = [(values, row) for values, row in found.lines if not row.holds]
    write = display.writer(sys.stdout)
    for values, row in off[:SHOWN]:
        words = clip(overrides.words(values, list(values)), 100)
        write(f"{words}: {_off(row)}" if words else _off(row))
    more = [f"and {len(off) - SHOWN} more figures in {NAME}"] if len(off) > SHOWN else []
    path = gate.table(new)
    looks = ledger.line(path.parent if path.name == "summary.csv" else path)
    for line in [*more, *found.notes, looks, f"table: {path.parent / NAME}", _verdict(found, len(off))]:
        write(line)


def _off(row: CheckRow) -> str:
    """`val_loss_best is 0.91, 0.31 above the limit 0.60 (mean of 3; the baseline's 0.42, sd 0.05, n = 10)`."""
    if row.mean is None:
        return f"{row.figure} is missing ({_baseline(row)})"
    if row.rule == "equal":
        return f"{row.figure} is {row.mean:.10g} and must be {row.baseline:.10g}, as in all of the baseline's runs"
    is_high = row.high is not None and not row.mean <= row.high
    limit, side = (row.high, "above") if is_high else (row.low, "below")
    assert limit is not None
    return (
        f"{row.figure} is {row.mean:.5g}, {abs(row.mean - limit):.3g} {side} the limit {limit:.5g} "
        f"(mean of {row.m}; {_baseline(row)})"
    )


def _baseline(row: CheckRow) -> str:
    return f"the baseline's {row.baseline:.5g}, sd {row.sd:.3g}, n = {row.n}"


def _verdict(found: Check, off: int) -> str:
    """The last line."""
    settings = len({tuple(values.items()) for values, _ in found.lines})
    of = f"{len(found.lines)} figures of {settings} setting{'s' if settings > 1 else ''}"
    at = f"at level {found.level:g}"
    return f"failed: {off} of {of} are off {at}" if off else f"passed: {of} are within the baseline's limits {at}"
