"""The loop: early stopping, divergence, ragged batches, limits, and the proof that what was asked for acted."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import make, train_rows

from regrun import measure
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.epoch import epoch_slices
from regrun.models.export import export
from regrun.rows import CurveRow, EpochRow, LayerRow
from regrun.schedules import ReduceOnPlateau
from regrun.stack import new_stack


def test_early_stopping_gives_the_first_rows_of_the_run_without_it(digits: Source) -> None:
    long = make(optimizer=s.Adam(lr=0.01), trainer={"epochs": 40})
    short = replace(long, trainer=replace(long.trainer, early_stopping=s.EarlyStopping(patience=2)))
    (all_rows,), (whole,) = train_rows([long], digits)
    (rows,), (end,) = train_rows([short], digits)
    last = end.outcome.last_epoch
    assert end.outcome.stop_reason == "patience" and last == end.outcome.best_epoch + 2 < 40
    assert rows == [row for row in all_rows if row.epoch <= last]
    assert end.outcome.epochs_saved == 40 - last
    assert whole.outcome.stop_reason == "max_epochs" and whole.outcome.last_epoch == 40


@pytest.mark.parametrize(
    "rule",
    [
        s.EarlyStopping(rule="gap", gap=0.02),
        s.EarlyStopping(rule="generalization_loss", alpha=2.0),
        s.EarlyStopping(patience=2, smoothing=0.5),
    ],
    ids=["gap", "generalization_loss", "smoothed"],
)
def test_every_rule_gives_the_first_rows_of_the_run_without_it(rule: s.EarlyStopping, digits: Source) -> None:
    long = make(optimizer=s.Adam(lr=0.01), trainer={"epochs": 40})
    (all_rows,), _ = train_rows([long], digits)
    (rows,), (end,) = train_rows([replace(long, trainer=replace(long.trainer, early_stopping=rule))], digits)
    last = end.outcome.last_epoch
    assert end.outcome.stop_reason == rule.rule and last < 40 and end.outcome.epochs_saved == 40 - last
    assert rows == [row for row in all_rows if row.epoch <= last]
    curves = {(r.epoch, r.split): r for r in rows if isinstance(r, CurveRow)}
    gaps = [curves[e, "train"].accuracy - curves[e, "val"].accuracy for e in range(last + 1)]
    losses = [curves[e, "val"].loss for e in range(last + 1)]
    if rule.rule == "gap":
        assert gaps[-1] > 0.02 >= max(gaps[:-1])
    if rule.rule == "generalization_loss":
        assert losses[-1] > 1.02 * min(losses)
    assert end.outcome.best_epoch == losses.index(min(losses))


def test_the_best_weights_are_kept_also_when_epochs_end_the_run(digits: Source) -> None:
    run = make(optimizer=s.Adam(lr=0.03), trainer={"epochs": 12})
    (rows,), (end,) = train_rows([run], digits)
    val = {row.epoch: row.loss for row in rows if isinstance(row, CurveRow) and row.split == "val"}
    best = min(val, key=lambda epoch: val[epoch])
    assert end.outcome.best_epoch == best < 12
    shorter = replace(run, trainer=replace(run.trainer, epochs=best))
    _, (stopped,) = train_rows([shorter], digits)
    assert all(torch.equal(weight, stopped.last[key]) for key, weight in end.best.items())
    assert end.outcome.test_accuracy_best == stopped.outcome.test_accuracy_last
    assert end.outcome.val_loss_best == val[best]


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_the_monitored_figure_chooses_the_best_epoch(monitor: str, digits: Source) -> None:
    run = make(trainer={"epochs": 15, "early_stopping": s.EarlyStopping(patience=None, monitor=monitor)})
    (rows,), (end,) = train_rows([run], digits)
    val = [row for row in rows if isinstance(row, CurveRow) and row.split == "val"]
    best = min(val, key=lambda r: r.loss) if monitor == "val_loss" else max(val, key=lambda r: r.accuracy or 0)
    assert end.outcome.best_epoch == best.epoch


def test_a_diverged_run_stops_at_once_and_says_at_which_step(digits: Source) -> None:
    run = make(optimizer=s.Sgd(lr=1e20), trainer={"epochs": 50})
    (rows,), (end,) = train_rows([run], digits)
    outcome = end.outcome
    assert (outcome.status, outcome.stop_reason, outcome.diagnosis) == ("diverged", "diverged", "diverged")
    assert outcome.diverged_step is not None and outcome.diverged_step == outcome.last_step <= 3
    assert outcome.best_epoch == outcome.last_epoch == 0
    assert all(math.isfinite(row.loss) for row in rows if isinstance(row, CurveRow))
    assert math.isfinite(outcome.test_loss_best or math.nan) and all(w.isfinite().all() for w in end.best.values())


def test_a_start_that_is_not_finite_diverges_at_the_first_step(digits: Source) -> None:
    """Weights of 1e20 in two layers overflow float32: the loss is not finite before the first step."""
    run = make(model=s.Mlp(depth=2, width=24, init=s.Init(scheme="normal", std=1e20)))
    _, (end,) = train_rows([run], digits)
    assert (end.outcome.status, end.outcome.diverged_step, end.outcome.best_epoch) == ("diverged", 1, 0)
    assert set(end.best) == set(end.last)


def test_metrics_are_means_over_examples_in_eval_mode(digits: Source) -> None:
    """Train and val scores equal one pass over the whole split, whatever the batches: dropout and noise are off."""
    reg = s.Reg(dropout=s.Dropout(rate=0.5), noise=s.Noise(1.0), batchnorm=s.BatchNorm(active=True))
    run = make(reg=reg)
    own = split(digits, run.data, run.seeds)
    stack = new_stack([run], Batches(digits, [own], [run], torch.device("cpu")))
    for name in ("train", "val", "test"):
        x, targets = stack.batches.eval_batch(getattr(own, name).unsqueeze(0))
        logits = stack.forward(x)[0].double()
        loss = torch.nn.functional.cross_entropy(logits, targets[0]).item()
        accuracy = (logits.argmax(1) == targets[0]).double().mean().item()
        (score,) = measure.evaluate(stack, name)
        assert score.loss == pytest.approx(loss, rel=1e-6)
        assert score.accuracy == accuracy
        assert measure.evaluate(stack, name) == [score]


def test_a_last_batch_of_one_is_left_out_under_batchnorm_and_only_there() -> None:
    normed = make(reg=s.Reg(batchnorm=s.BatchNorm(active=True)))
    assert epoch_slices(normed, 129) == [(0, 64), (64, 128)]
    assert epoch_slices(make(), 129) == [(0, 64), (64, 128), (128, 129)]
    assert epoch_slices(normed, 130)[-1] == (128, 130)


def test_batchnorm_trains_through_a_last_batch_of_one(digits: Source) -> None:
    run = make(reg=s.Reg(batchnorm=s.BatchNorm(active=True)), data=s.Digits(train_size=65))
    _, (end,) = train_rows([run], digits)
    assert end.outcome.status == "ok" and end.outcome.skipped_examples == 1


@pytest.mark.parametrize(("changes", "last"), [({"drop_last": False}, (128, 150)), ({"drop_last": True}, (64, 128))])
def test_drop_last_drops_the_ragged_batch(changes: dict[str, bool], last: tuple[int, int]) -> None:
    assert epoch_slices(make(data=s.Digits(**changes)), 150)[-1] == last


def test_limit_batches_limits_the_steps_of_an_epoch(digits: Source) -> None:
    (rows,), _ = train_rows([make(trainer={"epochs": 3, "limit_batches": 2})], digits)
    assert [row.step for row in rows if isinstance(row, EpochRow)] == [2, 4, 6]


def test_time_limit_ends_the_run_and_keeps_its_rows(digits: Source) -> None:
    (rows,), (end,) = train_rows([make(trainer={"epochs": 1000000, "time_limit": 0.2})], digits)
    assert end.outcome.stop_reason == "time_limit" and end.outcome.status == "ok"
    assert end.outcome.last_epoch == max(row.epoch for row in rows) >= 1


def test_no_epochs_measures_the_initial_weights(digits: Source) -> None:
    (rows,), (end,) = train_rows([make(trainer={"epochs": 0})], digits)
    assert {row.epoch for row in rows} == {0}
    assert (end.outcome.diagnosis, end.outcome.last_step, end.outcome.lr_first) == ("untrained", 0, None)


def test_the_lr_written_is_the_lr_used(digits: Source) -> None:
    """With sgd the first epoch's movement is -sum of lr * gradient: one step an epoch shows each lr exactly."""
    scheduler = s.Exponential(k=0.5)
    run = make(
        model=s.Mlp(depth=0), optimizer=s.Sgd(lr=0.1), scheduler=scheduler, trainer={"epochs": 3, "limit_batches": 1}
    )
    (rows,), _ = train_rows([run], digits)
    lrs = [(row.lr_first, row.lr_last) for row in rows if isinstance(row, EpochRow)]
    assert lrs == [(0.1 * math.exp(-0.5 * t), 0.1 * math.exp(-0.5 * t)) for t in range(3)]
    halves = [replace(run, trainer=replace(run.trainer, epochs=e)) for e in (0, 1, 2, 3)]
    weights = [train_rows([h], digits)[1][0].last["output.weight"] for h in halves]
    for epoch, (before, after) in enumerate(itertools.pairwise(weights), start=1):
        grad = [row.grad_norm for row in rows if isinstance(row, EpochRow)][epoch - 1]
        moved = torch.cat([(after - before).flatten()]).norm()
        assert moved <= lrs[epoch - 1][0] * grad * 1.0001
        assert moved >= lrs[epoch - 1][0] * grad * 0.95  # the bias has the rest of the gradient


