"""Mixup and cutmix: weights from Beta, targets that say exactly what the inputs are made of."""

import pytest
import torch
from conftest import make, train_rows
from scipy import stats
from torch import Generator, Tensor
from torch.nn import functional as F

from regrun import mixing, objective
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source, load
from regrun.data.split import split
from regrun.rows import EpochRow
from regrun.stack import new_stack

R, B = 3, 40


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def numbered(*shape: int) -> tuple[Tensor, Tensor]:
    """Examples that are their own number everywhere, (R, B, *shape), and targets that say which, (R, B, B)."""
    x = torch.arange(B).float().view(1, B, *(1 for _ in shape)).expand(R, B, *shape)
    return x, F.one_hot(torch.arange(B)).float().expand(R, B, B)


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.4, 1.0, 5.0])
def test_weights_are_drawn_from_beta(alpha: float) -> None:
    """Half of 4,000 are below 1/2, and Kolmogorov and Smirnov's test of those: float32 rounds many others to 1.

    Where alpha is tiny it rounds those to 0, too.
    """
    (source,) = seeded(1)
    drawn = torch.cat([mixing.weights([alpha], [source]) for _ in range(4000)])
    assert drawn.isfinite().all() and drawn.min() >= 0 and drawn.max() <= 1
    below = drawn[drawn < 0.5].double().numpy()
    assert abs(len(below) / 4000 - 0.5) < 4 * 0.5 / 4000**0.5
    if alpha > 0.01:
        assert stats.kstest(2 * stats.beta(alpha, alpha).cdf(below), "uniform").pvalue > 0.001


def test_alpha_0_mixes_nothing() -> None:
    """Bit for bit, beside replicas that mix."""
    weights = mixing.weights([0.4, 0.0, 1.0], seeded(1, 2, 3))
    assert weights[1] == 1 and 0 < weights[0] < 1 and 0 < weights[2] < 1
    x, targets = torch.rand(R, B, 3, 6, 6), torch.rand(R, B, 10)
    for mixed, soft, share in (
        mixing.mixup(x.flatten(2), targets, weights, seeded(4, 5, 6)),
        mixing.cutmix(x, targets, weights * torch.tensor([0.0, 1.0, 0.0]), seeded(4, 5, 6)),
    ):
        assert torch.equal(mixed[1].flatten(), x[1].flatten()) and torch.equal(soft[1], targets[1]) and share[1] == 0
        assert not torch.equal(mixed[0].flatten(), x[0].flatten()) and not torch.equal(soft[0], targets[0])


def test_mixup_mixes_inputs_and_targets_by_one_weight_and_one_partner() -> None:
    x, targets = numbered(5)
    weights = torch.tensor([0.1, 0.5, 0.8])
    mixed, soft, share = mixing.mixup(x, targets, weights, seeded(1, 2, 3))
    torch.testing.assert_close(share, 1 - weights)
    torch.testing.assert_close(soft.sum(2), torch.ones(R, B))
    numbers = torch.arange(B).float()
    torch.testing.assert_close(mixed, (soft @ numbers).unsqueeze(2).expand_as(mixed))
    own = soft.diagonal(dim1=1, dim2=2)
    alone = own > 0.999  # an example may be its own partner
    torch.testing.assert_close(own[~alone], weights.unsqueeze(1).expand(R, B)[~alone])
    assert alone.sum() < 12 and ((soft > 0).sum(2) == 2 - alone.long()).all()
    partners = torch.where(alone, numbers.long(), (soft * (1 - torch.eye(B))).argmax(2))
    assert all(torch.equal(replica.sort().values, numbers.long()) for replica in partners)
    assert not torch.equal(partners[0], partners[1])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_cutmixs_targets_are_the_areas_that_its_images_are_made_of(share: float) -> None:
    """To the bit, whatever part of the box the edges cut off; the box is one rectangle, the same in a whole batch."""
    images, targets = numbered(3, 9, 8)
    for seed in range(20):
        mixed, soft, pasted = mixing.cutmix(images, targets, torch.full((R,), 1 - share), seeded(seed, 50, 99))
        areas = F.one_hot(mixed[:, :, 0].long().flatten(2), B).float().mean(2)
        torch.testing.assert_close(soft, areas, rtol=0, atol=1e-6)
        torch.testing.assert_close(soft.sum(2), torch.ones(R, B))
        other = mixed != images
        assert torch.equal(other[:, :, 0], other[:, :, 2])
        boxes = other[:, :, 0].flatten(0, 1)
        boxes = boxes[boxes.any(2).any(1)]
        assert torch.equal(boxes, boxes.any(2).unsqueeze(2) & boxes.any(1).unsqueeze(1))
        assert pasted.max().item() <= share + 1e-6
        if len(boxes):
            assert torch.equal(boxes.float().mean((1, 2)).unique(), pasted[pasted > 0].unique())


def test_a_box_has_the_share_that_was_drawn_wherever_no_edge_cuts_it() -> None:
    images, targets = numbered(1, 32, 32)
    shares = [
        mixing.cutmix(images, targets, torch.full((R,), 0.75), seeded(i, i + 100, i + 200))[2] for i in range(100)
    ]
    assert torch.cat(shares).max() == 0.25
    assert 0.1 < torch.cat(shares).mean() < 0.25


