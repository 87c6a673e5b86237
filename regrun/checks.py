"""What is wrong with settings whose types and ranges are right: conflicts, and what deserves a warning.

Each rule yields lines, `where: what is wrong, got VALUE; what to do`. A rule that must see the data set
itself is in `data_conflicts`.
"""

import functools
import importlib.util
from collections.abc import Iterator, Sequence

from regrun.settings import (
    TRACKERS,
    WITH_MAPS,
    WITH_SKIPS,
    Cnn,
    CosineRestarts,
    Csv,
    Data,
    DataSet,
    ImageFolder,
    Moe,
    Npz,
    Residual,
    Resnet,
    Scheduler,
    Settings,
    Table,
    Torchvision,
    Vit,
    cycle_ends,
    example_shape,
    hidden_layers,
    normalized_widths,
    normalizes_batches,
    requested,
)

OF_IMAGES = (
    *("crop", "flip", "rotation", "randaugment", "trivialaugment", "jitter"),
    *("cutout", "erasing", "cutmix"),
)
DROPS = {"dropout", "spatial_dropout", "attention_dropout", "stochastic_depth"}
NORMS = ("batchnorm", "layernorm", "groupnorm")
IMAGE_MODELS = (Cnn, Resnet, Vit, Torchvision)


def conflicts(run: Settings) -> Iterator[str]:
    """Every mistake that can be known before anything is loaded."""
    yield from _regularizer_conflicts(run)
    yield from _model_conflicts(run)
    yield from _data_conflicts(run.data)
    shape = example_shape(run.data)
    if shape is not None:
        yield from _shape_conflicts(run, shape)
    yield from _trainer_conflicts(run)
    yield from _scheduler_conflicts(run.scheduler, run.trainer.epochs)
    yield from tracker_conflicts(run.trainer.trackers)


def _regularizer_conflicts(run: Settings) -> Iterator[str]:
    norms, hidden = [name for name in NORMS if getattr(run.reg, name).active], hidden_layers(run.model)
    if len(norms) > 1:
        yield f"reg: one norm at most, got {' and '.join(norms)}; choose one"
    if isinstance(run.model, Vit | Torchvision):
        yield from (f"reg.{name}: a {run.model.kind} model has norms of its own; leave it out" for name in norms)
    else:
        yield from _norm_conflicts(run, norms)
    if run.reg.batchnorm.sync:
        yield from _sync_conflicts(run)
    yield from _dropout_conflicts(run, len(hidden))


def _norm_conflicts(run: Settings, norms: list[str]) -> Iterator[str]:
    for name in norms:
        if not hidden_layers(run.model):
            yield f"reg.{name}: a model without hidden layers has nothing to normalize; choose another model"
    if run.reg.groupnorm.active:
        yield from _group_conflicts(run)
    if (ghost := run.reg.batchnorm.ghost_batch) is not None and not run.reg.batchnorm.active:
        yield f"reg.batchnorm.ghost_batch: there is no batchnorm, got {ghost}; add reg=batchnorm, or leave it out"


def _sync_conflicts(run: Settings) -> Iterator[str]:
    if not run.reg.batchnorm.active:
        yield "reg.batchnorm.sync: there is no batchnorm to synchronize, got true; add reg=batchnorm, or leave it out"
    if (ghost := run.reg.batchnorm.ghost_batch) is not None:
        yield (
            f"reg.batchnorm.sync: is the opposite of ghost batches, got true and reg.batchnorm.ghost_batch={ghost}; "
            "leave one of them out"
        )


def _dropout_conflicts(run: Settings, hidden: int) -> Iterator[str]:
    dropout = run.reg.dropout
    if isinstance(run.model, Torchvision):
        if dropout.rate > 0 or dropout.rates is not None:
            yield "reg.dropout: a torchvision model has dropout of its own, or none; leave it out, or use input_rate"
    elif dropout.rates is not None and len(dropout.rates) != hidden:
        yield (
            f"reg.dropout.rates: must have one rate for each of {hidden} hidden layers, got {len(dropout.rates)}; "
            "or use reg.dropout.rate"
        )
    elif not hidden and dropout.rate > 0:
        yield (
            "reg.dropout.rate: a model without hidden layers has nothing to drop, "
            f"got {dropout.rate}; choose another model, or reg.dropout.input_rate"
        )
    maps, depth, model = run.reg.spatial_dropout.rate, run.reg.stochastic_depth.rate, run.model
    if maps > 0 and not isinstance(model, WITH_MAPS):
        yield (
            f"reg.spatial_dropout.rate: model={model.kind} has no feature maps to drop, got {maps}; "
            "use reg.dropout, or model=cnn"
        )
    if depth > 0 and not isinstance(model, WITH_SKIPS):
        yield (
            f"reg.stochastic_depth.rate: model={model.kind} has no residual blocks to leave out, got {depth}; "
            "use model=residual"
        )
    if run.reg.attention_dropout.rate > 0 and not isinstance(model, Vit):
        rate = run.reg.attention_dropout.rate
        yield f"reg.attention_dropout.rate: model={model.kind} has no attention, got {rate}; use model=vit"


