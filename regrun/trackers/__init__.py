"""Where else a run's rows go: TensorBoard, MLflow, Weights & Biases. One module each, imported when it is asked for.

Each has two functions. `done` says which runs of a folder it holds whole, by run_id; `log` gives it others, from their
tables, in place of what it may hold of them, and says where to look. Both raise whatever goes wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Cells = Mapping[str, Any]
KEYS = ("run_id", "epoch", "split", "layer", "kind")
NOTHING = (None, "", "none")


@dataclass(frozen=True)
class Tracked:
    """A run as its tables have it."""

    run_id: str
    status: str
    settings: dict[str, str]
    figures: dict[str, float]  # the numbers of its row of summary.csv
    words: dict[str, str]  # and the rest of it
    rows: list[dict[str, Any]]  # of curves, epochs and layers, by epoch; figures are numbers

    def epochs(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Each epoch's figures by name."""
        by_epoch: dict[int, dict[str, float]] = {}
        for row in self.rows:
            by_epoch.setdefault(int(row["epoch"]), {}).update(named(row))
        yield from by_epoch.items()


def named(row: Cells) -> dict[str, float]:
    """A row's numbers: train/loss, epochs/grad_norm, layers/output/weight_std. What does not apply is none."""
    group = f"layers/{row['layer']}" if "layer" in row else row.get("split", "epochs")
    return {f"{group}/{name}": float(v) for name, v in row.items() if name not in KEYS and v not in NOTHING}
