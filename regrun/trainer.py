"""The loop over a stack of runs. It yields rows and writes nothing; a single run is a stack of one.

Every number of replica r comes from its own settings, data and streams, so a run gives the same rows alone
and in company: bit for bit for MLPs at one thread on a CPU.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrun import averaging, grouping, looks, measure, metrics, optim, schedules, stopping
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import Split
from regrun.looks import SPLITS, Look, Weights
from regrun.measure import Score
from regrun.meter import Meter
from regrun.parallel import ALONE, Peers
from regrun.rows import ACTED, CurveRow, EpochRow, LayerRow, Outcome, Row
from regrun.schedules import ReduceOnPlateau
from regrun.settings import CosineRestarts, Plateau, Settings, cycle_ends, normalizes_batches, requested
from regrun.stack import Stack, new_stack
from regrun.stopping import Stopping

EARLY = ("patience", "gap", "generalization_loss", "pruned")  # reasons for which a run ends before its epochs do
LOOK = 50  # steps between two looks at the losses on a GPU, where each look waits for the device


@dataclass(frozen=True)
class Finished:
    """The end of one run: how it went, and its parameters and running statistics by name, on the CPU.

    look: its predictions, where `trainer.save` asks for them.
    """

    outcome: Outcome
    best: Weights
    last: Weights
    look: Look | None = None


@dataclass
class Progress:
    """What one run has gone through so far."""

    run_id: str
    settings: Settings
    stopping: Stopping
    plateau: ReduceOnPlateau | None = None
    train: list[Score] = field(default_factory=list)
    val: list[Score] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)  # first and last of each epoch
    acted: dict[str, list[float]] = field(default_factory=dict)
    best: Weights = field(default_factory=dict)
    snapshots: dict[int, Weights] = field(default_factory=dict)  # after the epochs with which cycles end
    step: int = 0
    stop_reason: str | None = None
    diverged_step: int | None = None


@dataclass(frozen=True)
class EpochReport:
    """What one epoch of training did to a stack of R runs in S steps."""

    seconds: float
    examples: int
    lr: NDArray[np.float64]  # (S, R)
    losses: Tensor  # (R, S) objective, on the CPU
    objective: list[float]  # its mean over the steps
    penalty: list[float]
    grad_norm: list[float]
    meter: Meter


def train(
    runs: Sequence[Settings],
    run_ids: Sequence[str],
    source: Source,
    splits: Sequence[Split],
    device: torch.device,
    peers: Peers = ALONE,
) -> Generator[list[Row] | Finished, set[str] | None]:
    """Train the runs as one stack. Yields the rows of each epoch as it ends, and each run's `Finished` when it does.

    Whoever sends run_ids in answer to an epoch's rows ends these runs there: they are pruned.

    The runs must share a structure (`grouping`), else ValueError; each has its own split of the source. Several `peers`
    train one run, and each yields the same rows but for seconds.
    """
    if apart := grouping.differences(runs):
        raise ValueError(f"these runs cannot share a stack: they differ in {', '.join(apart)}")
    if peers.are_several and len(runs) > 1:
        raise ValueError(f"several processes train one run, not {len(runs)}")
    is_late = _clock(runs[0].trainer.time_limit, peers)
    stack = new_stack(runs, Batches(source, splits, runs, device), peers)
    progress = [Progress(i, r, stopping.stopping(r.trainer.early_stopping)) for i, r in zip(run_ids, runs, strict=True)]
    for p in progress:
        p.plateau = ReduceOnPlateau(p.settings.scheduler) if isinstance(p.settings.scheduler, Plateau) else None
    epochs = runs[0].trainer.epochs
    for epoch in range(epochs + 1):
        report = _train_epoch(stack, progress, epoch, is_late) if epoch > 0 else None
        with stack.averaged() as distances:
            rows = list(_close_epoch(stack, progress, epoch, report, distances))
        pruned = (yield rows) or set()
        for p in progress:
            p.stop_reason = p.stop_reason or _reason(p, epoch, epochs, is_late)
            if p.stop_reason is None and p.run_id in pruned:
                p.stop_reason = "pruned"
        ended = [r for r, p in enumerate(progress) if p.stop_reason is not None]
        if ended:
            going = [r for r in range(len(progress)) if r not in ended]
            leaving = stack.select(ended) if going else stack
            with leaving.averaged():
                yield from _finish(leaving, [progress[r] for r in ended])
            if not going:
                return
            stack.keep(going)
            progress = [progress[r] for r in going]


def _clock(limit: float | None, peers: Peers) -> Callable[[], bool]:
    """Whether the time is up, in seconds from now on: by rank 0's clock."""
    deadline = math.inf if limit is None else time.monotonic() + limit
    return lambda: limit is not None and peers.told(time.monotonic() >= deadline)


def epoch_slices(run: Settings, size: int) -> list[tuple[int, int]]:
    """Where each batch of an epoch over `size` examples begins and ends.

    A last batch of one cannot be batch-normalized and is left out, as is a ragged one with `drop_last`.
    """
    batch = run.trainer.batch_size
    slices = [(start, min(start + batch, size)) for start in range(0, size, batch)]
    ragged = slices[-1][1] - slices[-1][0]
    if (run.data.drop_last and ragged < batch) or (normalizes_batches(run) and ragged == 1):
        slices.pop()
    return slices[: run.trainer.limit_batches]


