"""Products through depth: gradients of a chain, sigmoids, and the paths of a residual network."""

import itertools

import numpy as np
from numpy.typing import NDArray

from regrun.demos.shown import Shown

Array = NDArray[np.float64]


def chain_gradient(scale: float, depth: int) -> float:
    """|dy/dw_1| of y = w_m ... w_1 x at w = `scale`, x = 1, m = `depth`, by going back link by link.

    Closed form: S^(m-1), as the lectures have it (Saxe et al. 2014 for the dynamics).
    """
    gradient = 1.0
    for _ in range(depth - 1):
        gradient *= scale
    return abs(gradient)


def chain_slope(depth: int) -> float:
    """The slope of log gradient against log scale; closed form: depth - 1."""
    scales = np.array([0.5, 0.8, 1.0, 1.25, 2.0])
    gradients = np.array([chain_gradient(scale, depth) for scale in scales])
    return float(np.polyfit(np.log(scales), np.log(gradients), 1)[0])


def sigmoid_gradient(x: float, depth: int) -> float:
    """dy/dx of `depth` sigmoids one after another, weights 1: the product of s (1 - s).

    Each factor is at most 1/4, so the product is at most 0.25^depth (Hochreiter 1991; the lectures' 0.25^10 ~ 1e-6).
    """
    gradient = 1.0
    for _ in range(depth):
        x = 1 / (1 + np.exp(-x))
        gradient *= x * (1 - x)
    return float(gradient)


def residual_forward(weights: Array, x: Array) -> Array:
    """x + W x, layer after layer. weights: (L, D, D), x: (D,)."""
    for weight in weights:
        x = x + weight @ x
    return x


def residual_paths(weights: Array, x: Array) -> Array:
    """The same as a sum over the 2^L paths, each of which goes through or around every layer.

    prod (I + W_l) = sum over subsets of the ordered product of their W_l (Veit, Wilber and Belongie 2016). Exact for
    linear branches only: with a nonlinearity the branch of a sum is not the sum of the branches.
    """
    total = np.zeros_like(x)
    for through in itertools.product((False, True), repeat=len(weights)):
        path = x
        for weight in weights[list(through)]:
            path = weight @ path
        total += path
    return total


def chain() -> Shown:
    """The gradient of a chain of m scalar weights S is S^(m-1): it explodes above 1 and vanishes below."""
    rows = [
        [m, chain_gradient(0.5, m), chain_gradient(1.0, m), chain_gradient(1.5, m), chain_slope(m)]
        for m in (2, 5, 10, 20, 50)
    ]
    return Shown(["depth", "S = 0.5", "S = 1", "S = 1.5", "slope"], rows, "the slope of log g by log S is depth - 1")


def vanishing() -> Shown:
    """A sigmoid's slope is at most 1/4, so a gradient that passes L of them is at most 0.25^L."""
    rows = [[depth, sigmoid_gradient(0.0, depth), 0.25**depth] for depth in (1, 2, 5, 10, 20)]
    return Shown(["depth", "gradient", "bound"], rows, "ten sigmoids leave less than a millionth of a gradient")


def paths() -> Shown:
    """A residual network of L blocks is a sum over 2^L paths (exactly so where its branches are linear)."""
    generator = np.random.default_rng(0)
    rows = []
    for depth in (1, 4, 8, 12):
        weights, x = generator.normal(0, 0.3, (depth, 8, 8)), generator.normal(size=8)
        forward = residual_forward(weights, x)
        off = np.abs(forward - residual_paths(weights, x)).max() / np.abs(forward).max()
        rows.append([depth, 2**depth, depth / 2, float(off)])
    header = ["blocks", "paths", "mean length", "relative difference"]
    return Shown(header, rows, "forward pass and sum over paths agree to rounding; half of the blocks lie on a path")
