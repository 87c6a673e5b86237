"""The settings of one run: plain, frozen dataclasses, checked once at the edge and trusted everywhere else.

Each field says its neutral (default) value, the range it must lie in, and whether runs that differ in it may
share a stack. Every regularizer is always here with the value that switches it off, so that any override
works and the columns of the CSVs never change.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SCHEMES = (
    "torch",
    "he_normal",
    "he_uniform",
    "xavier_normal",
    "xavier_uniform",
    "orthogonal",
    "normal",
    "uniform",
    "constant",
    "zeros",
)
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "identity")
FLOAT32_MAX = 3.4e38
PURPOSES = ("init", "order", "split", "dropout", "augment", "noise")


def number(default: Any, interval: str = "(-inf, inf)", *, stackable: bool = False) -> Any:
    """A field whose number (or each number of a list) lies in `interval`, written as in "[0, 1)"."""
    return field(default=default, metadata={"interval": interval, "stackable": stackable})


def choice(default: str, options: tuple[str, ...], *, stackable: bool = False) -> Any:
    """A field that is one of `options`."""
    return field(default=default, metadata={"options": options, "stackable": stackable})


def plain(default: Any, *, stackable: bool = False) -> Any:
    """A field that only its type restricts."""
    return field(default=default, metadata={"stackable": stackable})


def group(cls: type, *, stackable: bool = False) -> Any:
    """A field that holds another dataclass, neutral by default; all of it may differ in a stack, or not."""
    return field(default_factory=cls, metadata={"stackable": stackable})


@dataclass(frozen=True)
class Init:
    """How weights and biases start (see `initializers`). Each replica of a stack may start in its own way."""

    scheme: str = choice("he_normal", SCHEMES)
    mode: str = choice("fan_in", ("fan_in", "fan_out", "fan_avg"))
    gain: float | None = number(None, "(0, inf)")
    std: float = number(0.01, "[0, inf)")
    value: float = number(0.01)
    bias: str = choice("zeros", ("zeros", "torch", "constant"))
    bias_value: float = number(0.0)
    output_scheme: str = choice("same", ("same", *SCHEMES))
    output_std: float | None = number(None, "[0, inf)")
    output_value: float | None = number(None)


@dataclass(frozen=True)
class Mlp:
    """Fully connected: `depth` hidden layers of `width` units, or one layer for each of `widths`."""

    kind: str = plain("mlp")
    depth: int = number(8, "[0, 1000]")
    width: int = number(128, "[1, 1000000]")
    widths: list[int] | None = number(None, "[1, 1000000]")
    activation: str = choice("relu", ACTIVATIONS)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Residual:
    """Pre-activation residual MLP: `depth` blocks on a stream of `width`; `widths` are the blocks' inner widths."""

    kind: str = plain("residual")
    depth: int = number(4, "[1, 1000]")
    width: int = number(128, "[1, 1000000]")
    widths: list[int] | None = number(None, "[1, 1000000]")
    activation: str = choice("relu", ACTIVATIONS)
    zero_residual: bool = plain(False, stackable=True)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Cnn:
    """Blocks of 3 x 3 convolution and 2 x 2 max pooling, then a linear head.

    Block i of `depth` has width * 2^i channels (i from 0), or `widths` says how many each has.
    """

    kind: str = plain("cnn")
    depth: int = number(2, "[1, 20]")
    width: int = number(32, "[1, 100000]")
    widths: list[int] | None = number(None, "[1, 100000]")
    activation: str = choice("relu", ACTIVATIONS)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Dropout:
    """Probability of zeroing a hidden unit: one `rate`, or one of `rates` per hidden layer; `input_rate` for inputs."""

    rate: float = number(0.0, "[0, 1)", stackable=True)
    rates: list[float] | None = number(None, "[0, 1)", stackable=True)
    input_rate: float = number(0.0, "[0, 1)", stackable=True)


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization; `momentum` is torch's: the weight of the new batch in the running statistics."""

    active: bool = plain(False)
    momentum: float = number(0.1, "(0, 1]")
    eps: float = number(1e-5, "(0, inf)")


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization over the features of each example."""

    active: bool = plain(False)
    eps: float = number(1e-5, "(0, inf)")


@dataclass(frozen=True)
class WeightDecay:
    """Decoupled decay: weights shrink by lr * value each step. null is 0, or 0.01 under adamw."""

    value: float | None = number(None, "[0, inf)", stackable=True)
    exclude: str = choice("norm_bias", ("norm_bias", "none"))


@dataclass(frozen=True)
class L2:
    """(value / 2) * sum of squared weights, in the loss: its gradient is value * weight, as torch's weight_decay."""

    value: float = number(0.0, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class L1:
    """value * sum of absolute weights: a `penalty` in the loss, or a `proximal` step, which gives exact zeros."""

    value: float = number(0.0, "[0, inf)", stackable=True)
    mode: str = choice("penalty", ("penalty", "proximal"))


@dataclass(frozen=True)
class LabelSmoothing:
    """Share of the target's mass that is spread evenly over all classes."""

    value: float = number(0.0, "[0, 1)", stackable=True)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of Gaussian noise added to the normalized training inputs."""

    std: float = number(0.0, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Crop:
    """Random crop after zero padding of `padding` pixels on each side."""

    padding: int = number(0, "[0, 1000]", stackable=True)


@dataclass(frozen=True)
class Flip:
    """Probability of mirroring an image left to right."""

    rate: float = number(0.0, "[0, 1]", stackable=True)


@dataclass(frozen=True)
class Reg:
    """Every regularizer, neutral unless asked for."""

    dropout: Dropout = group(Dropout)
    batchnorm: BatchNorm = group(BatchNorm)
    layernorm: LayerNorm = group(LayerNorm)
    weight_decay: WeightDecay = group(WeightDecay)
    l2: L2 = group(L2)
    l1: L1 = group(L1)
    label_smoothing: LabelSmoothing = group(LabelSmoothing)
    noise: Noise = group(Noise)
    crop: Crop = group(Crop)
    flip: Flip = group(Flip)


@dataclass(frozen=True)
class Sgd:
    """Plain gradient descent."""

    kind: str = plain("sgd")
    lr: float = number(1e-3, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum, `kind: momentum` (heavy ball) or `nesterov`, in torch's convention."""

    kind: str = plain("momentum")
    lr: float = number(1e-3, "[0, inf)", stackable=True)
    momentum: float = number(0.9, "[0, 1)", stackable=True)
    dampening: float = number(0.0, "[0, 1]", stackable=True)


@dataclass(frozen=True)
class RmsProp:
    """Gradients divided by a running root mean square."""

    kind: str = plain("rmsprop")
    lr: float = number(1e-2, "[0, inf)", stackable=True)
    alpha: float = number(0.99, "[0, 1)", stackable=True)
    eps: float = number(1e-8, "[0, inf)", stackable=True)
    momentum: float = number(0.0, "[0, 1)", stackable=True)
    centered: bool = plain(False)


@dataclass(frozen=True)
class Adam:
    """Adaptive moments, `kind: adam` or `adamw` (adam whose default `reg.weight_decay.value` is 0.01)."""

    kind: str = plain("adam")
    lr: float = number(1e-3, "[0, inf)", stackable=True)
    betas: list[float] = field(
        default_factory=lambda: [0.9, 0.999], metadata={"interval": "[0, 1)", "length": 2, "stackable": True}
    )
    eps: float = number(1e-8, "[0, inf)", stackable=True)
    amsgrad: bool = plain(False)


@dataclass(frozen=True)
class Constant:
    """The same lr throughout."""

    kind: str = plain("constant")


@dataclass(frozen=True)
class Exponential:
    """lr * e^(-k t); t counts epochs or steps, from 0."""

    kind: str = plain("exponential")
    interval: str = choice("epoch", ("epoch", "step"))
    k: float = number(0.05, "[0, inf)")


@dataclass(frozen=True)
class Inverse:
    """lr / (1 + k t); t counts epochs or steps, from 0."""

    kind: str = plain("inverse")
    interval: str = choice("epoch", ("epoch", "step"))
    k: float = number(0.05, "[0, inf)")


@dataclass(frozen=True)
class Step:
    """lr * gamma^floor(t / step_size)."""

    kind: str = plain("step")
    interval: str = choice("epoch", ("epoch", "step"))
    step_size: int = number(30, "[1, inf)")
    gamma: float = number(0.1, "(0, inf)")


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from lr to lr * min_factor over the whole run."""

    kind: str = plain("cosine")
    interval: str = choice("epoch", ("epoch", "step"))
    min_factor: float = number(0.0, "[0, 1]")


@dataclass(frozen=True)
class WarmupCosine:
    """A linear rise over the first `warmup` (a share of the run), then half a cosine."""

    kind: str = plain("warmup_cosine")
    interval: str = choice("step", ("epoch", "step"))
    warmup: float = number(0.1, "[0, 1)")
    min_factor: float = number(0.0, "[0, 1]")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What all data sets share: how val and a training subset are taken, and how inputs are scaled."""

    val_size: float = number(0.2, "(0, inf)")
    split: str = choice("stratified", ("stratified", "tail"))
    train_size: int | None = number(None, "[1, inf)")
    label_noise: float = number(0.0, "[0, 1]", stackable=True)
    label_noise_val: float = number(0.0, "[0, 1]", stackable=True)
    normalize: str = choice("unit", ("none", "unit", "standardize"))
    drop_last: bool = plain(False)


@dataclass(frozen=True, kw_only=True)
class Digits(Data):
    """scikit-learn's digits: 1,797 scans of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998); test is 360 of them."""

    kind: str = plain("digits")


@dataclass(frozen=True, kw_only=True)
class Mnist(Data):
    """70,000 images of 28 x 28 pixels in torchvision's files, `kind: mnist`, `fashion_mnist` or `kmnist`."""

    kind: str = plain("mnist")
    root: str = plain("data")
    download: bool = plain(True)


@dataclass(frozen=True, kw_only=True)
class Toy(Data):
    """Points in the plane, `kind: moons` or `spirals`: the same points for every seed."""

    kind: str = plain("moons")
    samples: int = number(1000, "[20, 10000000]")
    noise: float = number(0.2, "[0, inf)")


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` epochs without an improvement of more than `min_delta`; null trains to the end."""

    patience: int | None = number(10, "[1, inf)")
    min_delta: float = number(0.0, "[0, inf)")
    monitor: str = choice("val_loss", ("val_loss", "val_accuracy"))
    mode: str = choice("auto", ("auto", "min", "max"))


@dataclass(frozen=True)
class Trainer:
    """The loop: how long, on what, how exactly. What cannot change a result is left out of `run_id`."""

    epochs: int = number(100, "[0, inf)")
    batch_size: int = number(64, "[1, inf)")
    early_stopping: EarlyStopping = group(EarlyStopping, stackable=True)
    grad_clip: float | None = number(None, "(0, inf)", stackable=True)
    precision: str = choice("float32", ("float32", "bfloat16"))
    limit_batches: int | None = number(None, "[1, inf)")
    time_limit: float | None = number(None, "(0, inf)")
    device: str = choice("auto", ("auto", "cpu", "cuda", "mps"))
    threads: int = number(1, "[1, 1024]")
    deterministic: bool = plain(True)
    progress: str = choice("auto", ("auto", "rich", "plain", "none"))
    save: str = choice("auto", ("auto", "none", "best", "last", "both"))


@dataclass(frozen=True)
class Seeds:
    """One seed for each purpose; null derives it from the run's `seed`."""

    init: int | None = number(None, "[0, inf)")
    order: int | None = number(None, "[0, inf)")
    split: int | None = number(None, "[0, inf)")
    dropout: int | None = number(None, "[0, inf)")
    augment: int | None = number(None, "[0, inf)")
    noise: int | None = number(None, "[0, inf)")


@dataclass(frozen=True)
class Sweep:
    """How `-m` trains its runs: nothing here changes a result."""

    workers: int | None = number(None, "[1, 1024]")
    stack_size: int | None = number(None, "[1, 100000]")
    run_timeout: float | None = number(None, "(0, inf)")
    fail_fast: bool = plain(False)


Model = Mlp | Residual | Cnn
Optimizer = Sgd | Momentum | RmsProp | Adam
Scheduler = Constant | Exponential | Inverse | Step | Cosine | WarmupCosine
DataSet = Digits | Mnist | Toy

# The one place that says which class the `kind` of a group means.
KINDS: dict[str, dict[str, type]] = {
    "model": {"mlp": Mlp, "residual": Residual, "cnn": Cnn},
    "optimizer": {
        "sgd": Sgd,
        "momentum": Momentum,
        "nesterov": Momentum,
        "rmsprop": RmsProp,
        "adam": Adam,
        "adamw": Adam,
    },
    "scheduler": {
        "constant": Constant,
        "exponential": Exponential,
        "inverse": Inverse,
        "step": Step,
        "cosine": Cosine,
        "warmup_cosine": WarmupCosine,
    },
    "data": {
        "digits": Digits,
        "mnist": Mnist,
        "fashion_mnist": Mnist,
        "kmnist": Mnist,
        "moons": Toy,
        "spirals": Toy,
    },
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
    "data.root",
    "data.download",
    "sweep.workers",
    "sweep.stack_size",
    "sweep.run_timeout",
    "sweep.fail_fast",
)


def resolve(settings: Settings) -> Settings:
    """Fill in what other settings decide: the depth of `widths`, the decay of `adamw`, each purpose's seed."""
    value = settings.reg.weight_decay.value
    if value is None:
        value = 0.01 if settings.optimizer.kind == "adamw" else 0.0
    decay = dataclasses.replace(settings.reg.weight_decay, value=value)
    seeds = {p: settings.seed if (s := getattr(settings.seeds, p)) is None else s for p in PURPOSES}
    model = dataclasses.replace(settings.model, depth=len(hidden_layers(settings.model)))
    return dataclasses.replace(
        settings,
        model=model,
        reg=dataclasses.replace(settings.reg, weight_decay=decay),
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
    """The flat names in which the runs of one stack may differ."""

    def names(node: Any, prefix: str, inherited: bool) -> Iterator[str]:
        for f in dataclasses.fields(node):
            may = inherited or bool(f.metadata.get("stackable"))
            value = getattr(node, f.name)
            if dataclasses.is_dataclass(value):
                yield from names(value, f"{prefix}{f.name}.", may)
            elif may:
                yield prefix + f.name

    return set(names(settings, "", False))


def requested(settings: Settings) -> list[str]:
    """The regularizers (and clipping) whose values are not neutral, in the order of `Reg`."""
    reg = settings.reg
    active = {
        "dropout": reg.dropout.rate > 0 or any(reg.dropout.rates or []) or reg.dropout.input_rate > 0,
        "batchnorm": reg.batchnorm.active,
        "layernorm": reg.layernorm.active,
        "weight_decay": bool(reg.weight_decay.value),
        "l2": reg.l2.value > 0,
        "l1": reg.l1.value > 0,
        "label_smoothing": reg.label_smoothing.value > 0,
        "noise": reg.noise.std > 0,
        "crop": reg.crop.padding > 0,
        "flip": reg.flip.rate > 0,
        "grad_clip": settings.trainer.grad_clip is not None,
    }
    return [name for name, on in active.items() if on]


def hidden_layers(model: Model) -> list[int]:
    """The width of each hidden layer, block or convolution: where norm and dropout act."""
    if model.widths is not None:
        return list(model.widths)
    factor = 2 if isinstance(model, Cnn) else 1
    return [model.width * factor**i for i in range(model.depth)]


def image_side(data: DataSet) -> int | None:
    """The side of the data set's square images in pixels; None for a table."""
    return {Digits: 8, Mnist: 28}.get(type(data))


def is_within(value: float, interval: str) -> bool:
    """Whether `value` lies in an interval written as in "[0, 1)" and float32 can hold it. A NaN lies in none."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below and abs(value) < FLOAT32_MAX
