"""Intervals, p values and power against closed forms, scipy, and their own promises by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from regrun import stats

DIFFERENCES = [0.012, -0.003, 0.020, 0.007, 0.015]
INF = math.inf


def normals(n: int, *, seed: int = 0, repeats: int = 1) -> list[list[float]]:
    samples: list[list[float]] = np.random.default_rng(seed).normal(size=(repeats, n)).tolist()
    return samples


def test_the_t_interval_is_scipys() -> None:
    mean, low, high = stats.paired_t_interval(DIFFERENCES)
    expected = reference.ttest_1samp(DIFFERENCES, 0).confidence_interval()
    assert (mean, low, high) == pytest.approx((np.mean(DIFFERENCES), expected.low, expected.high))


def test_the_paired_t_test_is_scipys() -> None:
    a, b = normals(8, repeats=2)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert stats.paired_t_p(differences) == pytest.approx(reference.ttest_rel(a, b).pvalue)


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([0.3], 0.3)])
def test_below_two_values_there_is_no_interval(values: list[float], mean: float) -> None:
    for own in (stats.t_interval(values), stats.bootstrap_interval(values, np.mean, 0)):
        assert tuple(own) == pytest.approx((mean, math.nan, math.nan), nan_ok=True)
    assert math.isnan(stats.deviation(values)) and math.isnan(stats.paired_t_p(values))


@pytest.mark.parametrize(
    ("values", "effect", "p"),
    [([0.0, 0.0, 0.0], math.nan, 1.0), ([0.1, 0.1, 0.1], INF, 0.0), ([-0.1] * 7, -INF, 0.0), ([1.0, -1.0], 0.0, 1.0)],
)
def test_differences_without_spread_are_told_as_they_are(values: list[float], effect: float, p: float) -> None:
    assert stats.effect_size(values) == pytest.approx(effect, nan_ok=True)
    assert stats.paired_t_p(values) == pytest.approx(p)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Binomial deviation of 2,000 draws at 95 %: 0.5 points; at 80 %: 0.9."""
    samples = normals(5, repeats=2_000)
    for level, spread in ((0.95, 0.005), (0.8, 0.009)):
        covered = [low <= 0 <= high for _, low, high in (stats.t_interval(own, level) for own in samples)]
        assert np.mean(covered) == pytest.approx(level, abs=3 * spread)


def test_the_bootstrap_interval_is_seeded_and_near_the_normal_one() -> None:
    (own,) = normals(400)
    found = stats.bootstrap_interval(own, np.mean, 3)
    half = 1.96 * stats.deviation(own) / math.sqrt(len(own))
    assert found == stats.bootstrap_interval(own, np.mean, 3)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)
    assert stats.bootstrap_interval([2.0, 2.0], np.mean, 0) == (2, 2, 2)


def test_sign_flips_of_few_differences_are_scipys_permutation_test() -> None:
    expected = reference.permutation_test((DIFFERENCES,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip_p(DIFFERENCES).p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("n", "smallest"), [(1, 1), (2, 0.5), (5, 0.0625), (6, 0.03125), (8, 2**-7), (15, 2**-14)])
def test_the_smallest_p_is_that_of_differences_of_one_sign(n: int, smallest: float) -> None:
    assert stats.sign_flip_p([0.1 * (i + 1) for i in range(n)]) == (smallest, smallest)


def test_many_sign_flips_are_drawn_and_never_give_zero() -> None:
    (own,) = normals(16)
    exact = np.mean([abs(np.dot(s, own)) >= abs(sum(own)) for s in signs(16)])
    drawn = stats.sign_flip_p(own)
    assert drawn.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / stats.FLIPS))
    assert drawn == stats.sign_flip_p(own)
    assert stats.sign_flip_p([1.0] * 40) == (1 / (stats.FLIPS + 1), 1 / (stats.FLIPS + 1))


def signs(n: int) -> np.ndarray:
    return 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def test_differences_that_are_zero_carry_no_sign() -> None:
    assert stats.sign_flip_p([0.1, 0.0, 0.2, 0.0]) == (0.5, 0.5)
    assert stats.sign_flip_p([0.0, 0.0]) == (1, 1)


