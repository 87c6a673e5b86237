"""Ways to shrink weights: early stopping, l2, decoupled decay, l1; where they are the same and where not."""

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]


def descent_filter(h: Array, *, lr: float, steps: int) -> Array:
    """What gradient descent from 0 has of each eigen-direction of a quadratic: 1 - (1 - lr h)^t. h: curvatures."""
    return np.asarray(1 - (1 - lr * h) ** steps)


def ridge_filter(h: Array, alpha: float) -> Array:
    """What the minimum with (alpha / 2) |w|^2 has of it: h / (h + alpha)."""
    return np.asarray(h / (h + alpha))


def early_stopping_against_ridge(h: Array, w: Array, *, lr: float, steps: int) -> tuple[float, float]:
    """Cosine and norm ratio of w after t steps and of ridge's w at alpha = 1 / (lr t). w: the minimum, (D,).

    The ratio of the two filters is about (1 - e^-s)(1 + 1/s) at s = lr h t: between 1 and 1.30, or 1.35 for t >= 10
    and lr h <= 1. So the cosine is at least 0.989 (2 sqrt r / (1 + r) at r = 1.35). That far holds the lectures' "early
    stopping is weight decay", for quadratics (Ali, Kolter and Tibshirani 2019; Goodfellow et al. 2016, 7.8).
    """
    stopped, ridge = w * descent_filter(h, lr=lr, steps=steps), w * ridge_filter(h, 1 / (lr * steps))
    norms = float(np.linalg.norm(stopped)), float(np.linalg.norm(ridge))
    return float(stopped @ ridge) / (norms[0] * norms[1]), norms[0] / norms[1]


def least_squares(seed: int, *, examples: int, features: int, nonzero: int, noise: float) -> tuple[Array, Array, Array]:
    """X (N, D), y (N,) and the true w (D,), of which the first `nonzero` are not 0."""
    g = np.random.default_rng(seed)
    x, w = g.normal(size=(examples, features)), np.zeros(features)
    w[:nonzero] = g.choice([-1.0, 1.0], nonzero) * g.uniform(1, 2, nonzero)
    return x, x @ w + noise * g.normal(size=examples), w


def l2_and_decay(*, lr: float, value: float, momentum: float, steps: int) -> float:
    """Descend least squares by l2's gradient and by decoupled decay; the relative distance of the two ends.

    w - lr (g + value w) = (1 - lr value) w - lr g: the same step (Loshchilov and Hutter 2019). Momentum also
    accumulates l2's part, about 1 / (1 - momentum) times, and they part.
    """
    x, y, _ = least_squares(0, examples=40, features=10, nonzero=10, noise=0.1)
    ends = []
    for in_loss, decoupled in ((value, 0.0), (0.0, value)):
        w, v = np.ones(10), np.zeros(10)
        for _ in range(steps):
            v = momentum * v + x.T @ (x @ w - y) / len(y) + in_loss * w
            w = (1 - lr * decoupled) * w - lr * v
        ends.append(w)
    return float(np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm(ends[0]))


def adam_first_step(g: Array, *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> Array:
    """Adam's first update with bias correction, eps = 0 (Kingma and Ba 2015): -lr sign(g), whatever the betas."""
    (b1, b2), first, second = betas, (1 - betas[0]) * g, (1 - betas[1]) * g**2
    return np.asarray(-lr * (first / (1 - b1)) / np.sqrt(second / (1 - b2)))


def uncorrected_first_step(g: Array, *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> Array:
    """The same without: (1 - b1) / sqrt(1 - b2) = 3.16 times as large."""
    return np.asarray(-lr * (1 - betas[0]) * g / np.sqrt((1 - betas[1]) * g**2))


def lasso(x: Array, y: Array, *, value: float, steps: int, proximal: bool) -> Array:
    """Least squares with value |w|_1 by subgradient or proximal steps (ISTA, Daubechies et al. 2004), lr = 1 / L.

    A lecture says that l1 "drives weights exactly to zero": the minimum has zeros, but subgradient steps jump over
    them; the soft threshold of a proximal step does not.
    """
    n = len(y)
    lr, w = 1 / float(np.linalg.eigvalsh(x.T @ x / n)[-1]), np.full(x.shape[1], 0.1)
    for _ in range(steps):
        gradient = x.T @ (x @ w - y) / n
        if proximal:
            w = w - lr * gradient
            w = np.sign(w) * np.maximum(np.abs(w) - lr * value, 0)
        else:
            w = w - lr * (gradient + value * np.sign(w))
    return w


def early_stopping() -> Shown:
    """Stopping gradient descent after t steps shrinks like ridge with alpha = 1 / (lr t)."""
    x, y, _ = least_squares(0, examples=60, features=20, nonzero=20, noise=0.5)
    h, q = np.linalg.eigh(x.T @ x / len(y))
    w, lr = q.T @ (x.T @ y) / len(y) / h, 0.015
    rows = [[t, 1 / (lr * t), *early_stopping_against_ridge(h, w, lr=lr, steps=t)] for t in (10, 30, 100, 300, 1000)]
    header = ["steps", "alpha", "cosine", "norm ratio"]
    return Shown(header, rows, "nearly the same direction; early stopping shrinks less, by a factor of at most 1.35")


def weight_decay() -> Shown:
    """l2 in the loss and decoupled weight decay are the same under plain SGD, and only there."""
    rows: list[list[str | float]] = [
        [f"sgd, momentum {m:g}", l2_and_decay(lr=0.05, value=0.1, momentum=m, steps=100)] for m in (0.0, 0.9)
    ]
    g, w, lr, value = np.array([0.5, -2.0, 0.01]), np.array([1.0, 1.0, -1.0]), 1e-3, 0.1
    coupled, decoupled = adam_first_step(g + value * w, lr=lr), adam_first_step(g, lr=lr) - lr * value * w
    rows.append(["adam, first step", float(np.linalg.norm(coupled - decoupled) / np.linalg.norm(coupled))])
    return Shown(["optimizer", "relative difference"], rows, "adam divides l2's part by the gradient's size: AdamW")


def adam() -> Shown:
    """Without bias correction Adam's first step is (1 - b1) / sqrt(1 - b2) = 3.16 times as large."""
    gradients = np.array([1e-4, 1.0, 1e4])
    sizes = zip(gradients, adam_first_step(gradients), uncorrected_first_step(gradients), strict=True)
    rows = [[float(g), float(a), float(b), float(b / a)] for g, a, b in sizes]
    return Shown(["gradient", "corrected", "uncorrected", "ratio"], rows, "a step's size is not the gradient's")


def l1() -> Shown:
    """l1 gives weights that are exactly 0 by proximal steps, and none by subgradient steps."""
    x, y, true = least_squares(0, examples=200, features=50, nonzero=5, noise=0.1)
    rows = []
    for name, proximal in (("subgradient", False), ("proximal", True)):
        w = lasso(x, y, value=0.1, steps=500, proximal=proximal)
        rows.append([name, int((w[true == 0] == 0).sum()), int((true == 0).sum()), int((w[true != 0] == 0).sum())])
    return Shown(["steps", "exact zeros", "of", "lost"], rows, "zeros come from the step, not from the penalty alone")
