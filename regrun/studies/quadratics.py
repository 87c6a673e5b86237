"""Studies of optimizers where all is known: least squares, a valley, two wells. Each gives figures for one seed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrun import optim
from regrun import settings as s
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.demos import shrinkage
from regrun.settings import Seeds, Settings, resolve
from regrun.studies.found import Found

Array = NDArray[Any]
EXAMPLES = 1000
STOPS = (10, 30, 100, 300, 1000, 3000, 10_000)  # steps
CONDITION, TOLERANCE, MOST, SHOWN = 1000.0, 1e-4, 20_000, 300
ROOT, WIDE = math.sqrt(CONDITION), math.sqrt(3 * CONDITION + 1)
BEST = {  # lr and momentum down the valley (Polyak 1964; Lessard, Recht and Packard 2016)
    "plain": (2 / (1 + CONDITION), 0.0),
    "heavy ball": ((2 / (1 + ROOT)) ** 2, ((ROOT - 1) / (ROOT + 1)) ** 2),
    "Nesterov": (4 / (3 * CONDITION + 1), (WIDE - 2) / (WIDE + 2)),
}


def stopped_descent(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Gradient descent from 0 on least squares of 1,000 images, stopped after t steps, and ridge at 1 / (lr t).

    lr is 1 / the largest curvature. Descent is done step by step up to 1,000 of them, to see that its closed form in
    the directions of the curvatures is right, and by it beyond.
    """
    x, y, x_test, truth = _regression(source, seed)
    h, q = np.linalg.eigh(x.T @ x / len(x))
    h = np.maximum(h, 0.0)
    slope = q.T @ (x.T @ y) / len(x)  # (D, K), minus the gradient at 0
    lr, errors = 1 / h[-1], dict[str, list[float]](descent=[], ridge=[])
    walked = dict(_descent(x, y, lr, [t for t in STOPS if t <= 1000]))
    norms, cosines, ratios, off = dict[int, float](), [], [], []
    for t in STOPS:
        stopped = slope * _over(shrinkage.descent_filter(h, lr=lr, steps=t), h, at_zero=lr * t)
        ridge = slope / (h + 1 / (lr * t))[:, None]
        norms[t], own = float(np.linalg.norm(stopped)), float(np.linalg.norm(ridge))
        cosines.append(float((stopped * ridge).sum()) / (norms[t] * own))
        ratios.append(norms[t] / own)
        if t in walked:
            off.append(float(np.linalg.norm(q @ stopped - walked[t]) / np.linalg.norm(walked[t])))
        for arm, w in (("descent", stopped), ("ridge", ridge)):
            errors[arm].append(float(((x_test @ (q @ w)).argmax(1) != truth).mean()))
            yield Found(arm, "test_error", errors[arm][-1], t)
    yield Found("descent", "relative_error", max(off))
    yield Found("descent", "norm_growth", norms[STOPS[-1]] / norms[STOPS[0]])
    yield Found("descent against ridge", "lowest_cosine", min(cosines))
    yield Found("descent against ridge", "lowest_ratio", min(ratios))
    yield Found("descent against ridge", "highest_ratio", max(ratios))
    for arm, own_errors in errors.items():
        yield Found(arm, "best_error", min(own_errors))
        yield Found(arm, "last_error", own_errors[-1])
        yield Found(arm, "stopping_gain", own_errors[-1] - min(own_errors))


def _regression(source: Source, seed: int) -> tuple[Array, Array, Array, Array]:
    """Images (N, D) and their classes one-hot (N, K), both without their means; the same of test, and its classes."""
    g = np.random.default_rng([seed, EXAMPLES])
    chosen = torch.from_numpy(np.sort(g.choice(source.train.numpy(), EXAMPLES, replace=False)))
    x, x_test = (source.inputs[at].flatten(1).double().numpy() / (source.top or 1.0) for at in (chosen, source.test))
    y = np.eye(source.num_classes)[source.targets[chosen].numpy()]
    return x - x.mean(0), y - y.mean(0), x_test - x.mean(0), source.targets[source.test].numpy()


SCALINGS = {"raw": "none", "0 to 1": "unit", "standardized": "standardize"}


