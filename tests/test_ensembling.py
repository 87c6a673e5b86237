"""The figures of an ensemble: each by its definition, and the laws that hold whatever the members."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from regrun import ensembling, objective
from regrun.demos.variance import uncorrelated

SHAPES = [(1, 50, 3), (2, 40, 10), (7, 200, 2), (31, 17, 5)]


def log_p(shape: tuple[int, ...], *, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    """Log-probabilities of members, (M, N, K) float32, as runs keep them."""
    logits = torch.from_numpy(spread * np.random.default_rng(seed).normal(size=shape))
    return torch.log_softmax(logits, -1).float().numpy()


def classes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(shape[-1], size=shape[-2])


@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mean_of_probabilities_never_loses_against_the_mean_loss(shape: tuple[int, ...], spread: float) -> None:
    """Jensen's inequality, also where probabilities are too small for float32."""
    own, targets = log_p(shape, spread=spread), classes(shape)
    members = np.mean([ensembling.cross_entropy(each, targets) for each in own])
    assert ensembling.cross_entropy(ensembling.mean_log_p(own), targets) <= members * (1 + 1e-12)


@pytest.mark.parametrize("members", [1, 2, 9])
def test_identical_members_are_the_member(members: int) -> None:
    one = log_p((60, 4))
    np.testing.assert_allclose(ensembling.mean_log_p(np.stack([one] * members)), one.astype(np.float64), atol=1e-12)


def test_the_mean_is_that_of_the_probabilities() -> None:
    own = log_p((5, 30, 4))
    np.testing.assert_allclose(np.exp(ensembling.mean_log_p(own)), np.exp(own.astype(np.float64)).mean(0), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_disagreement_is_the_mean_over_pairs(shape: tuple[int, ...]) -> None:
    own = log_p(shape)
    pairs = [(a.argmax(1) != b.argmax(1)).mean() for a, b in combinations(own, 2)]
    assert ensembling.disagreement(own) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert ensembling.disagreement(np.stack([own[0]] * 3)) == 0
    assert ensembling.disagreement(own[:1]) is None


def test_calibration_error_is_the_definition() -> None:
    """The sum over 15 bins of their share times |accuracy - confidence|."""
    own, targets = log_p((500, 4), spread=1.0), classes((500, 4))
    confidence, hits = np.exp(own.max(1).astype(np.float64)), own.argmax(1) == targets
    total = 0.0
    for b in range(1, 16):
        inside = (confidence > (b - 1) / 15) & (confidence <= b / 15)
        if inside.any():
            total += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert ensembling.calibration_error(own, targets) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("confidence", "hits", "error"), [(0.8, 80, 0.0), (0.8, 50, 0.3), (0.6, 100, 0.4)])
def test_calibration_error_is_how_far_confidence_is_from_accuracy(confidence: float, hits: int, error: float) -> None:
    own = np.log(np.tile([confidence, 1 - confidence], (100, 1)))
    targets = np.repeat([0, 1], [hits, 100 - hits])
    assert ensembling.calibration_error(own, targets) == pytest.approx(error)


def test_certainty_that_is_always_wrong_is_the_largest_calibration_error() -> None:
    with np.errstate(divide="ignore"):
        own = np.log(np.tile([1.0, 0.0], (10, 1)))
    assert ensembling.calibration_error(own, np.ones(10, int)) == 1


@pytest.mark.parametrize("members", [1, 2, 10])
def test_the_error_of_the_mean_is_the_mean_error_less_the_ambiguity(members: int) -> None:
    """Krogh and Vedelsby 1995: an identity, whatever the members, the targets and the units."""
    g = np.random.default_rng(members)
    y, own, unit = g.normal(size=(40, 3)), 5 + g.normal(size=(members, 40, 3)), np.array([1.0, 0.1, 300.0])
    squared = [ensembling.error(each, y, kind="squared", unit=unit) for each in (*own, own.mean(0))]
    e_av, e_com = np.mean(squared[:-1]), squared[-1]
    assert e_com == pytest.approx(e_av - ensembling.ambiguity(own, unit=unit), rel=1e-12)
    assert e_com <= e_av * (1 + 1e-12)


@pytest.mark.parametrize("members", [2, 5, 20])
def test_uncorrelated_errors_average_to_a_share_of_one_member(members: int) -> None:
    """E_com = E_av / M (Bishop 2006, 14.2)."""
    errors, y = uncorrelated(members)[:, :, None], np.zeros((2 * members, 1))
    squared = [ensembling.error(each, y, kind="squared", unit=np.ones(1)) for each in (*errors, errors.mean(0))]
    assert squared[-1] == pytest.approx(np.mean(squared[:-1]) / members)


@pytest.mark.parametrize("kind", objective.ERRORS)
def test_errors_are_those_that_are_minimized(kind: str) -> None:
    g = np.random.default_rng(0)
    a, b = 2 * g.normal(size=(2, 30, 2))
    expected, _ = objective.ERRORS[kind](torch.from_numpy((a - b) / 0.7))
    assert ensembling.error(a, b, kind=kind, unit=np.full(2, 0.7)) == pytest.approx(expected.mean().item())
    assert set(ensembling.ERRORS) == set(objective.ERRORS)


def test_r2_is_scikit_learns() -> None:
    g = np.random.default_rng(0)
    y = g.normal(size=(30, 3)) * [1, 10, 100]
    predicted = y + g.normal(size=y.shape)
    assert ensembling.r2(predicted, y) == pytest.approx(r2_score(y, predicted))
    assert ensembling.r2(np.ones((5, 1)), np.ones((5, 1))) == 1
    assert ensembling.r2(np.zeros((5, 1)), np.ones((5, 1))) == 0
