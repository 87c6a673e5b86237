"""A whole data set in memory: what every loader gives and every split takes from."""

import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from regrun.data.order import shuffled_order
from regrun.streams import generator


@dataclass(frozen=True)
class Source:
    """A data set: every example once, and which of them are test."""

    name: str
    inputs: Tensor  # (N, *shape), uint8 for images, float32 for tables, where NaN is a missing number
    targets: Tensor  # (N,) int64 classes, or (N, T) float64 numbers for regression
    train: Tensor  # indices that train and val are taken from, in the file's order
    test: Tensor  # indices of the test set: the same whatever the seed
    num_classes: int  # 0 for regression
    top: float | None  # the largest value a pixel can have; None for tables
    notes: tuple[str, ...] = ()  # what was made of the file, for people

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) or (D,)."""
        return tuple(self.inputs.shape[1:])

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers rather than classes."""
        return self.targets.is_floating_point()

    @functools.cached_property
    def has_missing(self) -> bool:
        """Whether a number is missing somewhere."""
        return self.inputs.is_floating_point() and bool(self.inputs.isnan().any())

    @functools.cached_property
    def data_hash(self) -> str:
        """What was read: equal for equal examples, targets and test set (0.04 s for MNIST)."""
        found = hashlib.sha256()
        for part in (self.inputs, self.targets, self.train, self.test):
            found.update(f"{part.dtype} {list(part.shape)}".encode())
            found.update(part.contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()[:16]

    @property
    def num_outputs(self) -> int:
        """How many numbers the network gives for one example: one for each class, or for each target column."""
        return self.targets.shape[1] if self.is_regression else self.num_classes


def draw_test(targets: Tensor, share: float, purpose: str) -> tuple[Tensor, Tensor]:
    """Indices of train and test: a share, drawn once and for all, stratified for classes."""
    order = shuffled_order(targets, generator(0, purpose))
    count = round(share * len(targets))
    return order[count:].sort().values, order[:count].sort().values


def follow(train: int, test: int) -> tuple[Tensor, Tensor]:
    """Indices of train and test where the first `train` examples are train and the others test."""
    return torch.arange(train), torch.arange(train, train + test)
