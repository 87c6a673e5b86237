"""The rows of the tables that a run leaves. The dataclasses are the schema; `outputs/README.md` describes them."""

from dataclasses import dataclass, field, fields
from typing import Any

# What the regularizers measurably did, and what each figure means; columns `acted.<name>` of summary.csv.
ACTED = {
    "dropout": "share of nonzero units that dropout zeroed in training",
    "attention_dropout": "share of nonzero attention weights that were zeroed in training",
    "spatial_dropout": "share of feature maps that spatial dropout zeroed in training",
    "stochastic_depth": "share of residual branches that stochastic depth left out in training, mean over blocks",
    "batchnorm": "norm layers that normalized val by their running statistics",
    "layernorm": "layer norms that ran",
    "groupnorm": "group norms that ran",
    "weight_decay": "share by which decay shrank the norm of the weights that decay, mean over the measured steps",
    "l2": "mean of the l2 penalty over the measured steps",
    "l1": "mean of the l1 penalty over the measured steps",
    "max_norm": "share of units whose incoming weights the measured steps scaled down",
    "sam": "mean distance from the weights to the perturbed ones whose gradient was taken",
    "label_smoothing": "mean entropy of the training targets, nats",
    "noise": "standard deviation of the noise that was added",
    "crop": "share of pixels that cropping changed",
    "flip": "share of images that mirroring changed",
    "rotation": "share of pixels that rotation changed",
    "randaugment": "share of images that RandAugment changed",
    "trivialaugment": "share of images that TrivialAugment changed",
    "jitter": "share of pixels that jitter changed",
    "cutout": "share of pixels that cutout changed",
    "erasing": "share of pixels that random erasing changed",
    "mixup": "mean weight of the other example",
    "cutmix": "mean share of the image that came from the other example",
    "grad_clip": "share of the measured steps whose gradient was scaled down",
    "grad_clip_value": "share of the gradient's elements that the measured steps cut off",
    "accumulate": "batches per optimizer update",
    "averaging": "mean distance between the averaged and the current weights at the ends of epochs",
}


def column(about: str) -> Any:
    """A column and what it says, for the data dictionary."""
    return field(metadata={"about": about})


def optional(about: str) -> Any:
    """A column that a run which failed early leaves without a value."""
    return field(default=None, metadata={"about": about})


@dataclass(frozen=True)
class CurveRow:
    """One run, one epoch, one of train and val (and test: `trainer.test_curve`), in eval mode, unaugmented.

    Epoch 0 is before training.
    """

    run_id: str = column("the run: a hash of the settings that can change a result")
    epoch: int = column("passes over train so far; 0 is before training")
    step: int = column("optimizer updates so far")
    split: str = column("train or val; test, too, with trainer.test_curve, which counts as a look")
    loss: float = column(
        "mean over examples of the cross-entropy, nats (the data's own labels, label noise included), or of the error "
        "that trainer.loss names (targets standardized by train's mean and deviation, mean over their columns)"
    )
    accuracy: float | None = column("share of examples classified rightly; blank for regression")
    r2: float | None = column("share of variance explained, mean over target columns; blank for classification")


@dataclass(frozen=True)
class EpochRow:
    """One run, one epoch of training."""

    run_id: str = column("the run")
    epoch: int = column("1 is the first")
    step: int = column("optimizer updates by the end of the epoch")
    lr_first: float = column("learning rate of the epoch's first step")
    lr_last: float = column("learning rate of the epoch's last step")
    objective: float = column("mean over the epoch's steps of what was minimized: batch loss (smoothed) and penalties")
    grad_norm: float = column(
        "norm of the whole gradient at the epoch's last step, penalties included, before clipping"
    )
    weight_norm: float = column("norm of all parameters at the end of the epoch")
    averaging_distance: float = column(
        "norm of averaged minus current weights; not 0 where averaged weights are what is measured, kept and tested"
    )
    penalty: float = column("l1 and l2 penalties at the epoch's last step")
    gate_entropy: float | None = column(
        "entropy of a mixture's gate, nats, mean over the first 256 training examples; none without a gate"
    )
    gate_load_entropy: float | None = column(
        "entropy of the mean gate over these, nats: ln of the number of experts where all do as much; none without"
    )
    seconds: float = column("wall seconds of the epoch's steps, evaluation excluded; a stack's runs share them")
    examples_per_second: float = column("training examples of this run per second")


