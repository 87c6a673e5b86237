"""The settings of one run: plain, frozen dataclasses, checked once at the edge and trusted everywhere else.

Each field says its neutral (default) value, the range it must lie in, and whether runs that differ in it may
share a stack. Every regularizer is always here with the value that switches it off, so that any override
works and the columns of the CSVs never change.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from regrun.settings.data import *
from regrun.settings.fields import *
from regrun.settings.model import *
from regrun.settings.optimizer import *
from regrun.settings.reg import *
from regrun.settings.scheduler import *
from regrun.settings.trainer import *

# Which class the `kind` of a group means.
KINDS: dict[str, dict[str, type]] = {
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
    "data": DATA,
}


@dataclass(frozen=True)
class Settings:
    """Everything that one run is."""

    model: Model = group(Mlp)
    reg: Reg = group(Reg)
    optimizer: Optimizer = group(Adam)
    scheduler: Scheduler = group(Constant, stackable=True)
    data: DataSet = group(Digits)
    trainer: Trainer = group(Trainer)
    seed: int = number(0, "[0, inf)", stackable=True)
    seeds: Seeds = group(Seeds, stackable=True)
    sweep: Sweep = group(Sweep, stackable=True)


# Settings that cannot change a number in the tables, and so do not count for the run's identity.
WITHOUT_EFFECT = (
    "trainer.device",
    "trainer.threads",
    "trainer.progress",
    "trainer.save",
    "trainer.checkpoint_minutes",
    "trainer.trackers",
    "trainer.test_curve",
    "data.root",
    "data.download",
    "data.cache",
    "data.stream",
    "data.workers",
    "sweep.workers",
    "sweep.stack_size",
    "sweep.run_timeout",
    "sweep.fail_fast",
)


def resolve(settings: Settings) -> Settings:
    """Fill in what other settings decide: the depth of `widths`, the decay of `adamw`, when averages start, seeds."""
    value = settings.reg.weight_decay.value
    if value is None:
        value = 0.01 if settings.optimizer.kind == "adamw" else 0.0
    decay = dataclasses.replace(settings.reg.weight_decay, value=value)
    seeds = {p: settings.seed if (s := getattr(settings.seeds, p)) is None else s for p in PURPOSES}
    averaging = settings.trainer.averaging
    start = (0.75 if averaging.kind == "swa" else 0.0) if averaging.start is None else averaging.start
    averaging = dataclasses.replace(averaging, start=start)
    model = settings.model
    if isinstance(model, Mlp | Residual | Cnn | Moe):
        model = dataclasses.replace(model, depth=len(hidden_layers(model)))
    return dataclasses.replace(
        settings,
        model=model,
        reg=dataclasses.replace(settings.reg, weight_decay=decay),
        trainer=dataclasses.replace(settings.trainer, averaging=averaging),
        seeds=Seeds(**seeds),
    )


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as one flat dict, in order: {"model.depth": 8, ...}."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = value
    return flat


def all_fields() -> dict[str, dataclasses.Field[Any]]:
    """Every setting of every kind by flat name, in order: the same whatever a run has chosen."""

    def walk(cls: type, prefix: str) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
        default = cls()
        for f in dataclasses.fields(default):
            value = getattr(default, f.name)
            if dataclasses.is_dataclass(value):
                classes = (
                    dict.fromkeys(KINDS[f.name].values()) if cls is Settings and f.name in KINDS else [type(value)]
                )
                for nested in classes:
                    yield from walk(nested, f"{prefix}{f.name}.")
            else:
                yield prefix + f.name, f

    named: dict[str, dataclasses.Field[Any]] = {}
    for name, f in walk(Settings, ""):
        named.setdefault(name, f)
    return named


def columns() -> list[str]:
    """The flat names that can be columns of summary.csv, whatever a run has chosen: all but how a sweep is trained."""
    return [name for name in all_fields() if not name.startswith("sweep.")]


def stackable(settings: Settings) -> set[str]:
    """The flat names in which the runs of one stack may differ: none where a model is built for one run alone."""
    if isinstance(settings.model, Torchvision):
        return set()

    def names(node: Any, prefix: str, inherited: bool) -> Iterator[str]:
        for f in dataclasses.fields(node):
            may = inherited or bool(f.metadata.get("stackable"))
            value = getattr(node, f.name)
            if dataclasses.is_dataclass(value):
                yield from names(value, f"{prefix}{f.name}.", may)
            elif may:
                yield prefix + f.name

    return set(names(settings, "", False))


def normalizes_batches(settings: Settings) -> bool:
    """Whether there is batch norm, or may be one inside of the model: a batch of one example is none to train on."""
    return settings.reg.batchnorm.active or isinstance(settings.model, Torchvision)


def requested(settings: Settings) -> list[str]:
    """The regularizers (and what else acts in `trainer`) whose values are not neutral, in the order of `Reg`."""
    reg = settings.reg
    active = {
        "dropout": reg.dropout.rate > 0 or any(reg.dropout.rates or []) or reg.dropout.input_rate > 0,
        "attention_dropout": reg.attention_dropout.rate > 0,
        "spatial_dropout": reg.spatial_dropout.rate > 0,
        "stochastic_depth": reg.stochastic_depth.rate > 0,
        "batchnorm": reg.batchnorm.active,
        "layernorm": reg.layernorm.active,
        "groupnorm": reg.groupnorm.active,
        "weight_decay": bool(reg.weight_decay.value),
        "l2": reg.l2.value > 0,
        "l1": reg.l1.value > 0,
        "max_norm": reg.max_norm.value is not None,
        "sam": reg.sam.rho > 0,
        "label_smoothing": reg.label_smoothing.value > 0,
        "noise": reg.noise.std > 0,
        "crop": reg.crop.padding > 0,
        "flip": reg.flip.rate > 0,
        "rotation": reg.rotation.degrees > 0,
        "randaugment": reg.randaugment.num_ops > 0,
        "trivialaugment": reg.trivialaugment.active,
        "jitter": max(reg.jitter.brightness, reg.jitter.contrast, reg.jitter.saturation) > 0,
        "cutout": reg.cutout.size > 0,
        "erasing": reg.erasing.rate > 0,
        "mixup": reg.mixup.alpha > 0,
        "cutmix": reg.cutmix.alpha > 0,
        "grad_clip": settings.trainer.grad_clip is not None,
        "grad_clip_value": settings.trainer.grad_clip_value is not None,
        "accumulate": settings.trainer.accumulate > 1,
        "averaging": settings.trainer.averaging.kind != "none",
    }
    return [name for name, on in active.items() if on]


def drawn(settings: Settings) -> list[str]:
    """The purposes of `seeds` for which a run draws numbers that its result may depend on."""
    wanted, data = set(requested(settings)), settings.data
    masks = {"dropout", "attention_dropout", "spatial_dropout", "stochastic_depth"}
    changes = {"noise", "crop", "flip", "rotation", "randaugment", "trivialaugment", "jitter", "cutout", "erasing"}
    active = {
        "init": True,
        "order": True,
        "split": data.split != "tail" or data.train_size is not None,
        "dropout": bool(masks & wanted) or isinstance(settings.model, Torchvision),
        "augment": bool((changes | {"mixup", "cutmix"}) & wanted),
        "noise": data.label_noise > 0 or data.label_noise_val > 0,
        "bootstrap": data.bootstrap,
    }
    return [purpose for purpose, is_drawn in active.items() if is_drawn]
