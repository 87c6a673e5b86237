"""How smooth the loss is along the steps of a training, without and with batch norm; how noisy its gradient is.

After Santurkar, Tsipras, Ilyas and Madry 2018, How Does Batch Normalization Help Optimization?, figure 4, with fewer
lengths and a network without convolutions; changes of gradients are relative to their norms, which differ.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from regrun.data.source import Source
from regrun.settings import BatchNorm, Reg, Settings
from regrun.stack import Stack
from regrun.streams import generator
from regrun.studies import watched
from regrun.studies.found import Found

RATES = (0.01, 0.03, 0.1)
LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of a step at the learning rate
ARMS = {"without": Reg(), "batch norm": Reg(batchnorm=BatchNorm(active=True))}


def smoothness(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """What is found along the gradient of every 20th batch; means over them, by learning rate and at the highest.

    loss_range: of the batch's loss at 0.5 to 4 steps, the highest minus the lowest. relative_gradient_change: norm of
    the largest change of the gradient there, relative to its norm.
    """
    for arm, reg in ARMS.items():
        stack, found = watched.at_rates(run, source, seed, reg, RATES), list[dict[str, Tensor]]()
        for x, targets, step in watched.looks(stack):
            found.append(along(stack, x, targets))
            step()
        for figure in found[0]:
            means = torch.stack([own[figure] for own in found]).double().mean(0).tolist()
            yield from (Found(arm, figure, value, rate) for value, rate in zip(means, RATES, strict=True))
            yield Found(arm, figure, means[-1])


def along(stack: Stack, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """(R,) figures along the gradient of a batch; the stack stays as it is."""
    rates = torch.tensor([own.optimizer.lr for own in stack.runs]).unsqueeze(1)
    _, start = watched.gradient(stack, x, targets)
    old, losses, changes = stack.params.flat.clone(), [], []
    for length in LENGTHS:
        with torch.no_grad():
            stack.params.flat.copy_(old - length * rates * start)
        loss, own = watched.gradient(stack, x, targets)
        losses.append(loss)
        changes.append((own - start).norm(dim=1) / start.norm(dim=1))
    with torch.no_grad():
        stack.params.flat.copy_(old)
    seen = torch.stack(losses)
    return {"loss_range": seen.amax(0) - seen.amin(0), "relative_gradient_change": torch.stack(changes).amax(0)}


SIZES = (8, 32, 128, 512)
DRAWS = 50


def gradient_noise(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """How far the gradient of a batch is from that of all of train, before training.

    deviation: norm of the difference, relative to that of train's gradient; root mean square over 50 batches, drawn
    with replacement; by their size. slope: of log deviation over log size. cosine: between the two, mean over batches.
    """
    stack = watched.at_rates(run, source, seed, run.reg, [run.optimizer.lr])
    train, g = stack.batches.indices["train"], generator(seed, "order")
    full = torch.zeros_like(stack.params.flat)
    for part in train.split(1000, dim=1):
        full += watched.gradient(stack, *stack.batches.eval_batch(part))[1] * (part.shape[1] / train.shape[1])
    deviations = list[float]()
    for size in SIZES:
        drawn = [train[:, torch.randint(train.shape[1], (size,), generator=g)] for _ in range(DRAWS)]
        own = torch.cat([watched.gradient(stack, *stack.batches.eval_batch(part))[1] for part in drawn]).double()
        deviations.append(float((own - full).square().sum(1).mean().sqrt() / full.norm()))
        arm = f"batches of {size}"
        yield Found(arm, "cosine", float(torch.cosine_similarity(own, full.double()).mean()))
        yield Found("batches", "deviation", deviations[-1], size)
        yield Found(arm, "deviation", deviations[-1])
    yield Found("batches", "slope", float(np.polyfit(np.log(SIZES), np.log(deviations), 1)[0]))
