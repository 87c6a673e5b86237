"""What curves say: the slope, and each rule of the diagnosis on curves made for it."""

import math
import random

import pytest

from regrun.metrics import ACCURACY, ZIGZAG, diagnose, oscillation, slope


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0),
        ([3.0], 0),
        ([3.0, 5.0], 2),
        ([7.0] * 6, 0),
        ([2 - 0.5 * i for i in range(9)], -0.5),
        ([float(i * i) for i in range(11)], 10),  # of a parabola on 0 ... n: n
        ([0.0, 0.0, 1.0], 0.5),
        ([1.0, -1.0, 1.0, -1.0], -0.4),
    ],
)
def test_slope_is_that_of_least_squares(values: list[float], expected: float) -> None:
    assert slope(values) == pytest.approx(expected, abs=1e-15)


def test_slope_ignores_a_shift_and_follows_a_scale() -> None:
    values = [0.3, -1.0, 2.5, 0.1, 4.0]
    assert slope([3 - 2 * v for v in values]) == pytest.approx(-2 * slope(values), rel=1e-12)


FLAT, FALLING = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
EARLY = [9.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.499]
RISING = [1.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75]  # best at epoch 1


def word(
    train_loss: list[float],
    val_loss: list[float],
    *,
    train: float = 0.99,
    val: float = 0.98,
    diverged: bool = False,
) -> str:
    """The diagnosis of two loss curves with constant accuracies; the first lowest val loss is the best."""
    size = len(val_loss)
    best = val_loss.index(min(val_loss))
    accuracies = [train] * size, [val] * size
    return diagnose(train_loss, val_loss, *accuracies, best_epoch=best, diverged=diverged).word


def test_a_diverged_run_is_only_that() -> None:
    assert word(FALLING, RISING, train=0.1, diverged=True) == "diverged"
    assert diagnose([], [], [], [], best_epoch=-1, diverged=True).word == "diverged"


def test_epoch_0_alone_is_untrained() -> None:
    assert word([2.3], [2.3]) == "untrained"


@pytest.mark.parametrize(
    ("train_loss", "val_loss", "expected"),
    [
        (FALLING, FALLING, "still_improving"),
        ([2.0, 1.0], [2.0, 1.5], "still_improving"),  # fewer than five epochs: all of them
        (FLAT, FALLING, "ok"),  # both must fall
        (FALLING, [*FALLING[:-1], 0.51], "ok"),  # the best epoch must be the last
        ([0.5 - 0.0005 * i for i in range(7)], [0.5 - 0.0005 * i for i in range(7)], "ok"),  # 0.5 % in five epochs
        ([0.5 - 0.0015 * i for i in range(7)], [0.5 - 0.0015 * i for i in range(7)], "still_improving"),  # 1.5 %
        (EARLY, EARLY, "still_improving"),  # five epochs lie between six values
        ([9.0, *FLAT], [9.0, *FLAT[:-1], 0.499], "ok"),  # what fell before the last five epochs does not count
    ],
)
def test_still_improving_means_best_at_the_end_with_both_losses_falling(
    train_loss: list[float], val_loss: list[float], expected: str
) -> None:
    assert word(train_loss, val_loss) == expected


def test_still_improving_outranks_a_gap_and_low_accuracy() -> None:
    assert word(FALLING, FALLING, train=0.99, val=0.5) == "still_improving"
    assert word(FALLING, FALLING, train=0.3, val=0.3) == "still_improving"


@pytest.mark.parametrize(
    ("train_loss", "val_loss", "expected"),
    [
        (FALLING, RISING, "overfit"),
        (FALLING, [0.5 * v for v in RISING], "overfit"),  # relative to its best
        (FALLING, [1.0, 0.5, 0.51, 0.52, 0.5, 0.52, 0.52], "ok"),  # 4 %
        (FALLING, [1.0, 0.5, 0.51, 0.52, 0.5, 0.52, 0.53], "overfit"),  # 6 %
        (RISING, RISING, "ok"),  # train loss rose too
    ],
)
def test_val_loss_that_rises_while_train_loss_falls_is_overfit(
    train_loss: list[float], val_loss: list[float], expected: str
) -> None:
    assert word(train_loss, val_loss) == expected


def test_a_gap_in_accuracy_at_the_best_epoch_is_overfit() -> None:
    assert word(FLAT, FLAT, train=0.97, val=0.97 - ACCURACY.gap - 0.001) == "overfit"
    assert word(FLAT, FLAT, train=0.97, val=0.97 - ACCURACY.gap + 0.001) == "ok"
    assert word(FLAT, FLAT, train=0.5, val=0.5 - ACCURACY.gap - 0.001) == "overfit"  # before it is underfit


