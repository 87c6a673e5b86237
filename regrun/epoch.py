"""One pass of a stack over train: its batches, what its steps need, and how far it has come."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from regrun import averaging, optim, schedules
from regrun.progress import Progress
from regrun.settings import Settings, normalizes_batches
from regrun.stack import Stack


def epoch_slices(run: Settings, size: int) -> list[tuple[int, int]]:
    """Where each batch of an epoch over `size` examples begins and ends.

    A last batch of one cannot be batch-normalized and is left out, as is a ragged one with `drop_last`.
    """
    batch = run.trainer.batch_size
    slices = [(start, min(start + batch, size)) for start in range(0, size, batch)]
    ragged = slices[-1][1] - slices[-1][0]
    if (run.data.drop_last and ragged < batch) or (normalizes_batches(run) and ragged == 1):
        slices.pop()
    return slices[: run.trainer.limit_batches]


class Epoch:
    """What S steps need: all of it follows from settings, seeds and the state at the start of the epoch."""

    def __init__(self, stack: Stack, progress: Sequence[Progress], number: int) -> None:
        """number: of the epoch, from 1."""
        first, batches = stack.runs[0], stack.batches
        self.number, self.taken = number, 0  # steps
        self.seconds = 0.0  # spent on it before the last checkpoint
        self.order, self.augmenters = batches.order(number), batches.augmenters(number)
        self.slices = epoch_slices(first, self.order.shape[1])
        every = first.trainer.accumulate
        self.updates = [self.slices[i : i + every] for i in range(0, len(self.slices), every)]
        steps = len(self.updates)
        self.lr = _lr_table(progress, number, steps)
        self.table = optim.epoch_table(
            [r.optimizer for r in stack.runs],
            self.lr,
            first_step=progress[0].step + 1,
            device=stack.device,
            others={"average": _average_table(stack.runs, number, steps)} if stack.averages else {},
        )
        self.streams = stack.mask_streams(number, batch_size=first.trainer.batch_size, steps=len(self.slices))
        self.losses = torch.empty(steps, len(stack), device=stack.device)


def _lr_table(progress: Sequence[Progress], epoch: int, steps: int) -> NDArray[np.float64]:
    """(S, R) the learning rate of every step of an epoch."""
    columns = []
    for p in progress:
        run, factor = p.settings, 1.0 if p.plateau is None else p.plateau.multiplier
        lr = factor * run.optimizer.lr
        columns.append(schedules.epoch_lrs(run.scheduler, lr, epoch=epoch, epochs=run.trainer.epochs, steps=steps))
    return np.stack(columns, axis=1)


def _average_table(runs: Sequence[Settings], epoch: int, steps: int) -> NDArray[np.float64]:
    """(S, R) how far every step of an epoch moves the averaged weights."""
    own = [(r.trainer.averaging, r.trainer.epochs) for r in runs]
    return np.stack([averaging.epoch_weights(a, epoch=epoch, epochs=e, steps=steps) for a, e in own], axis=1)
