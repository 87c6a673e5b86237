"""Time -> multiplier of the base learning rate. Pure functions; `optim` turns them into a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regrun import settings as s


def exponential(t: int, *, k: float) -> float:
    """e^(-k t): the same as multiplying by e^(-k) each time."""
    return math.exp(-k * t)


def inverse(t: int, *, k: float) -> float:
    """1 / (1 + k t)."""
    return 1 / (1 + k * t)


def step(t: int, *, step_size: int, gamma: float) -> float:
    """gamma^floor(t / step_size)."""
    return float(gamma ** (t // step_size))


def multistep(t: int, *, milestones: Sequence[int], gamma: float) -> float:
    """gamma^(how many milestones t has reached)."""
    return float(gamma ** sum(t >= m for m in milestones))


def cosine(t: float, *, total: float, min_factor: float) -> float:
    """From 1 at t = 0 towards `min_factor` at t = total (Loshchilov and Hutter 2017, without restarts)."""
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * t / total))


def cosine_restarts(t: int, *, t_0: int, t_mult: int, min_factor: float) -> float:
    """Such cosines one after another, each t_mult times as long as the one before (the same, with restarts: SGDR)."""
    length = t_0
    while t >= length:
        t, length = t - length, length * t_mult
        if t_mult == 1:
            t %= length
    return cosine(t, total=length, min_factor=min_factor)


def one_cycle(t: int, *, total: int, pct_start: float, div_factor: float, final_div_factor: float) -> float:
    """From 1 / div_factor up to 1 and down to nearly 0, by half cosines (Smith and Topin 2019, in torch's form)."""
    low, top = 1 / div_factor, pct_start * total - 1
    if t <= top:
        return 1 - (1 - low) * 0.5 * (1 + math.cos(math.pi * t / top)) if top > 0 else 1.0
    return cosine(t - top, total=total - 1 - top, min_factor=low / final_div_factor)


def cyclic(t: int, *, step_size_up: int, min_factor: float) -> float:
    """The triangular policy (Smith 2017): `min_factor` at t = 0, 1 at step_size_up, and so on."""
    height = 1 - abs(t / step_size_up % 2 - 1)
    return min_factor + (1 - min_factor) * height


def _after_warmup(scheduler: s.Scheduler, t: int, total: int) -> float:
    """The multiplier at time t of `total`; a table's own lr."""
    match scheduler:
        case s.Exponential(k=k):
            return exponential(t, k=k)
        case s.Multiplicative(alpha=alpha):
            return float(alpha**t)
        case s.Inverse(k=k):
            return inverse(t, k=k)
        case s.Step(step_size=step_size, gamma=gamma):
            return step(t, step_size=step_size, gamma=gamma)
        case s.MultiStep(milestones=milestones, gamma=gamma):
            return multistep(t, milestones=milestones, gamma=gamma)
        case s.Cosine(min_factor=floor):
            return cosine(t, total=total, min_factor=floor)
        case s.CosineRestarts(t_0=t_0, t_mult=t_mult, min_factor=floor):
            return cosine_restarts(t, t_0=t_0, t_mult=t_mult, min_factor=floor)
        case s.OneCycle(pct_start=share, div_factor=div, final_div_factor=final):
            return one_cycle(t, total=total, pct_start=share, div_factor=div, final_div_factor=final)
        case s.Cyclic(step_size_up=up, min_factor=floor):
            return cyclic(t, step_size_up=up, min_factor=floor)
        case s.Table(lrs=lrs):
            return lrs[min(t, len(lrs) - 1)]
    return 1.0  # constant; plateau, whose multiplier the loop asks for


def multiplier(scheduler: s.Scheduler, t: int, total: int) -> float:
    """The multiplier at time t (0-based) of `total` epochs or steps.

    The warm-up (Goyal et al. 2017) reaches the schedule's start after its share of them.
    """
    warmup = round(scheduler.warmup * total)
    if t < warmup:
        return _after_warmup(scheduler, 0, max(1, total - warmup)) * ((t + 1) / warmup)
    return _after_warmup(scheduler, t - warmup, total - warmup)


def epoch_lrs(scheduler: s.Scheduler, lr: float, *, epoch: int, epochs: int, steps: int) -> NDArray[np.float64]:
    """(steps,) the learning rate that each step of `epoch` (1-based) of `epochs` uses."""
    base = 1.0 if isinstance(scheduler, s.Table) else lr
    if scheduler.interval == "epoch":
        return np.full(steps, base * multiplier(scheduler, epoch - 1, epochs))
    first = (epoch - 1) * steps
    return np.array([base * multiplier(scheduler, first + i, epochs * steps) for i in range(steps)])


@dataclass(frozen=True)
class ReduceOnPlateau:
    """A multiplier that falls by `factor` when val has not improved for more than `patience` epochs.

    As torch's ReduceLROnPlateau: better means by a share `threshold` of the best, and the `cooldown` epochs after
    a fall count nothing. What is not finite is a miss.
    """

    settings: s.Plateau
    best: float = math.inf
    misses: int = 0
    cooling: int = 0
    multiplier: float = 1.0

    def seen(self, loss: float, accuracy: float) -> "ReduceOnPlateau":
        """The state after an epoch."""
        own, score = self.settings, loss if self.settings.monitor == "val_loss" else -accuracy
        limit = self.best - own.threshold * abs(self.best) if math.isfinite(self.best) else math.inf
        is_better = math.isfinite(score) and score < limit
        misses = 0 if is_better or self.cooling > 0 else self.misses + 1
        after = replace(self, best=score if is_better else self.best, misses=misses, cooling=max(0, self.cooling - 1))
        if misses <= own.patience:
            return after
        multiplier = max(self.multiplier * own.factor, own.min_factor)
        return replace(after, misses=0, cooling=own.cooldown, multiplier=multiplier)