def _group_conflicts(run: Settings) -> Iterator[str]:
    """Groups must be of one size, and a dense layer's of two features or more: a single one is always 0."""
    groups, widths = run.reg.groupnorm.groups, normalized_widths(run.model)
    if uneven := [width for width in widths if width % groups]:
        yield (
            f"reg.groupnorm.groups: must divide the width of every layer, got {groups} for {uneven[0]}; "
            "choose another, or other widths"
        )
    elif groups in widths and not isinstance(run.model, WITH_MAPS):
        yield f"reg.groupnorm.groups: a group of one feature is always 0, got {groups} for {groups}; use fewer groups"


def _model_conflicts(run: Settings) -> Iterator[str]:
    model = run.model
    if getattr(model, "widths", None) == [] and isinstance(model, Cnn | Residual):
        yield "model.widths: must have at least one width, got []; or set it to null"
    if isinstance(model, Resnet) and (model.depth - 2) % 6:
        near = 6 * round((model.depth - 2) / 6) + 2
        yield f"model.depth: a resnet has 6n + 2 layers, got {model.depth}; use {near}, say"
    if isinstance(model, Vit) and model.width % model.heads:
        yield f"model.heads: must divide model.width, {model.width}, got {model.heads}"
    if isinstance(model, Moe) and model.top_k is not None and model.top_k > model.experts:
        yield f"model.top_k: must be at most model.experts, {model.experts}, got {model.top_k}"
    if isinstance(model, Residual) and model.norm_position != "pre":
        yield (
            "model.norm_position: residual blocks are pre-activated, norms come before the activation, "
            f"got {model.norm_position}; set it to pre"
        )


def _shape_conflicts(run: Settings, shape: tuple[int, ...]) -> Iterator[str]:
    """What the shape of an example rules out: (C, H, W) for images, one number for a table."""
    model, blocks = run.model, len(hidden_layers(run.model))
    if len(shape) < 3:
        table = f"got data={run.data.kind}, a table"
        if isinstance(model, IMAGE_MODELS):
            yield f"model: a {model.kind} model needs images, {table}; choose another model"
        wanted = [name for name in OF_IMAGES if name in requested(run)]
        yield from (f"reg.{name}: needs images, {table}; leave it out" for name in wanted)
        return
    yield from _color_conflicts(run, shape[0])
    height, width = shape[1:]
    side, padding = min(height, width), run.reg.crop.padding
    if padding >= side:
        yield f"reg.crop.padding: must be less than the image's side of {side} pixels, got {padding}"
    if run.reg.cutout.size > side:
        yield f"reg.cutout.size: must be at most the image's side of {side} pixels, got {run.reg.cutout.size}"
    if isinstance(model, Vit) and (height % model.patch or width % model.patch):
        yield f"model.patch: must divide the sides of {height} x {width} images, got {model.patch}"
    if isinstance(model, Torchvision) and shape[0] not in (1, 3):
        yield f"model: torchvision's models take 1 or 3 channels, got {shape[0]}; choose another model"
    if isinstance(model, Cnn) and side >> blocks < 1:
        most = side.bit_length() - 1
        yield f"model.depth: {height} x {width} images can be halved {most} times, got {blocks} blocks; use fewer"


def _color_conflicts(run: Settings, channels: int) -> Iterator[str]:
    """What the number of an image's channels rules out."""
    wanted = [name for name in ("jitter", "randaugment", "trivialaugment") if name in requested(run)]
    if channels not in (1, 3):
        yield from (f"reg.{name}: needs images of 1 or 3 channels, got {channels}; leave it out" for name in wanted)
    elif channels == 1 and run.reg.jitter.saturation > 0:
        yield (
            "reg.jitter.saturation: gray images have none to change, "
            f"got {run.reg.jitter.saturation}; set it to 0, or change brightness or contrast"
        )


