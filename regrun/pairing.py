"""summary.csv of one folder or more -> runs that differ in nothing but what is compared.

A run has a level (its values of the settings that are compared), a data set, a unit (its seeds) and a block (all else
that varies). Two runs are a pair where unit and block are the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from regrun import collect, overrides, plan
from regrun.collect import FINISHED
from regrun.errors import ConfigError, DataError, clip
from regrun.overrides import Cells
from regrun.settings import columns

FOLDER = "folder"  # what is compared where there are several folders and no --by
NEEDED = ("run_id", "seed")
METRICS = (  # that are compared; val chooses
    "val_accuracy_best",
    "test_accuracy_best",
    "val_r2_best",
    "test_r2_best",
    "val_loss_best",
    "test_loss_best",
)
ALL_PAIRS = 10  # levels; of more, each is compared with the first alone
DATA_SET = ("data.kind", "data.name", "data.path", "data.target", "data.targets", "data.test_path")

Values = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run, as it is compared."""

    level: Values
    data: Values
    unit: Values
    block: Values
    cells: Cells

    @property
    def has_ended(self) -> bool:
        return self.cells["status"] not in ("unfinished", "interrupted")

    def figure(self, metric: str) -> float | None:
        """A column of summary.csv; none where the run has failed or the figure is not finite."""
        text = self.cells.get(metric, "none")
        if self.cells["status"] not in FINISHED or text in ("none", ""):
            return None
        try:
            value = float(text)
        except ValueError:
            raise DataError(f"summary.csv: {metric} must be a number, got {clip(text)!r}; repeat the run") from None
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Compared:
    """The runs of a command, and the names of what sets them apart."""

    by: list[str]
    data: list[str]
    others: list[str]
    runs: list[Run]

    @cached_property
    def levels(self) -> list[Values]:
        """In the order of the plan; the first is what others are compared with."""
        return list(dict.fromkeys(run.level for run in self.runs))

    @property
    def pairs(self) -> list[tuple[Values, Values]]:
        """A level and one that comes before it in the plan: all pairs, or of many levels those with the first."""
        order = self.levels
        found = list(combinations(order, 2)) if len(order) <= ALL_PAIRS else [(order[0], a) for a in order[1:]]
        return [(a, b) for b, a in found]

    def metrics(self, data: Values) -> list[str]:
        """Those that some run on a data set has."""
        own = [run for run in self.runs if run.data == data]
        return [metric for metric in METRICS if any(run.figure(metric) is not None for run in own)]

    @cached_property
    def data_sets(self) -> list[Values]:
        return list(dict.fromkeys(run.data for run in self.runs))


def read(folders: Sequence[Path], by: Sequence[str] | None) -> Compared:
    """The runs in `folders`, compared by some settings, else by folder, else by all that vary but seeds and data."""
    overrides.check_known([word for word in by or [] if word != FOLDER])
    rows = [row for folder in folders for row in _rows(folder)]
    if by and FOLDER not in by:
        rows = list({row["run_id"]: row for row in reversed(rows)}.values())[::-1]  # a run may be in two folders
    settings = _settings(rows)
    varying, fixed = overrides.varying(settings), _fixed(settings)
    names = _names(varying, by, fixed, several=len(folders) > 1)
    if FOLDER in names:  # what sets folders apart is what is compared
        parts = [[s for s, row in zip(settings, rows, strict=True) if row[FOLDER] == str(f)] for f in folders]
        varying = [name for name in columns() if any(name in overrides.varying(part) for part in parts)]
    free = [name for name in varying if name not in names]
    data = [name for name in free if name in DATA_SET]
    others = [name for name in overrides.without_seeds(free) if name not in fixed]
    seeds = [n for n in settings[0] if n.split(".")[0] in ("seed", "seeds") and n not in names]
    return Compared(names, data, others, [_run(row, names, data, seeds, others) for row in rows])


def _settings(rows: Sequence[Cells]) -> list[Cells]:
    """What all tables have of the settings."""
    shared = [name for name in columns() if all(name in row for row in rows)]
    return [{name: row[name] for name in shared} for row in rows]


def _run(row: Cells, *parts: Sequence[str]) -> Run:
    level, data, unit, block = (tuple(row[name] for name in part) for part in parts)
    return Run(level, data, unit, block, row)


def _fixed(settings: Sequence[Cells]) -> set[str]:
    """The settings of `data` that the data set alone decides, and those that name it."""
    own: dict[Values, list[Cells]] = {}
    for row in settings:
        own.setdefault(tuple(row.get(name, "") for name in DATA_SET), []).append(row)
    names = [name for name in settings[0] if name.startswith("data.")]
    return {name for name in names if all(len({row[name] for row in part}) == 1 for part in own.values())}


def _names(varying: Sequence[str], by: Sequence[str] | None, fixed: set[str], *, several: bool) -> list[str]:
    """What is compared. Raises ConfigError where that does not vary."""
    if not by:
        free = [name for name in overrides.without_seeds(varying) if name not in fixed]
        if not several and not free:
            raise ConfigError("compare: needs runs whose settings vary, got none that do; name two folders")
        return [FOLDER] if several else free
    for word in by:
        if word == FOLDER and several:
            continue
        if not any(overrides.is_covered(name, [word]) for name in varying):
            known = ", ".join(overrides.without_seeds(varying)[:5]) or "nothing but seeds"
            raise ConfigError(f"--by: must vary here, got {clip(word)!r}; these do: {clip(known, 120)}")
    return [*([FOLDER] if FOLDER in by else []), *(name for name in varying if overrides.is_covered(name, by))]


def _rows(folder: Path) -> list[dict[str, str]]:
    """Every run of a folder: those in summary.csv, and those of its plan that have not ended."""
    path = folder / "summary.csv"
    if not path.is_file():
        raise ConfigError(f"compare: must be followed by folders with a summary.csv, got {clip(str(folder))!r}")
    found = collect.checked_summary(path, NEEDED, counts=[])
    ended = {row["run_id"] for row in found}
    planned = collect.checked(folder / plan.NAME, NEEDED) if (folder / plan.NAME).is_file() else []
    waiting = [row | {"status": "unfinished"} for row in planned if row["run_id"] not in ended]
    return [row | {FOLDER: str(folder)} for row in [*found, *waiting]]