def test_the_lr_of_a_plateau_falls_after_the_epochs_that_did_not_improve(digits: Source) -> None:
    """The law of `ReduceOnPlateau`, with the val losses that the run wrote: epoch e + 1 uses what was seen up to e."""
    scheduler = s.Plateau(patience=1, factor=0.5, threshold=0.05)
    run = make(optimizer=s.Sgd(lr=0.5), scheduler=scheduler, trainer={"epochs": 25})
    (rows,), _ = train_rows([run], digits)
    val = [row.loss for row in rows if isinstance(row, CurveRow) and row.split == "val"]
    lrs = [(row.lr_first, row.lr_last) for row in rows if isinstance(row, EpochRow)]
    state, expected = ReduceOnPlateau(scheduler), []
    for loss in val[1:]:
        expected.append((0.5 * state.multiplier, 0.5 * state.multiplier))
        state = state.seen(loss, 0.0)
    assert lrs == expected
    assert len(set(lrs)) > 2


def test_a_schedule_by_step_is_written_with_its_first_and_last_lr(digits: Source) -> None:
    scheduler = s.Table(interval="step", lrs=[0.1 / (t + 1) for t in range(100)])
    (rows,), _ = train_rows([make(scheduler=scheduler, trainer={"epochs": 3, "limit_batches": 5})], digits)
    lrs = [(row.lr_first, row.lr_last) for row in rows if isinstance(row, EpochRow)]
    assert lrs == [(0.1 / (5 * e + 1), 0.1 / (5 * e + 5)) for e in range(3)]


