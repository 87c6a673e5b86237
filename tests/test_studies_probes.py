"""Figures of a run's network on other weights and other inputs, against planted cases."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regrun.data.sources import Source
from regrun.demos import symmetry
from regrun.studies import equivalents, probes
from regrun.studies.runs import History, Layers, Run


class Known(Run):
    """A run whose network is given."""

    def network(self) -> nn.Module:
        return self.cells["network"]  # type: ignore[return-value]


def a_run(source: Source, network: nn.Module, seed: int = 3) -> Run:
    return Known({"network": network, "seed": str(seed)}, Path(), Layers(Path()), source)  # type: ignore[arg-type]


def mlp(activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), activation(), nn.Linear(12, 9), activation(), nn.Linear(9, 10)
    )


@pytest.mark.parametrize(
    ("change", "tanh", "relu"),
    [(equivalents.permuted, True, True), (equivalents.flipped, True, False), (equivalents.rescaled, False, True)],
)
def test_what_leaves_the_outputs_depends_on_the_activation(change, tanh: bool, relu: bool) -> None:
    x, g = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    for activation, stays in ((nn.Tanh, tanh), (nn.ReLU, relu)):
        network = mlp(activation)
        other = change(network, g)
        assert equivalents.distance(network, other) > 0.1
        assert torch.allclose(network(x), other(x), atol=1e-5) == stays


def test_equal_settings_are_counted_as_the_demo_counts_them() -> None:
    counted = symmetry.count(12) * symmetry.count(9)
    assert equivalents.log10_count(mlp(nn.Tanh)) == pytest.approx(math.log10(counted), rel=1e-12)


def test_linear_layers_collapse_to_the_product_of_their_matrices() -> None:
    network, x = mlp(nn.Identity), torch.randn(50, 64)
    one = equivalents.collapsed(network)
    matrices = [layer.weight for layer in equivalents.linear_layers(network)]
    (layer,) = equivalents.linear_layers(one)
    assert torch.allclose(layer.weight, matrices[2] @ matrices[1] @ matrices[0], atol=1e-6)
    assert torch.allclose(one(x), network(x), atol=1e-5)
    assert not torch.allclose(equivalents.collapsed(mlp(nn.ReLU))(x), mlp(nn.ReLU)(x), atol=0.01)


def test_a_difference_is_relative_to_the_largest_logit(digits: Source) -> None:
    """Logits of 100 h, and 100 -h where the one unit is flipped: what they differ by is all of the largest."""
    network = nn.Sequential(Pixel(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for own in network.parameters():
            own.fill_(0.0)
        network[1].weight.fill_(1.0)
        network[3].weight.fill_(100.0)
    found = {probes.ONE["flip_difference"](a_run(digits, network, seed)) for seed in range(8)}
    assert found == {0.0, 1.0}  # flipped or not
    assert probes.ONE["permutation_difference"](a_run(digits, network)) == 0


class Pixel(nn.Module):
    """The pixel in the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, 28:29].float()


@pytest.mark.parametrize(("down", "right"), [(2, 0), (-2, 0), (0, 2), (0, -2), (1, -3), (0, 0)])
def test_a_shift_moves_every_pixel_and_lets_zeros_in(down: int, right: int) -> None:
    images = 1 + torch.arange(2 * 5 * 4).view(1, 2, 5, 4)
    found = probes.shifted(images, down=down, right=right)
    for (_, c, i, j), value in np.ndenumerate(found.numpy()):
        source = (i - down, j - right)
        inside = 0 <= source[0] < 5 and 0 <= source[1] < 4
        assert value == (images[0, c, source[0], source[1]] if inside else 0)


class ByHeart(nn.Module):
    """The class of each image that it knows, 0 of every other one."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__()
        self.known = {tuple(x.flatten().tolist()): int(y) for x, y in zip(images, targets, strict=True)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        classes = [self.known.get(tuple(one.flatten().tolist()), 0) for one in x]
        return nn.functional.one_hot(torch.tensor(classes), 10).float()


def test_a_network_that_knows_images_by_heart_takes_shifted_ones_for_a_zero(digits: Source) -> None:
    network = ByHeart(digits.inputs[digits.test], digits.targets[digits.test])
    zeros = float((digits.targets[digits.test] == 0).double().mean())
    assert probes.shift_excess_error(a_run(digits, network)) == pytest.approx(1 - zeros)


def test_nonzero_parameters_are_counted(digits: Source) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for own in network.parameters():
            own.zero_()
        network[2].bias.fill_(0.5)
    assert probes.nonzero_parameters(a_run(digits, network)) == 2


def test_the_history_of_a_run_is_read_from_its_sweeps_tables(digits: Source, tmp_path: Path) -> None:
    curves = "run_id,epoch,step,split,loss,accuracy,r2\na,0,0,train,2.5,0.1,\na,0,0,val,2.6,0.1,\nb,0,0,train,9,0.1,\n"
    (tmp_path / "curves.csv").write_text(curves)
    (tmp_path / "epochs.csv").write_text("run_id,epoch,lr_first\na,1,0.1\nb,1,0.3\na,2,0.05\n")
    run = Run({"run_id": "a"}, tmp_path, Layers(tmp_path), digits, History(tmp_path))
    assert probes.first_loss(run) == 2.5
    assert [row["lr_first"] for row in run.history.epochs["a"]] == ["0.1", "0.05"]
