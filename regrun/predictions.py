"""What runs predicted, a file of arrays for each: `predictions/RUN_ID.npz` in the folder of a run or a sweep."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrun import foreign
from regrun.errors import DataError

FOLDER = "predictions"
MOST = 16 << 30  # bytes of a file
SPLITS = ("val", "test")

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """One run's predictions with the weights of C epochs, on N examples of each split."""

    epochs: Array  # (C,) of the weights
    outputs: Mapping[str, Array]  # (C, N, K) log-probabilities float32; (C, N, T) float64 in the targets' own units
    targets: Mapping[str, Array]  # (N,) classes; (N, T) float64
    examples: Mapping[str, Array]  # (N,) positions in the data set
    target_scale: Array  # (T,) standard deviation of train's targets: the unit of errors; empty for classes

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers."""
        return self.target_scale.size > 0


def path(root: Path, run_id: str) -> Path:
    """Where a run's predictions are. root: its own folder, or its sweep's."""
    return root / FOLDER / f"{run_id}.npz"


def content(own: Predictions) -> bytes:
    """The file. Nothing in it is pickled, and its bytes are a function of the arrays alone."""
    buffer = io.BytesIO()
    by_split = {"": own.outputs, "_targets": own.targets, "_examples": own.examples}
    arrays: dict[str, Any] = {f"{split}{name}": of[split] for name, of in by_split.items() for split in SPLITS}
    np.savez(buffer, epochs=own.epochs, target_scale=own.target_scale, **arrays)
    return buffer.getvalue()


def read(file: Path) -> Predictions:
    """Raises DataError for a file that is none of ours."""
    foreign.check_size(file, MOST)
    try:
        foreign.check_stored(file)
        with np.load(file, allow_pickle=False) as arrays:
            outputs, targets, examples = (
                {split: arrays[f"{split}{name}"] for split in SPLITS} for name in ("", "_targets", "_examples")
            )
            own = Predictions(arrays["epochs"], outputs, targets, examples, arrays["target_scale"])
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{file}: holds no predictions of regrun's ({type(error).__name__}); repeat the run") from None
    if not all(_fits(own, split) for split in SPLITS):
        raise DataError(f"{file}: its arrays do not fit each other; repeat the run")
    return own


def _fits(own: Predictions, split: str) -> bool:
    outputs, targets, examples = own.outputs[split], own.targets[split], own.examples[split]
    shape, kinds = outputs.shape, outputs.dtype.kind + examples.dtype.kind + own.epochs.dtype.kind
    if len(shape) != 3 or own.epochs.shape != shape[:1] or examples.shape != shape[1:2] or 0 in shape[1:]:
        return False
    if kinds != "fii" or own.target_scale.dtype.kind != "f":
        return False
    if own.is_regression:
        return targets.dtype.kind == "f" and targets.shape == shape[1:] and own.target_scale.shape == shape[2:]
    return (
        targets.dtype.kind == "i"
        and targets.shape == shape[1:2]
        and bool((targets >= 0).all() and (targets < shape[2]).all())
    )


def count_bytes(*, epochs: int, examples: int, outputs: int, is_regression: bool) -> int:
    """About how large a file is, but for its headers. outputs: classes or target columns."""
    numbers = 8 * outputs * (epochs + 1) if is_regression else 4 * outputs * epochs + 4
    return examples * (numbers + 4)
