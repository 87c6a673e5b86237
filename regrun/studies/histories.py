"""Figures of how a run went over its epochs, from curves.csv and epochs.csv of the sweep."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from regrun.studies.runs import Run

WINDOW = 5  # epochs
SHOWN = 25  # epochs of a picture
GOOD = 0.1  # val error that tells what works


def val_errors(run: Run) -> Sequence[float]:
    """1 - accuracy on val of each epoch; that before training is the first."""
    return [1 - float(row["accuracy"]) for row in run.tables.curves[run.cells["run_id"], "val"]]


def smoothed(values: Sequence[float]) -> NDArray[np.float64]:
    """Means over 5 neighbouring epochs, (E - 4,); over all of them where there are fewer."""
    size = min(WINDOW, len(values))
    return np.convolve(values, np.full(size, 1 / size), mode="valid")


def epochs_to_target(run: Run) -> float:
    """The first epoch after which val error is below 10 %; one more than were planned where none is, or it diverged."""
    errors = val_errors(run) if run.is_ok else []
    return next((float(epoch) for epoch, error in enumerate(errors) if error < GOOD), run.number("trainer.epochs") + 1)


def climb(values: Sequence[float]) -> float:
    """The largest rise of smoothed values from any epoch to a later one."""
    return float(_climbs(smoothed(values)).max())


def second_descent(values: Sequence[float]) -> float:
    """By how much the last smoothed value is below the top of the largest climb; 0 where there is none."""
    own = smoothed(values)
    climbs = _climbs(own)
    return float(own[int(climbs.argmax())] - own[-1]) if climbs.any() else 0.0


def _climbs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each value is above the lowest one so far."""
    return values - np.minimum.accumulate(values)


def over_epochs(run: Run) -> Iterator[tuple[float, float]]:
    """(epoch, val error) at 25 epochs, evenly on a logarithmic scale; of a run that diverged in its first, none."""
    errors = val_errors(run)
    if len(errors) < 2:
        return
    for epoch in np.unique(np.geomspace(1, len(errors) - 1, SHOWN).round().astype(int)):
        yield float(epoch), errors[epoch]


def gate_share(run: Run, column: str) -> float:
    """An entropy of a mixture's gate at the last epoch, over its largest value: ln of the number of experts."""
    last = run.tables.epochs[run.cells["run_id"]][-1]
    return float(last[column]) / math.log(run.number("model.experts"))


ONE: dict[str, Callable[[Run], float]] = {
    "epochs_to_target": epochs_to_target,
    "climb_of_val_error": lambda run: climb(val_errors(run)),
    "second_descent_of_val_error": lambda run: second_descent(val_errors(run)),
    "gate_entropy_share": lambda run: gate_share(run, "gate_entropy"),
    "load_entropy_share": lambda run: gate_share(run, "gate_load_entropy"),
}
