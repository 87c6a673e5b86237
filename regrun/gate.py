"""New runs against a baseline's -> check.csv: is a figure further off than the spread of the baseline's seeds allows?

How far off each may be is in `limits`. The level holds for all figures of a check together (Bonferroni).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from regrun import collect, foreign, limits, overrides, records, rows
from regrun.errors import ConfigError, clip
from regrun.findings import CheckRow
from regrun.limits import EXACT, LEAST, UNITS, WAYS
from regrun.overrides import Cells
from regrun.settings import WITHOUT_EFFECT, columns

NAME = "check.csv"
ENOUGH = 10  # runs with which the planted faults of the tests are certain to be caught
SHOWN = 5  # settings in which a setting differs from the baseline's
NEEDED = ["run_id", "status", "seed", "val_loss_best", "lr_first", "lr_last"]
Figures = dict[str, list[float]]  # of a setting's runs, by name; NaN where a run has what is not a number


@dataclass(frozen=True)
class Side:
    """The baseline, or what is checked: rows of summary.csv, and of epochs.csv by run, none where there is no file."""

    summary: list[Cells]
    epochs: dict[str, list[Cells]]


@dataclass(frozen=True)
class Check:
    """What came of it."""

    lines: list[tuple[dict[str, str], CheckRow]]
    notes: list[str]
    level: float

    @property
    def holds(self) -> bool:
        """Whether nothing is worse than it may be."""
        return all(row.holds for _, row in self.lines)


def table(path: Path) -> Path:
    """The summary.csv of a folder, or the file itself, by whatever name."""
    return path / "summary.csv" if path.is_dir() else path


def write(runs: Path, against: Path, level: float) -> Check:
    """Compare new runs with a baseline's (each a summary.csv or its folder), and write check.csv beside the new ones.

    An epochs.csv beside either is read, too. Raises ConfigError where settings have changed or seeds are too few.
    """
    before, now = _side(table(against)), _side(table(runs))
    keys = _keys(before.summary, now.summary)
    old, new = _grouped(before.summary, keys), _grouped(now.summary, keys)
    names = overrides.without_seeds(overrides.varying(_of_both(before.summary, now.summary)))
    notes = [*_unmatched(old, new, names, keys), *_unread(before, now), *_other_data(before, now)]
    shared = [(key, _pair(old[key], new[key], before, now, names)) for key in old if key in new]
    tests = sum(limits.may_be_off(name, values, units) for _, (own, _, units) in shared for name, values in own.items())
    alpha = (1 - level) / max(1, tests)
    notes += _wide([len(values["failed"]) for _, (values, _, _) in shared], alpha)
    found = [
        ({name: new[key][0][name] for name in names}, row)
        for key, (own, theirs, units) in shared
        for row in _rows(own, theirs, units, alpha)
    ]
    lines = [[*values.values(), *rows.values(row)] for values, row in found]
    records.replace(table(runs).parent / NAME, records.table([[*names, *rows.columns(CheckRow)], *lines]))
    return Check(found, notes, level)


def chance(text: str) -> float:
    """The level that somebody typed. Raises ConfigError."""
    level = _number(text)
    if not 0 < level < 1:
        raise ConfigError(f"--level: must be a number in (0, 1), got {clip(text)!r}")
    return level


def _side(path: Path) -> Side:
    """The tables at `path`, a summary.csv by whatever name, and beside it."""
    summary = collect.checked_summary(path, NEEDED, counts=["last_epoch", "last_step", *UNITS.values()])
    epochs: dict[str, list[Cells]] = {}
    if (path.parent / "epochs.csv").is_file():
        names = ["run_id", "epoch", "lr_first", "lr_last", "objective", "weight_norm"]
        known = {row["run_id"] for row in summary}
        for row in foreign.rows(path.parent / "epochs.csv", names):
            if row["run_id"] in known:
                epochs.setdefault(row["run_id"], []).append(row)
    return Side(list({row["run_id"]: row for row in summary}.values()), epochs)


def _keys(before: Sequence[Cells], now: Sequence[Cells]) -> list[str]:
    """The settings that must be the same: all in both tables, seeds aside. One seed for all runs must be kept, too."""
    names = [n for n in columns() if n not in WITHOUT_EFFECT and n in before[0] and n in now[0]]
    for name in (n for n in names if n.startswith("seeds.")):
        values, others = {_plain(row[name]) for row in before}, {_plain(row[name]) for row in now}
        if len(values) == 1 < len(before) and values != others:
            kept, got = next(row[name] for row in before), next(r[name] for r in now if _plain(r[name]) not in values)
            raise ConfigError(f"{name}: must be {clip(kept)} as in all of the baseline's runs, got {clip(got)}")
    return overrides.without_seeds(names)


def _of_both(before: Sequence[Cells], now: Sequence[Cells]) -> list[Cells]:
    """All rows, with the settings that both tables have."""
    names = [name for name in columns() if name in before[0] and name in now[0]]
    return [{name: row[name] for name in names} for row in (*before, *now)]


def _grouped(summary: Sequence[Cells], keys: Sequence[str]) -> dict[tuple[str, ...], list[Cells]]:
    groups: dict[tuple[str, ...], list[Cells]] = {}
    for row in summary:
        groups.setdefault(tuple(_plain(row[name]) for name in keys), []).append(row)
    return groups


def _plain(cell: str) -> str:
    """A number as Python writes it, whoever has saved the table since: 0 and 0.0 are the same."""
    try:
        return repr(float(cell))
    except ValueError:
        return cell.lower() if cell.lower() in ("true", "false") else cell


def _unmatched(
    old: dict[tuple[str, ...], list[Cells]],
    new: dict[tuple[str, ...], list[Cells]],
    names: Sequence[str],
    keys: Sequence[str],
) -> Iterator[str]:
    """What has no counterpart. Raises ConfigError where both sides have: then a setting was changed."""
    gone, come = [key for key in old if key not in new], [key for key in new if key not in old]
    if gone and come:
        differing = min((_differing(a, b, keys) for a in gone for b in come), key=len)
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        words = ", ".join(f"{name} was {clip(a, 30)} and is {clip(b, 30)}" for name, a, b in differing[:SHOWN])
        raise ConfigError(f"check: a setting is not the baseline's: {clip(words, 120)}{more}; make a baseline with it")
    yield from (f"only in the baseline: {_words(old[key][0], names)}" for key in gone)
    yield from (f"not in the baseline, and so not checked: {_words(new[key][0], names)}" for key in come)


def _differing(a: tuple[str, ...], b: tuple[str, ...], keys: Sequence[str]) -> list[tuple[str, str, str]]:
    return [(name, was, now) for name, was, now in zip(keys, a, b, strict=True) if was != now]


def _words(row: Cells, names: Sequence[str]) -> str:
    return clip(overrides.words(row, names), 100) or "the only settings"


def _unread(before: Side, now: Side) -> Iterator[str]:
    missing = [who for who, side in (("the baseline", before), ("what is checked", now)) if not side.epochs]
    if missing:
        yield (
            f"no epochs.csv beside {' and '.join(missing)}: not seen are rates that are wrong between the first and "
            "the last step, the weights' norm, and the objective"
        )


def _other_data(before: Side, now: Side) -> Iterator[str]:
    """Data that no run of the baseline has seen, where both sides say which it was."""
    was, got = ({row.get("data_hash", "none") for row in side.summary} - {"none"} for side in (before, now))
    if was and got - was:
        is_now, was_then = (clip(", ".join(sorted(hashes)), 40) for hashes in (got - was, was))
        yield f"the data is not the baseline's: data_hash is {is_now} and was {was_then}"


def _wide(sizes: Sequence[int], alpha: float) -> Iterator[str]:
    """By how much limits of few seeds are wider than those of ten."""
    n = min(sizes, default=ENOUGH)
    if n < ENOUGH:
        times = limits.width(n, 1, alpha) / limits.width(ENOUGH, 1, alpha)
        yield f"the baseline has {n} runs of a setting: limits are {times:.1f} times as wide as with {ENOUGH}"


def _pair(
    old: Sequence[Cells], new: Sequence[Cells], before: Side, now: Side, names: Sequence[str]
) -> tuple[Figures, Figures, dict[str, float]]:
    """A setting's figures on both sides, at an epoch that all runs have reached, and in what they count."""
    finished = [row for row in old if row["status"] in collect.FINISHED]
    if len(finished) < LEAST:
        who = f"{len(finished)} of {_words(old[0], names)}"
        raise ConfigError(f"--against: must have {LEAST} finished runs of a setting, 10 are better, got {who}")
    ended = [int(row["last_epoch"]) for row in (*old, *new) if row["status"] == "ok"]
    at, units = min(ended, default=0), {"best_epoch": 1.0}
    units |= {name: 1 / max(1.0, int(finished[0][size])) for name, size in UNITS.items()}
    has_both = bool(before.epochs and now.epochs)
    ours, theirs = (_figures(runs, side.epochs if has_both else {}, at) for runs, side in ((old, before), (new, now)))
    return ours, theirs, units


