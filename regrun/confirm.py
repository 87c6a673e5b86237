"""The best setting of a sweep, trained anew from seeds that the sweep has not used: what it is worth without luck.

The best of many by val is best by merit and by luck (the winner's curse); fresh seeds, of the split as of all else,
keep the merit alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regrun import collect, effects, ledger, overrides, plan
from regrun.config import Job
from regrun.errors import ConfigError, DataError
from regrun.overrides import Cells
from regrun.settings import PURPOSES
from regrun.variance import reseeded

FOLDER = "confirm"
MEASURES = ("val_accuracy_best", "test_accuracy_best", "val_r2_best", "test_r2_best")


@dataclass(frozen=True)
class Winner:
    """The row of effects.csv, its settings as overrides, how many it was chosen from, and one of its runs."""

    effects: Cells
    words: str
    settings: int
    job: Job


def winner(root: Path) -> Winner:
    """The setting with the best mean val figure of the sweep in `root`. Raises DataError where none has one."""
    jobs, planned = plan.read(root, root), plan.rows(root)
    if not collect.finished(root):
        raise DataError(f"{root}: has no finished run, yet; regrun resume trains what is missing")
    effects.collect_all(root)
    table = collect.rows(root / "effects.csv")
    best, names = table[0], overrides.without_seeds(overrides.varying(planned))
    at = next(i for i, row in enumerate(planned) if all(row[name] == best[name] for name in names))
    return Winner(best, overrides.words(planned[at], names) or "the only setting", len(table), jobs[at])


def jobs(own: Winner, root: Path, *, seeds: int) -> list[Job]:
    """Its runs from fresh seeds: those after the largest that the sweep has used for anything."""
    folder, names = root / FOLDER, ["seed", *(f"seeds.{purpose}" for purpose in PURPOSES)]
    first = 1 + max(int(row[name]) for row in plan.rows(root) for name in names)
    made = [Job(reseeded(own.job.settings, first + i), folder / str(i), folder) for i in range(seeds)]
    if (folder / plan.NAME).is_file() and [job.settings for job in plan.read(folder, folder)] != [
        job.settings for job in made
    ]:
        raise ConfigError(
            f"confirm: has another setting or other seeds, got {str(folder)[-80:]}; remove it to confirm anew"
        )
    return made


def lines(own: Winner, root: Path) -> list[str]:
    """What the sweep said of its best setting, what fresh seeds say, and by how much it has shrunk."""
    (fresh,) = collect.rows(root / FOLDER / "effects.csv")
    table = [["", "n", *map(_name, names := _measures(fresh))]]
    table += [_figures("best of the sweep", own.effects, names), _figures("fresh seeds", fresh, names)]
    table += [["shrinkage", "", *(_shrinkage(own.effects, fresh, name) for name in names)]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    head = f"chosen by val from {own.settings} settings: {own.words}"
    closing = "the sweep's figure is that of the luckiest, too: report the one of fresh seeds"
    return [head, *text, closing, ledger.line(root, root / FOLDER)]


def _measures(fresh: Cells) -> list[str]:
    return [name for name in MEASURES if fresh[f"{name}_mean"] != "none"]


def _name(measure: str) -> str:
    return measure.removesuffix("_best").replace("_", " ")


def _figures(name: str, row: Cells, measures: Sequence[str]) -> list[str]:
    n = int(row["n"]) - int(row["failed"])
    return [name, str(n), *(_interval(row, measure) for measure in measures)]


def _interval(row: Cells, measure: str) -> str:
    """95.1 % [94.8, 95.4], or the mean alone where one run gives no interval."""
    mean, low, high = (_number(row[f"{measure}_{part}"]) for part in ("mean", "low", "high"))
    scale, form, unit = (100, ".1f", " %") if "accuracy" in measure else (1, ".3f", "")
    bounds = "" if math.isnan(low) else f" [{scale * low:{form}}, {scale * high:{form}}]"
    return f"{scale * mean:{form}}{unit}{bounds}"


def _shrinkage(before: Cells, fresh: Cells, measure: str) -> str:
    """By how much fresh seeds fall below what the sweep has shown."""
    lost = _number(before[f"{measure}_mean"]) - _number(fresh[f"{measure}_mean"])
    return f"{100 * lost:.1f} points" if "accuracy" in measure else f"{lost:.3f}"


def _number(cell: str) -> float:
    return math.nan if cell == "none" else float(cell)