def test_of_both_one_at_random_mixes_a_batch() -> None:
    drawn = [
        mixing.either(torch.tensor([0.3, 1.0, 0.3]), torch.tensor([0.4, 0.4, 1.0]), seeded(i, 1, 2)) for i in range(400)
    ]
    mixup, cutmix = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    assert ((mixup[:, 0] < 1) ^ (cutmix[:, 0] < 1)).all()
    assert abs((mixup[:, 0] < 1).double().mean().item() - 0.5) < 4 * 0.5 / 20
    assert (mixup[:, 1] == 1).all() and (cutmix[:, 1] == torch.tensor(0.4)).all()
    assert (mixup[:, 2] == torch.tensor(0.3)).all() and (cutmix[:, 2] == 1).all()


def test_a_replica_is_mixed_as_if_it_were_alone() -> None:
    x, targets, seeds = torch.rand(R, B, 1, 8, 8), torch.rand(R, B, 10), (1, 2, 3)
    for alphas in ([0.2, 1.0, 2.0], [1.0, 1.0, 0.0]):
        sources, alone = seeded(*seeds), seeded(*seeds)
        weights = mixing.weights(alphas, sources)
        together = mixing.cutmix(x, targets, weights, sources)
        for r in range(R):
            own = mixing.cutmix(
                x[r : r + 1], targets[r : r + 1], mixing.weights(alphas[r : r + 1], alone[r : r + 1]), alone[r : r + 1]
            )
            assert all(torch.equal(a[r : r + 1], b) for a, b in zip(together, own, strict=True))


def test_label_smoothing_of_mixed_targets_is_the_mixture_of_smoothed_ones() -> None:
    classes = torch.randint(10, (R, B), generator=Generator().manual_seed(1))
    weights, smoothing = torch.tensor([0.1, 0.5, 0.8]), torch.tensor([[0.0], [0.1], [0.5]])
    x, hard = torch.zeros(R, B, 1), objective.distributions(classes, 10)
    _, soft, _ = mixing.mixup(x, hard, weights, seeded(1, 2, 3))
    _, expected, _ = mixing.mixup(x, objective.smoothed_targets(classes, 10, smoothing), weights, seeded(1, 2, 3))
    torch.testing.assert_close(objective.smoothed_targets(soft, 10, smoothing), expected)


def test_the_objective_is_the_loss_of_the_mixed_targets(digits: Source) -> None:
    """torch's cross_entropy with shares; the rows of train are those of plain examples and their own classes."""
    run = make(reg=s.Reg(mixup=s.Mixup(1.0), label_smoothing=s.LabelSmoothing(0.1)))
    stack = new_stack([run], Batches(digits, [split(digits, run.data, run.seeds)], [run], torch.device("cpu")))
    x, targets = stack.batches.train_batch(stack.batches.order(1)[:, :64], stack.batches.augmenters(1))
    logits = stack.forward(x)
    loss, gradient = stack._loss(logits, targets, None)
    own = logits[0].clone().requires_grad_()
    expected = F.cross_entropy(own, targets[0], label_smoothing=0.1)
    expected.backward()
    torch.testing.assert_close(loss[0], expected.detach())
    torch.testing.assert_close(gradient[0], own.grad)
    plain = next(stack.batches.eval_batches("train"))[1]
    assert plain.dtype == torch.int64


def test_the_numbers_of_a_regression_are_mixed_alike() -> None:
    data = s.Sine(samples=300)
    run = make(data=data, reg=s.Reg(mixup=s.Mixup(1.0)))
    source = load(data)
    batches = Batches(source, [split(source, data, run.seeds)], [run], torch.device("cpu"))
    order = batches.order(1)[:, :50]
    streams = batches.augmenters(1)
    weights = mixing.weights([1.0], batches.augmenters(1)["mixup"])
    x, y = batches.eval_batch(order)
    x = x.clone()
    mixed, targets = batches.train_batch(order, streams)
    coefficients = torch.linalg.lstsq(torch.stack([x[0].flatten(), torch.ones(50)], 1), mixed[0]).solution
    assert 0 < weights.item() < 1 and coefficients.isfinite().all()
    assert targets.shape == y.shape and not torch.equal(targets, y)
    torch.testing.assert_close(targets.mean(), y.mean())
    torch.testing.assert_close(mixed.mean(), x.mean())
    _, (end,) = train_rows([run], source)
    assert end.outcome.status == "ok" and 0 < (end.outcome.acted["mixup"] or 0) < 1


def test_mixing_raises_the_objective_and_shows_what_it_did(digits: Source) -> None:
    regs = (s.Reg(), s.Reg(mixup=s.Mixup(1.0), cutmix=s.Cutmix(1.0)))
    runs = [make(reg=reg, trainer={"epochs": 4}) for reg in regs]
    rows, (_, end) = train_rows(runs, digits)
    plain, mixed = ([row.objective for row in own if isinstance(row, EpochRow)] for own in rows)
    assert plain[-1] < mixed[-1]
    acted = end.outcome.acted
    assert end.outcome.status == "ok" and acted["mixup"] is not None and acted["cutmix"] is not None
