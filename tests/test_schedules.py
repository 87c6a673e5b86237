"""Learning-rate schedules: closed forms at every time, and torch's own schedulers where it has them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs

from regrun import schedules
from regrun.settings import Constant, Cosine, Exponential, Inverse, Scheduler, Step, WarmupCosine

TOTAL = 40
FORMS: list[tuple[Scheduler, Callable[[int], float]]] = [
    (Constant(), lambda t: 1.0),
    (Exponential(k=0.07), lambda t: math.e ** (-0.07 * t)),
    (Exponential(k=0.0), lambda t: 1.0),
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
    rise = [schedules.warmup_cosine(t, warmup=warmup, total=total, min_factor=min_factor) for t in range(total)]
    assert rise[warmup - 1] == 1.0
    assert rise[warmup : warmup + 1] in ([], [1.0])  # where the cosine takes over
    assert np.diff([0.0, *rise[:warmup]]) == pytest.approx(1 / warmup)


INTERVALS = [Exponential, Inverse, Step, Cosine, WarmupCosine]


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
    ],
    ids=["exponential", "step", "cosine", "cosine-floor"],
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
