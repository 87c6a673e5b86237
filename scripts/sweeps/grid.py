"""The sweeps that are compared: as regrun's command, and as work for the rivals."""

import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rivals.work import Work

from regrun import settings as s
from regrun.data.sources import load
from regrun.data.split import split


@dataclass(frozen=True)
class Grid:
    """A sweep: every lr with every rate and every seed."""

    data: s.DataSet
    depth: int
    batch: int
    epochs: int
    lrs: tuple[float, ...]
    rates: tuple[float, ...]
    seeds: int
    width: int = 128

    def command(self, **changes: Any) -> list[str]:
        """As a user types it; `changes` are further values of `trainer` and `sweep`, with __ for the dot."""
        root = [f"data.root={self.data.root}"] if isinstance(self.data, s.Mnist) else []
        chosen = {"trainer__epochs": self.epochs} | changes
        return [
            *(sys.executable, "-m", "regrun", "-m", "model=shallow", "optimizer=momentum", "reg=dropout"),
            *(f"model.depth={self.depth}", f"model.width={self.width}", f"data={self.data.kind}", *root),
            *(f"trainer.batch_size={self.batch}", "trainer.early_stopping.patience=null"),
            f"optimizer.lr={','.join(map(str, self.lrs))}",
            f"reg.dropout.rate={','.join(map(str, self.rates))}",
            *(f"seed=range({self.seeds})", "hydra.sweep.dir=sweep"),
            *(f"{name.replace('__', '.')}={value}" for name, value in chosen.items()),
        ]

    def work(self) -> Work:
        """The same runs for the rivals."""
        source = load(self.data)
        splits = [split(source, self.data, s.Seeds(split=seed)) for seed in range(self.seeds)]
        lr, rate, seed = map(np.array, zip(*product(self.lrs, self.rates, range(self.seeds)), strict=True))
        return Work(
            inputs=source.inputs.flatten(1).numpy(),
            targets=source.targets.numpy(),
            top=source.top or 1.0,
            train=np.stack([own.train for own in splits]),
            val=np.stack([own.val for own in splits]),
            split=seed,
            seed=seed,
            lr=lr,
            rate=rate,
            widths=np.array([self.width] * self.depth),
            epochs=self.epochs,
            batch=self.batch,
            momentum=0.9,
        )

    def settings(self, run: int, data: s.DataSet, limit: int) -> s.Settings:
        """One of many runs, for a stack: its seed and its rate are its own."""
        return s.resolve(
            s.Settings(
                model=s.Mlp(depth=self.depth, width=self.width),
                reg=s.Reg(dropout=s.Dropout(rate=self.rates[run % len(self.rates)])),
                optimizer=s.Momentum(lr=self.lrs[0]),
                data=data,
                trainer=s.Trainer(
                    epochs=1000,
                    batch_size=self.batch,
                    limit_batches=limit,
                    early_stopping=s.EarlyStopping(patience=None),
                ),
                seed=run,
            )
        )


def digits(**changes: Any) -> Grid:
    grid = Grid(s.Digits(), 1, batch=64, epochs=50, lrs=(0.01, 0.02, 0.05, 0.1, 0.2), rates=(0.1, 0.3), seeds=10)
    return replace(grid, **changes)


def mnist(root: Path, **changes: Any) -> Grid:
    data = s.Mnist(root=str(root), val_size=0.1)
    grid = Grid(data, 2, batch=128, epochs=2, lrs=(0.02, 0.05), rates=(0.1, 0.3), seeds=8)
    return replace(grid, **changes)
