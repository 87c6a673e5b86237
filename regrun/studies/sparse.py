"""AdaGrad and others where most features are rare: logistic regression, trained online. One seed's figures by arm."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regrun import optim
from regrun import settings as s
from regrun.data.sources import Source
from regrun.settings import Settings
from regrun.studies.found import Found

FEATURES, EXAMPLES, BATCH = 1000, 4000, 10
RATES = [10 ** (power / 2) for power in range(-7, 4)]
KINDS: dict[str, s.Optimizer] = {
    "SGD": s.Sgd(),
    "momentum": s.Momentum(momentum=0.9),
    "AdaGrad": s.Adagrad(),
    "RMSprop": s.RmsProp(),
    "Adam": s.Adam(),
}


class Problem(NamedTuple):
    """x (N, D) and labels (N,) of 0 and 1."""

    x: Tensor
    y: Tensor


def draw(g: torch.Generator, weights: Tensor, frequency: Tensor | None, count: int) -> Problem:
    """Labels by the logistic model of these weights, (D,). Features are 1 with these frequencies, else 0, or normal."""
    x = torch.randn(count, len(weights), generator=g)
    if frequency is not None:
        x = (torch.rand(x.shape, generator=g) < frequency).float()
    return Problem(x, (torch.rand(count, generator=g) < torch.sigmoid(x @ weights)).float())


def sparse_features(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Test loss and error after one pass over 4,000 examples, at the learning rate that val's loss chooses.

    sparse: feature d of 1,000 is 1 with probability 0.5 / d, so that an example has 3.7 of them, and most occur in few
    examples. dense: all are normal. Weights are normal, so large that the logits' variance is 4 times the features'.
    """
    g = torch.Generator().manual_seed(seed)
    rare = 0.5 / torch.arange(1, FEATURES + 1)
    for data, frequency, scale in (("sparse", rare, 2.0), ("dense", None, 2 * float(rare.mean()) ** 0.5)):
        weights = scale * torch.randn(FEATURES, generator=g)
        train, val, test = (draw(g, weights, frequency, EXAMPLES) for _ in range(3))
        for name, optimizer in KINDS.items():
            found = trained(train, optimizer)
            best = int(loss(val, found).argmin())
            yield Found(f"{name}, {data}", "test_loss", float(loss(test, found)[best]))
            yield Found(f"{name}, {data}", "test_error", float(error(test, found)[best]))
            yield Found(f"{name}, {data}", "best_rate", RATES[best])


def trained(problem: Problem, optimizer: s.Optimizer) -> Tensor:
    """(R, D) weights after one pass in batches of 10 from 0, one row for each of `RATES`."""
    weights, state = torch.zeros(len(RATES), FEATURES), dict[str, Tensor]()
    steps = len(problem.x) // BATCH
    lr = np.tile(np.array(RATES), (steps, 1))
    table = optim.epoch_table([optimizer] * len(RATES), lr, first_step=1, device=torch.device("cpu"))
    for x, y, at in zip(problem.x.split(BATCH), problem.y.split(BATCH), table, strict=True):
        gradient = (torch.sigmoid(weights @ x.T) - y) @ x / len(x)
        optim.update(weights, gradient, state, at, optimizer)
    return weights


def loss(problem: Problem, weights: Tensor) -> Tensor:
    """(R,) mean logistic loss, nats; of a rate that diverged infinite."""
    z = weights @ problem.x.T
    own = (torch.nn.functional.softplus(z) - problem.y * z).mean(1)
    return own.nan_to_num(nan=torch.inf)


def error(problem: Problem, weights: Tensor) -> Tensor:
    """(R,) share classed wrongly."""
    return ((weights @ problem.x.T > 0) != (problem.y > 0.5)).float().mean(1)
