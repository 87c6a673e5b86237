"""Demonstrations against their closed forms."""

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from regrun.cli import main
from regrun.demos import approximation, catalogue, depth, descent, dropout, shrinkage, symmetry, variance

SEEDS = range(5)


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread() -> Iterator[None]:
    """As the command has it."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("links", [1, 2, 3, 10, 50])
def test_a_chains_gradient_grows_like_the_power_of_its_scale(links: int) -> None:
    assert depth.chain_slope(links) == pytest.approx(links - 1, abs=1e-6)
    assert depth.chain_gradient(0.7, links) == pytest.approx(0.7 ** (links - 1), rel=1e-12)


@pytest.mark.parametrize("links", [1, 5, 10, 30])
def test_sigmoids_pass_at_most_a_quarter_each(links: int) -> None:
    for x in (-3.0, 0.0, 0.5):
        assert 0 < depth.sigmoid_gradient(x, links) <= 0.25**links
    assert depth.sigmoid_gradient(0.0, 1) == 0.25
    assert math.isclose(0.25**10, 9.54e-7, rel_tol=1e-3)


def test_a_sigmoid_chains_gradient_is_its_difference_quotient() -> None:
    def chain(x: float) -> float:
        for _ in range(4):
            x = 1 / (1 + math.exp(-x))
        return x

    quotient = (chain(0.3 + 1e-5) - chain(0.3 - 1e-5)) / 2e-5
    assert depth.sigmoid_gradient(0.3, 4) == pytest.approx(quotient, rel=1e-5)


@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 10])
def test_a_linear_residual_network_is_the_sum_of_its_paths(blocks: int) -> None:
    g = np.random.default_rng(blocks)
    weights, x = g.normal(0, 0.5, (blocks, 6, 6)), g.normal(size=6)
    np.testing.assert_allclose(depth.residual_paths(weights, x), depth.residual_forward(weights, x), rtol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_permuted_units_compute_the_same(activation: str, seed: int) -> None:
    net, order = symmetry.draw(seed), np.random.default_rng(seed).permutation(8)
    assert symmetry.difference(net, symmetry.permuted(net, order), activation) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_signs_flip_under_tanh_and_not_under_relu(seed: int) -> None:
    net, signs = symmetry.draw(seed), np.where(np.arange(8) % 2, 1.0, -1.0)
    assert symmetry.difference(net, symmetry.scaled(net, signs), "tanh") < 1e-12
    assert symmetry.difference(net, symmetry.scaled(net, signs), "relu") > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_units_scale_under_relu_and_not_under_tanh(seed: int) -> None:
    net, factors = symmetry.draw(seed), np.random.default_rng(seed).uniform(0.1, 10, 8)
    assert symmetry.difference(net, symmetry.scaled(net, factors), "relu") < 1e-12
    assert symmetry.difference(net, symmetry.scaled(net, factors), "tanh") > 0.1


def test_a_layer_has_m_factorial_2_to_the_m_equal_settings() -> None:
    """Counted for two units: 2 orders times 4 signs."""
    net = symmetry.draw(0, hidden=2)
    orders, signs = [np.array([0, 1]), np.array([1, 0])], [np.array([a, b]) for a in (1.0, -1.0) for b in (1.0, -1.0)]
    equal = [symmetry.scaled(symmetry.permuted(net, order), s) for order in orders for s in signs]
    assert all(symmetry.difference(net, other, "tanh") < 1e-12 for other in equal)
    assert len({other.w.tobytes() for other in equal}) == symmetry.count(2) == 8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_weight_scaling_is_the_geometric_mean_of_all_masks_where_logits_are_linear(rate: float, seed: int) -> None:
    apart = {
        name: np.abs(
            dropout.geometric_mean(f, units=10, rate=rate) - dropout.weight_scaling(f, units=10, rate=rate)
        ).max()
        for name, f in dropout.networks(seed).items()
    }
    assert apart["softmax regression"] < 5e-15
    assert apart["mlp, last hidden layer"] < 5e-15
    assert apart["mlp, inputs"] > 1e-6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [10, 30, 100, 1000])
def test_early_stopping_is_nearly_ridge(steps: int, seed: int) -> None:
    """Whatever the problem: the ratio of the filters is between 1 and 1.35, so the cosine is at least 0.989."""
    g = np.random.default_rng(seed)
    h, w = g.uniform(1e-4, 1, 50) ** 3, g.normal(size=50)
    cosine, ratio = shrinkage.early_stopping_against_ridge(h, w, lr=1.0, steps=steps)
    assert 0.989 < cosine <= 1 + 1e-12
    assert 1 <= ratio <= 1.35


def test_early_stopping_on_least_squares_has_the_known_figures() -> None:
    rows = shrinkage.early_stopping().rows
    assert min(float(row[2]) for row in rows) >= 0.9976
    assert [round(f([float(row[3]) for row in rows]), 2) for f in (min, max)] == [1.09, 1.27]


def test_the_filters_are_what_descent_and_ridge_do() -> None:
    x, y, _ = shrinkage.least_squares(1, examples=30, features=5, nonzero=5, noise=0.1)
    a, b, lr, alpha = x.T @ x / 30, x.T @ y / 30, 0.1, 0.3
    w = np.zeros(5)
    for _ in range(17):
        w -= lr * (a @ w - b)
    h, q = np.linalg.eigh(a)
    best = q.T @ np.linalg.solve(a, b)
    np.testing.assert_allclose(q @ (best * shrinkage.descent_filter(h, lr=lr, steps=17)), w, rtol=1e-10)
    ridge = np.linalg.solve(a + alpha * np.eye(5), b)
    np.testing.assert_allclose(q @ (best * shrinkage.ridge_filter(h, alpha)), ridge, rtol=1e-10)


def test_l2_is_weight_decay_under_sgd_alone() -> None:
    assert shrinkage.l2_and_decay(lr=0.05, value=0.1, momentum=0.0, steps=100) < 1e-12
    assert 0.03 < shrinkage.l2_and_decay(lr=0.05, value=0.1, momentum=0.9, steps=100) < 0.2


def test_adams_first_step_is_the_sign_and_3_16_times_that_without_correction() -> None:
    g = np.array([-3.0, 1e-5, 200.0])
    np.testing.assert_allclose(shrinkage.adam_first_step(g, lr=0.01), -0.01 * np.sign(g), rtol=1e-12)
    ratio = shrinkage.uncorrected_first_step(g) / shrinkage.adam_first_step(g)
    np.testing.assert_allclose(ratio, 0.1 / math.sqrt(0.001), rtol=1e-12)
    assert ratio[0] == pytest.approx(3.16, abs=0.005)


@pytest.mark.parametrize("seed", SEEDS)
def test_proximal_steps_find_every_zero_and_subgradient_steps_none(seed: int) -> None:
    x, y, true = shrinkage.least_squares(seed, examples=200, features=50, nonzero=5, noise=0.1)
    proximal, subgradient = (shrinkage.lasso(x, y, value=0.1, steps=500, proximal=p) for p in (True, False))
    assert ((proximal == 0) == (true == 0)).all()
    assert (true == 0).sum() == 45
    assert (subgradient != 0).all()


@pytest.mark.parametrize("count", [5, 50, 100, 400])
def test_bias_variance_and_noise_sum_to_the_error(count: int) -> None:
    parts = variance.decompose(*variance.feature_predictions(count, draws=10), noise=0.3)
    assert parts.mse == pytest.approx(parts.bias2 + parts.variance + parts.noise, rel=1e-10)


def test_variance_peaks_at_the_interpolation_threshold() -> None:
    counts = [20, 100, 1000]
    low, peak, high = (
        variance.decompose(*variance.feature_predictions(count, draws=20), noise=0.3) for count in counts
    )
    assert peak.variance > 10 * max(low.variance, high.variance)
    assert low.bias2 > 10 * high.bias2


def test_double_descent_has_the_known_figures() -> None:
    """Medians of 10 seeds. The peak's is heavy-tailed: between 15 and 250 whatever the seeds."""
    counts = [30, 100, 200, 3000]
    at = dict(zip(counts, np.median([variance.random_features(s, counts) for s in range(10)], 0), strict=True))
    ridge = np.median([variance.random_features(s, [100], ridge=0.01) for s in range(10)])
    assert at[30] == pytest.approx(0.47, rel=0.15)
    assert 15 < at[100] < 250
    assert at[200] == pytest.approx(0.24, rel=0.25)
    assert at[3000] == pytest.approx(0.084, rel=0.15)
    assert ridge == pytest.approx(0.23, rel=0.25)
    assert at[3000] < at[200] < at[30] < at[100]


