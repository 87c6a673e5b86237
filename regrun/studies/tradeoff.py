"""Bias, variance and noise of random features, over training sets of which the target is known. One seed's figures."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from regrun.data.sources import Source
from regrun.settings import Settings
from regrun.studies.found import Found

Array = NDArray[Any]

EXAMPLES, DRAWS, DRAWS_QUICK, TESTED, TEACHERS = 100, 100, 50, 500, 64
WIDTHS = (5, 10, 20, 30, 50, 70, 85, 95, 100, 105, 120, 150, 200, 300, 500, 1000, 3000)
NOISE = 0.5  # of a target of standard deviation 1


class Parts(NamedTuple):
    """What a mean squared error is made of."""

    bias: float  # squared
    variance: float
    noise: float
    error: float


def bias_variance(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Least squares of minimal norm on random ReLU features, from 100 training sets of 100 images for each width.

    The target of an image is known: what 64 random ReLU units say of it, scaled to mean 0 and variance 1, plus or minus
    0.5 at random. Features are max(0, W x), W normal with variance 1 / D, the same for all training sets.
    """
    g = np.random.default_rng([seed, EXAMPLES])
    tested = g.choice(source.test.numpy(), min(TESTED, len(source.test)), replace=False)
    x, x_test = (_scaled(source, at) for at in (source.train, torch.from_numpy(tested)))
    teacher = g.normal(size=(x.shape[1], TEACHERS)), g.normal(size=TEACHERS)
    f, f_test = (np.maximum(part @ teacher[0], 0) @ teacher[1] for part in (x, x_test))
    f, f_test = (f - f.mean()) / f.std(), (f_test - f.mean()) / f.std()
    w = g.normal(size=(x.shape[1], max(WIDTHS))) / np.sqrt(x.shape[1])
    test = np.maximum(x_test @ w, 0)
    draws = DRAWS_QUICK if is_quick else DRAWS
    predicted = {width: np.empty((draws, len(x_test))) for width in WIDTHS}
    for draw in range(draws):
        chosen = g.choice(len(x), EXAMPLES, replace=False)
        y = f[chosen] + NOISE * g.choice((-1.0, 1.0), EXAMPLES)
        features = np.maximum(x[chosen] @ w, 0)
        for width, found in predicted.items():
            found[draw] = test[:, :width] @ (np.linalg.pinv(features[:, :width]) @ y)
    parts = {width: decomposed(found, f_test, NOISE) for width, found in predicted.items()}
    for width, own in parts.items():
        shown = {"variance": own.variance, "error": own.error, "noise": own.noise}
        if own.bias > own.variance / draws:  # else there are too few training sets to see it beside the variance
            shown["bias squared"] = own.bias
        yield from (Found(arm, "log10_mse", float(np.log10(value)), width) for arm, value in shown.items())
        yield Found(f"{width} features", "variance", own.variance)
        yield Found(f"{width} features", "squared_bias", own.bias)
        yield Found(f"{width} features", "mse", own.error)
    yield Found("fewer features than examples, best", "mse", min(parts[p].error for p in WIDTHS if p < EXAMPLES))
    off = [abs(own.bias + own.variance + own.noise - own.error) / own.error for own in parts.values()]
    yield Found("all widths", "relative_error", max(off))
    yield Found("all widths", "peak_position", max(parts, key=lambda width: parts[width].variance) / EXAMPLES)


def decomposed(predicted: Array, f: Array, noise: float) -> Parts:
    """Of predictions (T, M) from T training sets, a target f (M,) and labels f + noise or f - noise, as likely.

    Variance and squared bias are unbiased: the mean of T predictions is off by a T-th of the variance. The error is
    measured by itself: over training sets, examples and both labels.
    """
    variance = float(predicted.var(axis=0, ddof=1).mean())
    bias = float(np.square(predicted.mean(axis=0) - f).mean()) - variance / len(predicted)
    labels = np.stack([f + noise, f - noise])
    error = float(np.square(labels[:, None] - predicted).mean())
    return Parts(bias, variance, noise**2, error)


def _scaled(source: Source, at: torch.Tensor) -> Array:
    return np.asarray(source.inputs[at].flatten(1).double().numpy()) / (source.top or 1.0)
