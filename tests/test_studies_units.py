"""Correlations and silence of hidden units against planted ones."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regrun.data.sources import Source
from regrun.studies import figures, units
from regrun.studies.runs import Run, Tables


def test_correlations_are_absolute_and_leave_constants_out() -> None:
    """x, -x and one that is uncorrelated with them: (1 + 0 + 0) / 3, whatever the constant fourth one."""
    x, other = np.array([1.0, -1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0])
    found = units.correlation(np.stack([x, 3 - 2 * x, other, np.full(4, 7.0)], axis=1))
    assert found == pytest.approx(1 / 3)


def test_hidden_units_are_what_the_next_layer_is_given() -> None:
    torch.manual_seed(0)
    first, second, output = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
    network, x = nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), nn.Dropout(0.9), output).eval(), torch.randn(6, 3)
    found = units.hidden(network, x)
    h = first(x).relu()
    assert torch.equal(found[0], h) and torch.equal(found[1], second(h).tanh())
    assert len(found) == 2


class Floats(nn.Module):
    """As raw pixels come."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


class Known(Run):
    """A run whose network is given."""

    def network(self) -> nn.Module:
        return self.cells["network"]  # type: ignore[return-value]


def test_figures_are_of_the_first_and_the_last_hidden_layer(digits: Source) -> None:
    """One pixel, twice the same unit, and one that is always silent; then what tells the two apart is a sign."""
    first, second, output = nn.Linear(64, 3), nn.Linear(3, 2), nn.Linear(2, 10)
    with torch.no_grad():
        for w in (*first.parameters(), *second.parameters()):
            w.zero_()
        first.weight[:2, 20] = torch.tensor([1.0, 2.0])
        first.bias[:] = torch.tensor([1.0, 1.0, -1.0])
        second.weight[:, 0] = torch.tensor([1.0, -1.0])
        second.bias[:] = torch.tensor([0.0, 100.0])
    network = nn.Sequential(Floats(), nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), output)
    run = Known({"network": network}, Path(), Tables(Path()), digits)  # type: ignore[dict-item]
    assert figures.measured("first_correlation", [run]) == pytest.approx(1, abs=1e-6)
    assert figures.measured("last_correlation", [run]) == pytest.approx(1, abs=1e-6)
    assert math.isclose(figures.measured("silent_share", [run]), (1 / 3 + 0) / 2)