@pytest.mark.parametrize("members", [1, 2, 10, 30])
def test_the_average_of_uncorrelated_errors_has_a_share_of_them(members: int) -> None:
    errors = variance.uncorrelated(members)
    single, averaged = variance.committee(errors)
    assert single == pytest.approx(1)
    assert averaged == pytest.approx(single / members)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_average_is_never_worse_than_its_members_are_on_average(seed: int) -> None:
    g = np.random.default_rng(seed)
    single, averaged = variance.committee(g.normal(1, 1, (7, 40)) + g.normal(size=40))
    assert averaged <= single


def test_a_bootstrap_sample_has_63_2_percent_of_the_examples() -> None:
    assert variance.unique_share(10_000) == pytest.approx(1 - math.exp(-1), abs=1e-4)
    assert variance.unique_share(2) == 0.75  # of 11, 12, 21, 22: half have both


@pytest.mark.parametrize("width", [1, 2, 5, 16, 100])
def test_a_relu_network_interpolates_within_its_bound(width: int) -> None:
    knots, network = np.linspace(0, 1, width + 1), approximation.relu_network(approximation.sine, width)
    np.testing.assert_allclose(network(knots), approximation.sine(knots), atol=1e-10)
    assert approximation.sup_error(approximation.sine, width) <= approximation.bound(width)


