"""Early stopping: which epoch was the best, and when patience ends."""

import math
import random

import pytest

from regrun.settings import EarlyStopping
from regrun.stopping import Gap, GeneralizationLoss, Patience, Stopping, stopping

NAN, INF = math.nan, math.inf


def watch(state: Patience, values: list[float]) -> tuple[int | None, int]:
    """(the epoch at which patience ran out, the best epoch so far) of values that begin with epoch 0."""
    for epoch, value in enumerate(values):
        state = state.seen(value, epoch)
        if state.is_over:
            return epoch, state.best_epoch
    return None, state.best_epoch


@pytest.mark.parametrize(
    ("limit", "min_delta", "values", "stopped", "best"),
    [
        (1, 0.0, [3, 2, 2, 1], 2, 1),  # a tie is a miss
        (2, 0.0, [3, 2, 2.5, 1, 1.5, 1.2, 0], 5, 3),  # an improvement forgets the misses before it
        (3, 0.0, [3, 2, 1], None, 2),
        (3, 0.0, [1, 2, 3, 4], 3, 0),  # epoch 0 counts
        (3, 0.0, [1, 2, 3], None, 0),
        (1, 0.5, [3, 2.5, 0], 1, 0),  # exactly min_delta is not more than min_delta
        (1, 0.5, [3, 2.25, 1.5], None, 2),
        (2, 0.5, [3, 2.75, 2.375, 2, 0], None, 4),  # small steps add up: the best stays where it was
        (3, 0.5, [3, 2.75, 2.625, 2.5], 3, 0),
        (2, 0.0, [NAN, NAN, 1], 1, -1),  # nothing was best
        (2, 0.0, [NAN, 3, NAN, 2, NAN, NAN], 5, 3),
        (2, 0.0, [INF, 3, INF, INF], 3, 1),
        (None, 0.0, [1, 2, 3, 4, 0.5, NAN, INF], None, 4),
    ],
)
def test_scripted_losses_stop_where_they_should(
    limit: int | None, min_delta: float, values: list[float], stopped: int | None, best: int
) -> None:
    assert watch(Patience(limit, min_delta=min_delta), values) == (stopped, best)
    assert watch(Patience(limit, min_delta=min_delta, sign=-1), [-v for v in values]) == (stopped, best)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("before", [[], [0.5]])
def test_what_is_not_finite_never_improves(before: list[float], value: float, sign: int) -> None:
    state = Patience(limit=9, sign=sign)
    for epoch, v in enumerate(before):
        state = state.seen(v, epoch)
    after = state.seen(value, len(before))
    assert (after.best, after.best_epoch, after.misses) == (state.best, state.best_epoch, 1)


def test_no_limit_never_stops() -> None:
    assert watch(Patience(None), [0.0] + [1.0] * 10_000) == (None, 0)


@pytest.mark.parametrize(
    ("monitor", "mode", "sign"),
    [
        ("val_loss", "auto", 1),
        ("val_accuracy", "auto", -1),
        ("val_loss", "min", 1),
        ("val_loss", "max", -1),
        ("val_accuracy", "min", 1),
        ("val_accuracy", "max", -1),
    ],
)
def test_auto_minimizes_a_loss_and_maximizes_an_accuracy(monitor: str, mode: str, sign: int) -> None:
    settings = EarlyStopping(patience=4, min_delta=0.25, monitor=monitor, mode=mode)
    tracked = Patience(None, min_delta=0.25, sign=sign)
    assert stopping(settings) == Stopping(tracked, Patience(4, min_delta=0.25, sign=sign))


def reread(values: list[float], limit: int | None, min_delta: float, sign: int) -> tuple[int | None, int]:
    """`watch`, from the whole history at every epoch: no state."""
    stopped, marks = None, list[int]()  # marks: the epochs that improved
    for epoch, value in enumerate(values):
        gained = math.inf if not marks else sign * (values[marks[-1]] - value)
        if math.isfinite(value) and gained > min_delta:
            marks.append(epoch)
        if limit is not None and epoch - (marks[-1] if marks else -1) >= limit:
            stopped = epoch
            break
    return stopped, marks[-1] if marks else -1


def test_random_sequences_stop_where_a_second_reading_says() -> None:
    draw = random.Random(0)
    stops = 0
    for _ in range(2000):
        sign, min_delta = draw.choice([1, -1]), draw.choice([0, 1, 2])
        limit = draw.choice([1, 2, 3, 5, None])
        worst = sign * INF
        values = [draw.choice([*range(8), NAN, worst]) for _ in range(draw.randrange(25))]
        state = Patience(limit, min_delta=min_delta, sign=sign)
        assert watch(state, values) == reread(values, limit, min_delta, sign)
        stops += watch(state, values)[0] is not None
    assert 500 < stops < 1900  # the sequences try both ends


