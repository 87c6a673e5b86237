"""A study's run that has ended: its row of summary.csv, its sweep's other tables, its weights."""

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from regrun import foreign, reading
from regrun.data.sources import Source
from regrun.overrides import Cells
from regrun.settings import Reg

if TYPE_CHECKING:
    from torch import nn


class Tables:
    """layers.csv, curves.csv and epochs.csv of a sweep, each read when somebody asks."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cached_property
    def layers(self) -> Mapping[str, Sequence[Cells]]:
        """run_id -> the rows before training, from input to output."""
        found: dict[str, list[Cells]] = defaultdict(list)
        for row in foreign.rows(self.root / "layers.csv"):
            if row["epoch"] == "0":
                found[row["run_id"]].append(row)
        return found

    @functools.cached_property
    def curves(self) -> Mapping[tuple[str, str], Sequence[Cells]]:
        """(run_id, split) -> a row for each epoch, in order; the first is before training."""
        found: dict[tuple[str, str], list[Cells]] = defaultdict(list)
        for row in foreign.rows(self.root / "curves.csv"):
            found[row["run_id"], row["split"]].append(row)
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
    """A run that has ended: its row of summary.csv, the folder of its weights, its sweep's other tables, its data."""

    cells: Cells
    folder: Path
    tables: Tables
    source: Source

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
