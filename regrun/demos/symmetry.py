"""Weights that differ and compute the same: permutations, sign flips and scalings of hidden units."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}


@dataclass(frozen=True)
class Net:
    """One hidden layer: v f(w x + b) + c. w: (M, D), b: (M,), v: (K, M), c: (K,)."""

    w: Array
    b: Array
    v: Array
    c: Array

    def __call__(self, x: Array, activation: str) -> Array:
        """x: (B, D) -> (B, K)."""
        return ACTIVATIONS[activation](x @ self.w.T + self.b) @ self.v.T + self.c


def draw(seed: int, *, inputs: int = 5, hidden: int = 8, outputs: int = 3) -> Net:
    """Standard normal weights and biases."""
    g = np.random.default_rng(seed)
    return Net(*(g.normal(size=shape) for shape in ((hidden, inputs), hidden, (outputs, hidden), outputs)))


def permuted(net: Net, order: NDArray[np.int64]) -> Net:
    """Hidden units in another order; the output is the same under every activation."""
    return replace(net, w=net.w[order], b=net.b[order], v=net.v[:, order])


def scaled(net: Net, factors: Array) -> Net:
    """Incoming weights times `factors`, (M,), outgoing ones divided by them.

    The output is the same for factors of -1 where f is odd (tanh: Chen, Lu and Hecht-Nielsen 1993), for positive
    ones where f is homogeneous (ReLU: Neyshabur et al. 2015). The lectures state the sign flip without saying that
    ReLU has none.
    """
    return replace(net, w=net.w * factors[:, None], b=net.b * factors, v=net.v / factors)


def difference(one: Net, other: Net, activation: str) -> float:
    """The largest absolute difference of the outputs on 100 standard normal inputs."""
    x = np.random.default_rng(1).normal(size=(100, one.w.shape[1]))
    return float(np.abs(one(x, activation) - other(x, activation)).max())


def count(hidden: int) -> int:
    """M! 2^M weight settings of one tanh layer of M units compute the same."""
    return math.factorial(hidden) << hidden


def symmetries() -> Shown:
    """Hidden units can be permuted; tanh units flipped in sign; ReLU units scaled: the outputs stay the same."""
    net, g = draw(0), np.random.default_rng(2)
    others = {
        "permutation": permuted(net, g.permutation(8)),
        "sign flip": scaled(net, g.choice([-1.0, 1.0], 8)),
        "scaling": scaled(net, g.uniform(0.1, 10, 8)),
    }
    rows = [[name, *(difference(net, other, f) for f in ACTIVATIONS)] for name, other in others.items()]
    meaning = f"a tanh layer of 8 units has 8! 2^8 = {count(8):,} equal settings; flips are for odd functions only"
    return Shown(["change", "tanh differs by", "relu differs by"], rows, meaning)
