"""Universal approximation in one dimension, by construction."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


def relu_network(f: Function, width: int) -> Function:
    """One hidden layer of `width` ReLU units that interpolates f at width + 1 even knots of [0, 1].

    y = f(0) + sum_i (s_i - s_(i-1)) relu(x - x_i), s_i the slope of piece i. Cybenko (1989) and Hornik (1991) prove
    that a width exists; this one says which: the error is at most max |f''| / (8 width^2).
    """
    knots = np.linspace(0, 1, width + 1)
    slopes = np.diff(f(knots)) * width
    outgoing, start = np.diff(slopes, prepend=0.0), f(knots[:1])
    return lambda x: np.asarray(start + np.maximum(x[:, None] - knots[:-1], 0) @ outgoing)


def sup_error(f: Function, width: int) -> float:
    """The largest error on a fine grid of [0, 1]."""
    x = np.linspace(0, 1, 4001)
    return float(np.abs(relu_network(f, width)(x) - f(x)).max())


def sine(x: Array) -> Array:
    """sin(2 pi x), |f''| <= 4 pi^2."""
    return np.asarray(np.sin(2 * np.pi * x))


def bound(width: int) -> float:
    """max |f''| / (8 width^2) for the sine."""
    return float(4 * np.pi**2 / (8 * width**2))


def approximation() -> Shown:
    """One hidden layer of ReLU units comes as close to a smooth function as its width allows: error ~ 1 / width^2."""
    rows = [[width, sup_error(sine, width), bound(width)] for width in (2, 4, 8, 16, 32, 64, 256)]
    return Shown(["width", "largest error", "bound"], rows, "16 units are within 0.02 of a sine, by construction")