def _figures(runs: Sequence[Cells], epochs: dict[str, list[Cells]], at: int) -> Figures:
    """Every figure of every run that has it."""
    found: Figures = {}
    for run in runs:
        for name, value in _of_run(run, epochs.get(run["run_id"], []), at):
            found.setdefault(name, []).append(value)
    return found


def _of_run(run: Cells, epochs: Sequence[Cells], at: int) -> Iterator[tuple[str, float]]:
    """lr_last@80: the learning rate of step 80, with which a run may end or not; plateau's depend on val."""
    has_ended = run["status"] in collect.FINISHED
    yield "failed", float(not has_ended)
    yield "diverged", float(run["status"] == "diverged")
    if not has_ended:
        return
    yield from ((name, _number(run[name])) for name in (*WAYS, *EXACT) if run.get(name, "none") not in ("none", ""))
    if run["status"] != "ok" or not int(run["last_epoch"]):
        return
    if run.get("stop_reason") != "time_limit":
        yield "steps_per_epoch", int(run["last_step"]) / int(run["last_epoch"])
    yield from (
        (name, _number(row[name])) for row in epochs if row["epoch"] == str(at) for name in ("objective", "weight_norm")
    )
    if run["scheduler.kind"] != "plateau":
        yield f"lr_last@{run['last_step']}", _number(run["lr_last"])
        yield from (
            (f"{name}@epoch_{row['epoch']}", _number(row[name])) for row in epochs for name in ("lr_first", "lr_last")
        )


def _number(cell: str) -> float:
    try:
        return foreign.figure(cell)
    except ValueError:
        return math.nan


def _rows(old: Figures, new: Figures, units: dict[str, float], alpha: float) -> Iterator[CheckRow]:
    """One row for each figure."""
    for name, values in old.items():
        own = [value for value in values if math.isfinite(value)]
        if name in WAYS and len(own) >= LEAST:
            yield limits.within(name, own, new.get(name, []), units.get(name, 0.0), alpha)
        elif name not in WAYS and len(set(own)) == 1 and (name in new or "@" not in name):
            yield limits.exact(name, own, new.get(name, []))