@dataclass(frozen=True)
class LayerRow:
    """One run, one epoch, one layer with weights, measured in eval mode on the first 256 training examples."""

    run_id: str = column("the run")
    epoch: int = column("0 is before training")
    layer: str = column("name of the layer, from input to output")
    kind: str = column("linear or conv")
    weight_norm: float = column("Frobenius norm of the weights")
    weight_std: float = column("standard deviation of the weights")
    grad_norm: float = column("norm of the loss's gradient by the weights, on the measured examples")
    activation_rms: float = column("root mean square of the layer's output (after its activation, if it has one)")
    across_example_std: float = column("standard deviation across examples, root mean square over units")
    mean_drift: float = column(
        "change of the units' mean outputs since the row before, root mean square over units, as a multiple of "
        "across_example_std then; 0 at epoch 0"
    )
    dead_fraction: float = column("share of units that are 0 for every measured example")
    zero_fraction: float = column("share of outputs that are exactly 0")


@dataclass(frozen=True)
class LabelRow:
    """One example whose label was drawn at random (data.label_noise). The file exists only where there are any."""

    run_id: str = column("the run")
    split: str = column("train or val")
    example: int = column("position in the data set")
    label: int = column("the data set's label")
    noisy_label: int = column("the label that was used instead; by chance it may be the same")


@dataclass(frozen=True)
class AuditRow:
    """One layer before training, on the first batch of a run, in training mode without dropout (`regrun audit`)."""

    layer: str = column("name of the layer, from input to output; the first is the input itself")
    kind: str = column("input, linear or conv")
    shape: list[int] = column("shape of one example's output, as JSON")
    parameters: int = column("of the layer and of the norm after it")
    fan_in: int | None = column("inputs of one unit: channels times kernel area for conv; none for the input")
    fan_out: int | None = column("units that one input reaches; none for the input")
    target_std: float | None = column(
        "standard deviation of the weights that the init scheme aims at; none where a file has them"
    )
    weight_std: float | None = column("standard deviation of the weights that were drawn")
    activation_rms: float = column("root mean square of the layer's output (after its activation, if it has one)")
    across_example_std: float = column("standard deviation across examples, root mean square over units")
    grad_rms: float | None = column("root mean square of the loss's gradient by the weights")
    saturated_fraction: float | None = column(
        "share of outputs with |tanh| > 0.97, or a sigmoid < 0.03 or > 0.97; none for other activations"
    )
    dead_fraction: float = column("share of units that are 0 for every example of the batch")


