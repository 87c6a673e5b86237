"""Models as one: what their mean prediction comes to. Pure functions; M members, N examples, K classes, T columns."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS = 15  # of Guo et al. 2017


def mean_log_p(log_p: Array) -> Array:
    """(M, N, K) log-probabilities -> (N, K), those of the mean of the probabilities."""
    return np.asarray(np.logaddexp.reduce(log_p, axis=0, dtype=np.float64) - math.log(len(log_p)))


def cross_entropy(log_p: Array, targets: Array) -> float:
    """Mean over examples, nats. log_p: (N, K), targets: (N,)."""
    return float(-np.take_along_axis(log_p, targets[:, None], 1).mean(dtype=np.float64))


def accuracy(log_p: Array, targets: Array) -> float:
    """Share of examples whose likeliest class is their own."""
    return float((log_p.argmax(1) == targets).mean())


def calibration_error(log_p: Array, targets: Array) -> float:
    """Expected calibration error (Guo et al. 2017): how far confidence is from accuracy, mean over 15 equal bins.

    The bins of confidence are ((b - 1) / 15, b / 15], weighted by their examples.
    """
    confidence, hits = np.exp(log_p.max(1).astype(np.float64)), log_p.argmax(1) == targets
    bins = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS) - 1
    gaps = np.bincount(bins, confidence - hits, BINS)
    return float(np.abs(gaps).sum() / len(targets))


def disagreement(log_p: Array) -> float | None:
    """Share of examples that two members class differently, mean over all pairs; None without a pair."""
    members, _, classes = log_p.shape
    if members < 2:
        return None
    votes = (log_p.argmax(2)[:, :, None] == np.arange(classes)).sum(0)  # (N, K)
    same = (votes * (votes - 1)).sum(1) / (members * (members - 1))
    return float(1 - same.mean())


def huber(error: Array) -> Array:
    """e^2 / 2 up to 1, |e| - 1 / 2 beyond."""
    slope = np.clip(error, -1, 1)
    return np.asarray(slope * (error - slope / 2))


ERRORS: dict[str, Callable[[Array], Array]] = {"squared": np.square, "absolute": np.abs, "huber": huber}


def error(predictions: Array, targets: Array, *, kind: str, unit: Array) -> float:
    """Mean over examples and columns. predictions, targets: (N, T), unit: (T,)."""
    return float(ERRORS[kind]((predictions - targets) / unit).mean())


def r2(predictions: Array, targets: Array) -> float:
    """Mean over columns of 1 - squared errors / squares; a constant column has 1 if it is predicted exactly, else 0."""
    errors, squares = np.square(predictions - targets).sum(0), np.square(targets - targets.mean(0)).sum(0)
    shares = 1 - errors / np.where(squares > 0, squares, 1)
    return float(np.where(squares > 0, shares, errors == 0).mean())


def ambiguity(predictions: Array, *, unit: Array) -> float:
    """Mean squared distance of (M, N, T) from their mean over members.

    For squared errors that of the mean is the mean of the members' minus this: Krogh and Vedelsby 1995.
    """
    return float(np.square((predictions - predictions.mean(0)) / unit).mean())