def _train_epoch(stack: Stack, progress: list[Progress], epoch: int, is_late: Callable[[], bool]) -> EpochReport:
    """One pass over train. Ends early when time is up, or when no replica's loss is finite any more."""
    start = time.monotonic()
    first, batches = stack.runs[0], stack.batches
    order, augmenters = batches.order(epoch), batches.augmenters(epoch)
    slices = epoch_slices(first, order.shape[1])
    every = first.trainer.accumulate
    updates = [slices[i : i + every] for i in range(0, len(slices), every)]
    lr = _lr_table(progress, epoch, len(updates))
    optimizers = [r.optimizer for r in stack.runs]
    others = {"average": _average_table(stack.runs, epoch, len(updates))} if stack.averages else {}
    first_step = progress[0].step + 1
    table = optim.epoch_table(optimizers, lr, first_step=first_step, device=stack.device, others=others)
    streams = stack.mask_streams(epoch, batch_size=first.trainer.batch_size, steps=len(slices))
    losses = torch.empty(len(updates), len(stack), device=stack.device)
    rows = batches.rows([order[:, begin:end] for begin, end in slices])
    meter, taken = Meter(), 0
    for (*held, (begin, end)), at in zip(updates, table, strict=True):
        is_last = taken == len(updates) - 1 or is_late()
        watch = meter if is_last else None
        for held_begin, held_end in held:
            x, targets = batches.train_batch(order[:, held_begin:held_end], augmenters, watch, rows=next(rows))
            stack.hold(x, targets, streams, watch)
        x, targets = batches.train_batch(order[:, begin:end], augmenters, watch, rows=next(rows))
        losses[taken], penalty, norms = stack.step(x, targets, at, streams, watch)
        taken += 1
        if is_last:
            meter.add("accumulate", torch.full((len(stack),), len(slices) / len(updates)))
            break
        if (stack.device.type == "cpu" or taken % LOOK == 0) and not _any_finite(losses[taken - 1]):
            break
    stack.agree()
    losses = losses[:taken].T.contiguous().cpu()
    return EpochReport(
        losses=losses,
        objective=losses.double().mean(1).tolist(),
        seconds=time.monotonic() - start,
        examples=updates[taken - 1][-1][1],
        lr=lr[:taken],
        penalty=penalty.tolist(),
        grad_norm=norms.tolist(),
        meter=meter,
    )


def _any_finite(losses: Tensor) -> bool:
    """Whether any replica's loss is finite: one cheap sum as long as all are."""
    return math.isfinite(losses.sum().item()) or bool(losses.isfinite().any())


def _lr_table(progress: list[Progress], epoch: int, steps: int) -> NDArray[np.float64]:
    """(S, R) the learning rate of every step of an epoch."""
    columns = []
    for p in progress:
        run, factor = p.settings, 1.0 if p.plateau is None else p.plateau.multiplier
        lr = factor * run.optimizer.lr
        columns.append(schedules.epoch_lrs(run.scheduler, lr, epoch=epoch, epochs=run.trainer.epochs, steps=steps))
    return np.stack(columns, axis=1)


def _average_table(runs: Sequence[Settings], epoch: int, steps: int) -> NDArray[np.float64]:
    """(S, R) how far every step of an epoch moves the averaged weights."""
    own = [(r.trainer.averaging, r.trainer.epochs) for r in runs]
    return np.stack([averaging.epoch_weights(a, epoch=epoch, epochs=e, steps=steps) for a, e in own], axis=1)


def _close_epoch(
    stack: Stack, progress: list[Progress], epoch: int, report: EpochReport | None, distances: list[float]
) -> Iterator[Row]:
    """Measure every run after an epoch, and yield its rows; a run that diverged in it has none."""
    meter = report.meter if report is not None else Meter()
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
    for r, p in enumerate(progress):
        if report is not None and _has_diverged(p, report, r, train[r]):
            continue
        p.train.append(train[r])
        p.val.append(val[r])
        if report is not None:
            p.step += report.losses.shape[1]
            p.lrs += [float(report.lr[0, r]), float(report.lr[-1, r])]
            _note_acted(p, {name: means[r] for name, means in acted.items()})
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


def _has_diverged(p: Progress, report: EpochReport, r: int, score: Score) -> bool:
    """Note the first step whose loss was not finite; the last one, where only the weights it left are not."""
    if math.isfinite(report.objective[r]) and math.isfinite(score.loss):
        return False
    bad = (~report.losses[r].isfinite()).nonzero().flatten().tolist()
    steps = report.losses.shape[1]
    p.diverged_step = p.step + (bad[0] + 1 if bad else steps)
    p.step += steps
    p.stop_reason = "diverged"
    return True


