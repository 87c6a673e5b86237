"""Early stopping: which epoch was the best, and when patience ends."""

import math
import random

import pytest

from regrun.settings import EarlyStopping
from regrun.stopping import Patience, patience

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
    assert patience(settings) == Patience(4, min_delta=0.25, sign=sign)


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
