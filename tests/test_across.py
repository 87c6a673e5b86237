"""Figures over several data sets: closed forms, and rliable's own functions where that package is installed."""

import itertools

import numpy as np
import pytest

from regrun import across


def scores(shift: float, *, runs: int = 6, sets: int = 3) -> list[np.ndarray]:
    """Arrays of runs, one for each data set."""
    generator = np.random.default_rng(1)
    return [generator.random(runs) * 0.2 + 0.1 * i + shift for i in range(sets)]


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert across.iqm([np.array([0.0, 1.0, 2.0, 100.0]), np.array([3.0, 4.0, 5.0, -50.0])]) == 2.5
    assert across.iqm([np.arange(4.0), np.arange(4.0, 8.0)]) == np.mean([2, 3, 4, 5])


def test_improvement_is_the_mean_over_data_sets_of_the_share_of_pairs() -> None:
    a, b = [np.array([1.0, 3.0]), np.array([5.0, 5.0])], [np.array([2.0, 2.0]), np.array([5.0, 4.0])]
    assert across.probability_of_improvement(a, b) == (2 / 4 + (2 + 0.5 * 2) / 4) / 2
    assert across.probability_of_improvement(b, a) == 1 - across.probability_of_improvement(a, b)
    assert across.probability_of_improvement(a, a) == 0.5


def test_the_profile_is_the_share_of_runs_above() -> None:
    assert across.profile([np.array([0.1, 0.5]), np.array([0.5, 0.9])], [0, 0.1, 0.5, 1]).tolist() == [1, 0.75, 0.25, 0]


def test_the_bootstrap_draws_within_each_data_set() -> None:
    """Where runs of a data set are all equal there is nothing to draw, however far the data sets are apart."""
    equal = [np.full(5, 0.1), np.full(5, 0.9)]
    assert across.interval(across.iqm, equal, seed=0) == (0.5, 0.5, 0.5)


def test_pairs_are_drawn_together() -> None:
    """A shift that is the same for every pair has no spread."""
    a, b = scores(0.05), scores(0.0)
    mean, low, high = across.interval(lambda x, y: float(np.mean(x) - np.mean(y)), a, b, seed=0)
    assert (mean, low, high) == pytest.approx((0.05, 0.05, 0.05))


def test_figures_are_rliables() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    a, b = scores(0.03), scores(0.0)
    x, y = np.stack(a, axis=1), np.stack(b, axis=1)  # runs x data sets
    assert across.iqm(a) == pytest.approx(metrics.aggregate_iqm(x))
    assert across.probability_of_improvement(a, b) == pytest.approx(metrics.probability_of_improvement(x, y))
    taus = np.linspace(0, 0.6, 13)
    assert across.profile(a, taus) == pytest.approx(library.score_distributions(x, taus))
    own = across.interval(across.iqm, a, seed=0)
    _, bounds = library.get_interval_estimates({"a": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=2_000)
    assert (own.low, own.high) == pytest.approx(bounds["a"][:, 0].tolist(), abs=0.1 * (own.high - own.low))


def test_runs_of_pairs_are_swapped_in_every_way() -> None:
    """Against all 2^6 ways by hand; a pair of equals gives no other."""
    a, b = [np.array([0.5, 0.7, 0.9]), np.array([0.3, 0.8, 0.6, 0.4])], [np.array([0.4, 0.7, 0.5]), np.array([0.1] * 4)]
    x, y = np.concatenate(a), np.concatenate(b)
    found = []
    for way in itertools.product((False, True), repeat=len(x)):
        turned = np.array(way)
        found.append(across.iqm([np.where(turned, y, x)]) - across.iqm([np.where(turned, x, y)]))
    observed = across.iqm(a) - across.iqm(b)
    expected = np.mean([abs(d) >= abs(observed) - 1e-12 for d in found])
    assert across.swap_p(a, b, 0) == (pytest.approx(expected), 2.0**-5)


def test_swaps_find_nothing_where_there_is_nothing_as_often_as_they_say() -> None:
    """Of 400 draws of equals, p below 0.05 in 5 %, to 3 standard errors; many pairs are drawn, and p is never 0."""
    draw = np.random.default_rng(0)
    ps = [
        across.swap_p([draw.normal(size=5), draw.normal(size=5)], [draw.normal(size=5), draw.normal(size=5)], 0).p
        for _ in range(400)
    ]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 400))
    far = across.swap_p([np.full(20, 1.0)], [np.zeros(20)], 0)
    assert far.smallest == 1 / 20_001 and far.p >= far.smallest