def test_the_gap_is_read_at_the_best_epoch_and_not_at_the_last() -> None:
    train, val = [0.1, 0.97, 0.97, 0.97], [0.1, 0.97, 0.90, 0.90]
    losses = [2.0, 0.5, 0.5, 0.5]
    assert diagnose(losses, losses, train, val, best_epoch=1, diverged=False).word == "ok"
    assert diagnose(losses, losses, train, val, best_epoch=2, diverged=False).word == "overfit"


def test_low_train_accuracy_without_a_gap_is_underfit() -> None:
    assert word(FLAT, FLAT, train=ACCURACY.high - 0.001, val=ACCURACY.high - 0.001) == "underfit"
    assert word(FLAT, FLAT, train=ACCURACY.high, val=ACCURACY.high) == "ok"
    assert word(FLAT, FLAT, train=0.6, val=0.7) == "underfit"  # val may lead


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([9.0, *[0.5] * 5], 0),
        ([9.0, 5.0, 4.0, 3.0, 2.0, 1.0], 0),  # a straight line
        ([9.0, *[7.0, 3.0] * 10, *[2.0] * 5], 0),  # a fifth of 25 epochs is 5
        ([0.0, 2.0, 1.0, 2.0, 1.0, 2.0], math.sqrt(1.2 / 3) / 1.6),
        ([0.0, 20.0, 10.0, 20.0, 10.0, 20.0], math.sqrt(1.2 / 3) / 1.6),  # a share: units do not matter
        ([1.0] * 5, None),  # four epochs
        ([1.0, *[math.nan] * 5], None),
        ([1.0, *[0.0] * 5], None),
        ([], None),
    ],
)
def test_oscillation_is_the_relative_deviation_from_a_line(losses: list[float], expected: float | None) -> None:
    assert oscillation(losses) == (None if expected is None else pytest.approx(expected, abs=1e-15))


def test_oscillation_is_the_noise_of_a_falling_curve() -> None:
    """A line from 1 to 0.2 with Gaussian noise of 0.06, whose last 200 of 1,000 epochs have the mean 0.28."""
    draw = random.Random(0)
    losses = [1 - 0.0008 * t + draw.gauss(0, 0.06) for t in range(1001)]
    assert oscillation(losses) == pytest.approx(0.06 / 0.28, rel=0.1)


@pytest.mark.parametrize("size", [6, 20, 50])
def test_a_train_loss_that_zigzags_is_oscillating(size: int) -> None:
    def curve(height: float) -> list[float]:
        return [1.0] + [0.5 * (1 + height * (-1) ** t) for t in range(size)]

    assert oscillation(curve(0.1)) < ZIGZAG < oscillation(curve(0.4))
    assert word(curve(0.1), [0.5] * (size + 1)) == "ok"
    assert word(curve(0.4), [0.5] * (size + 1)) == "oscillating"
    assert word(curve(0.4), [0.5] * (size + 1), train=0.5, val=0.4) == "oscillating"


def test_every_diagnosis_begins_with_its_word() -> None:
    words = {
        diagnose(*curves, best_epoch=1, diverged=diverged)
        for diverged in (False, True)
        for curves in (
            ([1.0], [1.0], [0.1], [0.1]),
            ([1.0, 0.5], [1.0, 0.5], [0.1, 0.9], [0.1, 0.9]),
            ([1.0, 0.5, 0.4], [1.0, 0.5, 0.9], [0.1, 0.9, 0.9], [0.1, 0.9, 0.9]),
            ([1.0, 0.5, 0.5], [1.0, 0.5, 0.5], [0.1, 0.9, 0.9], [0.1, 0.9, 0.9]),
            ([9.0, 1.0, 2.0, 1.0, 2.0, 1.0], [9.0, *[1.0] * 5], [0.1, *[0.9] * 5], [0.1, *[0.9] * 5]),
            ([1.0, 0.1, 0.1], [1.0, 0.1, 0.1], [0.1, 1.0, 1.0], [0.1, 1.0, 1.0]),
        )
    }
    expected = {"diverged", "untrained", "still_improving", "oscillating", "overfit", "underfit", "ok"}
    assert {d.word for d in words} == expected
    assert all(d.sentence.startswith("fits well" if d.word == "ok" else d.word.replace("_", " ")) for d in words)
