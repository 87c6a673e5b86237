"""Learning-rate schedules: closed forms at every time, and torch's own schedulers where it has them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs

from regrun import schedules
from regrun.schedules import ReduceOnPlateau
from regrun.settings import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Inverse,
    Multiplicative,
    MultiStep,
    OneCycle,
    Plateau,
    Scheduler,
    Step,
    Table,
    WarmupCosine,
)

TOTAL = 40
ZERO = [0] * 5 + [5] * 10 + [15] * 20 + [35] * 5  # where the cycle began, of cycles of 5, 10, 20 and 40
FORMS: list[tuple[Scheduler, Callable[[int], float]]] = [
    (Constant(), lambda t: 1.0),
    (Exponential(k=0.07), lambda t: math.e ** (-0.07 * t)),
    (Exponential(k=0.0), lambda t: 1.0),
    (Multiplicative(alpha=0.9), lambda t: math.exp(t * math.log(0.9))),
    (MultiStep(milestones=[5, 9], gamma=0.2), lambda t: 1.0 if t < 5 else 0.2 if t < 9 else 0.04),
    (MultiStep(milestones=[]), lambda t: 1.0),
    (CosineRestarts(t_0=8), lambda t: math.cos(math.pi * (t % 8) / 16) ** 2),
    (CosineRestarts(t_0=5, t_mult=2), lambda t: math.cos(math.pi * (t - ZERO[t]) / (2 * (ZERO[t] + 5))) ** 2),
    (Cyclic(step_size_up=4, min_factor=0.2), lambda t: 0.2 + 0.2 * min(t % 8, 8 - t % 8)),
    (Constant(warmup=0.25), lambda t: min(1.0, (t + 1) / 10)),
    (Exponential(k=0.07, warmup=0.1), lambda t: (t + 1) / 4 if t < 4 else math.exp(-0.07 * (t - 4))),
    (Plateau(warmup=0.05), lambda t: 0.5 if t == 0 else 1.0),
    (Inverse(k=0.3), lambda t: 1 / (1 + 0.3 * t)),
    (Step(step_size=7, gamma=0.5), lambda t: 0.5 ** math.floor(t / 7)),
    (Cosine(), lambda t: math.cos(math.pi * t / 80) ** 2),
    (Cosine(min_factor=0.2), lambda t: 0.2 + 0.8 * math.cos(math.pi * t / 80) ** 2),
    (WarmupCosine(warmup=0.0), lambda t: math.cos(math.pi * t / 80) ** 2),
    (WarmupCosine(warmup=0.25), lambda t: (t + 1) / 10 if t < 10 else math.cos(math.pi * (t - 10) / 60) ** 2),
    (
        WarmupCosine(warmup=0.5, min_factor=0.1),
        lambda t: (t + 1) / 20 if t < 20 else 0.1 + 0.9 * math.cos(math.pi * (t - 20) / 40) ** 2,
    ),
]


@pytest.mark.parametrize(("scheduler", "form"), FORMS, ids=[str(f) for f, _ in FORMS])
def test_multiplier_is_its_closed_form_at_every_time(scheduler: Scheduler, form: Callable[[int], float]) -> None:
    for t in range(TOTAL):
        assert schedules.multiplier(scheduler, t, TOTAL) == pytest.approx(form(t), rel=1e-13, abs=1e-16)


@pytest.mark.parametrize("k", [0.001, 0.05, 1.0])
def test_exponential_is_multiplying_by_a_constant(k: float) -> None:
    factor = 1.0
    for t in range(100):
        # A product of t rounded factors: each step adds at most one unit in the last place of its own and of e^-k.
        assert schedules.exponential(t, k=k) == pytest.approx(factor, rel=(2 * t + 2) * 2**-53)
        factor *= math.exp(-k)


@pytest.mark.parametrize("scheduler", [f for f, _ in FORMS], ids=[str(f) for f, _ in FORMS])
def test_every_schedule_starts_at_the_base_lr_or_warms_up_to_it(scheduler: Scheduler) -> None:
    lrs = [schedules.multiplier(scheduler, t, TOTAL) for t in range(TOTAL)]
    assert max(lrs) == 1.0
    assert min(lrs) > 0


@pytest.mark.parametrize("min_factor", [0.0, 0.1, 0.3, 1 / 3, 1.0])
@pytest.mark.parametrize(("warmup", "total"), [(1, 3), (7, 50), (10, 100), (99, 100), (100, 100)])
def test_warmup_rises_in_equal_steps_and_reaches_exactly_one(warmup: int, total: int, min_factor: float) -> None:
    scheduler = WarmupCosine(warmup=warmup / total, min_factor=min_factor)
    rise = [schedules.multiplier(scheduler, t, total) for t in range(total)]
    assert rise[warmup - 1] == 1.0
    assert rise[warmup : warmup + 1] in ([], [1.0])  # where the cosine takes over
    assert np.diff([0.0, *rise[:warmup]]) == pytest.approx(1 / warmup)


@pytest.mark.parametrize("k", [0.001, 0.05, 1.0])
def test_multiplicative_with_alpha_of_e_to_minus_k_is_exponential(k: float) -> None:
    for t in range(40):
        factor = schedules.multiplier(Multiplicative(alpha=math.exp(-k)), t, TOTAL)
        assert abs(factor - schedules.exponential(t, k=k)) < 1e-14


def test_a_table_is_the_learning_rates_whatever_the_optimizers() -> None:
    scheduler = Table(lrs=[0.3, 0.2, 0.0, 0.1])
    lrs = [schedules.epoch_lrs(scheduler, 7.0, epoch=e, epochs=6, steps=2).tolist() for e in range(1, 7)]
    assert lrs == [[0.3] * 2, [0.2] * 2, [0.0] * 2, [0.1] * 2, [0.1] * 2, [0.1] * 2]
    steps = schedules.epoch_lrs(Table(lrs=[0.3, 0.2, 0.0], interval="step"), 7.0, epoch=1, epochs=1, steps=5)
    assert steps.tolist() == [0.3, 0.2, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("total", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("pct_start", [0.01, 0.3, 0.99])
def test_one_cycle_is_defined_for_runs_of_any_length(total: int, pct_start: float) -> None:
    factors = [schedules.multiplier(OneCycle(pct_start=pct_start), t, total) for t in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert total == 1 or pct_start == 0.99 or factors[-1] == pytest.approx(1 / 25e4)


INTERVALS = [
    *(Constant, Exponential, Multiplicative, Inverse, Step, MultiStep, Cosine, WarmupCosine),
    *(CosineRestarts, OneCycle, Cyclic),
]


@pytest.mark.parametrize("kind", INTERVALS)
def test_an_epoch_schedule_is_constant_within_each_epoch(kind: type) -> None:
    scheduler = kind(interval="epoch")
    for epoch in range(1, 9):
        lrs = schedules.epoch_lrs(scheduler, 0.3, epoch=epoch, epochs=8, steps=5)
        assert lrs.tolist() == [0.3 * schedules.multiplier(scheduler, epoch - 1, 8)] * 5


@pytest.mark.parametrize("kind", INTERVALS)
def test_a_step_schedule_counts_steps_over_all_epochs(kind: type) -> None:
    scheduler = kind(interval="step")
    lrs = [schedules.epoch_lrs(scheduler, 0.3, epoch=epoch, epochs=8, steps=5) for epoch in range(1, 9)]
    assert np.concatenate(lrs).tolist() == [0.3 * schedules.multiplier(scheduler, t, 40) for t in range(40)]


def test_a_constant_schedule_is_the_base_lr() -> None:
    assert schedules.epoch_lrs(Constant(), 0.3, epoch=4, epochs=8, steps=5).tolist() == [0.3] * 5


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(
    ("scheduler", "reference"),
    [
        (lambda i: Exponential(interval=i, k=0.05), lambda o, total: torchs.ExponentialLR(o, gamma=math.exp(-0.05))),
        (lambda i: Step(interval=i, step_size=3, gamma=0.4), lambda o, total: torchs.StepLR(o, step_size=3, gamma=0.4)),
        (lambda i: Cosine(interval=i), lambda o, total: torchs.CosineAnnealingLR(o, T_max=total)),
        (
            lambda i: Cosine(interval=i, min_factor=0.1),
            lambda o, total: torchs.CosineAnnealingLR(o, T_max=total, eta_min=0.1 * 0.2),
        ),
        (
            lambda i: Multiplicative(interval=i, alpha=0.9),
            lambda o, total: torchs.MultiplicativeLR(o, lr_lambda=lambda _: 0.9),
        ),
        (
            lambda i: MultiStep(interval=i, milestones=[2, 5, 5], gamma=0.4),
            lambda o, total: torchs.MultiStepLR(o, milestones=[2, 5, 5], gamma=0.4),
        ),
        (
            lambda i: CosineRestarts(interval=i, t_0=2, t_mult=2, min_factor=0.1),
            lambda o, total: torchs.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2, eta_min=0.1 * 0.2),
        ),
        (
            lambda i: OneCycle(interval=i),
            lambda o, total: torchs.OneCycleLR(o, max_lr=0.2, total_steps=total, cycle_momentum=False),
        ),
        (
            lambda i: Cyclic(interval=i, step_size_up=3, min_factor=0.1),
            lambda o, total: torchs.CyclicLR(o, 0.1 * 0.2, 0.2, step_size_up=3, cycle_momentum=False),
        ),
        (
            lambda i: Inverse(interval=i, k=0.3, warmup=1 / 3),
            lambda o, total: torchs.SequentialLR(
                o,
                [
                    torchs.LinearLR(o, start_factor=3 / total, total_iters=total // 3 - 1),
                    torchs.LambdaLR(o, lambda t: 1 / (1 + 0.3 * t)),
                ],
                milestones=[total // 3],
            ),
        ),
    ],
    ids=[
        *("exponential", "step", "cosine", "cosine-floor", "multiplicative", "multistep", "restarts", "one-cycle"),
        *("cyclic", "warmup"),
    ],
)
def test_schedules_are_torchs(
    scheduler: Callable[[str], Scheduler],
    reference: Callable[[SGD, int], torchs.LRScheduler],
    interval: str,
) -> None:
    epochs, steps = 9, 4
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = reference(optimizer, epochs * (steps if interval == "step" else 1))
    for epoch in range(1, epochs + 1):
        for lr in schedules.epoch_lrs(scheduler(interval), 0.2, epoch=epoch, epochs=epochs, steps=steps):
            assert lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
            optimizer.step()
            if interval == "step":
                theirs.step()
        if interval == "epoch":
            theirs.step()


PLATEAUS = [
    Plateau(patience=0, factor=0.5),
    Plateau(patience=2),
    Plateau(patience=1, factor=0.3, cooldown=2, threshold=0.1),
    Plateau(patience=1, factor=0.5, min_factor=0.2, threshold=0.0),
    Plateau(patience=1, factor=0.5, cooldown=1, threshold=0.05, monitor="val_accuracy"),
]


@pytest.mark.parametrize("scheduler", PLATEAUS)
@pytest.mark.parametrize("seed", range(20))
def test_reducing_on_a_plateau_is_torchs(scheduler: Plateau, seed: int) -> None:
    """A random walk, with NaN in places, seen by both."""
    values = np.abs(0.5 + np.cumsum(np.random.default_rng(seed).normal(0, 0.03, 60)))
    values[seed % 7 :: 13] = math.nan
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = torchs.ReduceLROnPlateau(
        optimizer,
        "min" if scheduler.monitor == "val_loss" else "max",
        factor=scheduler.factor,
        patience=scheduler.patience,
        threshold=scheduler.threshold,
        cooldown=scheduler.cooldown,
        min_lr=0.2 * scheduler.min_factor,
        eps=0,
    )
    state = ReduceOnPlateau(scheduler)
    for value in values.tolist():
        figures = (value, 0.0) if scheduler.monitor == "val_loss" else (0.0, value)
        state = state.seen(*figures)
        theirs.step(value)
        assert 0.2 * state.multiplier == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert state.multiplier < 1
