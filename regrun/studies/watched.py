"""Networks that train side by side at several learning rates, step by step, for somebody to look in between."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from regrun import objective, optim
from regrun.data.batches import Batches
from regrun.data.source import Source
from regrun.data.split import split
from regrun.layers import pad_rows
from regrun.models.ops import Pass, run, run_back
from regrun.settings import Reg, Seeds, Settings, resolve
from regrun.stack import Stack, new_stack

EVERY = 20  # steps between two looks


def at_rates(run: Settings, source: Source, seed: int, reg: Reg, rates: Sequence[float]) -> Stack:
    """A stack with a replica of the run, with this seed and regularizer, for each learning rate."""
    own = resolve(replace(run, seed=seed, seeds=Seeds(), reg=reg))
    runs = [replace(own, optimizer=replace(own.optimizer, lr=lr)) for lr in rates]
    return new_stack(runs, Batches(source, [split(source, own.data, own.seeds)] * len(runs), runs, torch.device("cpu")))


def looks(stack: Stack) -> Iterator[tuple[Tensor, Tensor, Callable[[], object]]]:
    """Train to the end; before every 20th step give its inputs and targets, and the step, which the caller takes.

    Learning rates fall linearly to 0 with the steps.
    """
    runs, batches = stack.runs, stack.batches
    trainer = runs[0].trainer
    parts = [part for i in range(trainer.epochs) for part in batches.order(i + 1).split(trainer.batch_size, dim=1)]
    rates = np.linspace(1, 0, len(parts), endpoint=False)[:, None] * [own.optimizer.lr for own in runs]
    table = optim.epoch_table([own.optimizer for own in runs], rates, first_step=1, device=batches.device)
    for number, (part, at) in enumerate(zip(parts, table, strict=True)):
        x, targets = batches.train_batch(part, {})
        step = partial(stack.step, x, targets, at, {})
        if number % EVERY:
            step()
        else:
            yield x, targets, step


@torch.no_grad()
def gradient(stack: Stack, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) loss of a batch in training mode and its (R, P) gradient; the stack stays as it is."""
    flat = torch.zeros_like(stack.params.flat)
    on = training_pass(stack, x, tape=[], gradients=stack.params.views(flat))
    logits = run(stack.ops, pad_rows(x, dim=1), on)[:, : on.rows]
    loss, by_logits = objective.cross_entropy_with_gradient(logits, targets)
    run_back(stack.ops, pad_rows(by_logits, dim=1), on)
    return loss, flat


def training_pass(stack: Stack, x: Tensor, **more: object) -> Pass:
    """One that leaves the stack's running statistics as they are."""
    buffers = {name: buffer.clone() for name, buffer in stack.buffers.items()}
    return Pass(params=stack.params.leaves, buffers=buffers, rows=x.shape[1], training=True, **more)  # type: ignore[arg-type]
