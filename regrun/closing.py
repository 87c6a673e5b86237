"""The end of an epoch: what is measured of every run, its rows, and what it keeps of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regrun import averaging, measure
from regrun.meter import Meter
from regrun.progress import Progress
from regrun.rows import CurveRow, EpochRow, LayerRow, Row
from regrun.settings import CosineRestarts, Settings, cycle_ends
from regrun.stack import Stack


@dataclass(frozen=True)
class EpochReport:
    """What one epoch of training did to a stack of R runs in S steps."""

    seconds: float
    examples: int
    lr: NDArray[np.float64]  # (S, R)
    losses: Tensor  # (R, S) objective, on the CPU
    penalty: list[float]
    grad_norm: list[float]
    meter: Meter

    @cached_property
    def objective(self) -> list[float]:
        """Each run's mean over the steps."""
        means: list[float] = self.losses.double().mean(1).tolist()
        return means


def close(
    stack: Stack, runs: list[Progress], epoch: int, report: EpochReport | None, distances: list[float]
) -> Iterator[Row]:
    """Measure every run after an epoch, and yield its rows; a run that diverged in it has none.

    Until the first row nothing has changed, should an evaluation end in Halt.
    """
    meter = report.meter.copy() if report is not None else Meter()
    train, val = measure.evaluate(stack, "train"), measure.evaluate(stack, "val", meter)
    shown = {"train": train, "val": val}
    if stack.runs[0].trainer.test_curve:
        shown["test"] = measure.evaluate(stack, "test")
    outputs: dict[str, Tensor] = {}
    layers, norms, acted = (
        measure.inspect(stack, outputs),
        measure.weight_norms(stack),
        meter.means(len(stack), stack.peers),
    )
    gates = measure.gate_entropies(outputs, len(stack))
    for r, p in enumerate(runs):
        if report is not None and p.has_diverged(report.losses[r], report.objective[r], train[r].loss):
            continue
        p.train.append(train[r])
        p.val.append(val[r])
        if report is not None:
            p.step += report.losses.shape[1]
            p.lrs += [float(report.lr[0, r]), float(report.lr[-1, r])]
            p.note_acted({name: means[r] for name, means in acted.items()})
            if averaging.is_on(p.settings.trainer.averaging, epoch=epoch, epochs=p.settings.trainer.epochs):
                p.acted.setdefault("averaging", []).append(distances[r])
            yield _epoch_row(p, report, epoch, r, norms[r], distances[r], gates[r])
        for name, scores in shown.items():
            yield CurveRow(p.run_id, epoch, p.step, name, scores[r].loss, scores[r].accuracy, scores[r].r2)
        for state in layers[r]:
            yield LayerRow(p.run_id, epoch, **vars(state))
        monitored = val[r].loss if p.settings.trainer.early_stopping.monitor == "val_loss" else val[r].figure
        p.stopping = p.stopping.seen(monitored, epoch, gap=train[r].figure - val[r].figure, val_loss=val[r].loss)
        if p.plateau is not None and epoch > 0:
            p.plateau = p.plateau.seen(val[r].loss, val[r].figure)
        if p.stopping.best.best_epoch == epoch or not p.best:  # a start whose loss is not finite is the best so far
            p.best = stack.weights_of(r)
        if epoch in _snapshot_epochs(p.settings):
            p.snapshots[epoch] = stack.weights_of(r)


def _snapshot_epochs(run: Settings) -> list[int]:
    """Where cycles of the learning rate end: Huang et al. 2017; none unless `trainer.save` asks for snapshots."""
    if run.trainer.save != "snapshots" or not isinstance(run.scheduler, CosineRestarts):
        return []
    return cycle_ends(run.scheduler, run.trainer.epochs)


def _epoch_row(
    p: Progress,
    report: EpochReport,
    epoch: int,
    r: int,
    weight_norm: float,
    distance: float,
    gate: tuple[float | None, float | None],
) -> EpochRow:
    return EpochRow(
        run_id=p.run_id,
        epoch=epoch,
        step=p.step,
        lr_first=p.lrs[-2],
        lr_last=p.lrs[-1],
        objective=report.objective[r],
        grad_norm=report.grad_norm[r],
        weight_norm=weight_norm,
        averaging_distance=distance,
        penalty=report.penalty[r],
        gate_entropy=gate[0],
        gate_load_entropy=gate[1],
        seconds=report.seconds,
        examples_per_second=report.examples / report.seconds,
    )