def test_sign_flips_keep_their_level_without_a_difference() -> None:
    """P(p <= 0.0625) is 0.0625 for 5 pairs: the two patterns of one sign."""
    small = [stats.sign_flip_p(own).p <= 0.0625 for own in normals(5, repeats=2_000)]
    assert np.mean(small) == pytest.approx(0.0625, abs=3 * math.sqrt(0.0625 * 0.9375 / 2_000))


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (9, 10), (1, 1), (0, 1), (37, 120)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    expected = reference.binomtest(successes, n).proportion_ci(method="wilson")
    assert stats.wilson(successes, n) == pytest.approx((successes / n, expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_nothing_and_ties_count_half() -> None:
    assert all(map(math.isnan, stats.wilson(0, 0)))
    low, high = stats.wilson(4.5, 9)[1:]
    assert low + high == pytest.approx(1)


def test_holm_steps_down() -> None:
    assert stats.holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert stats.holm([0.9, 0.8]) == [1, 1] and stats.holm([0.04]) == [0.04] and stats.holm([]) == []


def test_luck_has_its_closed_forms() -> None:
    """E max of 1, 2, 3, 4 normals; of many, about sqrt(2 ln k) from below."""
    root = math.sqrt(math.pi)
    closed = [0, 1 / root, 1.5 / root, 3 / root * (0.5 + math.asin(1 / 3) / math.pi)]
    assert [stats.expected_luck(k) for k in (1, 2, 3, 4)] == pytest.approx(closed, abs=1e-10)
    assert stats.expected_luck(10) == pytest.approx(1.5387527308, abs=1e-9)
    assert 4.8 < stats.expected_luck(1_000_000) < math.sqrt(2 * math.log(1_000_000))


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_pairs_needed_are_those_of_the_tables(effect: float, n: int) -> None:
    """Two-sided, 5 %, 80 %: the figures that G*Power gives for two dependent means."""
    assert stats.pairs_needed(effect) == n
    assert stats.power(effect, n) >= 0.8 > stats.power(effect, n - 1)
    assert stats.detectable(n) <= effect < stats.detectable(n - 1)


def test_power_is_the_level_without_an_effect_and_what_simulation_finds() -> None:
    assert stats.power(0, 7) == pytest.approx(0.05)
    found = [stats.paired_t_p([x + 1 for x in own]) < 0.05 for own in normals(10, repeats=2_000)]
    assert np.mean(found) == pytest.approx(stats.power(1, 10), abs=3 * 0.009)


@pytest.mark.parametrize(("effect", "n"), [(1e9, 2), (1e4, 2), (1e-5, None)])
def test_extreme_effects_need_two_pairs_or_more_than_anybody_has(effect: float, n: int | None) -> None:
    assert stats.pairs_needed(effect) == n


def test_no_pair_detects_nothing() -> None:
    assert math.isnan(stats.detectable(1))


def test_wilcoxon_is_scipys_and_says_nothing_of_one() -> None:
    assert stats.wilcoxon_p(DIFFERENCES) == reference.wilcoxon(DIFFERENCES).pvalue == 0.125
    assert (stats.wilcoxon_p([0.0, 0.0]), stats.wilcoxon_p([0.1, 0.2, 0.0])) == (1.0, 0.5)
    assert math.isnan(stats.wilcoxon_p([0.3]))


@pytest.mark.parametrize("n", [6, 7, 9, 14])
def test_the_pseudomedians_interval_is_what_wilcoxons_test_does_not_reject(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 1, n)
    own = stats.pseudomedian_interval(values.tolist())
    for at, is_rejected in ((own.low, True), (own.high, True), (own.low, False), (own.high, False)):
        outwards = 1e-9 if (at == own.high) == is_rejected else -1e-9
        p = reference.wilcoxon(values - (at + outwards), method="exact").pvalue
        assert (p < 0.05) == is_rejected
    walsh = [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]
    assert own.mean == pytest.approx(np.median(walsh))


def test_five_values_have_no_pseudomedian_interval_at_95_percent() -> None:
    assert stats.pseudomedian_interval([1.0, 2, 3, 4, 5])[1:] == (-math.inf, math.inf)
