"""Bias, variance and noise against planted ones."""

import numpy as np
import pytest

from regrun.data.sources import Source
from regrun.settings import Settings, resolve
from regrun.studies import tradeoff


def test_two_predictors_have_their_parts_by_hand() -> None:
    """f = 0, predictions 1 and 3, noise 2: variance 2, squared bias 4 - 2 / 2, error (1 + 9) / 2 + 4."""
    found = tradeoff.decomposed(np.array([[1.0], [3.0]]), np.zeros(1), 2.0)
    assert found == tradeoff.Parts(bias=3.0, variance=2.0, noise=4.0, error=9.0)


def test_planted_bias_and_variance_are_found_whatever_the_number_of_draws() -> None:
    """A bias of 0.3 and a variance of 4: with 3 training sets the plain squared bias would be 0.09 + 4 / 3."""
    g = np.random.default_rng(0)
    f = g.normal(size=20_000)
    found = tradeoff.decomposed(f + 0.3 + 2 * g.normal(size=(3, len(f))), f, 0.5)
    assert found.bias == pytest.approx(0.09, abs=0.05) and found.variance == pytest.approx(4, rel=0.03)
    assert found.bias + found.variance + found.noise == pytest.approx(found.error, rel=1e-12)


def test_variance_peaks_at_as_many_features_as_examples(digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """On digits, with fewer widths; bias falls across the peak."""
    monkeypatch.setattr(tradeoff, "WIDTHS", (10, 50, 100, 400))
    found = {
        (one.arm, one.figure): one.value
        for one in tradeoff.bias_variance(resolve(Settings()), digits, 1, True)
        if one.over is None
    }
    assert found["all widths", "relative_error"] < 1e-12 and found["all widths", "peak_position"] == 1
    assert found["400 features", "squared_bias"] < found["50 features", "squared_bias"]
    assert found["100 features", "variance"] > 10 * found["50 features", "variance"]