def _note_acted(p: Progress, means: dict[str, float]) -> None:
    """Collect what each mechanism did to a replica, NaN where it is off there; norm layers are counted."""
    figures: dict[str, list[float]] = {}
    for name, mean in means.items():
        if not math.isnan(mean):
            figures.setdefault(name.split("/")[0], []).append(mean)
    for name, values in figures.items():
        total = sum(values) if "norm" in name else sum(values) / len(values)
        p.acted.setdefault(name, []).append(total)


def _reason(p: Progress, epoch: int, epochs: int, is_late: Callable[[], bool]) -> str | None:
    """Why a run ends after `epoch`, or None."""
    if p.stopping.rule.is_over:
        return p.settings.trainer.early_stopping.rule
    if epoch == epochs:
        return "max_epochs"
    return "time_limit" if is_late() else None


def _finish(stack: Stack, progress: list[Progress]) -> Iterator[Finished]:
    """Read test in one look, with the last and the best weights of the runs that have ended."""
    zeros, last = measure.zero_weights(stack), [stack.weights_of(r) for r in range(len(stack))]
    test_last = measure.evaluate(stack, "test")
    for r, p in enumerate(progress):
        stack.load(r, p.best)
    test_best, samples = measure.evaluate(stack, "test"), stack.runs[0].trainer.mc_dropout
    sampled = {split: measure.monte_carlo(stack, split, samples) for split in SPLITS} if samples else {}
    found = _looks(stack, progress)
    for r, p in enumerate(progress):
        mc = {split: scores[r] for split, scores in sampled.items()}
        outcome = _outcome(p, stack, stack.batches.splits[r], test_best[r], test_last[r], mc, zeros[r])
        yield Finished(outcome, _to_cpu(p.best), _to_cpu(last[r]), found[r])


def _looks(stack: Stack, progress: list[Progress]) -> Sequence[Look | None]:
    """What each run predicts with its best weights, or its snapshots; None where nobody asks."""
    match stack.runs[0].trainer.save:
        case "predictions":
            return looks.looks(stack, [{_best_epoch(p): p.best} for p in progress])
        case "snapshots":
            return looks.looks(stack, [p.snapshots for p in progress])
    return [None] * len(progress)


def _best_epoch(p: Progress) -> int:
    return max(p.stopping.best.best_epoch, 0)


def _to_cpu(weights: Weights) -> Weights:
    return {name: value.cpu() for name, value in weights.items()}


def _outcome(
    p: Progress,
    stack: Stack,
    own: Split,
    test_best: Score,
    test_last: Score,
    mc: dict[str, Score],
    zero_weights: float,
) -> Outcome:
    best, last, epochs = _best_epoch(p), len(p.train) - 1, p.settings.trainer.epochs
    sizes = {name: indices.shape[1] for name, indices in stack.batches.indices.items()}
    diverged = p.stop_reason == "diverged"
    diagnosis = metrics.diagnose(
        [s.loss for s in p.train],
        [s.loss for s in p.val],
        [s.figure for s in p.train],
        [s.figure for s in p.val],
        limits=metrics.ACCURACY if stack.error is None else metrics.R2,
        best_epoch=best,
        diverged=diverged,
    )
    wanted = requested(p.settings)
    idle = [name for name in wanted if name not in p.acted] if p.acted or (p.step and not diverged) else []
    return Outcome(
        run_id=p.run_id,
        status="failed" if idle else "diverged" if diverged else "ok",
        stop_reason=p.stop_reason or "failed",
        num_parameters=stack.params.num_parameters,
        best_epoch=best,
        last_epoch=last,
        last_step=p.step,
        diverged_step=p.diverged_step,
        epochs_saved=epochs - last if p.stop_reason in EARLY else 0,
        **_scores("train", p.train[best], p.train[last]),
        **_scores("val", p.val[best], p.val[last]),
        **_scores("test", test_best, test_last),
        **{f"{split}_{name}_mc": value for split, score in mc.items() for name, value in asdict(score).items()},
        gap=p.train[best].figure - p.val[best].figure,
        oscillation=metrics.oscillation([s.loss for s in p.train]),
        target_scale=own.target_scale.tolist() or None,
        diagnosis=diagnosis.word,
        advice=diagnosis.sentence,
        train_size=sizes["train"],
        train_unique=len(own.train.unique()) / len(own.train),
        val_size=sizes["val"],
        test_size=sizes["test"],
        skipped_examples=sizes["train"] - epoch_slices(p.settings, sizes["train"])[-1][1],
        zero_weights=zero_weights,
        lr_first=p.lrs[0] if p.lrs else None,
        lr_last=p.lrs[-1] if p.lrs else None,
        acted={name: _mean(p.acted.get(name)) if name in wanted else None for name in ACTED},
        error=f"{', '.join(idle)}: asked for, but never ran" if idle else None,
    )


def _scores(split: str, best: Score, last: Score) -> dict[str, Any]:
    """The cells of summary.csv: loss, accuracy and R2 at the best and at the last epoch."""
    scores = {"best": asdict(best), "last": asdict(last)}
    return {f"{split}_{name}_{when}": value for when, score in scores.items() for name, value in score.items()}


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None
