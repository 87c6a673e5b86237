"""Neutral equals a plain torch network; a regularizer that is off in a mixed stack is as if it were not there."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make, train_rows
from torch import nn

from regrun import checks
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models.export import export
from regrun.stack import new_stack

OPTIMIZERS = {
    "sgd": (s.Sgd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (s.Momentum(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        s.Momentum(kind="nesterov", lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "rmsprop": (s.RmsProp(lr=0.001), lambda p: torch.optim.RMSprop(p, lr=0.001)),
    "adam": (s.Adam(), lambda p: torch.optim.Adam(p)),
    "nadam": (s.NAdam(lr=1e-3), lambda p: torch.optim.NAdam(p, lr=1e-3)),
    "adamax": (s.Adamax(), lambda p: torch.optim.Adamax(p)),
    "adagrad": (s.Adagrad(), lambda p: torch.optim.Adagrad(p)),
    "adadelta": (s.Adadelta(), lambda p: torch.optim.Adadelta(p)),
    "adamw": (s.Adam(kind="adamw"), lambda p: torch.optim.AdamW(_decayed_weights_only(p))),
}


def _decayed_weights_only(parameters: Any) -> list[dict[str, Any]]:
    own = list(parameters)
    return [
        {"params": [p for p in own if p.dim() > 1]},
        {"params": [p for p in own if p.dim() == 1], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_neutral_settings_train_a_plain_torch_network(name: str, digits: Source) -> None:
    """The same 42 steps by nn.Sequential, autograd and torch.optim, to rounding."""
    ours, torchs = OPTIMIZERS[name]
    run = make(optimizer=ours, trainer={"epochs": 2, "batch_size": 57})
    own = split(digits, run.data, run.seeds)
    batches = Batches(digits, [own], [run], torch.device("cpu"))
    stack = new_stack([run], batches)
    start = stack.weights_of(0) | {"input.offset": own.offset, "input.scale": own.scale}
    network = export(stack.ops, start, dict.fromkeys(("input", "hidden1", "hidden2"), 0.0)).train()
    optimizer = torchs(network.parameters())
    for epoch in (1, 2):
        for indices in batches.order(epoch)[0].split(57):
            loss = nn.functional.cross_entropy(network(digits.inputs[indices]), digits.targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    _, (end,) = train_rows([run], digits)
    atol = 1e-6 if isinstance(ours, s.Sgd | s.Momentum) else 2e-5  # adaptive rules divide small numbers
    for key, weight in network.state_dict().items():
        if key in end.last:
            torch.testing.assert_close(end.last[key], weight, rtol=0, atol=atol)


ACTIVE = {
    "dropout": s.Dropout(rate=0.5),
    "input dropout": s.Dropout(input_rate=0.5),
    "attention_dropout": s.AttentionDropout(0.5),
    "classic dropout": s.Dropout(rate=0.5, kind="classic"),
    "stochastic_depth": s.StochasticDepth(0.5),
    "weight_decay": s.WeightDecay(0.1),
    "l2": s.L2(0.01),
    "l1": s.L1(0.01),
    "proximal l1": s.L1(0.01, mode="proximal"),
    "max_norm": s.MaxNorm(1.0),
    "sam": s.Sam(0.05),
    "label_smoothing": s.LabelSmoothing(0.1),
    "noise": s.Noise(0.5),
    "crop": s.Crop(2),
    "flip": s.Flip(0.5),
    "rotation": s.Rotation(30),
    "randaugment": s.RandAugment(2),
    "trivialaugment": s.TrivialAugment(True),
    "jitter": s.Jitter(brightness=0.5, contrast=0.5),
    "cutout": s.Cutout(3),
    "erasing": s.Erasing(0.5),
    "mixup": s.Mixup(0.4),
    "cutmix": s.Cutmix(1.0),
}
OFF = {"proximal l1": s.L1(mode="proximal"), "classic dropout": s.Dropout(kind="classic")}
MODELS = {"stochastic_depth": s.Residual(depth=2, width=24), "attention_dropout": s.Vit(depth=1, width=16)}


@pytest.mark.parametrize("name", ACTIVE)
def test_off_beside_on_equals_never_asked_for(name: str, digits: Source) -> None:
    on = ACTIVE[name]
    off, field = OFF.get(name, type(on)()), name.split()[-1]
    model = MODELS.get(name, s.Mlp(depth=2, width=24))
    plain, neutral = make(model=model), make(model=model, reg=replace(s.Reg(), **{field: off}))
    rows, ends = train_rows([neutral, make(model=model, reg=replace(s.Reg(), **{field: on}))], digits)
    plain_rows, plain_ends = train_rows([plain], digits)
    assert rows[0] == plain_rows[0]
    assert all(torch.equal(weight, plain_ends[0].last[key]) for key, weight in ends[0].last.items())
    assert rows[1] != rows[0]


def test_a_ghost_batch_as_large_as_the_batch_is_batchnorm_bit_for_bit_and_a_warning(digits: Source) -> None:
    plain, whole = (make(reg=s.Reg(batchnorm=s.BatchNorm(active=True, ghost_batch=ghost))) for ghost in (None, 64))
    rows, ends = zip(*(train_rows([run], digits) for run in (plain, whole)), strict=True)
    assert rows[0] == rows[1]
    assert all(torch.equal(weight, ends[1][0].last[key]) for key, weight in ends[0][0].last.items())
    assert list(checks.warnings(plain, 1150)) == []
    (line,) = checks.warnings(whole, 1150)
    assert line.startswith("reg.batchnorm.ghost_batch: ")


DECAYED = {
    "norm_bias": {"weight"},
    "norm_bias_output": {"weight"},
    "norm": {"weight", "bias"},
    "bias": {"weight", "gain", "shift"},
    "none": {"weight", "bias", "gain", "shift"},
}


@pytest.mark.parametrize("exclude", DECAYED)
def test_without_a_gradient_what_decays_shrinks_as_a_power_and_the_rest_stays(exclude: str, digits: Source) -> None:
    """(1 - lr * value)^t for t = 5 steps of zero gradients, each replica by its own lr and value."""
    pairs = [(0.1, 0.5), (0.2, 1.0)]
    runs = [
        make(
            reg=s.Reg(weight_decay=s.WeightDecay(value, exclude=exclude), batchnorm=s.BatchNorm(active=True)),
            optimizer=s.Sgd(lr=lr),
        )
        for lr, value in pairs
    ]
    splits = [split(digits, r.data, r.seeds) for r in runs]
    stack = new_stack(runs, Batches(digits, splits, runs, torch.device("cpu")))
    stack.params.flat.add_(1.0)
    before = [stack.weights_of(r) for r in (0, 1)]
    lrs = torch.tensor([[lr] for lr, _ in pairs])
    with torch.no_grad():
        for _ in range(5):
            stack._update(torch.zeros_like(stack.params.flat), {"lr": lrs, "base_lr": lrs}, None)
    for r, (lr, value) in enumerate(pairs):
        after = stack.weights_of(r)
        for slot in stack.params.slots:
            decays = slot.role in DECAYED[exclude] and (exclude, slot.name) != ("norm_bias_output", "output.weight")
            factor = (1 - lr * value) ** 5 if decays else 1.0
            torch.testing.assert_close(after[slot.name], before[r][slot.name] * factor, rtol=1e-6, atol=0)
            assert decays or torch.equal(after[slot.name], before[r][slot.name])


def test_dropout_changes_neither_initial_weights_nor_batch_order(digits: Source) -> None:
    runs = [make(), make(reg=s.Reg(dropout=s.Dropout(rate=0.5)))]
    stacks = [new_stack([r], Batches(digits, [split(digits, r.data, r.seeds)], [r], torch.device("cpu"))) for r in runs]
    assert torch.equal(stacks[0].params.flat, stacks[1].params.flat)
    assert all(torch.equal(stacks[0].batches.order(e), stacks[1].batches.order(e)) for e in (1, 2, 3))


@pytest.mark.parametrize("purpose", s.PURPOSES)
def test_each_seed_moves_its_own_purpose_alone(purpose: str, digits: Source) -> None:
    """A run with one purpose's seed changed differs from the run without, and only through that purpose."""
    reg = s.Reg(dropout=s.Dropout(rate=0.2), noise=s.Noise(0.1))
    base = make(reg=reg, data=s.Digits(label_noise=0.2, bootstrap=True))
    moved = s.resolve(replace(base, seeds=replace(base.seeds, **{purpose: 99})))
    (first, second), _ = train_rows([base, moved], digits)
    assert first != second
    initial = [row for row in first if row.epoch == 0], [row for row in second if row.epoch == 0]
    assert (initial[0] == initial[1]) == (purpose in ("order", "dropout", "augment"))
