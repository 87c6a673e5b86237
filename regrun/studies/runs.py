"""A study's run that has ended: its row of summary.csv, its layers and its history, its weights."""

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from regrun import foreign, reading
from regrun.data.sources import Source
from regrun.overrides import Cells
from regrun.settings import Reg

if TYPE_CHECKING:
    from torch import nn


class Layers:
    """layers.csv of a sweep before training, read when somebody asks."""

    def __init__(self, root: Path) -> None:
        self.path = root / "layers.csv"

    @functools.cached_property
    def by_run(self) -> Mapping[str, Sequence[Cells]]:
        """run_id -> the rows of epoch 0, from input to output."""
        found: dict[str, list[Cells]] = defaultdict(list)
        for row in foreign.rows(self.path):
            if row["epoch"] == "0":
                found[row["run_id"]].append(row)
        return found


class History:
    """curves.csv and epochs.csv of a sweep, read when somebody asks."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cached_property
    def losses(self) -> Mapping[tuple[str, str, int], float]:
        """(run_id, split, epoch) -> loss; epoch 0 is before training."""
        rows = foreign.rows(self.root / "curves.csv")
        return {(row["run_id"], row["split"], int(row["epoch"])): float(row["loss"]) for row in rows}

    @functools.cached_property
    def errors(self) -> Mapping[tuple[str, str], Sequence[float]]:
        """(run_id, split) -> 1 - accuracy of each epoch in order, that before training at 0."""
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in foreign.rows(self.root / "curves.csv"):
            found[row["run_id"], row["split"]].append(1 - float(row["accuracy"]))
        return found

    @functools.cached_property
    def epochs(self) -> Mapping[str, Sequence[Cells]]:
        """run_id -> a row of epochs.csv for each epoch, in order."""
        found: dict[str, list[Cells]] = defaultdict(list)
        for row in foreign.rows(self.root / "epochs.csv"):
            found[row["run_id"]].append(row)
        return found


@dataclass(frozen=True)
class Run:
    """A run that has ended: its row of summary.csv, the folder of its weights, its data."""

    cells: Cells
    folder: Path
    layers: Layers
    source: Source
    history: History = field(default_factory=lambda: History(Path()))

    @property
    def is_ok(self) -> bool:
        """Whether it did not diverge."""
        return self.cells["status"] == "ok"

    @property
    def regularizers(self) -> int:
        """How many regularizers acted."""
        return sum(self.cells[f"acted.{f.name}"] != "none" for f in fields(Reg))

    def number(self, column: str) -> float:
        """A number of summary.csv; NaN where there is none."""
        cell = self.cells[column]
        return math.nan if cell == "none" else float(cell)

    def error(self, split: str, at: str) -> float:
        """1 - accuracy."""
        return 1 - self.number(f"{split}_accuracy_{at}") if self.is_ok else 1.0

    @property
    def stops(self) -> bool:
        """Whether a rule of early stopping may end it."""
        rule = "trainer.early_stopping."
        return self.cells[f"{rule}rule"] != "patience" or self.cells[f"{rule}patience"] != "none"

    def network(self) -> "nn.Module":
        """With its last weights, in eval mode."""
        return reading.load(self.folder, weights="last")
