"""Dropout as an ensemble: the geometric mean over all masks, enumerated, against scaled weights."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]
Logits = Callable[[Array], Array]  # factors (D,) of the units that may be dropped -> logits (K,)


def log_softmax(z: Array) -> Array:
    """(K,) -> (K,)."""
    return np.asarray(z - z.max() - np.log(np.exp(z - z.max()).sum()))


def geometric_mean(logits: Logits, *, units: int, rate: float) -> Array:
    """The normalized geometric mean of the softmax over all 2^units masks, weighted by their probability, (K,)."""
    total = np.zeros_like(logits(np.ones(units)))
    for mask in itertools.product((0.0, 1.0), repeat=units):
        kept = sum(mask)
        total += (1 - rate) ** kept * rate ** (units - kept) * log_softmax(logits(np.array(mask)))
    return np.exp(log_softmax(total))


def weight_scaling(logits: Logits, *, units: int, rate: float) -> Array:
    """One pass in which each unit counts 1 - rate, (K,)."""
    return np.exp(log_softmax(logits(np.full(units, 1 - rate))))


def networks(seed: int, *, units: int = 10) -> dict[str, Logits]:
    """Random networks by what is dropped: inputs of a softmax regression, hidden units, inputs of an MLP."""
    g = np.random.default_rng(seed)
    x, h = g.normal(size=units), np.maximum(g.normal(size=units), 0)
    v, w, u = g.normal(size=(4, units)), g.normal(size=(16, units)), g.normal(size=(4, 16)) / 2
    return {
        "softmax regression": lambda m: v @ (m * x),
        "mlp, last hidden layer": lambda m: v @ (m * h),
        "mlp, inputs": lambda m: u @ np.maximum(w @ (m * x), 0),
    }


def geometric() -> Shown:
    """Scaled weights give the geometric mean of all thinned networks: exact where the logits are linear in the mask.

    Baldi and Sadowski 2013. A lecture credits Gal and Ghahramani (2016) with a proof for all networks: theirs is
    another view (approximate Bayes), and the equality ends at the first nonlinearity after the dropout.
    """
    rows = [
        [
            name,
            2**10,
            float(np.abs(geometric_mean(f, units=10, rate=0.5) - weight_scaling(f, units=10, rate=0.5)).max()),
        ]
        for name, f in networks(0).items()
    ]
    return Shown(["dropped", "masks", "largest difference"], rows, "a nonlinearity after the mask makes it approximate")