ACTED = {
    "dropout": (s.Reg(dropout=s.Dropout(rate=0.3)), 0.28, 0.32),
    "batchnorm": (s.Reg(batchnorm=s.BatchNorm(active=True)), 2, 2),
    "layernorm": (s.Reg(layernorm=s.LayerNorm(active=True)), 2, 2),
    "weight_decay": (s.Reg(weight_decay=s.WeightDecay(0.1)), 0.999e-4, 1.001e-4),  # lr times 0.1
    "l2": (s.Reg(l2=s.L2(0.01)), 0.1, 10),
    "l1": (s.Reg(l1=s.L1(0.001)), 0.1, 10),
    "max_norm": (s.Reg(max_norm=s.MaxNorm(1.0)), 0.1, 1),
    "sam": (s.Reg(sam=s.Sam(0.05)), 0.0499, 0.0501),
    "label_smoothing": (s.Reg(label_smoothing=s.LabelSmoothing(0.1)), 0.500287, 0.500289),
    "noise": (s.Reg(noise=s.Noise(0.2)), 0.19, 0.21),
    "crop": (s.Reg(crop=s.Crop(1)), 0.2, 0.8),
    "flip": (s.Reg(flip=s.Flip(0.5)), 0.3, 0.7),
    "rotation": (s.Reg(rotation=s.Rotation(10)), 0.2, 0.8),
    "randaugment": (s.Reg(randaugment=s.RandAugment(2)), 0.7, 0.95),
    "trivialaugment": (s.Reg(trivialaugment=s.TrivialAugment(True)), 0.5, 0.9),
    "jitter": (s.Reg(jitter=s.Jitter(0.5)), 0.2, 0.6),
    "cutout": (s.Reg(cutout=s.Cutout(4)), 0.05, 0.2),
    "erasing": (s.Reg(erasing=s.Erasing(1.0)), 0.02, 0.15),
    "mixup": (s.Reg(mixup=s.Mixup(1.0)), 0.05, 0.95),
    "cutmix": (s.Reg(cutmix=s.Cutmix(0.5)), 0.01, 0.95),
}


