"""The group `reg`: every regularizer, neutral unless asked for."""

from dataclasses import dataclass

from regrun.settings.fields import choice, group, number, plain


@dataclass(frozen=True)
class Dropout:
    """Probability of zeroing a hidden unit: one `rate`, or one of `rates` per hidden layer; `input_rate` for inputs.

    `inverted` scales the survivors up in training; `classic` leaves them as they are, and evaluation scales all down.
    """

    rate: float = number(0.0, "[0, 1)", stackable=True)
    rates: list[float] | None = number(None, "[0, 1)", stackable=True)
    input_rate: float = number(0.0, "[0, 1)", stackable=True)
    kind: str = choice("inverted", ("inverted", "classic"))


@dataclass(frozen=True)
class SpatialDropout:
    """Probability of zeroing a whole feature map after a convolution's activation, for each example."""

    rate: float = number(0.0, "[0, 1)", stackable=True)


@dataclass(frozen=True)
class StochasticDepth:
    """Probability of leaving out the last residual block, for each example; block l of L has l / L of it."""

    rate: float = number(0.0, "[0, 1)", stackable=True)


@dataclass(frozen=True)
class AttentionDropout:
    """Probability of zeroing one of the weights that a token gives to the others; the rest are scaled up."""

    rate: float = number(0.0, "[0, 1)", stackable=True)


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization; `momentum` is torch's: the weight of the new batch in the running statistics.

    `ghost_batch` is how many examples share their statistics in training; null for the whole batch. Of several
    processes each takes the statistics of its shard, or with `sync` all together those of the whole batch.
    """

    active: bool = plain(False)
    momentum: float = number(0.1, "(0, 1]")
    eps: float = number(1e-5, "(0, inf)")
    ghost_batch: int | None = number(None, "[2, 1000000]")
    sync: bool = plain(False)


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization over the features of each example."""

    active: bool = plain(False)
    eps: float = number(1e-5, "(0, inf)")


@dataclass(frozen=True)
class GroupNorm:
    """Normalization over each of `groups` groups of an example's features or channels; one each is instance norm."""

    active: bool = plain(False)
    groups: int = number(8, "[1, 1000000]")
    eps: float = number(1e-5, "(0, inf)")


@dataclass(frozen=True)
class WeightDecay:
    """Decoupled decay: weights shrink by lr * value each step. null is 0, or 0.01 under adamw.

    `exclude` names what keeps its size: biases, norms' gains and shifts, both, both and the output layer, or nothing.
    """

    value: float | None = number(None, "[0, inf)", stackable=True)
    exclude: str = choice("norm_bias", ("norm_bias", "norm_bias_output", "norm", "bias", "none"))


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
class MaxNorm:
    """The largest norm of each unit's incoming weights, biases aside; null for none."""

    value: float | None = number(None, "(0, inf)", stackable=True)


@dataclass(frozen=True)
class Sam:
    """Radius in which sharpness-aware minimization looks for the worst weights: each step takes two gradients."""

    rho: float = number(0.0, "[0, inf)", stackable=True)


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
class Rotation:
    """The largest angle by which an image is turned, to either side."""

    degrees: float = number(0.0, "[0, 180]", stackable=True)


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations on each image, of `magnitude` thirtieths of their largest."""

    num_ops: int = number(0, "[0, 100]", stackable=True)
    magnitude: int = number(9, "[0, 30]", stackable=True)


@dataclass(frozen=True)
class TrivialAugment:
    """One operation of any magnitude on each image."""

    active: bool = plain(False, stackable=True)


@dataclass(frozen=True)
class Jitter:
    """How far factors of brightness, contrast and saturation (this one of color images alone) lie from 1 at most."""

    brightness: float = number(0.0, "[0, inf)", stackable=True)
    contrast: float = number(0.0, "[0, inf)", stackable=True)
    saturation: float = number(0.0, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Cutout:
    """Side, in pixels, of a square that is zeroed in each normalized image."""

    size: int = number(0, "[0, 1000]", stackable=True)


@dataclass(frozen=True)
class Erasing:
    """Probability of zeroing a rectangle of 0.02 to 1/3 of a normalized image."""

    rate: float = number(0.0, "[0, 1]", stackable=True)


@dataclass(frozen=True)
class Mixup:
    """Pairs of examples are averaged with a weight from Beta(alpha, alpha), and so are their targets."""

    alpha: float = number(0.0, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Cutmix:
    """A box of another image in each one, its share from Beta(alpha, alpha); targets by area. With mixup: either."""

    alpha: float = number(0.0, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Reg:
    """Every regularizer, neutral unless asked for."""

    dropout: Dropout = group(Dropout)
    attention_dropout: AttentionDropout = group(AttentionDropout)
    spatial_dropout: SpatialDropout = group(SpatialDropout)
    stochastic_depth: StochasticDepth = group(StochasticDepth)
    batchnorm: BatchNorm = group(BatchNorm)
    layernorm: LayerNorm = group(LayerNorm)
    groupnorm: GroupNorm = group(GroupNorm)
    weight_decay: WeightDecay = group(WeightDecay)
    l2: L2 = group(L2)
    l1: L1 = group(L1)
    max_norm: MaxNorm = group(MaxNorm)
    sam: Sam = group(Sam)
    label_smoothing: LabelSmoothing = group(LabelSmoothing)
    noise: Noise = group(Noise)
    crop: Crop = group(Crop)
    flip: Flip = group(Flip)
    rotation: Rotation = group(Rotation)
    randaugment: RandAugment = group(RandAugment)
    trivialaugment: TrivialAugment = group(TrivialAugment)
    jitter: Jitter = group(Jitter)
    cutout: Cutout = group(Cutout)
    erasing: Erasing = group(Erasing)
    mixup: Mixup = group(Mixup)
    cutmix: Cutmix = group(Cutmix)
