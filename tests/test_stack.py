"""A run gives the same rows alone and in company: bit for bit, for MLPs at one thread on a CPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make, train_rows

from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source, load
from regrun.data.split import split
from regrun.grouping import differences
from regrun.stack import new_stack
from regrun.trainer import train

SCHEMES = ("he_normal", "torch", "xavier_uniform", "orthogonal", "uniform")


def eight(**changes: Any) -> list[s.Settings]:
    """Eight runs that differ in everything that a stack allows: what is equal in all is in `changes`."""
    reg = changes.pop("reg", s.Reg())
    conventions = changes.pop("conventions", ())
    trainer, cycled = changes.pop("trainer", {}), changes.pop("cycled", {})
    schedulers = changes.pop("schedulers", (s.Constant(), s.Cosine(), s.Exponential(interval="step", k=0.01)))
    optimizer, model = changes.pop("optimizer", s.Adam()), changes.pop("model", s.Mlp(depth=2, width=24))
    return [
        make(
            model=replace(model, init=s.Init(scheme=SCHEMES[i % 5], bias=("zeros", "torch")[i % 2])),
            reg=replace(
                reg,
                dropout=replace(reg.dropout, rate=(0.0, 0.2, 0.5)[i % 3], input_rate=(0.1, 0.0)[i % 2]),
                weight_decay=replace(reg.weight_decay, value=(0.0, 0.1)[i % 2]),
                label_smoothing=s.LabelSmoothing((0.1, 0.0, 0.0)[i % 3]),
                l2=s.L2((0.0, 0.001)[i % 2]),
                l1=replace(reg.l1, value=(0.0, 0.0001, 0.0)[i % 3]),
                noise=s.Noise((0.0, 0.1)[i % 2]),
                crop=s.Crop(i % 2),
                **{name: values[i % len(values)] for name, values in cycled.items()},
            ),
            optimizer=replace(
                optimizer,
                lr=(0.001, 0.003, 0.01)[i % 3],
                **({"convention": conventions[i % 3]} if conventions else {}),
            ),
            scheduler=schedulers[i % len(schedulers)],
            data=s.Digits(label_noise=(0.0, 0.2)[i % 2], bootstrap=i % 4 == 3, normalize="standardize"),
            trainer={
                "epochs": 6,
                "batch_size": changes.get("batch_size", 64),
                "early_stopping": s.EarlyStopping(patience=(1, 3, None)[i % 3], min_delta=(1.0, 0.5, 0.0)[i % 3]),
                "grad_clip": (None, 1.0)[i % 2],
                **{name: values[i % len(values)] for name, values in trainer.items()},
            },
            seed=i,
        )
        for i in range(8)
    ]


SCHEDULERS = (
    s.Plateau(patience=0, factor=0.3, threshold=0.2, monitor="val_accuracy"),
    s.Plateau(patience=0, factor=0.1, threshold=0.5, warmup=0.2),
    s.Constant(interval="step", warmup=0.3),
    s.OneCycle(),
    s.Table(lrs=[0.01, 0.001]),
    s.Cyclic(step_size_up=7),
    s.CosineRestarts(t_0=1, t_mult=2, interval="step"),
    s.MultiStep(milestones=[1, 3]),
)
AVERAGING = (
    s.Averaging(),
    s.Averaging(kind="ema", decay=0.9),
    s.Averaging(kind="swa", start=0.0),
    s.Averaging(kind="ema", decay=0.99, start=0.1),
)
RULES = (
    s.EarlyStopping(rule="gap", gap=0.01),
    s.EarlyStopping(rule="generalization_loss", alpha=1.0),
    s.EarlyStopping(patience=1, min_delta=0.2, smoothing=0.7),
)
AUGMENT = {
    "flip": (s.Flip(), s.Flip(0.5)),
    "rotation": (s.Rotation(), s.Rotation(10), s.Rotation(20)),
    "randaugment": (s.RandAugment(1, magnitude=4), s.RandAugment(), s.RandAugment(2)),
    "trivialaugment": (s.TrivialAugment(), s.TrivialAugment(), s.TrivialAugment(), s.TrivialAugment(True)),
    "jitter": (s.Jitter(0.1), s.Jitter(), s.Jitter(contrast=0.2)),
    "cutout": (s.Cutout(), s.Cutout(2)),
    "erasing": (s.Erasing(0.3), s.Erasing()),
    "mixup": (s.Mixup(), s.Mixup(0.2), s.Mixup(1.0)),
    "cutmix": (s.Cutmix(), s.Cutmix(), s.Cutmix(1.0), s.Cutmix(0.5)),
}
CASES = {
    "adam": {},
    "sgd": {"optimizer": s.Sgd()},
    "momentum": {"optimizer": s.Momentum()},
    "nesterov": {"optimizer": s.Momentum(kind="nesterov")},
    "lecture": {"optimizer": s.Momentum(convention="lecture")},
    "conventions": {"optimizer": s.Momentum(kind="nesterov"), "conventions": ("torch", "lecture", "lecture")},
    "rmsprop": {"optimizer": s.RmsProp(momentum=0.5, centered=True)},
    "nadam": {"optimizer": s.NAdam()},
    "adamax": {"optimizer": s.Adamax()},
    "adagrad": {"optimizer": s.Adagrad()},
    "adadelta": {"optimizer": s.Adadelta()},
    "batchnorm": {"reg": s.Reg(batchnorm=s.BatchNorm(active=True))},
    "layernorm": {"reg": s.Reg(layernorm=s.LayerNorm(active=True))},
    "groupnorm": {"reg": s.Reg(groupnorm=s.GroupNorm(active=True, groups=4))},
    "norm after activation": {
        "model": s.Mlp(depth=2, width=37, norm_position="post"),
        "reg": s.Reg(batchnorm=s.BatchNorm(active=True)),
    },
    "ghost batches": {"reg": s.Reg(batchnorm=s.BatchNorm(active=True, ghost_batch=12))},
    "odd ghost batches": {
        "model": s.Mlp(widths=[37, 21]),
        "batch_size": 33,
        "reg": s.Reg(batchnorm=s.BatchNorm(active=True, ghost_batch=8)),
        "trainer": {"averaging": AVERAGING},
    },
    "classic dropout": {"reg": s.Reg(dropout=s.Dropout(kind="classic"))},
    "stochastic depth": {
        "model": s.Residual(depth=3, width=20),
        "cycled": {"stochastic_depth": (s.StochasticDepth(), s.StochasticDepth(0.2), s.StochasticDepth(0.7))},
    },
    "proximal": {"reg": s.Reg(l1=s.L1(mode="proximal"))},
    "decay of all but norms": {
        "reg": s.Reg(batchnorm=s.BatchNorm(active=True), weight_decay=s.WeightDecay(exclude="norm"))
    },
    "decay of all but biases": {
        "reg": s.Reg(layernorm=s.LayerNorm(active=True), weight_decay=s.WeightDecay(exclude="bias"))
    },
    "residual": {"model": s.Residual(depth=2, width=20), "reg": s.Reg(batchnorm=s.BatchNorm(active=True))},
    "odd shapes": {"model": s.Mlp(widths=[37, 21]), "batch_size": 33},
    "tanh": {"model": s.Mlp(depth=2, width=37, activation="tanh"), "batch_size": 33},
    "sigmoid": {"model": s.Mlp(depth=2, width=37, activation="sigmoid"), "batch_size": 33},
    "gelu": {"model": s.Mlp(depth=1, width=37, activation="gelu"), "batch_size": 33},
    "silu": {"model": s.Mlp(depth=1, width=37, activation="silu"), "batch_size": 33},
    "elu": {"model": s.Mlp(depth=1, width=37, activation="elu"), "batch_size": 33},
    "moe": {"model": s.Moe(experts=3, width=20), "reg": s.Reg(batchnorm=s.BatchNorm(active=True))},
    "moe top 2": {"model": s.Moe(experts=5, top_k=2, widths=[13, 7]), "batch_size": 33},
    "vit": {
        "model": s.Vit(depth=2, width=24, heads=3, patch=4),
        "cycled": {
            "attention_dropout": (s.AttentionDropout(0.3), s.AttentionDropout()),
            "stochastic_depth": (s.StochasticDepth(), s.StochasticDepth(), s.StochasticDepth(0.5)),
        },
    },
    "vit of odd shapes": {"model": s.Vit(depth=1, width=22, heads=2, patch=2), "batch_size": 33},
    "schedulers": {"schedulers": SCHEDULERS},
    "accumulate": {"trainer": {"accumulate": [3], "grad_clip_value": [None, 0.01, 0.1]}},
    "averaging": {"trainer": {"averaging": AVERAGING}},
    "averaging batchnorm": {
        "trainer": {"averaging": AVERAGING, "accumulate": [2]},
        "reg": s.Reg(batchnorm=s.BatchNorm(active=True)),
    },
    "mc_dropout": {"trainer": {"mc_dropout": [3]}},
    "max_norm": {"cycled": {"max_norm": (s.MaxNorm(), s.MaxNorm(0.5), s.MaxNorm(1.2))}},
    "sam": {"cycled": {"sam": (s.Sam(), s.Sam(0.05), s.Sam(0.5))}},
    "sam batchnorm": {"cycled": {"sam": (s.Sam(), s.Sam(0.05))}, "reg": s.Reg(batchnorm=s.BatchNorm(active=True))},
    "augment": {"cycled": AUGMENT},
    "stopping": {"trainer": {"early_stopping": RULES}},
    "linear": {"model": s.Mlp(depth=0)},
}


LONG = ("vit", "vit of odd shapes", "moe top 2", "odd ghost batches")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in LONG)) for n in CASES])
def test_rows_and_weights_of_a_replica_are_those_of_its_single_run(name: str, digits: Source) -> None:
    runs = eight(**CASES[name])
    alone = [train_rows([run], digits) for run in runs]
    for size in (3, 8):
        rows, ends = train_rows(runs[:size], digits)
        for i in range(size):
            assert rows[i] == alone[i][0][0]
            assert ends[i].outcome == alone[i][1][0].outcome
            assert all(torch.equal(w, alone[i][1][0].last[k]) for k, w in ends[i].last.items())
            assert all(torch.equal(w, alone[i][1][0].best[k]) for k, w in ends[i].best.items())
    assert len({end.outcome.last_epoch for end in ends}) > 1


def test_a_diverged_replica_leaves_its_neighbours_as_they_are(digits: Source) -> None:
    calm = make(optimizer=s.Sgd(lr=0.01))
    wild = make(optimizer=s.Sgd(lr=1e20), seed=1)
    rows, ends = train_rows([wild, calm], digits)
    alone_rows, alone_ends = train_rows([calm], digits)
    assert ends[0].outcome.status == "diverged"
    assert rows[1] == alone_rows[0]
    assert ends[1].outcome == alone_ends[0].outcome


CONVOLUTIONS = {
    "cnn": (s.Cnn(widths=[4, 8]), s.Reg()),
    "groupnorm": (s.Cnn(widths=[4, 8]), s.Reg(groupnorm=s.GroupNorm(active=True, groups=2))),
    "ghost batches": (s.Cnn(widths=[4, 8]), s.Reg(batchnorm=s.BatchNorm(active=True, ghost_batch=9))),
    "dropout": (s.Cnn(widths=[4, 8]), s.Reg(dropout=s.Dropout(0.2), spatial_dropout=s.SpatialDropout(0.3))),
    "resnet": (s.Resnet(depth=14, width=4), s.Reg(batchnorm=s.BatchNorm(active=True))),
    "resnet with dropout": (
        s.Resnet(depth=8, width=4),
        s.Reg(
            batchnorm=s.BatchNorm(active=True),
            dropout=s.Dropout(0.2),
            spatial_dropout=s.SpatialDropout(0.3),
            stochastic_depth=s.StochasticDepth(0.5),
        ),
    ),
}


@pytest.mark.parametrize(("model", "reg"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_one_step_of_convolutions_in_a_stack_is_that_of_their_single_run(
    model: s.Model, reg: s.Reg, digits: Source
) -> None:
    """Grouped convolutions round differently (oneDNN), so one step from equal state is compared."""
    runs = [make(model=model, reg=reg, optimizer=s.Sgd(lr=0.1), seed=i) for i in range(3)]
    splits = [split(digits, r.data, r.seeds) for r in runs]

    def step(members: list[int]) -> torch.Tensor:
        chosen, own = [runs[i] for i in members], [splits[i] for i in members]
        stack = new_stack(chosen, Batches(digits, own, chosen, torch.device("cpu")))
        x, targets = stack.batches.train_batch(stack.batches.order(1)[:, :64], {})
        streams = stack.mask_streams(1, batch_size=64, steps=1)
        stack.step(x, targets, {"lr": torch.full((len(members), 1), 0.1)}, streams)
        return stack.params.flat

    together = step([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(together[i], step([i])[0], rtol=0, atol=1e-6)


def test_runs_of_different_structure_are_refused(digits: Source) -> None:
    runs = [make(), make(model=s.Mlp(depth=3, width=24))]
    assert differences(runs) == ["model.depth"]
    splits = [split(digits, r.data, r.seeds) for r in runs]
    with pytest.raises(ValueError, match=r"model\.depth"):
        next(train(runs, ["a", "b"], digits, splits, torch.device("cpu")))


def test_torchvisions_models_never_share_a_stack() -> None:
    runs = [make(model=s.Torchvision(), seed=seed) for seed in (0, 1)]
    assert "seed" in differences(runs)


def test_what_is_stackable_never_separates_runs() -> None:
    assert differences(eight()) == []


def test_a_run_says_how_much_of_train_its_bootstrap_drew(digits: Source) -> None:
    _, ends = train_rows([make(data=s.Digits(bootstrap=b), trainer={"epochs": 0}) for b in (False, True)], digits)
    assert ends[0].outcome.train_unique == 1
    assert 0.59 < (ends[1].outcome.train_unique or 0) < 0.68


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_a_replica_of_a_regression_is_its_single_run(loss: str) -> None:
    data = s.Sine(samples=300, normalize="standardize")
    source = load(data)
    runs = [
        make(
            data=data,
            optimizer=s.Adam(lr=(0.001, 0.01)[i % 2]),
            reg=s.Reg(dropout=s.Dropout((0.0, 0.2, 0.5)[i % 3]), noise=s.Noise((0.0, 0.1)[i % 2])),
            trainer={"loss": loss, "epochs": 4, "early_stopping": s.EarlyStopping(patience=(1, None)[i % 2])},
            seed=i,
        )
        for i in range(6)
    ]
    alone = [train_rows([run], source) for run in runs]
    rows, ends = train_rows(runs, source)
    for i in range(6):
        assert rows[i] == alone[i][0][0]
        assert ends[i].outcome == alone[i][1][0].outcome
        assert all(torch.equal(w, alone[i][1][0].last[k]) for k, w in ends[i].last.items())
