"""Differences, scores and shares -> intervals, p values and power. Pure functions of numbers.

scipy.stats is imported inside of functions: it costs 0.4 s, and the means of a sweep need scipy.special alone.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT = 15  # differences of which every pattern of signs is tried (32,768); of more, FLIPS drawn ones
FLIPS = 20_000
ROUNDING = 1e-9  # relative: sums of the same numbers in another order are equal
MANY = 1_000_000  # pairs: more than anybody trains
TINY = 1e-12  # in place of 0, for which ncf has no value


class Interval(NamedTuple):
    """A figure and its bounds; NaN bounds where there are too few values for any."""

    mean: float
    low: float
    high: float


class SignFlip(NamedTuple):
    """A two-sided p, and the smallest that so many differences can have: 0.0625 of 5, 0.002 of 10."""

    p: float
    smallest: float


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean and its t interval. NaN bounds below two values."""
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired_t_interval(differences: Sequence[float], level: float = 0.95) -> Interval:
    """The mean difference and its t interval: of pairs, one sample of differences is what is left."""
    return t_interval(differences, level)


def pseudomedian_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median of the means of all pairs, and the interval of centers that Wilcoxon's exact signed-rank test would
    not reject (Hodges and Lehmann 1963). Infinite bounds where so few values allow none: below six at 95 %.
    """
    n = len(values)
    pairs = np.sort([(values[i] + values[j]) / 2 for i in range(n) for j in range(i, n)])
    below = np.ones(1)  # the number of patterns of signs with a rank sum of 0, 1, ...
    for rank in range(1, n + 1):
        below = np.convolve(below, [1, *[0] * (rank - 1), 1])
    outside = int((np.cumsum(below) / 2**n <= (1 - level) / 2).sum())
    bounds = (pairs[outside - 1], pairs[-outside]) if outside else (-math.inf, math.inf)
    return Interval(float(np.median(pairs)), *map(float, bounds))


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN below two values."""
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def effect_size(differences: Sequence[float]) -> float:
    """d_z: the mean difference over the deviation of differences. Infinite where all are equal, NaN where all are 0."""
    own = t_interval(differences)
    spread = deviation(differences)
    if spread <= ROUNDING * abs(own.mean):
        return math.copysign(math.inf, own.mean) if own.mean else math.nan
    return own.mean / spread


def paired_t_p(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t test; 1 where no pair differs, NaN below two pairs."""
    if len(differences) < 2:
        return math.nan
    from scipy.special import stdtr

    effect = effect_size(differences)
    distance = 0.0 if math.isnan(effect) else abs(effect) * math.sqrt(len(differences))
    return 2 * float(stdtr(len(differences) - 1, -distance))


def bootstrap_interval(
    values: Sequence[float], statistic: Callable[..., Any], seed: int, n: int = 10_000, level: float = 0.95
) -> Interval:
    """A statistic (which takes `axis`) and its percentile interval over n resamples. NaN bounds below two values."""
    sample = np.asarray(values, float)
    if len(sample) < 2:
        return Interval(float(statistic(sample, axis=0)) if len(sample) else math.nan, math.nan, math.nan)
    from scipy import stats

    found = stats.bootstrap(
        (sample,),
        statistic,
        n_resamples=n,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        axis=0,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(statistic(sample, axis=0)), float(found.low), float(found.high))


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> SignFlip:
    """Two-sided p of the mean difference if each difference were as likely to have the other sign (Fisher 1935).

    Exact to EXACT differences that are not 0. Of more, FLIPS patterns are drawn and the observed one counts as one of
    them, so that p is never 0 (Phipson and Smyth 2010).
    """
    moved = np.asarray([d for d in differences if d != 0], float)
    flips = 1 - 2 * patterns(len(moved), seed)
    return as_far(flips @ moved, float(moved.sum()), len(moved))


def patterns(n: int, seed: int) -> NDArray[np.int64]:
    """(F, n) of 0 and 1: which of n are turned over; every pattern to EXACT, of more FLIPS drawn ones."""
    if n <= EXACT:
        found: NDArray[np.int64] = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return found
    return np.random.default_rng(seed).integers(2, size=(FLIPS, n))


def as_far(found: NDArray[np.float64], observed: float, n: int) -> SignFlip:
    """How often a statistic of n that `patterns` turned over is as far from 0 as the observed one."""
    count = int(np.sum(np.abs(found) >= abs(observed) * (1 - ROUNDING)))
    if n <= EXACT:
        return SignFlip(count / len(found), min(1.0, 2.0 ** (1 - n)))
    return SignFlip((count + 1) / (FLIPS + 1), 1 / (FLIPS + 1))


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test (Wilcoxon 1945), without zeros; NaN below two, 1 of nothing but zeros."""
    if len(differences) < 2:
        return math.nan
    from scipy import stats

    return float(stats.wilcoxon(differences).pvalue) if any(differences) else 1.0


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """A share and its score interval (Wilson 1927). A tie may count as half a success. NaN for none of none."""
    if not n:
        return Interval(math.nan, math.nan, math.nan)
    from scipy.special import ndtri

    share, z = successes / n, float(ndtri((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p adjusted for all of them (Holm 1979), in their order. A NaN stays one, and is no comparison."""
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


@functools.cache
def expected_luck(k: int) -> float:
    """The expected maximum of k standard normals: by how many deviations the best of k equals looks better."""
    from scipy.special import log_ndtr

    # Gauss and Legendre's rule over [0, 12], where all of it lies: scipy.integrate would cost 0.2 s to import.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = 6 * (nodes + 1)
    above = -np.expm1(k * log_ndtr(x)) - np.exp(k * log_ndtr(-x))
    return float(6 * weights @ above)


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """The chance that a two-sided paired t test of n pairs finds a difference of `effect` deviations (d_z)."""
    from scipy.stats import f, ncf

    return float(ncf.sf(f.ppf(1 - alpha, 1, n - 1), 1, n - 1, max(effect * effect * n, TINY)))  # t squared is an F


def detectable(n: int, chance: float = 0.8) -> float:
    """The d_z that n pairs find with this chance; NaN below two pairs."""
    from scipy.optimize import brentq

    return float(brentq(lambda effect: power(effect, n) - chance, 0, 50)) if n > 1 else math.nan


def pairs_needed(effect: float, chance: float = 0.8) -> int | None:
    """The fewest pairs that find a d_z with this chance; none where no number up to a million does."""
    few, many = 1, 2
    while power(effect, many) < chance:
        few, many = many, 2 * many
        if many > MANY:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power(effect, middle) >= chance else (middle, many)
    return many
