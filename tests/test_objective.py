"""Losses and penalties: torch's own losses, closed forms, and autograd's gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from regrun import objective

R, B, K = 3, 16, 10
SMOOTHING = torch.tensor([[0.0], [0.1], [0.9]], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def classes() -> Tensor:
    return torch.randint(K, (R, B), generator=Generator().manual_seed(1))


def test_cross_entropy_is_torchs_for_each_replica() -> None:
    logits, targets = 5 * normal(R, B, K), classes()
    expected = [F.cross_entropy(a, b, reduction="none") for a, b in zip(logits, targets, strict=True)]
    torch.testing.assert_close(objective.cross_entropy(logits, targets), torch.stack(expected))


def test_label_smoothing_is_torchs_for_each_replica() -> None:
    logits, targets = 5 * normal(R, B, K), classes()
    soft = objective.smoothed_targets(targets, K, SMOOTHING)
    expected = [
        F.cross_entropy(logits[r], targets[r], reduction="none", label_smoothing=SMOOTHING[r].item()) for r in range(R)
    ]
    losses, _ = objective.soft_cross_entropy_with_gradient(logits, soft)
    torch.testing.assert_close(losses, torch.stack(expected).mean(1))


def test_no_smoothing_is_plain_cross_entropy() -> None:
    logits, targets = 5 * normal(R, B, K), classes()
    one_hot = objective.smoothed_targets(targets, K, torch.zeros(R, 1))
    assert torch.equal(one_hot.argmax(2), targets)
    assert torch.equal(one_hot.unique(), torch.tensor([0.0, 1.0]))
    plain = objective.cross_entropy_with_gradient(logits, targets)
    torch.testing.assert_close(objective.soft_cross_entropy_with_gradient(logits, one_hot.to(logits)), plain)
    torch.testing.assert_close(objective.cross_entropy(logits, targets).mean(1), plain[0])


def test_shares_of_classes_are_smoothed_as_classes_are() -> None:
    targets = classes()
    shares = objective.distributions(targets, K)
    assert torch.equal(shares, F.one_hot(targets, K).float())
    assert objective.distributions(shares, K) is shares
    smoothed = objective.smoothed_targets(targets, K, SMOOTHING)
    assert torch.equal(objective.smoothed_targets(shares, K, SMOOTHING), smoothed)


def test_smoothed_targets_are_distributions() -> None:
    soft = objective.smoothed_targets(classes(), K, SMOOTHING)
    torch.testing.assert_close(soft.sum(2), torch.ones(R, B, dtype=torch.float64))


def test_entropy_of_smoothed_targets_has_a_closed_form() -> None:
    entropy = objective.entropy(objective.smoothed_targets(classes(), K, SMOOTHING))
    for value, e in zip(entropy.tolist(), SMOOTHING.flatten().tolist(), strict=True):
        top, rest = 1 - e + e / K, e / K
        expected = -top * math.log(top) - ((K - 1) * rest * math.log(rest) if rest else 0)
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_entropy_is_the_least_soft_cross_entropy() -> None:
    soft = objective.smoothed_targets(classes(), K, SMOOTHING)[1:]
    losses, gradient = objective.soft_cross_entropy_with_gradient(soft.log(), soft)
    torch.testing.assert_close(losses, objective.entropy(soft))
    assert gradient.abs().max() < 1e-6


def test_entropy_of_a_uniform_distribution_is_log_k() -> None:
    uniform = torch.full((R, B, K), 1 / K, dtype=torch.float64)
    torch.testing.assert_close(objective.entropy(uniform), torch.full((R,), math.log(K), dtype=torch.float64))


@pytest.mark.parametrize(
    ("add", "penalty"),
    [
        (objective.add_l2, lambda w, v: 0.5 * v * (w**2).sum()),
        (objective.add_l1, lambda w, v: v * w.abs().sum()),
    ],
    ids=["l2", "l1"],
)
def test_penalties_add_autograds_gradient(
    add: Callable[[Tensor, Tensor, Tensor], Tensor], penalty: Callable[[Tensor, float], Tensor]
) -> None:
    """Each replica has its own strength; weights that are exactly 0 count too."""
    value = torch.tensor([[0.3], [2.0], [0.0]], dtype=torch.float64)
    weights, before = normal(R, 30).requires_grad_(), normal(R, 30, seed=1)
    weights.data[:, 4] = 0
    expected = torch.stack([penalty(weights[r], value[r].item()) for r in range(R)])
    (gradient,) = torch.autograd.grad(expected.sum(), weights)
    g = before.clone()
    returned = add(g, weights.detach(), value)
    torch.testing.assert_close(g, before + gradient)
    torch.testing.assert_close(returned, expected.detach())


def test_l1_is_the_penalty_that_add_l1_returns() -> None:
    weights, value = normal(R, 30), torch.tensor([[0.3], [2.0], [0.0]], dtype=torch.float64)
    assert torch.equal(objective.l1(weights, value), objective.add_l1(torch.zeros(R, 30).double(), weights, value))
