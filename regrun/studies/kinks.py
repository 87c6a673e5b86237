"""One hidden layer of ReLUs against functions of one variable: how close it comes with how many units."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrun.data.sources import Source
from regrun.demos.approximation import relu_network
from regrun.settings import Settings
from regrun.studies.found import Found

Array = NDArray[np.float64]
WAVES = 5
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GRID = np.linspace(0, 1, 2001)


@dataclass(frozen=True)
class Waves:
    """sum_k a_k sin(2 pi k x + phase_k), k = 1 ... K, on [0, 1]. amplitudes, phases: (K,)."""

    amplitudes: Array
    phases: Array

    def __call__(self, x: Array) -> Array:
        """x: (N,) -> (N,)."""
        return np.asarray(np.sin(self._angles(x)) @ self.amplitudes)

    def curvature(self) -> float:
        """The largest |f''| on the grid."""
        k = 2 * np.pi * np.arange(1, len(self.phases) + 1)
        return float(np.abs(np.sin(self._angles(GRID)) @ (self.amplitudes * k**2)).max())

    def _angles(self, x: Array) -> Any:
        return 2 * np.pi * x[:, None] * np.arange(1, len(self.phases) + 1) + self.phases


def draw(seed: int) -> Waves:
    """Five waves of normal amplitudes whose sum is at most 1 in absolute value."""
    g = np.random.default_rng([seed, WAVES])
    amplitudes, phases = g.normal(size=WAVES), g.uniform(0, 2 * np.pi, WAVES)
    return Waves(amplitudes / np.abs(Waves(amplitudes, phases)(GRID)).max(), phases)


def approximations(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """The largest deviation from a random function of values in [-1, 1], by width, of two networks of one hidden layer.

    Even kinks: the network that interpolates at even places. Random kinks: kinks are drawn evenly, outgoing weights are
    least squares on the grid. slope: of log2 deviation over log2 width from 16 to 256; share_of_bound: of even kinks,
    the largest share of max |f''| / (8 width^2), which interpolation never exceeds.
    """
    f, g = draw(seed), np.random.default_rng([seed, 2])
    kinks = g.uniform(0, 1, max(WIDTHS))
    drawn = np.maximum(np.where(g.random(len(kinks)) < 0.5, 1, -1) * (GRID[:, None] - kinks), 0)
    deviations: dict[str, dict[int, float]] = {"even kinks": {}, "random kinks": {}}
    for width in WIDTHS:
        fitted = {"even kinks": relu_network(f, width)(GRID), "random kinks": fit(drawn[:, :width], f(GRID))}
        for arm, values in fitted.items():
            deviations[arm][width] = float(np.abs(values - f(GRID)).max())
            yield Found(arm, "largest_deviation", deviations[arm][width], width)
            yield Found(f"{arm}, width {width}", "largest_deviation", deviations[arm][width])
    for arm, by_width in deviations.items():
        middle = [width for width in WIDTHS if 16 <= width <= 256]
        slope = np.polyfit(np.log2(middle), np.log2([by_width[width] for width in middle]), 1)[0]
        yield Found(arm, "slope", float(slope))
    shares = [8 * width**2 * own / f.curvature() for width, own in deviations["even kinks"].items()]
    yield Found("even kinks", "share_of_bound", max(shares))


def fit(features: Array, y: Array) -> Array:
    """(N,) what least squares on features (N, M) and a constant makes of y (N,)."""
    a = np.column_stack([np.ones(len(y)), features])
    return np.asarray(a @ np.linalg.lstsq(a, y, rcond=None)[0])
