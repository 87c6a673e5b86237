"""How a run ends: two looks at test, by its last and by its best weights, and the outcome that summary.csv tells."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from regrun import looks, measure, metrics
from regrun.data.batches import Halt
from regrun.data.split import Split
from regrun.epoch import epoch_slices
from regrun.looks import SPLITS, Look, Weights
from regrun.measure import Score
from regrun.progress import Progress
from regrun.rows import ACTED, Outcome
from regrun.settings import requested
from regrun.stack import Stack

EARLY = ("patience", "gap", "generalization_loss", "pruned")  # reasons for which a run ends before its epochs do


@dataclass(frozen=True)
class Finished:
    """The end of one run: how it went, and its parameters and running statistics by name, on the CPU.

    look: its predictions, where `trainer.save` asks for them.
    """

    outcome: Outcome
    best: Weights
    last: Weights
    look: Look | None = None


def finish(stack: Stack, runs: list[Progress]) -> Iterator[Finished]:
    """Read test in one look, with the last and the best weights of the runs that have ended.

    The stack's weights are lost then, but not where an evaluation ends in Halt.
    """
    zeros, last = measure.zero_weights(stack), [stack.weights_of(r) for r in range(len(stack))]
    test_last, samples = measure.evaluate(stack, "test"), stack.runs[0].trainer.mc_dropout
    try:
        for r, p in enumerate(runs):
            stack.load(r, p.best)
        test_best = measure.evaluate(stack, "test")
        sampled = {split: measure.monte_carlo(stack, split, samples) for split in SPLITS} if samples else {}
        found = _looks(stack, runs)
    except Halt:
        for r, weights in enumerate(last):
            stack.load(r, weights)
        raise
    for r, p in enumerate(runs):
        mc = {split: scores[r] for split, scores in sampled.items()}
        outcome = _outcome(p, stack, stack.batches.splits[r], test_best[r], test_last[r], mc, zeros[r])
        yield Finished(outcome, _to_cpu(p.best), _to_cpu(last[r]), found[r])


def _looks(stack: Stack, runs: list[Progress]) -> Sequence[Look | None]:
    """What each run predicts with its best weights, or its snapshots; None where nobody asks."""
    match stack.runs[0].trainer.save:
        case "predictions":
            return looks.looks(stack, [{p.best_epoch: p.best} for p in runs])
        case "snapshots":
            return looks.looks(stack, [p.snapshots for p in runs])
    return [None] * len(runs)


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
    """The outcome of a run that has come to its end. mc: scores of predictions with dropout on, by split."""
    best, last, epochs = p.best_epoch, len(p.train) - 1, p.settings.trainer.epochs
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
