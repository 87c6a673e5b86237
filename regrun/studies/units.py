"""How much alike a network's hidden units are on test, and how often they are silent."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regrun.studies.runs import Run


@torch.no_grad()
def hidden(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What each linear layer but the first is given: (N, D) of every hidden layer of an MLP, from input to output."""
    found = list[Tensor]()
    for layer in network:
        if isinstance(layer, nn.Linear):
            found.append(x)
        x = layer(x)
    return found[1:]


def correlation(units: NDArray[np.float64]) -> float:
    """Mean absolute correlation of two different units, (N, D); those that are the same for all N are left out."""
    r = np.atleast_2d(np.corrcoef(units[:, np.ptp(units, axis=0) > 0], rowvar=False))
    return float(np.abs(r[np.triu_indices(len(r), 1)]).mean())


def _on_test(run: Run) -> list[NDArray[np.float64]]:
    network = run.network()
    assert isinstance(network, nn.Sequential)
    layers = hidden(network, run.source.inputs[run.source.test])
    return [layer.double().numpy() for layer in layers]


def silent(run: Run) -> float:
    """Share of outputs of hidden units that are exactly 0, mean over layers."""
    return float(np.mean([(layer == 0).mean() for layer in _on_test(run)]))


ONE: dict[str, Callable[[Run], float]] = {
    "first_correlation": lambda run: correlation(_on_test(run)[0]),
    "last_correlation": lambda run: correlation(_on_test(run)[-1]),
    "silent_share": silent,
}