@pytest.mark.parametrize("name", ACTED)
def test_each_requested_regularizer_shows_what_it_did(name: str, digits: Source) -> None:
    """The entropy of a target smoothed by 0.1 over 10 classes is -(0.91 ln 0.91 + 9 * 0.01 ln 0.01) = 0.5003."""
    reg, low, high = ACTED[name]
    on, off = (train_rows([run], digits)[1][0] for run in (make(reg=reg), make()))
    figure = on.outcome.acted[name]
    assert figure is not None and low <= figure <= high
    assert off.outcome.acted[name] is None


def test_what_was_asked_for_and_never_ran_is_a_failure(digits: Source) -> None:
    """The command refuses this beforehand (test_mistakes); the loop would find it, too."""
    _, (end,) = train_rows([make(model=s.Mlp(depth=0), reg=s.Reg(dropout=s.Dropout(rate=0.5)))], digits)
    assert end.outcome.status == "failed"
    assert end.outcome.error == "dropout: asked for, but never ran"


def test_clipping_that_never_binds_is_reported_as_zero(digits: Source) -> None:
    ends = [train_rows([make(trainer={"grad_clip": limit})], digits)[1][0] for limit in (1e9, 1e-9)]
    assert [end.outcome.acted["grad_clip"] for end in ends] == [0.0, 1.0]


@pytest.mark.parametrize("limit", [None, 7])
def test_accumulated_batches_are_one_large_batch(limit: int | None, digits: Source) -> None:
    """To rounding: 1,150 examples in batches of 50 by four, the last group incomplete, or batches of 200."""
    reg = s.Reg(l2=s.L2(0.01))
    small = make(
        reg=reg,
        optimizer=s.Momentum(lr=0.1),
        trainer={"batch_size": 50, "accumulate": 4, "limit_batches": limit},
    )
    (few,), (end,) = train_rows([small], digits)
    assert end.outcome.acted["accumulate"] == pytest.approx(23 / 6 if limit is None else 7 / 2)
    if limit is not None:
        assert [row.step for row in few if isinstance(row, EpochRow)] == [2, 4]
        return
    large = make(reg=reg, optimizer=s.Momentum(lr=0.1), trainer={"batch_size": 200})
    (many,), (other,) = train_rows([large], digits)
    for name, weight in end.last.items():
        torch.testing.assert_close(weight, other.last[name], rtol=0, atol=1e-5)
    for one, two in zip(few, many, strict=True):
        assert (one.epoch, getattr(one, "step", None)) == (two.epoch, getattr(two, "step", None))
        if isinstance(one, EpochRow):
            assert one.objective == pytest.approx(two.objective, rel=1e-5)
            assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-3)


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "batchnorm"])
def test_sam_steps_by_the_gradient_at_the_perturbed_weights(normed: bool, digits: Source) -> None:
    """Foret et al.'s two passes by autograd on an exported network, for three steps of sgd."""
    reg = s.Reg(sam=s.Sam(0.1), batchnorm=s.BatchNorm(active=normed))
    run = make(reg=reg, optimizer=s.Sgd(lr=0.1), trainer={"epochs": 1, "limit_batches": 3})
    own = split(digits, run.data, run.seeds)
    stack = new_stack([run], Batches(digits, [own], [run], torch.device("cpu")))
    scaled = stack.weights_of(0) | {"input.offset": own.offset, "input.scale": own.scale}
    network = export(stack.ops, scaled, dict.fromkeys(("input", "hidden1", "hidden2"), 0.0)).train()
    parameters = list(network.parameters())
    for indices in stack.batches.order(1)[0].split(64)[:3]:

        def gradient(rows: torch.Tensor = indices) -> list[torch.Tensor]:
            loss = torch.nn.functional.cross_entropy(network(digits.inputs[rows]), digits.targets[rows])
            return list(torch.autograd.grad(loss, parameters))

        uphill = gradient()
        norm = torch.cat([g.flatten() for g in uphill]).norm()
        statistics = {name: b.clone() for name, b in network.named_buffers()}
        with torch.no_grad():
            for p, g in zip(parameters, uphill, strict=True):
                p.add_(0.1 * g / norm)
        there = gradient()
        with torch.no_grad():
            for p, g, g_there in zip(parameters, uphill, there, strict=True):
                p.sub_(0.1 * g / norm).sub_(0.1 * g_there)
            for name, buffer in network.named_buffers():
                buffer.copy_(statistics[name])
    _, (end,) = train_rows([run], digits)
    for name, weight in network.state_dict().items():
        if name in end.last:
            torch.testing.assert_close(end.last[name], weight, rtol=0, atol=1e-5)