def _data_conflicts(data: Data) -> Iterator[str]:
    if data.val_size >= 1 and not data.val_size.is_integer():
        yield f"data.val_size: must be a fraction below 1 or a whole count, got {data.val_size}"


def _trainer_conflicts(run: Settings) -> Iterator[str]:
    trainer = run.trainer
    if run.reg.batchnorm.active and trainer.batch_size == 1:
        yield "trainer.batch_size: batchnorm needs at least 2 examples in a batch, got 1; raise it, or use layernorm"
    if run.reg.sam.rho > 0 and trainer.accumulate > 1:
        yield (
            "trainer.accumulate: reg.sam takes both of its gradients on one batch, "
            f"got {trainer.accumulate}; raise trainer.batch_size instead"
        )
    if trainer.mc_dropout > 0 and not DROPS & set(requested(run)):
        yield f"trainer.mc_dropout: nothing drops here, got {trainer.mc_dropout}; add reg=dropout, or set it to 0"
    if trainer.save == "snapshots":
        yield from _snapshot_conflicts(run.scheduler, trainer.epochs)
    if trainer.device == "mps" and trainer.precision == "bfloat16":
        yield "trainer.precision: bfloat16 is for cpu and cuda here, got device mps; use float32"


def _snapshot_conflicts(scheduler: Scheduler, epochs: int) -> Iterator[str]:
    if not isinstance(scheduler, CosineRestarts):
        yield f"trainer.save: snapshots need cycles, got scheduler={scheduler.kind}; use scheduler=cosine_restarts"
    elif scheduler.interval == "step":
        yield "trainer.save: snapshots are of cycles of epochs, got scheduler.interval=step; use epoch"
    elif not cycle_ends(scheduler, epochs):
        yield f"scheduler.t_0: no cycle ends within {epochs} epochs, got {scheduler.t_0}; lower it, or train longer"


def _scheduler_conflicts(scheduler: Scheduler, epochs: int) -> Iterator[str]:
    if isinstance(scheduler, Table) and not scheduler.lrs:
        yield "scheduler.lrs: must have at least one learning rate, got []; name them"
    if scheduler.interval == "epoch" and scheduler.warmup > 0 and epochs > 0 and round(scheduler.warmup * epochs) < 1:
        yield (
            f"scheduler.warmup: is less than half of one of {epochs} epochs, got {scheduler.warmup:g}; "
            "raise it, or use scheduler.interval=step"
        )


def tracker_conflicts(names: Sequence[str]) -> Iterator[str]:
    """Trackers whose packages are not installed."""
    for name in names:
        if not all(map(_is_installed, TRACKERS[name])):
            yield f'trainer.trackers: {name} is not installed, got {name}; pip install "regrun[{name}]"'


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def file_conflicts(data: DataSet) -> Iterator[str]:
    """What keeps a file from being looked for: nothing was named."""
    if isinstance(data, Csv | Npz | ImageFolder) and not data.path:
        yield f"data.path: must name what data={data.kind} reads, got nothing; add data.path=PATH"
    if isinstance(data, Csv) and bool(data.target) == bool(data.targets):
        got = f"{data.target} and targets" if data.target else "nothing"
        yield f"data.target: must name the column to predict, got {got}; give data.target or data.targets"


def data_conflicts(run: Settings, train_size: int, shape: tuple[int, ...], is_regression: bool) -> Iterator[str]:
    """Mistakes that only the data shows: the number of training examples, an example's shape, the kind of targets."""
    if example_shape(run.data) is None:
        yield from _shape_conflicts(run, shape)
    yield from _regression_conflicts(run) if is_regression else _classes_conflicts(run)
    batch = run.trainer.batch_size
    if run.data.drop_last and train_size < batch:
        yield (
            f"data.drop_last: leaves nothing of {train_size} training examples in batches of {batch}; "
            "lower trainer.batch_size"
        )
    if normalizes_batches(run) and train_size == 1:
        yield "data.train_size: batchnorm needs at least 2 training examples, got 1; raise it"


def _regression_conflicts(run: Settings) -> Iterator[str]:
    data = run.data
    for key, value in {
        "reg.label_smoothing.value": run.reg.label_smoothing.value,
        "data.label_noise": data.label_noise,
        "data.label_noise_val": data.label_noise_val,
    }.items():
        if value > 0:
            yield f"{key}: is for classes, got {value} where {data.kind}'s targets are numbers; set it to 0"
    if run.trainer.early_stopping.monitor == "val_accuracy":
        yield "trainer.early_stopping.monitor: a regression has no accuracy, got val_accuracy; use val_loss or val_r2"


