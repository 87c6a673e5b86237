"""Figures of a run's network on other weights and other inputs, against planted cases."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regrun.data.sources import Source, load
from regrun.demos import symmetry
from regrun.models.export import Residual
from regrun.settings import Settings, Sine, resolve
from regrun.studies import equivalents, kinks, probes
from regrun.studies.runs import Run, Tables


class Known(Run):
    """A run whose network is given."""

    def network(self) -> nn.Module:
        return self.cells["network"]  # type: ignore[return-value]


def a_run(source: Source, network: nn.Module, seed: int = 3) -> Run:
    return Known({"network": network, "seed": str(seed)}, Path(), Tables(Path()), source)  # type: ignore[arg-type]


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
    run = Run({"run_id": "a"}, tmp_path, Tables(tmp_path), digits)
    assert probes.first_loss(run) == 2.5
    assert [row["lr_first"] for row in run.tables.epochs["a"]] == ["0.1", "0.05"]


def test_the_largest_deviation_is_over_test_points() -> None:
    source = load(Sine(noise=0.0, samples=50))
    network = nn.Sequential(nn.Linear(1, 1))
    with torch.no_grad():
        for own in network.parameters():
            own.zero_()
    run = a_run(source, network)
    assert probes.largest_deviation(run) == pytest.approx(float(source.targets[source.test].abs().max()), rel=1e-6)


def test_waves_have_the_curvature_of_finite_differences() -> None:
    f, h = kinks.draw(3), 1e-4
    assert np.abs(f(kinks.GRID)).max() == pytest.approx(1)
    second = (f(kinks.GRID + h) - 2 * f(kinks.GRID) + f(kinks.GRID - h)) / h**2
    assert f.curvature() == pytest.approx(np.abs(second).max(), rel=1e-4)


def test_least_squares_on_kinks_is_exact_where_the_function_has_them() -> None:
    x = kinks.GRID
    features = np.maximum(x[:, None] - np.array([0.0, 0.3, 0.6]), 0)
    y = 2 - features @ np.array([1.0, -3.0, 2.5])
    assert kinks.fit(features, y) == pytest.approx(y, abs=1e-12)
    assert np.abs(kinks.fit(features[:, :2], y) - y).max() > 0.01


def test_interpolation_keeps_its_bound_and_least_squares_on_random_kinks_is_worse(digits: Source) -> None:
    rows = list(kinks.approximations(resolve(Settings()), digits, 1, True))
    found = {(own.arm, own.figure): own.value for own in rows if own.over is None}
    assert 0.9 < found["even kinks", "share_of_bound"] < 1.0001 and found["even kinks", "slope"] == pytest.approx(
        -2, abs=0.1
    )
    assert found["even kinks, width 64", "largest_deviation"] < found["random kinks, width 64", "largest_deviation"]


def test_blocks_are_left_out_and_nothing_else() -> None:
    torch.manual_seed(0)
    stem, output, x = nn.Linear(5, 3), nn.Linear(3, 2), torch.randn(4, 5)
    blocks = [Residual(nn.Linear(3, 3), nn.Sequential()) for _ in range(3)]
    found = equivalents.without_blocks(nn.Sequential(stem, *blocks, nn.ReLU(), output))
    assert torch.equal(found(x), output(stem(x).relu()))


@pytest.mark.parametrize(
    ("interval", "rates", "off"),
    [
        ("epoch", [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25)], 0),
        ("epoch", [(0.5, 0.5), (0.25, 0.25), (0.125, 0.125)], 0.5),  # one epoch too early
        ("step", [(1.0, 0.5), (0.25, 0.125), (0.0625, 0.03125)], 0),
        ("step", [(1.0, 0.5), (0.25, 0.125), (0.0625, 0.0625)], 1),
    ],
)
def test_rates_are_held_against_the_formula(
    digits: Source, tmp_path: Path, interval: str, rates: list[tuple[float, float]], off: float
) -> None:
    """Three epochs of two steps, a half each time."""
    rows = [f"a,{i},{2 * i},{first},{last}" for i, (first, last) in enumerate(rates, start=1)]
    (tmp_path / "epochs.csv").write_text("\n".join(["run_id,epoch,step,lr_first,lr_last", *rows]) + "\n")
    cells = {"run_id": "a", "optimizer.lr": "1", "scheduler.k": str(math.log(2)), "scheduler.interval": interval}
    run = Run(cells, tmp_path, Tables(tmp_path), digits)
    assert probes.off_the_schedule(run) == pytest.approx(off, abs=1e-12)


def test_variation_is_the_way_up_and_down() -> None:
    """Of |3 (x - 0.5)| from a to b it is 3 (b - a), in whatever order test is."""
    source = load(Sine(samples=200))
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network[0].bias.copy_(torch.tensor([-0.5, 0.5]))
        network[2].weight.fill_(3.0)
    x = source.inputs[source.test]
    expected = 3 * float(x.max() - x.min())
    found = probes.variation(a_run(source, network))
    assert expected - 0.2 < found <= expected + 1e-5  # no point lies at the kink
