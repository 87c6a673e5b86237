"""Averaged weights: the weights of each average in closed form, and what a run measures, keeps and tests."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make, train_rows
from torch import Tensor
from torch.optim import swa_utils

from regrun import settings as s
from regrun.averaging import epoch_weights
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models.export import export
from regrun.rows import CurveRow, EpochRow
from regrun.stack import new_stack

EPOCHS, STEPS = 6, 5


def average(averaging: s.Averaging, values: list[float]) -> list[float]:
    """The average after each step of a run whose weight is values[t] after step t (from 1); values[0] at its start."""
    result, state = [], values[0]
    for epoch in range(1, EPOCHS + 1):
        for i, weight in enumerate(epoch_weights(averaging, epoch=epoch, epochs=EPOCHS, steps=STEPS)):
            state += weight * (values[(epoch - 1) * STEPS + i + 1] - state)
            result.append(state)
    return result


VALUES = np.random.default_rng(0).normal(size=1 + EPOCHS * STEPS).tolist()


def test_without_averaging_the_average_is_the_current_weight() -> None:
    assert average(s.Averaging(), VALUES) == pytest.approx(VALUES[1:])


@pytest.mark.parametrize("start", [0.0, 0.4, 0.5, 0.99])
def test_swa_is_the_mean_of_the_ends_of_epochs(start: float) -> None:
    before = int(start * EPOCHS)
    ours = average(s.Averaging(kind="swa", start=start), VALUES)
    for epoch in range(before + 1, EPOCHS + 1):
        ends = [VALUES[e * STEPS] for e in range(before + 1, epoch + 1)]
        assert ours[epoch * STEPS - 1] == pytest.approx(sum(ends) / len(ends))
    assert ours[: before * STEPS] == pytest.approx(VALUES[1 : 1 + before * STEPS])


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_ema_begins_as_a_mean_of_all_steps_and_goes_on_as_a_moving_average(start: float) -> None:
    """With decay 0.75 the fourth step is the first whose weight 1/n has come down to 1 - decay."""
    before = int(start * EPOCHS) * STEPS
    ours = average(s.Averaging(kind="ema", decay=0.75, start=start), VALUES)[before:]
    steps = VALUES[1 + before :]
    assert ours[:4] == pytest.approx([sum(steps[: n + 1]) / (n + 1) for n in range(4)])
    for n in range(4, len(steps)):
        assert ours[n] == pytest.approx(0.75 * ours[n - 1] + 0.25 * steps[n])


def test_ema_after_its_beginning_is_torchs() -> None:
    weights = epoch_weights(s.Averaging(kind="ema", decay=0.9), epoch=5, epochs=EPOCHS, steps=STEPS)
    ours, theirs = torch.tensor([1.0]), [torch.tensor([1.0])]
    update = swa_utils.get_ema_multi_avg_fn(0.9)
    for weight, value in zip(weights, VALUES, strict=False):
        ours = ours.lerp(torch.tensor([value]), float(weight))
        update(theirs, [torch.tensor([value])], 1)
    torch.testing.assert_close(ours, theirs[0])


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "batchnorm"])
def test_what_is_measured_kept_and_tested_is_the_average(kind: str, normed: bool, digits: Source) -> None:
    """The average of the last weights of runs that end after each step, by hand; norm statistics by torch."""
    reg = s.Reg(batchnorm=s.BatchNorm(active=normed))
    plain = make(reg=reg, optimizer=s.Sgd(lr=0.1), trainer={"epochs": 3, "limit_batches": 1})
    averaging = s.Averaging(kind=kind, decay=0.9, start=0.0)
    averaged = s.resolve(replace(plain, trainer=replace(plain.trainer, averaging=averaging)))
    shorter = [replace(plain, trainer=replace(plain.trainer, epochs=e)) for e in (1, 2, 3)]
    ends = [train_rows([run], digits)[1][0].last for run in shorter]
    mean = {name: torch.stack([end[name] for end in ends]).mean(0) for name in ends[0]}
    (rows,), (end,) = train_rows([averaged], digits)
    for name, value in mean.items():
        if "running" not in name:
            torch.testing.assert_close(end.last[name], value, rtol=1e-5, atol=1e-7)
    network, own = network_of(averaged, end.last, digits), split(digits, averaged.data, averaged.seeds)
    if normed:
        assert_statistics_are_torchs(averaged, end.last, digits)
    logits = network.eval()(digits.inputs[own.val])
    loss = torch.nn.functional.cross_entropy(logits, digits.targets[own.val]).item()
    val = [row.loss for row in rows if isinstance(row, CurveRow) and row.split == "val"]
    assert val[-1] == pytest.approx(loss, rel=1e-5)
    distances = [row.averaging_distance for row in rows if isinstance(row, EpochRow)]
    last = ends[-1]
    expected = torch.cat([(last[n] - end.last[n]).flatten() for n in mean if "running" not in n]).norm().item()
    assert distances[0] == 0 and distances[-1] == pytest.approx(expected, rel=1e-4)
    assert end.outcome.acted["averaging"] == pytest.approx(sum(distances) / 3)
    assert end.outcome.val_loss_last == val[-1] and end.outcome.best_epoch == val.index(min(val))


def network_of(run: s.Settings, weights: dict[str, Tensor], source: Source) -> torch.nn.Module:
    own = split(source, run.data, run.seeds)
    stack = new_stack([run], Batches(source, [own], [run], torch.device("cpu")))
    scaled = weights | {"input.offset": own.offset, "input.scale": own.scale}
    return export(stack.ops, scaled, dict.fromkeys(("input", "hidden1", "hidden2"), 0.0))


def assert_statistics_are_torchs(run: s.Settings, weights: dict[str, Tensor], source: Source) -> None:
    """update_bn batch by batch, and their mean over examples: it counts a ragged batch as much as a full one."""
    train = split(source, run.data, run.seeds).train
    chunks = source.inputs[train].split(1024)
    network = network_of(run, weights, source)
    mine = {n: b.clone() for n, b in network.named_buffers() if "running" in n}
    theirs = {n: torch.zeros_like(b) for n, b in mine.items()}
    for chunk in chunks:
        swa_utils.update_bn([chunk], network)
        for name, buffer in network.named_buffers():
            if name in theirs:
                theirs[name] += buffer * (len(chunk) / len(train))
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_averaging_leaves_the_path_of_the_weights_as_it_is(digits: Source) -> None:
    """Gradients and rates are those of the run without it: only what is measured differs."""
    plain = make(reg=s.Reg(batchnorm=s.BatchNorm(active=True), dropout=s.Dropout(rate=0.2)), trainer={"epochs": 4})
    averaging = s.Averaging(kind="ema", decay=0.9)
    averaged = s.resolve(replace(plain, trainer=replace(plain.trainer, averaging=averaging)))
    rows = [train_rows([run], digits)[0][0] for run in (plain, averaged)]
    objectives = [[(r.objective, r.grad_norm) for r in own if isinstance(r, EpochRow)] for own in rows]
    assert objectives[0] == objectives[1]
    losses = [[r.loss for r in own if isinstance(r, CurveRow)] for own in rows]
    assert losses[0] != losses[1]


def test_an_average_that_never_begins_is_a_failure(digits: Source) -> None:
    early = s.EarlyStopping(patience=1, min_delta=100.0)
    run = make(trainer={"epochs": 8, "averaging": s.Averaging(kind="swa"), "early_stopping": early})
    _, (end,) = train_rows([run], digits)
    assert (end.outcome.status, end.outcome.error) == ("failed", "averaging: asked for, but never ran")
