"""How much each step moves the averaged weights towards the current ones. Pure functions; `stack` averages."""

import numpy as np
from numpy.typing import NDArray

from regrun.settings import Averaging


def first_epoch(averaging: Averaging, epochs: int) -> int:
    """The first epoch (from 1) whose weights are averaged; until then the average is the current weights."""
    return int((averaging.start or 0.0) * epochs) + 1


def is_on(averaging: Averaging, *, epoch: int, epochs: int) -> bool:
    """Whether the weights of this epoch are averaged."""
    return averaging.kind != "none" and epoch >= first_epoch(averaging, epochs)


def epoch_weights(averaging: Averaging, *, epoch: int, epochs: int, steps: int) -> NDArray[np.float64]:
    """(steps,) the w of average + w (current - average) after each step of `epoch` (1-based) of `epochs`.

    swa: the mean of the weights at the ends of epochs (Izmailov et al. 2018). ema: of all steps, an exponential
    moving average (Polyak and Juditsky 1992; Tarvainen and Valpola 2017); it begins as a plain mean, so that the
    first weights count no more than others.
    """
    if not is_on(averaging, epoch=epoch, epochs=epochs):
        return np.ones(steps)
    epochs_in = epoch - first_epoch(averaging, epochs)
    if averaging.kind == "swa":
        return np.append(np.zeros(steps - 1), 1 / (epochs_in + 1))
    counts = epochs_in * steps + np.arange(1, steps + 1)
    return np.maximum(1 - averaging.decay, 1 / counts)
