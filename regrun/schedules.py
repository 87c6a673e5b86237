"""Time -> multiplier of the base learning rate. Pure functions; `optim` turns them into a table."""

import math

import numpy as np
from numpy.typing import NDArray

from regrun.settings import Constant, Cosine, Exponential, Inverse, Scheduler, Step, WarmupCosine


def exponential(t: int, *, k: float) -> float:
    """e^(-k t): the same as multiplying by e^(-k) each time."""
    return math.exp(-k * t)


def inverse(t: int, *, k: float) -> float:
    """1 / (1 + k t)."""
    return 1 / (1 + k * t)


def step(t: int, *, step_size: int, gamma: float) -> float:
    """gamma^floor(t / step_size)."""
    return float(gamma ** (t // step_size))


def cosine(t: int, *, total: int, min_factor: float) -> float:
    """From 1 at t = 0 towards `min_factor` at t = total (Loshchilov and Hutter 2017, without restarts)."""
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * t / total))


def warmup_cosine(t: int, *, warmup: int, total: int, min_factor: float) -> float:
    """A linear rise that reaches 1 after `warmup` times (Goyal et al. 2017), then half a cosine."""
    if t < warmup:
        return (t + 1) / warmup
    return cosine(t - warmup, total=total - warmup, min_factor=min_factor)


def multiplier(scheduler: Scheduler, t: int, total: int) -> float:
    """The multiplier at time t (0-based) of `total` epochs or steps."""
    match scheduler:
        case Constant():
            return 1.0
        case Exponential():
            return exponential(t, k=scheduler.k)
        case Inverse():
            return inverse(t, k=scheduler.k)
        case Step():
            return step(t, step_size=scheduler.step_size, gamma=scheduler.gamma)
        case Cosine():
            return cosine(t, total=total, min_factor=scheduler.min_factor)
        case WarmupCosine():
            warmup = round(scheduler.warmup * total)
            return warmup_cosine(t, warmup=warmup, total=total, min_factor=scheduler.min_factor)


def epoch_lrs(scheduler: Scheduler, lr: float, *, epoch: int, epochs: int, steps: int) -> NDArray[np.float64]:
    """(steps,) the learning rate that each step of `epoch` (1-based) of `epochs` uses."""
    if isinstance(scheduler, Constant) or scheduler.interval == "epoch":
        return np.full(steps, lr * multiplier(scheduler, epoch - 1, epochs))
    first = (epoch - 1) * steps
    return np.array([lr * multiplier(scheduler, first + s, epochs * steps) for s in range(steps)])
