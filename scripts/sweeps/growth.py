"""How the cost of a step grows with the number of runs in a stack: one process, one thread, CPU time."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from regrun.data.sources import load
from regrun.data.split import split
from regrun.trainer import train
from sweeps.grid import Grid

STACKS = [2**k for k in range(9)]


def step_seconds(grid: Grid, size: int, repeats: int) -> float:
    """CPU seconds of one run's step in a stack of `size`: epochs of 17 steps less those of 1: evaluation cancels."""
    many, one = epochs(grid, size, 17), epochs(grid, size, 1)
    differences = [next(many) - next(one) for _ in range(2 + 2 * repeats)]
    return statistics.median(differences[2:]) / 16 / size  # without epoch 0, and the first, which finds no memory yet


def epochs(grid: Grid, size: int, limit: int) -> Iterator[float]:
    """CPU seconds of one epoch of a stack after another, the evaluation of a small train set included."""
    data = replace(grid.data, val_size=128, train_size=1100)
    runs = [grid.settings(r, data, limit) for r in range(size)]
    source = load(data)
    splits = [split(source, data, run.seeds) for run in runs]
    news = train(runs, [str(r) for r in range(size)], source, splits, torch.device("cpu"))
    while True:
        start = time.process_time()
        next(news)
        yield time.process_time() - start


def draw(costs: dict[str, list[float]], path: Path) -> None:
    """Cost against stack size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in costs.items():
        axes.semilogx(STACKS, [1e6 * value for value in values], "o-", base=2, label=name)
    axes.set(xlabel="runs in the stack, R", ylabel="CPU microseconds a step and run", ylim=(0, None))
    axes.set_xticks(STACKS, [str(size) for size in STACKS])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
