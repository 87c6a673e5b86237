"""Every option of every group composes and trains; one row each, so a new option is one row more."""

from dataclasses import replace

import pytest
import torch
from conftest import NEEDS, train_rows

from regrun import checks, config, help, settings
from regrun.data.sources import Source, load
from regrun.data.split import split
from regrun.rows import EpochRow

OPTIONS = {
    "model": [
        *("linear", "shallow", "wide", "deep", "residual", "cnn", "cnn_small", "mlp_as_cnn", "mlp_as_cnn_small"),
        *("resnet", "moe", "vit", "torchvision"),
    ],
    "reg": [
        *("none", "dropout", "spatial_dropout", "stochastic_depth", "attention_dropout"),
        *("batchnorm", "layernorm", "groupnorm", "weight_decay", "l2", "l1", "max_norm", "sam"),
        *("label_smoothing", "noise", "crop", "flip", "rotation", "randaugment", "trivialaugment", "jitter"),
        *("cutout", "erasing", "mixup", "cutmix"),
    ],
    "optimizer": ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "nadam", "adamax", "adagrad", "adadelta"],
    "scheduler": [
        *("constant", "exponential", "multiplicative", "inverse", "step", "multistep", "cosine", "warmup_cosine"),
        *("cosine_restarts", "one_cycle", "cyclic", "table", "plateau"),
    ],
    "data": ["digits", "moons", "spirals", "sine", "sklearn"],
    "experiment": ["smoke"],
    "trainer": ["default"],
}
FILES = {
    "data": {"mnist", "fashion_mnist", "kmnist", "csv", "npz", "image_folder", "cifar10", "cifar100", "svhn"},
    "experiment": {"lecture_batch_64", "lecture_batch_1024"},
}


@pytest.mark.parametrize("group", OPTIONS)
def test_the_table_has_every_option(group: str) -> None:
    """Options that need files on disk are in FILES; test_lecture trains them where the files exist."""
    assert set(OPTIONS[group]) | FILES.get(group, set()) == set(help.options(group))


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in OPTIONS.items() for o in options])
def test_every_option_trains_two_steps(group: str, option: str) -> None:
    overrides = [f"{group}={option}", *NEEDS.get(option, []), "trainer.epochs=2", "trainer.limit_batches=1"]
    run = config.jobs(overrides, multirun=False)[0].settings
    (rows,), (end,) = train_rows([run], load(run.data))
    assert end.outcome.status == "ok" and end.outcome.last_step == 2
    assert [row.step for row in rows if isinstance(row, EpochRow)] == [1, 2]
    assert all(weight.isfinite().all() for weight in end.last.values())
    wanted = settings.requested(run)
    assert wanted == (
        [option] if group == "reg" and option != "none" else ["weight_decay"] if option == "adamw" else []
    )
    assert [name for name, figure in end.outcome.acted.items() if figure is not None] == wanted


def test_max_norm_holds_units_at_its_default(digits: Source) -> None:
    run = config.jobs(["model=shallow", "reg=max_norm", "trainer.epochs=2"], multirun=False)[0].settings
    _, (end,) = train_rows([run], digits)
    assert (end.outcome.acted["max_norm"] or 0) > 0.1


@pytest.mark.parametrize(
    ("overrides", "name", "share", "deviation"),
    [
        # The last batch of each of 2 epochs has 62 examples: 2 * 62 * (8 + 16) maps, and 2 * 62 * 4 branches.
        ("model=cnn model.width=8 reg=spatial_dropout reg.spatial_dropout.rate=0.25", "spatial_dropout", 0.25, 0.01),
        ("model=residual reg=stochastic_depth reg.stochastic_depth.rate=0.5", "stochastic_depth", 0.3125, 0.022),
    ],
)
def test_what_is_left_out_is_the_share_that_was_asked_for(
    overrides: str, name: str, share: float, deviation: float, digits: Source
) -> None:
    """Of branches, the mean over the four blocks: 0.5 times 1/4, 2/4, 3/4 and 1."""
    run = config.jobs([*overrides.split(), "trainer.epochs=2"], multirun=False)[0].settings
    _, (end,) = train_rows([run], digits)
    assert end.outcome.acted[name] == pytest.approx(share, abs=4 * deviation)


@pytest.mark.parametrize("scheme", settings.SCHEMES)
def test_every_init_scheme_trains(scheme: str, digits: Source) -> None:
    run = config.jobs([f"model.init.scheme={scheme}", "trainer.epochs=1"], multirun=False)[0].settings
    _, (end,) = train_rows([run], digits)
    assert end.outcome.status in ("ok", "diverged")
    weight = end.last["hidden2.weight"]
    assert bool((weight == weight[:1]).all()) == (scheme in ("zeros", "constant"))


def test_zero_init_learns_no_more_than_the_class_prior(digits: Source) -> None:
    """With ReLU all hidden gradients are exactly 0; the loss stays at the entropy of the classes, ln 10."""
    overrides = ["model=shallow", "model.init.scheme=zeros", "trainer.epochs=3"]
    run = config.jobs(overrides, multirun=False)[0].settings
    _, (end,) = train_rows([run], digits)
    assert torch.count_nonzero(end.last["hidden1.weight"]) == 0
    assert end.outcome.train_loss_last == pytest.approx(2.302585, abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3, 4))])
def test_the_main_command_passes_93_percent(seed: int, digits: Source) -> None:
    run = config.jobs(["model=deep", "reg=dropout", f"seed={seed}"], multirun=False)[0].settings
    _, (end,) = train_rows([run], digits)
    assert end.outcome.test_accuracy_best is not None and end.outcome.test_accuracy_best > 0.93


def test_flipping_digits_is_a_warning_that_says_why() -> None:
    run = config.jobs(["reg=flip"], multirun=False)[0].settings
    (line,) = checks.warnings(run, 1150)
    assert line.startswith("reg.flip.rate: ") and "mirror" in line


def test_turning_digits_far_is_a_warning_and_a_little_is_none() -> None:
    said = [
        list(
            checks.warnings(
                config.jobs(["reg=rotation", f"reg.rotation.degrees={d}"], multirun=False)[0].settings, 1150
            )
        )
        for d in (10, 90)
    ]
    assert said[0] == []
    assert said[1][0].startswith("reg.rotation.degrees: ")


@pytest.mark.parametrize("name", ["jitter", "randaugment", "trivialaugment"])
def test_colors_are_those_of_gray_images_or_of_three_channels(name: str) -> None:
    words = ["data=npz", "data.path=x", "data.layout=hwc", f"reg={name}"]
    run = config.jobs(words, multirun=False)[0].settings
    found = {c: list(checks.data_conflicts(run, 1000, (c, 8, 8), is_regression=False)) for c in (1, 2, 3, 4)}
    assert found[1] == found[3] == []
    assert all(len(found[c]) == 1 and found[c][0].startswith(f"reg.{name}: ") for c in (2, 4))


def test_smoke_ends_in_seconds_offline(digits: Source) -> None:
    run = config.jobs(["experiment=smoke"], multirun=False)[0].settings
    assert run.data.kind == "digits" and run.trainer.epochs <= 5
    assert len(split(digits, run.data, run.seeds).train) == 1150
    _, (end,) = train_rows([replace(run, seed=0)], digits)
    assert end.outcome.test_accuracy_best is not None and end.outcome.test_accuracy_best > 0.5