def follow(settings: EarlyStopping, epochs: list[tuple[float, float, float]]) -> tuple[int | None, int]:
    """(the epoch at which the rule was over, the best epoch so far) of (val loss, train and val accuracy)."""
    state = stopping(settings)
    for epoch, (val_loss, train, val) in enumerate(epochs):
        monitored = val_loss if settings.monitor == "val_loss" else val
        state = state.seen(monitored, epoch, gap=train - val, val_loss=val_loss)
        if state.rule.is_over:
            return epoch, state.best.best_epoch
    return None, state.best.best_epoch


@pytest.mark.parametrize(
    ("limit", "gaps", "stopped"),
    [
        (0.25, [0.0, 0.125, 0.25, 0.375], 3),  # exactly the limit is not more than the limit
        (0.25, [0.5, 0.0], 0),
        (0.25, [-0.5, 0.0, 0.1], None),  # val may lead
        (0.0, [0.0, 0.0, 0.01], 2),
        (0.25, [NAN, 0.1, 0.3], 2),
    ],
)
def test_the_gap_rule_stops_once_train_leads_by_more(limit: float, gaps: list[float], stopped: int | None) -> None:
    """The best epoch is still that of val loss, which falls throughout here."""
    epochs = [(9.0 - e, 0.5 + gap, 0.5) for e, gap in enumerate(gaps)]
    assert follow(EarlyStopping(rule="gap", gap=limit, patience=1), epochs) == (
        stopped,
        len(gaps) - 1 if stopped is None else stopped,
    )


@pytest.mark.parametrize(
    ("alpha", "losses", "stopped", "best"),
    [
        (25.0, [4.0, 2.0, 2.5, 2.625], 3, 1),  # 25 % above the lowest is not more than 25 %
        (25.0, [4.0, 2.0, 2.25, 1.0, 1.5], 4, 3),
        (25.0, [4.0, 3.0, 2.0, 1.0], None, 3),
        (5.0, [1.0] * 50, None, 0),
        (5.0, [1.0, 1.04, 1.04, 1.04, 1.06], 4, 0),  # how long does not matter
        (5.0, [NAN, 1.0, NAN, 2.0], 3, 1),
        (5.0, [0.0, 0.0, 0.1], 2, 0),
    ],
)
def test_generalization_loss_stops_once_val_loss_is_alpha_percent_above_its_lowest(
    alpha: float, losses: list[float], stopped: int | None, best: int
) -> None:
    settings = EarlyStopping(rule="generalization_loss", alpha=alpha, patience=1)
    assert follow(settings, [(loss, 0.5, 0.5) for loss in losses]) == (stopped, best)


def test_a_smoothed_rule_outlasts_a_spike_and_the_best_epoch_is_the_raw_one() -> None:
    """Smoothed by 1/2: 8, 6, 4, 4, 3.5, 3.25 with its only miss at epoch 3; raw, epochs 3 to 5 are misses."""
    epochs = [(loss, 0.5, 0.5) for loss in (8.0, 4.0, 2.0, 4.0, 3.0, 3.0)]
    assert follow(EarlyStopping(patience=3), epochs) == (5, 2)
    assert follow(EarlyStopping(patience=3, smoothing=0.5), epochs) == (None, 2)
    assert follow(EarlyStopping(patience=1, smoothing=0.5), epochs) == (3, 2)


def test_a_smoothed_rule_passes_over_what_is_not_finite() -> None:
    state = Stopping(Patience(None), GeneralizationLoss(50.0), smoothing=0.5)
    for epoch, loss in enumerate([4.0, NAN, 2.0]):
        state = state.seen(loss, epoch, gap=0.0, val_loss=loss)
    assert (state.smooth, state.best.best_epoch, state.rule.is_over) == (3.0, 2, False)


def test_without_smoothing_the_rule_of_patience_is_patience() -> None:
    draw = random.Random(1)
    for _ in range(300):
        values = [draw.choice([*range(8), NAN, INF]) for _ in range(draw.randrange(25))]
        ours = follow(EarlyStopping(patience=3), [(v, 0.5, 0.5) for v in values])
        assert ours == watch(Patience(3), values)


def test_a_gap_that_is_small_again_is_not_over() -> None:
    assert not Gap(0.1).seen(0.2, 0).seen(0.05, 1).is_over
