"""Scores on several data sets -> one figure with its interval, by the definitions of Agarwal et al. 2021 (rliable).

Scores are a list with an array for each data set, one number per run; higher is better. Pure functions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from regrun.stats import Interval, SignFlip, as_far, patterns

Scores = Sequence[NDArray[np.float64]]
RESAMPLES = 2_000


def iqm(scores: Scores) -> float:
    """Interquartile mean: of all runs on all data sets, the mean of the middle half."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.concatenate(scores), 0.25))


def probability_of_improvement(a: Scores, b: Scores) -> float:
    """Chance that a run of `a` scores higher than one of `b`, a tie counting half: mean over data sets."""
    signs = [np.sign(x[:, None] - y) for x, y in zip(a, b, strict=True)]
    return float(np.mean([(1 + sign.mean()) / 2 for sign in signs]))


def swap_p(a: Scores, b: Scores, seed: int) -> SignFlip:
    """Two-sided p of the difference of interquartile means, if each pair were as likely the other way round.

    The sign-flip test for a statistic that is no mean of differences.
    """
    from scipy.stats import trim_mean

    x, y = np.concatenate(a), np.concatenate(b)
    unequal = np.flatnonzero(x != y)
    turned = np.zeros((len(flips := patterns(len(unequal), seed)), len(x)), bool)
    turned[:, unequal] = flips
    found = trim_mean(np.where(turned, y, x), 0.25, axis=1) - trim_mean(np.where(turned, x, y), 0.25, axis=1)
    return as_far(found, iqm(a) - iqm(b), len(unequal))


def profile(scores: Scores, taus: Sequence[float]) -> NDArray[np.float64]:
    """Share of all runs on all data sets that score above each tau."""
    pooled = np.concatenate(scores)
    return np.asarray([np.mean(pooled > tau) for tau in taus])


def bootstrap(
    statistic: Callable[..., float | NDArray[np.float64]], *samples: Scores, seed: int, n: int = RESAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % percentile bounds of a statistic, over runs drawn anew within each data set (stratified).

    Run i of one sample and run i of another stem from the same seed where there are two: they are drawn together.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        drawn = [generator.integers(len(runs), size=len(runs)) for runs in samples[0]]
        found.append(statistic(*[[runs[i] for runs, i in zip(s, drawn, strict=True)] for s in samples]))
    low, high = np.percentile(np.asarray(found), [2.5, 97.5], axis=0)
    return low, high


def interval(statistic: Callable[..., float], *samples: Scores, seed: int) -> Interval:
    """A number with its stratified bootstrap interval."""
    low, high = bootstrap(statistic, *samples, seed=seed)
    return Interval(statistic(*samples), float(low), float(high))
