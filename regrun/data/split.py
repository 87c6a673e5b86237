"""One run's share of a data set: which examples are train and val, what their labels are, how inputs are scaled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from regrun.data.order import stratified_order
from regrun.data.sources import Source
from regrun.errors import ConfigError
from regrun.settings import Data, Seeds
from regrun.streams import generator


@dataclass(frozen=True)
class Split:
    """Indices into the source, the run's own labels, and the scaling that train gives."""

    train: Tensor  # (n,)
    val: Tensor  # (v,)
    test: Tensor  # (t,)
    targets: Tensor  # (N,) labels, with noise where the settings ask for it
    noisy: Tensor  # (N,) bool: the label was drawn at random (it may have drawn the true one)
    offset: Tensor  # (D,) float32: inputs become (x - offset) * scale
    scale: Tensor  # (D,) float32


def sizes(source: Source, data: Data) -> tuple[int, int]:
    """How many examples are train and val. Raises ConfigError where the settings ask for what is not there."""
    val = val_count(data.val_size, len(source.train))
    rest = len(source.train) - val
    train = rest if data.train_size is None else data.train_size
    if train > rest:
        raise ConfigError(f"data.train_size: must be at most {rest} here, got {train}; val takes {val}")
    return train, val


def split(source: Source, data: Data, seeds: Seeds) -> Split:
    """Val is taken from train first, then the training subset; neither depends on the other's size."""
    labels = source.targets[source.train]
    size, count = sizes(source, data)
    order = stratified_order(labels, generator(seeds.split or 0, "split"))
    if data.split == "tail":
        rest = len(labels) - count
        val, order = source.train[rest:], order[order < rest]
    else:
        val, order = source.train[order[:count]], order[count:]
    train = source.train[order[:size]]
    train, val = train.sort().values, val.sort().values
    targets, noisy = _noisy_labels(source, data, seeds, train, val)
    offset, scale = _scaling(source, data.normalize, train)
    return Split(train, val, source.test, targets, noisy, offset, scale)


def val_count(val_size: float, available: int) -> int:
    """A fraction below 1, or a count, as a count that leaves at least one example to train on."""
    count = round(val_size * available) if val_size < 1 else int(val_size)
    if not 1 <= count < available:
        raise ConfigError(
            f"data.val_size: must leave 1 to {available - 1} of {available} examples for val, "
            f"got {val_size:g}, which takes {count}"
        )
    return count


def _noisy_labels(source: Source, data: Data, seeds: Seeds, train: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a share of labels by uniform draws over all classes (as Zhang et al. 2017): train and val apart."""
    noisy = torch.zeros(len(source.targets), dtype=torch.bool)
    if not data.label_noise and not data.label_noise_val:
        return source.targets, noisy  # shared by all runs
    targets = source.targets.clone()
    for name, share, members in (("train", data.label_noise, train), ("val", data.label_noise_val, val)):
        draw = generator(seeds.noise or 0, "noise", name)
        chosen = members[torch.randperm(len(members), generator=draw)[: round(share * len(members))]]
        targets[chosen] = torch.randint(source.num_classes, (len(chosen),), generator=draw)
        noisy[chosen] = True
    return targets, noisy


def _scaling(source: Source, normalize: str, train: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) offset and scale from train alone: per channel for images, per column for tables."""
    area = 1 if source.top is None else source.shape[1] * source.shape[2]
    columns = source.shape[0]
    if normalize == "none":
        offset, spread = torch.zeros(columns), torch.ones(columns)
    elif normalize == "unit" and source.top is not None:
        offset, spread = torch.zeros(columns), torch.full((columns,), source.top)
    elif normalize == "unit":
        offset = source.inputs[train].amin(0)
        spread = source.inputs[train].amax(0) - offset
    else:
        offset, spread = _mean_and_std(source, train)
    spread = torch.where(spread == 0, 1.0, spread)  # a constant column stays constant: 0
    return offset.repeat_interleave(area), (1 / spread).float().repeat_interleave(area)


def _mean_and_std(source: Source, train: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) or (D,) mean and population standard deviation in float64; images by their histogram of bytes."""
    if source.top is None:
        x = source.inputs[train].double()
        return x.mean(0).float(), x.std(0, correction=0).float()
    values = torch.arange(256, dtype=torch.float64)
    pixels = source.inputs[train].transpose(0, 1).flatten(1)
    counts = torch.stack([torch.bincount(channel, minlength=256).double() for channel in pixels])
    mean = (counts * values).sum(1) / counts.sum(1)
    square = (counts * values.square()).sum(1) / counts.sum(1)
    return mean.float(), (square - mean.square()).sqrt().float()