def conditioning(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Least squares of the classes, by how inputs are scaled: its condition, and what gradient descent leaves.

    Inputs have a column of ones. loss_left: share of what can be explained that 1,000 steps from 0 do not, by the
    closed form, at 1 / the largest curvature. On the run's own train, scaled as for its training.
    """
    own = resolve(replace(run, seed=seed, seeds=Seeds()))
    for arm, how in SCALINGS.items():
        parts = split(source, replace(own.data, normalize=how), own.seeds)
        x = (source.inputs[parts.train].flatten(1).double() - parts.offset.double()) * parts.scale.double()
        a = np.hstack([x.numpy(), np.ones((len(x), 1))])
        y = np.eye(source.num_classes)[source.targets[parts.train].numpy()]
        h, q = np.linalg.eigh(a.T @ a / len(a))
        yield Found(arm, "log10_condition", math.log10(h[-1] / h[0]))
        yield Found(arm, "loss_left", loss_left(h, q.T @ (a.T @ y) / len(a), steps=1000))


def loss_left(h: Array, slope: Array, *, steps: int) -> float:
    """Share of the explainable loss after some steps. h: (D,) rising curvatures, slope: (D, K) in their directions."""
    explained = (slope**2).sum(1) / h
    return float((explained * (1 - h / h[-1]) ** (2 * steps)).sum() / explained.sum())


def _over(filtered: Array, h: Array, *, at_zero: float) -> Array:
    """filter / h, (D, 1): what multiplies the slope. Where nothing curves, t steps go lr t times the slope."""
    flat = h <= 1e-12 * h[-1]
    return np.where(flat, at_zero, filtered / np.where(flat, 1.0, h))[:, None]


def _descent(x: Array, y: Array, lr: float, stops: list[int]) -> Iterator[tuple[int, Array]]:
    """(t, w after t steps) at each stop."""
    square, xy, w = x.T @ x / len(x), x.T @ y / len(x), np.zeros((x.shape[1], y.shape[1]))
    for t in range(1, max(stops) + 1):
        w = w - lr * (square @ w - xy)
        if t in stops:
            yield t, w


def momentum(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Steps down quadratics from 32 starts, and the share of 200 starts that leave the upper one of two wells.

    By the optimizer that trains the runs, in float64. The long valley has 20 curvatures from 1 to 1,000, the round one
    has 1 everywhere. Each arm has its best rates for the valley.
    """
    g = torch.Generator().manual_seed(seed)
    starts = torch.randn(32, 20, generator=g, dtype=torch.float64)
    valley = torch.logspace(0, 3, 20, dtype=torch.float64)
    for arm, (lr, m) in (("valley, plain", BEST["plain"]), ("valley, momentum", BEST["heavy ball"])):
        yield Found(arm, "steps", steps_down(valley, starts, lr=lr, momentum=m))
        left = distances(valley, starts, lr=lr, momentum=m, steps=SHOWN)
        yield from (
            Found(arm, "log10_distance", math.log10(far), step) for step, far in enumerate(left) if step % 10 == 0
        )
    for arm, m in (("round, plain", 0.0), ("round, momentum 0.9", 0.9)):
        yield Found(arm, "steps", steps_down(torch.ones_like(valley), starts, lr=0.5, momentum=m))
    high = 0.08 + 1.72 * torch.rand(1, 200, generator=g, dtype=torch.float64)
    wells = {"plain": (0.01, 0.0), "plain, 10 times the lr": (0.1, 0.0)}
    wells |= {f"momentum {m:g}": (0.01, m) for m in (0.5, 0.9, 0.99)}
    for arm, (lr, m) in wells.items():
        yield Found(f"two wells, {arm}", "left_share", escaped(high, lr=lr, momentum=m))


def nesterov(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Nesterov's momentum and the heavy ball: past a minimum, at a high rate, and down a valley.

    overshoot: how far past the minimum of a parabola, relative to the start, at momentum 0.9 and a tenth of 1 / its
    curvature. log10_left: of the start after 100 steps at twice that. steps: down the valley of `momentum`, each at its
    best rates.
    """
    starts = torch.randn(32, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    valley = torch.logspace(0, 3, 20, dtype=torch.float64)
    for arm, kind in (("heavy ball", "momentum"), ("Nesterov", "nesterov")):
        slow, fast = (parabola(starts[:1, :1], lr=lr, kind=kind) for lr in (0.1, 2.0))
        yield Found(arm, "overshoot", float(-min(slow)))
        yield Found(arm, "log10_left", math.log10(abs(fast[-1])))
        lr, rate = BEST[arm]
        yield Found(arm, "steps", steps_down(valley, starts, lr=lr, momentum=rate, kind=kind))
        yield from (Found(arm, "place", place, step) for step, place in enumerate([1.0, *slow[:60]]))


def parabola(start: Tensor, *, lr: float, kind: str) -> list[float]:
    """Places after each of 100 steps on a parabola of curvature 1, over the start (1, 1)."""
    w = start.clone()
    steps = zip(range(100), _walk(w, lambda w: w, lr=lr, momentum=0.9, kind=kind), strict=False)
    return [float(w / start) for _ in steps]


def distances(curvature: Tensor, starts: Tensor, *, lr: float, momentum: float, steps: int) -> list[float]:
    """Mean |w| over that of the start, at the start and after each step. starts: (R, D)."""
    w, first = starts.clone(), starts.norm(dim=1)
    walk = zip(range(steps), _walk(w, lambda w: curvature * w, lr=lr, momentum=momentum), strict=False)
    return [1.0, *(float((w.norm(dim=1) / first).mean()) for _ in walk)]


def steps_down(curvature: Tensor, starts: Tensor, *, lr: float, momentum: float, kind: str = "momentum") -> float:
    """Steps of all starts (R, D) on average, until |w| is 1e-4 of what it was."""
    w, first, took = starts.clone(), starts.norm(dim=1), torch.zeros(len(starts))
    walk = _walk(w, lambda w: curvature * w, lr=lr, momentum=momentum, kind=kind)
    for step, _ in zip(range(MOST), walk, strict=False):
        is_down = w.norm(dim=1) <= TOLERANCE * first
        took[is_down & (took == 0)] = step + 1
        if bool((took > 0).all()):
            break
    return float(took.where(took > 0, torch.tensor(float(MOST))).mean())


def escaped(starts: Tensor, *, lr: float, momentum: float, steps: int = 2000) -> float:
    """Share of the starts in the upper well of (x^2 - 1)^2 + 0.3 x that end in the lower one."""
    x = starts.clone()
    for _ in zip(range(steps), _walk(x, lambda x: 4 * x * (x**2 - 1) + 0.3, lr=lr, momentum=momentum), strict=False):
        pass
    return float((x < 0).double().mean())


def _walk(
    w: Tensor, gradient: Callable[[Tensor], Tensor], *, lr: float, momentum: float, kind: str = "momentum"
) -> Iterator[Tensor]:
    """Steps without end, in place."""
    settings = s.Momentum(kind=kind, lr=lr, momentum=momentum)
    (at,) = optim.epoch_table([settings], np.full((1, 1), lr), first_step=1, device=torch.device("cpu"))
    at = {name: value.double() for name, value in at.items()}
    state = dict[str, Tensor]()
    while True:
        optim.update(w, gradient(w), state, at, settings)
        yield w