def test_max_norm_holds_for_every_unit_at_every_epoch(digits: Source) -> None:
    run = make(model=s.Cnn(widths=[4]), reg=s.Reg(max_norm=s.MaxNorm(0.7)), optimizer=s.Adam(lr=0.01))
    _, (end,) = train_rows([run], digits)
    for weights in (end.best, end.last):
        for name in ("conv1.weight", "output.weight"):
            assert weights[name].flatten(1).norm(dim=1).max().item() <= 0.7 * (1 + 1e-6)
    assert end.outcome.acted["max_norm"] is not None and end.outcome.acted["max_norm"] > 0.5


def test_clipping_by_value_bounds_each_element_of_a_step(digits: Source) -> None:
    """With sgd no weight moves by more than lr * limit in a step; a limit that never binds changes nothing."""
    sgd, one_step = s.Sgd(lr=0.1), {"epochs": 1, "limit_batches": 1}
    runs = [make(optimizer=sgd, trainer=one_step | {"grad_clip_value": v}) for v in (1e-3, 1e9, None)]
    start = train_rows([make(trainer={"epochs": 0})], digits)[1][0].last
    ends = [train_rows([run], digits)[1][0] for run in runs]
    moved = max((ends[0].last[name] - start[name]).abs().max().item() for name in start)
    assert moved == pytest.approx(1e-4, rel=1e-2)
    assert all(torch.equal(ends[1].last[name], ends[2].last[name]) for name in start)
    figures = [end.outcome.acted["grad_clip_value"] for end in ends]
    assert figures[0] is not None and figures[0] > 0.1 and figures[1:] == [0.0, None]


def test_layer_rows_show_the_gradient_vanish_with_depth(digits: Source) -> None:
    """Sigmoid' is at most 1/4, so each layer back divides the gradient; its norms fall from output to input."""
    run = make(
        model=s.Mlp(depth=6, width=32, activation="sigmoid", init=s.Init(scheme="xavier_normal")), trainer={"epochs": 0}
    )
    (rows,), _ = train_rows([run], digits)
    norms = [row.grad_norm for row in rows if isinstance(row, LayerRow)]
    assert len(norms) == 7 and norms == sorted(norms) and norms[0] < norms[-1] * 0.25**3


def test_bfloat16_trains_on_the_same_path(digits: Source) -> None:
    run = make(trainer={"precision": "bfloat16", "epochs": 5}, optimizer=s.Adam(lr=0.003))
    _, (end,) = train_rows([run], digits)
    _, (full,) = train_rows([make(trainer={"epochs": 5}, optimizer=s.Adam(lr=0.003))], digits)
    assert end.last["hidden1.weight"].dtype == torch.float32
    assert not torch.equal(end.last["hidden1.weight"], full.last["hidden1.weight"])
    assert end.outcome.val_loss_last == pytest.approx(full.outcome.val_loss_last, rel=0.1)


def test_larger_batches_damp_the_oscillation(digits: Source) -> None:
    """At an lr at which batches of 4 zig-zag, batches of 64 do not, in each of three seeds."""
    figures = {}
    for batch in (4, 64):
        runs = [
            make(optimizer=s.Adam(lr=0.01), trainer={"epochs": 10, "batch_size": batch}, seed=seed) for seed in range(3)
        ]
        figures[batch] = [end.outcome.oscillation or 0 for end in train_rows(runs, digits)[1]]
    assert min(figures[4]) > max(figures[64])
