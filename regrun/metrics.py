"""Figures of a run, and what they say in words. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Where a figure's rules draw their lines."""

    gap: float  # about three standard errors of a val set of 300
    high: float  # what a network that is large and trained enough reaches on train


ACCURACY, R2 = Limits(0.05, 0.95), Limits(0.1, 0.5)


@dataclass(frozen=True)
class Diagnosis:
    """One word for the tables, one sentence for people."""

    word: str
    sentence: str


def slope(values: Sequence[float]) -> float:
    """The least-squares slope of values against 0, 1, 2, ...; 0 for fewer than two."""
    n = len(values)
    if n < 2:
        return 0.0
    center = (n - 1) / 2
    mean = sum(values) / n
    return sum((i - center) * (v - mean) for i, v in enumerate(values)) / sum((i - center) ** 2 for i in range(n))


def diagnose(
    train_loss: Sequence[float],
    val_loss: Sequence[float],
    train_figure: Sequence[float],
    val_figure: Sequence[float],
    *,
    limits: Limits = ACCURACY,
    best_epoch: int,
    diverged: bool,
) -> Diagnosis:
    """What the curves say, one rule after another; the first that holds speaks. Epoch 0 comes first.

    diverged: a loss was not finite. untrained: no epoch was trained. still improving: the best epoch is the
    last one, and both losses fell by more than 1 % over the last five epochs. overfit: at the last epoch val
    loss is more than 5 % above its best while train loss went on falling, or train accuracy leads val by more
    than 5 points at the best epoch (R2: by 0.1). underfit: train accuracy there is under 95 % (R2: under 0.5).
    """
    if diverged:
        return Diagnosis("diverged", "diverged: lower the learning rate, or clip the gradient")
    last = len(val_loss) - 1
    if last < 1:
        return Diagnosis("untrained", "untrained: no epoch was run")
    tail = max(0, last - 5)
    falling = all(slope(c[tail:]) * (last - tail) < -0.01 * c[tail] for c in (train_loss, val_loss))
    if best_epoch == last and falling:
        return Diagnosis("still_improving", "still improving when it ended: train longer, or raise the learning rate")
    gap = train_figure[best_epoch] - val_figure[best_epoch]
    rising = val_loss[last] > 1.05 * val_loss[best_epoch] and train_loss[last] < train_loss[best_epoch]
    if rising or gap > limits.gap:
        lead = f"{100 * gap:.1f} points of accuracy" if limits is ACCURACY else f"{gap:.2f} of R2"
        since = f"since epoch {best_epoch}" if rising else f"by {lead}"
        return Diagnosis("overfit", f"overfit {since}: more data, or more regularization")
    if train_figure[best_epoch] < limits.high:
        return Diagnosis("underfit", "underfit: raise the capacity, train longer, or regularize less")
    return Diagnosis("ok", "fits well: train and val agree, and val loss has levelled off")