def test_16_units_are_within_2_percent_of_a_sine() -> None:
    assert approximation.sup_error(approximation.sine, 16) < 0.02


@pytest.mark.parametrize("condition", [10.0, 100.0, 1000.0])
def test_momentum_takes_the_steps_of_its_rate(condition: float) -> None:
    plain = descent.quadratic_steps(condition, lr=2 / (1 + condition), momentum=0.0)
    assert plain == math.ceil(math.log(1e-6) / math.log(descent.descent_rate(condition)))
    lr, rate = (2 / (1 + math.sqrt(condition))) ** 2, descent.momentum_rate(condition)
    heavy = descent.quadratic_steps(condition, lr=lr, momentum=rate**2)
    # A double root at the rate: the error is of order t rate^t, a little later than rate^t.
    assert 1 <= heavy / (math.log(1e-6) / math.log(rate)) < 1.5
    assert heavy < plain


def test_only_momentum_leaves_a_local_minimum() -> None:
    assert descent.escapes(0.0) == 0.0
    assert 0 < descent.escapes(0.9) < 1


def test_exponential_and_multiplicative_decay_are_one_schedule() -> None:
    assert max(descent.schedules_apart(k, 100) for k in (0.001, 0.05, 1.0)) < 1e-14


@pytest.mark.parametrize("name", catalogue.DEMOS)
def test_each_demonstration_says_its_claim_in_a_sentence_and_a_table(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", name]) == 0
    claim, header, *rows, _ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[A-Zl].*\.", claim)
    assert len(rows) >= 2
    assert {len(row) for row in rows} == {len(header)}
    assert max(map(len, (header, *rows))) <= 80


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_list_names_every_demonstration_and_fits(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(catalogue.DEMOS)
    assert max(map(len, lines)) <= width
