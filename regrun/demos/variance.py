"""Where errors come from: bias and variance, the peak at the interpolation threshold, and averaging."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]
EXAMPLES, INPUTS, NOISE = 100, 20, 0.3


@dataclass(frozen=True)
class Parts:
    """The expected squared error of noisy targets, and what it is made of."""

    mse: float
    bias2: float
    variance: float
    noise: float


def decompose(predictions: Array, truth: Array, *, noise: float) -> Parts:
    """bias^2 + variance + noise^2 (Geman, Bienenstock and Doursat 1992). predictions: (S, T) of S training draws.

    The error is measured on targets truth + noise and truth - noise, so that the noise has exactly mean 0.
    """
    mean = predictions.mean(0)
    errors = [np.square(predictions - (truth + e)).mean() for e in (noise, -noise)]
    bias2, variance = np.square(mean - truth).mean(), np.square(predictions - mean).mean()
    return Parts(float(np.mean(errors)), float(bias2), float(variance), noise**2)


def features(x: Array, w: Array) -> Array:
    """Random ReLU features (Rahimi and Recht 2008), (N, D) and (D, P) -> (N, P)."""
    return np.asarray(np.maximum(x @ w, 0) / np.sqrt(w.shape[1]))


def fit(a: Array, y: Array, *, ridge: float) -> Array:
    """Least squares; the solution of minimum norm where there are many, or ridge's."""
    if ridge == 0:
        return np.asarray(np.linalg.lstsq(a, y, rcond=None)[0], np.float64)
    return a.T @ np.linalg.solve(a @ a.T + ridge * np.eye(len(y)), y)  # as (a'a + ridge)^-1 a'y, for any width


def random_features(seed: int, counts: Sequence[int], *, ridge: float = 0.0) -> list[float]:
    """Test error against the noiseless truth for each count P of features, N = 100 training examples.

    Linear truth of norm about 1 in 20 standard normal inputs, noise 0.3. The error peaks at P = N and falls again
    (Belkin et al. 2019): there the smallest singular value of the features is close to 0.
    """
    g = np.random.default_rng(seed)
    x, test, true = g.normal(size=(EXAMPLES, INPUTS)), g.normal(size=(1000, INPUTS)), g.normal(size=INPUTS)
    true = true / np.sqrt(INPUTS)
    y, errors = x @ true + NOISE * g.normal(size=EXAMPLES), []
    for count in counts:
        w = g.normal(size=(INPUTS, count)) / np.sqrt(INPUTS)
        solution = fit(features(x, w), y, ridge=ridge)
        errors.append(float(np.square(features(test, w) @ solution - test @ true).mean()))
    return errors


def feature_predictions(count: int, *, draws: int, ridge: float = 0.0) -> tuple[Array, Array]:
    """Predictions (S, T) of models whose training data, noise and features were drawn anew, and the truth (T,)."""
    g = np.random.default_rng(0)
    test, true = g.normal(size=(300, INPUTS)), g.normal(size=INPUTS) / np.sqrt(INPUTS)
    predictions = []
    for _ in range(draws):
        x, w = g.normal(size=(EXAMPLES, INPUTS)), g.normal(size=(INPUTS, count)) / np.sqrt(INPUTS)
        y = x @ true + NOISE * g.normal(size=EXAMPLES)
        predictions.append(features(test, w) @ fit(features(x, w), y, ridge=ridge))
    return np.array(predictions), test @ true


def committee(errors: Array) -> tuple[float, float]:
    """Mean squared error of the members, and of their average. errors: (M, T).

    E_com = E_av / M for uncorrelated errors of mean 0 (Bishop 2006, 14.2); E_com <= E_av always. Real members are
    correlated, with r: E_com = E_av (1 + (M - 1) r) / M.
    """
    return float(np.square(errors).mean()), float(np.square(errors.mean(0)).mean())


def uncorrelated(members: int) -> Array:
    """(M, 2 M) errors of mean 0 and mean square 1, exactly uncorrelated: an orthogonal matrix beside its negative."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(members, members)))[0] * np.sqrt(members)
    return np.concatenate([q, -q], axis=1)


def unique_share(n: int) -> float:
    """Expected share of n examples in a bootstrap sample of n: 1 - (1 - 1/n)^n, 63.2 % for many (Efron 1979)."""
    return 1 - (1 - 1 / n) ** n


def double_descent() -> Shown:
    """The test error peaks where parameters equal examples, and falls again beyond; a little ridge removes the peak."""
    counts = [10, 30, 50, 100, 200, 1000, 3000]
    plain, ridge = (
        np.median([random_features(seed, counts, ridge=value) for seed in range(10)], 0).tolist()
        for value in (0.0, 0.01)
    )
    rows = [*zip(counts, plain, ridge, strict=True)]
    return Shown(["features", "test mse", "with ridge"], rows, "100 examples, median of 10 seeds: the peak is at 100")


def bias_variance() -> Shown:
    """Squared error is bias^2 + variance + noise; the peak of double descent is variance."""
    rows = []
    for count in (10, 50, 90, 200, 1000):
        p = decompose(*feature_predictions(count, draws=60), noise=NOISE)
        rows.append([count, p.mse, p.bias2, p.variance, p.noise])
    header = ["features", "mse", "bias^2", "variance", "noise"]
    return Shown(header, rows, "bias falls with capacity; variance rises towards 100 examples and falls beyond")


def ensemble() -> Shown:
    """The average of M models with uncorrelated errors has 1/M of their mean error."""
    rows = []
    for members in (2, 5, 10, 50):
        *own, common = uncorrelated(members + 1)
        rows.append([members, *committee(np.array(own)), committee(np.sqrt(0.5) * (np.array(own) + common))[1]])
    header = ["members", "mean error", "average's", "average's, half in common"]
    return Shown(header, rows, "what the members have in common does not average out")


def bootstrap() -> Shown:
    """A bootstrap sample has 63.2 % of the examples."""
    g = np.random.default_rng(0)
    rows = []
    for n in (10, 100, 1000, 10000):
        drawn = [len(np.unique(g.integers(n, size=n))) / n for _ in range(50)]
        rows.append([n, unique_share(n), float(np.mean(drawn))])
    return Shown(["examples", "1 - (1 - 1/n)^n", "drawn, 50 times"], rows, "the limit is 1 - 1/e = 0.632")
