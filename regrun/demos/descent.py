"""Momentum: its rate on a quadratic, and local minima it rolls out of. And two learning-rate schedules that are one."""

import math

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]


def quadratic_steps(condition: float, *, lr: float, momentum: float, tolerance: float = 1e-6) -> int:
    """Steps to |w| <= tolerance |w_0| on (w_1^2 + condition w_2^2) / 2, from (1, 1)."""
    curvature, w, v, steps = np.array([1.0, condition]), np.ones(2), np.zeros(2), 0
    while np.linalg.norm(w) > tolerance * math.sqrt(2):
        v = momentum * v + curvature * w
        w = w - lr * v
        steps += 1
    return steps


def descent_rate(condition: float) -> float:
    """Shrinkage per step of gradient descent at its best lr, 2 / (1 + k): (k - 1) / (k + 1)."""
    return (condition - 1) / (condition + 1)


def momentum_rate(condition: float) -> float:
    """The same with the best momentum (Polyak 1964): (sqrt k - 1) / (sqrt k + 1), at lr (2 / (1 + sqrt k))^2."""
    root = math.sqrt(condition)
    return (root - 1) / (root + 1)


def escapes(momentum: float, *, lr: float = 0.01, steps: int = 2000) -> float:
    """Share of starts in the upper valley of (x^2 - 1)^2 + 0.3 x that end in the lower one.

    The starts are even between the top, at 0.0755, and 1.8. Without momentum and with a small lr every step goes down,
    so that none escapes.
    """
    x, v = np.linspace(0.08, 1.8, 200), np.zeros(200)
    for _ in range(steps):
        v = momentum * v + 4 * x * (x**2 - 1) + 0.3
        x = x - lr * v
    return float((x < 0).mean())


def schedules_apart(k: float, epochs: int) -> float:
    """Largest difference of e^(-k t) and alpha^t, alpha = e^-k: the lectures list one schedule as two."""
    multiplied, largest = 1.0, 0.0
    for t in range(epochs):
        largest = max(largest, abs(math.exp(-k * t) - multiplied))
        multiplied *= math.exp(-k)
    return largest


def momentum() -> Shown:
    """On a quadratic of condition k momentum needs about sqrt(k) steps where gradient descent needs k."""
    rows = []
    for k in (10.0, 100.0, 1000.0):
        plain = quadratic_steps(k, lr=2 / (1 + k), momentum=0.0)
        heavy = quadratic_steps(k, lr=(2 / (1 + math.sqrt(k))) ** 2, momentum=momentum_rate(k) ** 2)
        rows.append([int(k), plain, heavy, descent_rate(k), momentum_rate(k)])
    return Shown(
        ["condition", "steps, plain", "steps, momentum", "rate, plain", "rate, momentum"], rows, "each at its best lr"
    )


def double_well() -> Shown:
    """Momentum rolls out of local minima that hold gradient descent."""
    rows = [[m, escapes(m)] for m in (0.0, 0.5, 0.9, 0.95, 0.99)]
    return Shown(
        ["momentum", "share that escapes"],
        rows,
        "without momentum every step goes down; with it some starts carry over the top",
    )


def schedules() -> Shown:
    """Exponential decay e^(-k t) and multiplicative decay by e^-k are the same schedule."""
    rows = [[k, math.exp(-k), schedules_apart(k, 100)] for k in (0.01, 0.1, 1.0)]
    return Shown(["k", "alpha", "largest difference"], rows, "over 100 epochs they differ by rounding")