def _classes_conflicts(run: Settings) -> Iterator[str]:
    data, trainer = run.data, run.trainer
    if trainer.loss != "auto":
        yield f"trainer.loss: is for regression, got {trainer.loss} where {data.kind} has classes; use auto"
    if trainer.early_stopping.monitor == "val_r2":
        yield "trainer.early_stopping.monitor: classes have no R2, got val_r2; use val_loss or val_accuracy"


def normalizes_shards(run: Settings) -> bool:
    """Whether each of several processes takes batch statistics of its own, or may inside of the model."""
    return normalizes_batches(run) and not run.reg.batchnorm.sync


def parallel_conflicts(run: Settings, smallest: int, world_size: int) -> Iterator[str]:
    """What keeps processes from sharing the batches of a run, the smallest of which is of `smallest` examples."""
    if run.reg.batchnorm.sync and world_size == 1:
        yield "reg.batchnorm.sync: is for several processes, got one; start the run by torchrun, or leave it out"
    each = 2 if normalizes_shards(run) else 1
    if world_size > 1 and smallest < each * world_size:
        examples = "2 examples (batchnorm)" if each == 2 else "an example"
        yield (
            f"trainer.batch_size: each of {world_size} processes needs {examples} of every batch, "
            f"got one of {smallest}; change it, or start fewer processes, or set data.drop_last=true"
        )


def parallel_warnings(run: Settings, world_size: int) -> Iterator[str]:
    """What several processes do otherwise than one."""
    if world_size > 1 and run.reg.batchnorm.active and not run.reg.batchnorm.sync:
        yield (
            f"reg.batchnorm: each of {world_size} processes normalizes by its own shard of a batch: other results than "
            "one process has; reg.batchnorm.sync=true gives the same"
        )
    if world_size > 1 and isinstance(run.model, Torchvision):
        yield (
            f"model: in each of {world_size} processes torchvision's batch norms see their own shard of a batch, and "
            "its dropout draws for it: other results than one process has"
        )


def warnings(run: Settings, train_size: int) -> Iterator[str]:
    """What is allowed but probably not meant, in a sentence each."""
    if run.reg.flip.rate > 0 and run.data.kind in ("digits", "mnist", "kmnist", "svhn"):
        yield (
            f"reg.flip.rate: mirroring changes what a {'character' if run.data.kind == 'kmnist' else 'digit'} is "
            "(a mirrored 2 is no 2): expect it to hurt"
        )
    if run.reg.rotation.degrees > 45 and run.data.kind in ("digits", "mnist", "svhn"):
        yield f"reg.rotation.degrees: a turned 6 is a 9: expect {run.reg.rotation.degrees:g} degrees to hurt"
    ragged = train_size % run.trainer.batch_size
    if normalizes_batches(run) and ragged == 1 and not run.data.drop_last:
        where = "reg.batchnorm" if run.reg.batchnorm.active else "model"
        yield f"{where}: the last batch of one example cannot be normalized and is left out of each epoch"
    ghost, batch = run.reg.batchnorm.ghost_batch, run.trainer.batch_size
    if run.reg.batchnorm.active and ghost is not None and ghost >= batch:
        yield (
            f"reg.batchnorm.ghost_batch: ghost batches of {ghost} hold a whole batch of {batch}: "
            "this is batchnorm without them"
        )
    if isinstance(run.model, Resnet) and not any(getattr(run.reg, name).active for name in NORMS):
        yield "model: a resnet is normalized in the paper, and without starts from large logits; add reg=batchnorm"
    averaging, early = run.trainer.averaging, run.trainer.early_stopping
    if averaging.kind != "none" and averaging.start and (early.patience is not None or early.rule != "patience"):
        yield (
            f"trainer.averaging: begins at {100 * averaging.start:g} % of the epochs; a run that early stopping ends "
            "before fails: set trainer.early_stopping={rule:patience,patience:null}"
        )
    if run.trainer.save == "snapshots" and (early.patience is not None or early.rule != "patience"):
        yield "trainer.save: early stopping may end a run before its cycles; set trainer.early_stopping.patience=null"
    if run.model.init.scheme in ("zeros", "constant"):
        yield f"model.init.scheme: {run.model.init.scheme} leaves a layer's units identical; it is for demonstration"
