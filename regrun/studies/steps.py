"""How far an optimizer's steps go where gradients are known. One seed's figures by arm."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from regrun import optim
from regrun import settings as s
from regrun.data.sources import Source
from regrun.settings import Settings
from regrun.studies.found import Found

LR = 1e-3
LATE = 10**6  # steps after which no moment has a bias left
STEPS = 100
SHOWN = (1, 2, 5, 10, 20, 50, 100, 300, 1000, 3000)
OPTIMIZERS: dict[str, s.Optimizer] = {
    "AdaGrad": s.Adagrad(lr=LR),
    "RMSprop": s.RmsProp(lr=LR),
    "Adam": s.Adam(lr=LR),
}


def walked(optimizer: s.Optimizer, gradients: Sequence[float], *, first_step: int = 1) -> Tensor:
    """(S,) how far each step moves a weight down, over lr, in float64.

    first_step: what the optimizer takes the first step's number for. Adam's corrections are 1 where it is late.
    """
    lr = np.full((len(gradients), 1), optimizer.lr)
    table = optim.epoch_table([optimizer], lr, first_step=first_step, device=torch.device("cpu"))
    weight, state, places = torch.zeros(1, 1, dtype=torch.float64), dict[str, Tensor](), [0.0]
    for gradient, at in zip(gradients, table, strict=True):
        at = {name: value.double() for name, value in at.items()}
        optim.update(weight, torch.full_like(weight, gradient), state, at, optimizer)
        places.append(weight.item())
    return -torch.tensor(places, dtype=torch.float64).diff() / optimizer.lr


def bias_correction(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Adam's steps over lr with and without bias correction, where the gradient is one random number all the time.

    distance_of_100_steps: the mean of the first 100.
    """
    gradient = _magnitude(seed)
    corrected, plain = (walked(s.Adam(lr=LR), [gradient] * SHOWN[-1], first_step=t) for t in (1, LATE))
    for arm, steps in (("with correction", corrected), ("without correction", plain)):
        yield from (Found(arm, "step_over_lr", float(steps[t - 1]), t) for t in SHOWN)
        yield Found(arm, "first_step", float(steps[0]))
        yield Found(arm, "last_step", float(steps[-1]))
        yield Found(arm, "largest_step", float(steps.max()))
        yield Found(arm, "distance_of_100_steps", float(steps[:100].sum()) / 100)


def adaptive_steps(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """What 100 equal gradients, and 100 that turn each time, do to the length of a step.

    growth: the length of the last step over that of the first one; of Rprop, which regrun has not, of the tenth.
    """
    size = _magnitude(seed)
    turning = [size * (-1) ** t for t in range(STEPS)]
    for name, optimizer in OPTIMIZERS.items():
        for arm, gradients in (("constant", [size] * STEPS), ("turning", turning)):
            lengths = walked(optimizer, gradients).abs()
            if arm == "constant":
                yield from (Found(name, "step_over_lr", float(lengths[t - 1]), t) for t in SHOWN if t <= STEPS)
            yield Found(f"{name}, {arm}", "growth", float(lengths[-1] / lengths[0]))
            yield Found(f"{name}, {arm}", "first_step", float(lengths[0]))
    yield Found("Rprop, constant", "growth", float(rprop([size] * 10)[-1]))


def rprop(gradients: Sequence[float]) -> Tensor:
    """(S,) lengths of the steps of torch's Rprop (Riedmiller and Braun 1993), over the first one's."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, places = torch.optim.Rprop([weight], lr=LR), [0.0]
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        places.append(weight.item())
    lengths = torch.tensor(places, dtype=torch.float64).diff().abs()
    return lengths / lengths[0]


def _magnitude(seed: int) -> float:
    """A positive number from 1e-3 to 1e3, evenly in its logarithm."""
    return float(10 ** np.random.default_rng([seed, STEPS]).uniform(-3, 3))
