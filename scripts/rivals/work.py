"""The work that every rival does: the runs of one sweep, with their data and splits, in one file. Numpy alone."""

import csv
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Curve = list[tuple[float, float]]  # val loss and accuracy after each epoch of one run


@dataclass(frozen=True)
class Work:
    """R runs of an MLP with dropout, SGD with momentum: each with its own seed, split, lr and rate."""

    inputs: Array  # (N, D) uint8
    targets: Array  # (N,) int64
    top: float  # inputs are divided by it
    train: Array  # (S, n) indices into the inputs, one row for each split
    val: Array  # (S, v)
    split: Array  # (R,) which split each run has
    seed: Array  # (R,)
    lr: Array  # (R,)
    rate: Array  # (R,) probability of zeroing, after each hidden layer
    widths: Array  # (L,) hidden layers
    epochs: int
    batch: int
    momentum: float

    def __len__(self) -> int:
        return len(self.lr)

    @property
    def sizes(self) -> list[int]:
        """Units from input to output."""
        return [self.inputs.shape[1], *self.widths.tolist(), int(self.targets.max()) + 1]

    @property
    def steps(self) -> int:
        """Optimizer steps of all runs together."""
        return len(self) * self.epochs * -(-self.train.shape[1] // self.batch)

    def select(self, runs: list[int]) -> "Work":
        """Some of the runs."""
        own = {name: getattr(self, name)[runs] for name in ("split", "seed", "lr", "rate")}
        return Work(**(asdict(self) | own))

    def save(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Work":
        with np.load(path) as file:
            return cls(**{name: file[name] if file[name].ndim else file[name].item() for name in file.files})


@dataclass(frozen=True)
class Clock:
    """Wall seconds since it was made, and CPU seconds of this process and the children it has waited for."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> "Clock":
        return cls(time.perf_counter(), sum(os.times()[:4]))

    def read(self) -> dict[str, float]:
        now = Clock.start()
        return {"seconds": now.wall - self.wall, "cpu_seconds": now.cpu - self.cpu}


def finish(curves: list[Curve], steps: int, clock: Clock) -> None:
    """Write curves.csv, and print what the training alone took as one line of JSON."""
    spent = clock.read()
    with Path("curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["run", "epoch", "val_loss", "val_accuracy"])
        table.writerows([r, e, *point] for r, curve in enumerate(curves) for e, point in enumerate(curve, start=1))
    accuracies = [curve[-1][1] for curve in curves]
    print(json.dumps(spent | {"steps": steps, "accuracy": sum(accuracies) / len(accuracies)}))
