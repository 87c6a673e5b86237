"""A run's or a sweep's folder -> what a report is made of. The folder may be somebody else's: every cell is checked."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regrun import collect, ledger, overrides
from regrun.collect import FINISHED
from regrun.errors import ConfigError, DataError, clip
from regrun.report.figures import Cells, Mean, mean, number, numbers
from regrun.stats import wilson

FIGURES = ("accuracy", "r2")  # what is higher where a network is better
NEEDED = ("run_id", "status", "seed", "stop_reason")
GROUP = re.compile(r"^'?(?:model|reg|optimizer|scheduler|data|trainer)\.|\.active(?==)|\.value(?==)|=true$|'$")

Points = dict[int, list[float]]  # epoch -> a value of each run that has one


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seeds."""

    name: str  # as overrides
    label: str  # for charts: the same without what is off and without groups
    values: dict[str, str]
    runs: list[Cells]

    @property
    def finished(self) -> list[Cells]:
        """The runs that ended well, or diverged."""
        return [row for row in self.runs if row["status"] in FINISHED]

    @property
    def success(self) -> Mean | None:
        """The share of its runs that ended well, of those that ended, with its Wilson interval."""
        ended = [row["status"] for row in self.runs if row["status"] != "interrupted"]
        return Mean(len(ended), *wilson(ended.count("ok"), len(ended))) if ended else None

    def mean(self, column: str) -> Mean | None:
        """Of a column of summary.csv, over the finished runs."""
        return mean(numbers(self.finished, column))

    def differences(self, first: str, second: str) -> Mean | None:
        """Of two columns of the same run."""
        pairs = [(number(row.get(first)), number(row.get(second))) for row in self.finished]
        return mean([a - b for a, b in pairs if a is not None and b is not None])


@dataclass(frozen=True)
class Folder:
    """What the tables hold: runs by setting, the best by val first."""

    root: Path
    runs: list[Cells]
    planned: int
    varied: list[str]  # settings in which the plan's runs differ, seeds aside
    settings: list[Setting]
    quantity: str  # accuracy, r2, or loss where no run has either
    looks: str = ""  # how often test was read, for how many settings, and how lucky the best of them is
    curves: dict[str, dict[tuple[str, str], dict[int, float]]] = field(default_factory=dict)
    layers: dict[str, dict[int, dict[str, dict[str, float]]]] = field(default_factory=dict)

    @property
    def called(self) -> str:
        """The quantity in a title."""
        return "R2" if self.quantity == "r2" else self.quantity

    @property
    def unit(self) -> str:
        """What the quantity is called on an axis."""
        return {"accuracy": "accuracy (%)", "r2": "R2", "loss": "loss"}[self.quantity]

    def over_seeds(self, setting: Setting, split: str, quantity: str) -> Points:
        """A setting's curve: the values of its runs by epoch."""
        points: Points = {}
        for row in setting.runs:
            for epoch, value in self.curves.get(row["run_id"], {}).get((split, quantity), {}).items():
                points.setdefault(epoch, []).append(value)
        return dict(sorted(points.items()))


LAYER_FIGURES = ("weight_norm", "activation_rms", "grad_norm")


def read(root: Path) -> Folder:
    """Read a folder. Raises ConfigError where it has no summary, DataError where a table is not what it says."""
    if not (root / "summary.csv").is_file():
        raise ConfigError(
            f"report: must be followed by a folder with a summary.csv, got {clip(str(root))!r}; "
            "regrun collect DIR writes a sweep's"
        )
    runs: list[Cells] = [*collect.checked_summary(root / "summary.csv", NEEDED, counts=[])]
    planned = collect.checked(root / "plan.csv", ["run_id"]) if (root / "plan.csv").is_file() else []
    varied = overrides.without_seeds(overrides.varying(runs))
    quantity = next((name for name in FIGURES if numbers(runs, f"val_{name}_best")), "loss")
    settings = _settings(runs, varied, quantity)
    curves, layers = _curves(root / "curves.csv"), _layers(root / "layers.csv")
    looks = ledger.line(root)
    return Folder(root, runs, max(len(planned), len(runs)), varied, settings, quantity, looks, curves, layers)


def _settings(runs: Sequence[Cells], varied: Sequence[str], quantity: str) -> list[Setting]:
    groups: dict[tuple[str, ...], list[Cells]] = {}
    for row in runs:
        groups.setdefault(tuple(row[name] for name in varied), []).append(row)
    labels = _labels([rows[0] for rows in groups.values()], varied)
    found = [
        _setting(dict(zip(varied, key, strict=True)), rows, label)
        for (key, rows), label in zip(groups.items(), labels, strict=True)
    ]
    return sorted(found, key=lambda setting: _rank(setting, quantity))


def _setting(values: dict[str, str], runs: list[Cells], label: str) -> Setting:
    return Setting(overrides.words(runs[0], list(values)) or "the only setting", label, values, runs)


def _labels(rows: Sequence[Cells], names: Sequence[str]) -> list[str]:
    """Short names: `depth=8 dropout.rate=0.2 batchnorm`; whole overrides where two settings would have the same."""
    whole = [overrides.words(row, names) or "the only setting" for row in rows]
    short = [shortened(row, names) or "no reg" for row in rows]
    return short if len(set(short)) == len(short) else whole


def shortened(row: Cells, names: Sequence[str]) -> str:
    """Overrides without groups, and without what is off."""
    words = overrides.words(row, [n for n in names if row[n] != overrides.NEUTRAL.get(n)]).split()
    return " ".join(GROUP.sub("", word) for word in words)


def _rank(setting: Setting, quantity: str) -> float:
    """Lowest is best; a setting without a figure is last."""
    found = setting.mean(f"val_{quantity}_best")
    if found is None:
        return float("inf")
    return found.mean if quantity == "loss" else -found.mean


def _curves(path: Path) -> dict[str, dict[tuple[str, str], dict[int, float]]]:
    """run_id -> (split, quantity) -> epoch -> value; what is not finite is left out."""
    curves: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
    for run_id, epoch, split, *cells in _columns(path, ("run_id", "epoch", "split", "loss", *FIGURES)):
        own = curves.setdefault(run_id, {})
        for name, cell in zip(("loss", *FIGURES), cells, strict=True):
            if (value := number(cell)) is not None:
                own.setdefault((split, name), {})[_epoch(path, epoch)] = value
    return curves


def _layers(path: Path) -> dict[str, dict[int, dict[str, dict[str, float]]]]:
    """run_id -> epoch -> layer, from input to output -> its figures."""
    layers: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for run_id, epoch, layer, *cells in _columns(path, ("run_id", "epoch", "layer", *LAYER_FIGURES)):
        figures = {name: v for name, cell in zip(LAYER_FIGURES, cells, strict=True) if (v := number(cell)) is not None}
        layers.setdefault(run_id, {}).setdefault(_epoch(path, epoch), {})[layer] = figures
    return layers


def _epoch(path: Path, cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise DataError(f"{path}: epoch: must be a whole number, got {clip(cell)!r}; repeat the run") from None


def _columns(path: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Some cells of every row that its writer has finished; none where there is no such table yet."""
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(line for line in file if line.endswith("\n"))
            header = next(rows, [])
            places = [header.index(name) for name in names]
            for row in rows:
                yield [row[place] for place in places]
    except (OSError, UnicodeError, csv.Error, ValueError, IndexError) as error:
        raise DataError(f"{path}: is no table of regrun's ({clip(str(error))}); repeat the run") from None