@dataclass(frozen=True)
class MemoryRow:
    """One part of what training holds in memory (`regrun audit`). Tensors are padded to whole cache lines."""

    part: str = column("parameters, gradients, optimizer (its states after a step) or activations (kept to go back)")
    bytes: int = column("bytes")


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    run_id: str = column("the run")
    status: str = column("ok, diverged, failed, oom or interrupted")
    stop_reason: str = column(
        "max_epochs, patience, gap, generalization_loss, pruned, diverged, time_limit, interrupted or failed"
    )
    num_parameters: int | None = optional("trained parameters")
    best_epoch: int | None = optional("epoch with the best monitored val figure; its weights are the result")
    last_epoch: int | None = optional("last epoch that was trained to its end")
    last_step: int | None = optional("optimizer updates made")
    diverged_step: int | None = optional("first step (from 1) whose loss was not finite")
    epochs_saved: int | None = optional("epochs that early stopping or pruning left out")
    train_loss_best: float | None = optional("train loss at the best epoch")
    train_loss_last: float | None = optional("train loss at the last epoch")
    train_accuracy_best: float | None = optional("train accuracy at the best epoch")
    train_accuracy_last: float | None = optional("train accuracy at the last epoch")
    train_r2_best: float | None = optional("train R2 at the best epoch")
    train_r2_last: float | None = optional("train R2 at the last epoch")
    val_loss_best: float | None = optional("val loss at the best epoch")
    val_loss_last: float | None = optional("val loss at the last epoch")
    val_accuracy_best: float | None = optional("val accuracy at the best epoch")
    val_accuracy_last: float | None = optional("val accuracy at the last epoch")
    val_r2_best: float | None = optional("val R2 at the best epoch")
    val_r2_last: float | None = optional("val R2 at the last epoch")
    test_loss_best: float | None = optional("test loss of the best epoch's weights; test is read once, at the end")
    test_loss_last: float | None = optional("test loss of the last weights")
    test_accuracy_best: float | None = optional("test accuracy of the best epoch's weights")
    test_accuracy_last: float | None = optional("test accuracy of the last weights")
    test_r2_best: float | None = optional("test R2 of the best epoch's weights")
    test_r2_last: float | None = optional("test R2 of the last weights")
    val_loss_mc: float | None = optional(
        "val loss of the mean of trainer.mc_dropout predictions with dropout, by the best epoch's weights; none without"
    )
    val_accuracy_mc: float | None = optional("val accuracy of the same")
    val_r2_mc: float | None = optional("val R2 of the same")
    test_loss_mc: float | None = optional("test loss of the same; part of the one look at test")
    test_accuracy_mc: float | None = optional("test accuracy of the same")
    test_r2_mc: float | None = optional("test R2 of the same")
    gap: float | None = optional("train minus val accuracy (or R2) at the best epoch")
    oscillation: float | None = optional(
        "deviation of train loss from a straight line over the last fifth of the epochs (at least 5), over its mean"
    )
    target_scale: list[float] | None = optional(
        "standard deviation of each target column on train: the unit of a regression's errors; none for classes"
    )
    diagnosis: str | None = optional("underfit, overfit, oscillating, still_improving, diverged, untrained or ok")
    advice: str | None = optional("the diagnosis in a sentence")
    train_size: int | None = optional("training examples")
    train_unique: float | None = optional(
        "share of train that bootstrap drew at least once, 0.632 on average; 1 without bootstrap"
    )
    val_size: int | None = optional("validation examples")
    test_size: int | None = optional("test examples")
    skipped_examples: int | None = optional(
        "training examples left out of each epoch (drop_last, or a last batch of one)"
    )
    zero_weights: float | None = optional("share of weights that are exactly 0 at the last epoch")
    lr_first: float | None = optional("learning rate of the first step; none without a step")
    lr_last: float | None = optional("learning rate of the last step; none without a step")
    acted: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys(ACTED),
        metadata={"about": "one column for each mechanism, see below"},
    )
    error: str | None = optional("what went wrong, in one line; none where nothing did")


@dataclass(frozen=True)
class Provenance:
    """On what, and how long."""

    seconds: float = column("wall seconds of the whole run; a stack's runs share them")
    device: str = column("the device's name")
    world_size: int = column("processes that trained the run together: torchrun's, else 1")
    peak_memory_bytes: int = column("largest memory in use: the GPU's allocator, or the (first) process's resident set")
    versions: str = column("Python, torch, regrun")
    fingerprint: str = column("hash of what bits depend on: versions, device, precision, threads, processes ...")
    data_hash: str = column("hash (SHA-256, 16 digits) of the data as read: inputs, targets, which examples are test")
    git: str | None = column("commit of the checkout that regrun runs from; none where it is installed")
    code: str = column("hash of regrun's Python files: another one where they were changed, committed or not")


Row = CurveRow | EpochRow | LayerRow | LabelRow | AuditRow | MemoryRow
TABLES: dict[str, type] = {
    "curves.csv": CurveRow,
    "epochs.csv": EpochRow,
    "layers.csv": LayerRow,
    "label_noise.csv": LabelRow,
    "audit.csv": AuditRow,
    "memory.csv": MemoryRow,
}


def columns(row: type) -> list[str]:
    """The column names of a table's rows, in order."""
    return [f.name for f in fields(row)]


def values(row: Any) -> list[Any]:
    """A row's cells, in the order of its columns."""
    return [getattr(row, f.name) for f in fields(row)]


def summary(outcome: Outcome, provenance: Provenance, settings: dict[str, Any]) -> dict[str, Any]:
    """The row of summary.csv: run_id and status, every setting, how it went, on what."""
    facts = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != "acted"}
    acted = {f"acted.{name}": value for name, value in outcome.acted.items()}
    first = {name: facts.pop(name) for name in ("run_id", "status")}
    return first | settings | facts | acted | {f.name: getattr(provenance, f.name) for f in fields(provenance)}
