"""Studies that need no training loop: closed forms on real data. Each gives figures by arm for one seed."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regrun import optim
from regrun import settings as s
from regrun.data.sources import Source
from regrun.demos import dropout
from regrun.settings import Settings
from regrun.studies import depths, drift, kinks, landscape, paths, quadratics, shards, sparse, steps, tradeoff
from regrun.studies.found import Found

Array = NDArray[Any]

EXAMPLES = 1000
WIDTHS = (100, 200, 300, 500, 700, 850, 950, 1000, 1050, 1200, 1500, 2000, 3000, 6000)
WIDTHS_QUICK = (300, 500, 1000, 2000, 6000)
NOISE, RIDGE = 0.15, 1.0


def random_features(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Least squares of minimal norm on random ReLU features of 1,000 images, wider and wider (Belkin et al. 2019).

    Features are max(0, W x), W normal with variance 1 / D, the same for all widths; targets are the classes, one-hot.
    """
    g = np.random.default_rng([seed, EXAMPLES])
    scale = 1.0 if source.top is None else source.top
    chosen = g.choice(source.train.numpy(), EXAMPLES, replace=False)
    x, x_test = (_flat(source, at) / scale for at in (torch.from_numpy(chosen), source.test))
    labels, truth = source.targets.numpy()[chosen], source.targets[source.test].numpy()
    noisy = np.where(g.random(EXAMPLES) < NOISE, g.integers(source.num_classes, size=EXAMPLES), labels)
    y = {"clean labels": labels, "15 % random labels": noisy, "15 % random labels, ridge": noisy}
    widths = WIDTHS_QUICK if is_quick else WIDTHS
    w = g.normal(size=(x.shape[1], max(widths))).astype(np.float32) / np.float32(np.sqrt(x.shape[1]))
    features, test = (np.maximum(part @ w, 0) for part in (x, x_test))
    errors: dict[str, dict[int, float]] = {arm: {} for arm in y}
    for width in widths:
        solve = least_squares(features[:, :width].astype(np.float64))
        for arm, own in y.items():
            weights = solve(np.eye(source.num_classes)[own], RIDGE if "ridge" in arm else 0.0)
            logits = test[:, :width] @ weights.astype(np.float32)
            errors[arm][width] = float((logits.argmax(1) != truth).mean())
    for arm, by_width in errors.items():
        yield from (Found(arm, "test_error", error, width) for width, error in by_width.items())
        at_peak = max(by_width, key=lambda width: by_width[width])
        yield Found(arm, "peak_position", at_peak / EXAMPLES)
        yield Found(arm, "peak_ratio", by_width[EXAMPLES] / by_width[300])
        yield Found(arm, "last_ratio", by_width[max(widths)] / by_width[300])
        beside = np.sqrt(by_width[EXAMPLES // 2] * by_width[2 * EXAMPLES])
        yield Found(arm, "bump", by_width[EXAMPLES] / float(beside))


def least_squares(a: Array) -> Callable[[Array, float], Array]:
    """A function of (targets (N, K), ridge) that gives the weights (P, K); those of minimal norm where ridge is 0.

    a: (N, P). Where P is well above N, by the eigenvectors of a a^T: half the time, and a is well-conditioned there.
    """
    n, p = a.shape
    if p < 2 * n:
        u, sv, vt = np.linalg.svd(a, full_matrices=False)
        return lambda y, ridge: np.asarray(vt.T @ ((sv / (sv**2 + ridge))[:, None] * (u.T @ y)))
    squares, u = np.linalg.eigh(a @ a.T)
    return lambda y, ridge: np.asarray(a.T @ (u @ ((u.T @ y) / (squares + ridge)[:, None])))


def _flat(source: Source, at: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(source.inputs[at].flatten(1).float().numpy())


def decay_alone(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """A weight whose loss has no gradient: AdamW shrinks it by (1 - lr value)^t, adam's l2 moves it by lr whatever l2.

    By the optimizers that train the runs, 100 steps in float32 from 1.
    """
    steps, lr, value = 100, 1e-3, 0.1
    adam = s.Adam(lr=lr)
    table = optim.epoch_table([adam], np.full((steps, 1), lr), first_step=1, device=torch.device("cpu"))
    weight, state = torch.ones(1, 1), dict[str, torch.Tensor]()
    for at in table:
        optim.decay(weight, at, torch.full((1, 1), value))
        optim.update(weight, torch.zeros(1, 1), state, at, adam)
    yield Found("decoupled decay", "relative_error", abs(weight.item() / (1 - lr * value) ** steps - 1))
    for strength in (1e-4, 1e-2):
        weight, state = torch.ones(1, 1), {}
        optim.update(weight, strength * weight, state, table[0], adam)
        yield Found(f"adam with l2 of {strength:g}", "step_over_lr", (1 - weight.item()) / lr)


def subnetworks(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """All 2^10 masks of dropout on a random network, their geometric mean against one pass with scaled weights."""
    for arm, logits in dropout.networks(seed).items():
        mean, scaled = (of(logits, units=10, rate=0.5) for of in (dropout.geometric_mean, dropout.weight_scaling))
        yield Found(arm, "largest_difference", float(np.abs(mean - scaled).max()))


COMPUTED: dict[str, Callable[..., Iterator[Found]]] = {
    "random_features": random_features,
    "decay_alone": decay_alone,
    "subnetworks": subnetworks,
    "signals": depths.signals,
    "gradients": depths.gradients,
    "scales": depths.scales,
    "skip_gradients": depths.skip_gradients,
    "fan_modes": depths.fan_modes,
    "stopped_descent": quadratics.stopped_descent,
    "conditioning": quadratics.conditioning,
    "momentum": quadratics.momentum,
    "nesterov": quadratics.nesterov,
    "linear_paths": paths.linear_paths,
    "covariate_shift": drift.covariate_shift,
    "smoothness": landscape.smoothness,
    "gradient_noise": landscape.gradient_noise,
    "shard_gradients": shards.gradients,
    "approximations": kinks.approximations,
    "bias_correction": steps.bias_correction,
    "adaptive_steps": steps.adaptive_steps,
    "bias_variance": tradeoff.bias_variance,
    "sparse_features": sparse.sparse_features,
}
