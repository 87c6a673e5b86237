"""Monte Carlo dropout at evaluation: the mean of stochastic predictions, from streams of its own."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from conftest import make, train_rows

from regrun import measure
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source, load
from regrun.data.split import split
from regrun.rows import Outcome
from regrun.stack import Stack, new_stack

NAMES = [f"{split}_{name}_mc" for split in ("val", "test") for name in ("loss", "accuracy", "r2")]
PLAIN = dict.fromkeys(NAMES)


def stacked(run: s.Settings, source: Source) -> Stack:
    own = split(source, run.data, run.seeds)
    return new_stack([run], Batches(source, [own], [run], torch.device("cpu")))


def sampled(samples: int, **changes: Any) -> s.Settings:
    changes = {"reg": s.Reg(dropout=s.Dropout(rate=0.3, input_rate=0.1))} | changes
    return make(trainer={"mc_dropout": samples}, **changes)


def figures(outcome: Outcome) -> list[float | None]:
    return [getattr(outcome, name) for name in NAMES]


@pytest.mark.parametrize("reg", [s.Reg(), s.Reg(batchnorm=s.BatchNorm(active=True))], ids=["plain", "batchnorm"])
def test_sampling_moves_nothing_else(reg: s.Reg, digits: Source) -> None:
    reg = replace(reg, dropout=s.Dropout(rate=0.3))
    (plain_rows,), (plain,) = train_rows([sampled(0, reg=reg)], digits)
    (rows,), (end,) = train_rows([sampled(7, reg=reg)], digits)
    assert rows == plain_rows
    assert figures(plain.outcome) == [None] * 6
    assert replace(end.outcome, **PLAIN) == plain.outcome
    assert all(torch.equal(weight, plain.last[name]) for name, weight in end.last.items())
    assert end.outcome.test_loss_mc not in (None, end.outcome.test_loss_best)


@pytest.mark.parametrize("data", [s.Digits(), s.Sine(samples=300, normalize="standardize")])
def test_a_rate_that_drops_nothing_gives_the_deterministic_figures(data: s.DataSet) -> None:
    run = sampled(5, reg=s.Reg(dropout=s.Dropout(rate=1e-6)), data=data)
    _, (end,) = train_rows([run], load(data))
    o = end.outcome
    assert o.test_loss_mc == pytest.approx(o.test_loss_best, rel=1e-5)
    assert o.val_loss_mc == pytest.approx(o.val_loss_best, rel=1e-5)
    assert (o.test_accuracy_mc, o.val_accuracy_mc) == (o.test_accuracy_best, o.val_accuracy_best)
    assert (o.test_r2_mc is None) == (data.kind == "digits")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": s.Mlp(depth=2, width=37)},
        {"model": s.Mlp(depth=0)},
        {"data": s.Sklearn(name="wine", normalize="standardize")},
        {"data": s.Sine(samples=300)},
    ],
    ids=["odd width", "linear", "three classes", "regression"],
)
def test_a_replica_has_the_bits_of_its_single_run(changes: dict[str, Any]) -> None:
    source = load(changes.get("data", s.Digits()))
    is_linear = changes.get("model") == s.Mlp(depth=0)
    runs = [
        sampled(
            4,
            reg=s.Reg(
                dropout=s.Dropout(rate=0 if is_linear else (0.1, 0.5, 0.0)[i % 3], input_rate=0.1 + 0.2 * (i % 2))
            ),
            seed=i,
            **changes,
        )
        for i in range(7)
    ]
    alone = [figures(train_rows([run], source)[1][0].outcome) for run in runs]
    for size in (3, 7):
        _, ends = train_rows(runs[:size], source)
        assert [figures(end.outcome) for end in ends] == alone[:size]
    assert len({figure[0] for figure in alone}) == 7


def test_a_cnn_samples_in_a_stack_as_alone() -> None:
    """Before training, where grouped convolutions have not parted yet."""
    runs = [sampled(3, model=s.Cnn(widths=[4, 8]), seed=i) for i in range(2)]
    runs = [replace(run, trainer=replace(run.trainer, epochs=0)) for run in runs]
    source = load(s.Digits())
    _, ends = train_rows(runs, source)
    for run, end in zip(runs, ends, strict=True):
        _, (alone,) = train_rows([run], source)
        assert end.outcome.test_loss_mc == pytest.approx(alone.outcome.test_loss_mc, rel=1e-5)
        assert end.outcome.test_loss_mc != end.outcome.test_loss_best


@pytest.mark.parametrize(
    ("model", "reg"),
    [
        (s.Cnn(widths=[4, 8]), s.Reg(spatial_dropout=s.SpatialDropout(rate=0.02))),
        (s.Residual(depth=3, width=20), s.Reg(stochastic_depth=s.StochasticDepth(rate=0.02))),
        (s.Mlp(depth=2, width=24), s.Reg(dropout=s.Dropout(rate=0.02, kind="classic"))),
        (s.Vit(depth=1, width=16, patch=4), s.Reg(attention_dropout=s.AttentionDropout(rate=0.02))),
    ],
    ids=["maps", "branches", "classic", "attention"],
)
def test_whatever_drops_in_training_is_sampled(model: s.Model, reg: s.Reg) -> None:
    """Where little drops, the mean of 200 passes is near the deterministic pass, and is not it."""
    stack = stacked(sampled(1, model=model, reg=reg), load(s.Digits()))
    (plain,), (mean,) = measure.evaluate(stack, "test"), measure.monte_carlo(stack, "test", 200)
    assert mean.loss != plain.loss
    assert mean.loss == pytest.approx(plain.loss, rel=0.05)


def linear(samples: int, rate: float) -> tuple[Stack, torch.Tensor, torch.Tensor]:
    """A trained softmax regression on two inputs, its test inputs (1, B, 2) as it sees them, and targets (1, B)."""
    run = make(
        data=s.Toy(samples=500, normalize="standardize"),
        model=s.Mlp(depth=0),
        optimizer=s.Adam(lr=0.1),
        reg=s.Reg(dropout=s.Dropout(input_rate=rate)),
        trainer={"epochs": 10, "mc_dropout": samples},
    )
    source = load(run.data)
    _, (end,) = train_rows([run], source)
    stack = stacked(run, source)
    stack.load(0, end.best)
    x, targets = next(iter(stack.batches.eval_batches("test")))
    return stack, x.clone(), targets


def test_the_mean_is_that_over_all_masks() -> None:
    """Two inputs have four masks; their probabilities weigh the four predictions of a softmax regression."""
    rate, samples = 0.25, 4000
    stack, x, targets = linear(samples, rate)
    expected = torch.zeros(*targets.shape, 2)
    for kept in product((0.0, 1.0), repeat=2):
        weight = rate ** (2 - sum(kept)) * (1 - rate) ** sum(kept)
        expected += weight * stack.forward(x * torch.tensor(kept) / (1 - rate)).softmax(2)
    loss = -expected.gather(2, targets.unsqueeze(2)).log().mean().item()
    (score,) = measure.monte_carlo(stack, "test", samples)
    plain = measure.evaluate(stack, "test")[0].loss
    assert score.loss == pytest.approx(loss, abs=0.005)
    assert abs(plain - loss) > 0.02  # the deterministic pass is another prediction


def test_the_geometric_mean_of_a_softmax_regression_is_its_deterministic_prediction() -> None:
    """Averaged log-probabilities, normalized anew, are those of the averaged logits (Baldi and Sadowski 2013)."""
    samples = 4000
    stack, x, _ = linear(samples, 0.25)
    streams = stack.mask_streams("test", batch_size=1024, steps=samples, purpose="mc_dropout")
    drawn = torch.stack([stack.forward(x, streams=streams).log_softmax(2) for _ in range(samples)]).double()
    error = (drawn[..., :1] - drawn[..., 1:]).std(0) / samples**0.5
    geometric = drawn.mean(0).log_softmax(2)
    difference = (geometric - stack.forward(x).log_softmax(2)).abs()
    assert bool((difference < 5 * error + 1e-6).all())


def test_more_samples_come_closer_to_the_mean(digits: Source) -> None:
    """The loss of a mean falls with its number of predictions (Jensen), by most at first."""
    run = sampled(1)
    stack = stacked(run, digits)
    losses = [measure.monte_carlo(stack, "test", samples)[0].loss for samples in (1, 4, 64)]
    assert losses[0] > losses[1] > losses[2]
