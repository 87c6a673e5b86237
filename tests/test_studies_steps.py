"""Steps of optimizers under known gradients, and on rare features, against closed forms."""

import itertools
import math

import pytest
import torch

from regrun import settings as s
from regrun.data.sources import Source
from regrun.settings import Settings, resolve
from regrun.studies import sparse, steps


def test_adagrads_steps_are_one_over_the_root_of_their_number() -> None:
    found = steps.walked(s.Adagrad(lr=0.3), [5.0] * 9)
    assert found.tolist() == pytest.approx([1 / math.sqrt(t) for t in range(1, 10)], rel=1e-6)


def test_steps_are_those_of_torch() -> None:
    gradients, weight = [1.0, -2.0, 0.5, 3.0], torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam, places = torch.optim.Adam([weight], lr=0.01), [0.0]
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        adam.step()
        places.append(weight.item())
    expected = [(a - b) / 0.01 for a, b in itertools.pairwise(places)]
    assert steps.walked(s.Adam(lr=0.01), gradients).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gradient", [1e-2, 7.0])
def test_without_correction_adam_has_its_closed_form(gradient: float) -> None:
    """(1 - b1^t) / sqrt(1 - b2^t) at step t of a constant gradient."""
    found = steps.walked(s.Adam(), [gradient] * 50, first_step=steps.LATE)
    expected = [(1 - 0.9**t) / math.sqrt(1 - 0.999**t) for t in range(1, 51)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_rprop_grows_by_a_fifth() -> None:
    assert steps.rprop([3.0] * 4).tolist() == pytest.approx([1, 1.2, 1.44, 1.728])


def test_adam_alone_of_three_sees_a_gradient_turn(digits: Source) -> None:
    rows = steps.adaptive_steps(resolve(Settings()), digits, 1, True)
    growth = {own.arm: own.value for own in rows if own.figure == "growth"}
    for name in ("AdaGrad", "RMSprop"):
        assert growth[f"{name}, turning"] == pytest.approx(growth[f"{name}, constant"], rel=1e-6)
    assert growth["Adam, constant"] == pytest.approx(1, abs=1e-4)
    assert growth["Adam, turning"] == pytest.approx(0.1 / 1.9, rel=1e-3)  # (1 - b1) / (1 + b1)


def test_logistic_loss_and_error_are_those_of_torch() -> None:
    g = torch.Generator().manual_seed(0)
    problem = sparse.draw(g, torch.randn(6, generator=g), None, 40)
    weights = torch.randn(3, 6, generator=g)
    logits = weights @ problem.x.T
    expected = [torch.nn.functional.binary_cross_entropy_with_logits(z, problem.y) for z in logits]
    assert sparse.loss(problem, weights).tolist() == pytest.approx([float(own) for own in expected], rel=1e-5)
    wrong = [(((z > 0).float() - problem.y).abs().mean()) for z in logits]
    assert sparse.error(problem, weights).tolist() == pytest.approx([float(own) for own in wrong])


def test_online_sgd_takes_the_steps_of_the_losses_gradient() -> None:
    g = torch.Generator().manual_seed(1)
    truth = torch.randn(sparse.FEATURES, generator=g)
    problem = sparse.draw(g, truth, torch.full((sparse.FEATURES,), 0.01), 2 * sparse.BATCH)
    expected = torch.zeros(len(sparse.RATES), sparse.FEATURES)
    for part in (slice(0, sparse.BATCH), slice(sparse.BATCH, None)):
        weights = expected.clone().requires_grad_()
        sparse.loss(sparse.Problem(problem.x[part], problem.y[part]), weights).sum().backward()
        assert weights.grad is not None
        expected = expected - torch.tensor(sparse.RATES, dtype=torch.float32)[:, None] * weights.grad
    assert torch.allclose(sparse.trained(problem, s.Sgd()), expected, atol=1e-5)


def test_features_have_their_frequency() -> None:
    g, frequency = torch.Generator().manual_seed(2), torch.tensor([0.5, 0.1, 0.0])
    problem = sparse.draw(g, torch.zeros(3), frequency, 20_000)
    assert problem.x.mean(0).tolist() == pytest.approx(frequency.tolist(), abs=0.015)
    assert set(problem.x.unique().tolist()) == {0.0, 1.0} and float(problem.y.mean()) == pytest.approx(0.5, abs=0.015)
