"""Residual networks as paths, stopped descent, momentum: the figures of studies against closed forms."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regrun.data.sources import Source, load
from regrun.models.export import Residual
from regrun.settings import Settings, Sklearn, resolve
from regrun.studies import figures, paths, probes, quadratics
from regrun.studies.found import Found
from regrun.studies.runs import Run, Tables

Figures = dict[tuple[str, str], float]


def by_arm(found: Iterator[Found]) -> Figures:
    return {(one.arm, one.figure): one.value for one in found if one.over is None}


def test_paths_by_length_are_the_binomial_of_scalar_blocks() -> None:
    """(1 + w)^L, term by term."""
    blocks = torch.full((4, 1, 1), 0.5, dtype=torch.float64)
    found = paths.expanded(blocks, torch.ones(1, dtype=torch.float64))
    assert found.squeeze(1).tolist() == [math.comb(4, k) * 0.5**k for k in range(5)]


def test_a_lesion_takes_one_block_out_and_nothing_else() -> None:
    torch.manual_seed(0)
    first, second = (Residual(nn.Linear(3, 3), nn.Sequential()) for _ in range(2))
    stem, output, x = nn.Linear(5, 3), nn.Linear(3, 2), torch.randn(4, 5)
    found = paths.lesioned(nn.Sequential(stem, first, second, nn.ReLU(), output))
    expected = [output(second(stem(x)).relu()), output(first(stem(x)).relu())]
    assert [torch.equal(one(x), y) for one, y in zip(found, expected, strict=True)] == [True, True]


def test_a_plain_layer_goes_with_its_norm_and_its_activation() -> None:
    """Layers that change the width stay."""
    torch.manual_seed(0)
    first, second, third, output = nn.Linear(5, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
    norm, x = nn.LayerNorm(3), torch.randn(4, 5)
    found = paths.lesioned(nn.Sequential(first, nn.ReLU(), second, norm, nn.ReLU(), third, nn.ReLU(), output))
    start = first(x).relu()
    expected = [output(third(start).relu()), output(norm(second(start)).relu())]
    assert [torch.equal(one(x), y) for one, y in zip(found, expected, strict=True)] == [True, True]


def test_steps_down_a_quadratic_are_those_of_its_rate() -> None:
    """Plain descent shrinks each direction by 1 - lr h a step."""
    curvature, starts = torch.tensor([2.0], dtype=torch.float64), torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    expected = math.ceil(math.log(quadratics.TOLERANCE) / math.log(1 - 0.1 * 2.0))
    assert quadratics.steps_down(curvature, starts, lr=0.1, momentum=0.0) == expected


def test_momentum_takes_about_the_root_of_the_condition(digits: Source) -> None:
    found = by_arm(quadratics.momentum(resolve(Settings()), digits, 1, True))
    plain, heavy = found["valley, plain", "steps"], found["valley, momentum", "steps"]
    slowest = math.log(quadratics.TOLERANCE) / math.log((quadratics.CONDITION - 1) / (quadratics.CONDITION + 1))
    assert 0.5 * slowest < plain < slowest + 1 and plain / heavy > math.sqrt(quadratics.CONDITION) / 2
    assert found["two wells, plain", "left_share"] == 0 < found["two wells, momentum 0.9", "left_share"]


@pytest.mark.parametrize("kind", ["momentum", "nesterov"])
@pytest.mark.parametrize("lr", [0.1, 2.0])
def test_places_on_a_parabola_are_those_of_torch(kind: str, lr: float) -> None:
    w, expected = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True), []
    sgd = torch.optim.SGD([w], lr=lr, momentum=0.9, nesterov=kind == "nesterov")
    for _ in range(100):
        sgd.zero_grad()
        (w**2 / 2).backward()
        sgd.step()
        expected.append(w.item() / -3)
    start = torch.full((1, 1), -3.0, dtype=torch.float64)
    found = quadratics.parabola(start, lr=lr, kind=kind)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)  # its rates are float32


def test_the_heavy_ball_stands_rates_by_which_nesterovs_grows(digits: Source) -> None:
    """Roots of z^2 - (1 + m - a) z + m have the size sqrt m; those of z^2 - (1 + m)(1 - a) z + m (1 - a) do not."""
    found = by_arm(quadratics.nesterov(resolve(Settings()), digits, 1, True))
    growth = {"heavy ball": math.sqrt(0.9), "Nesterov": max(abs(np.roots([1, 1.9, -0.9])))}
    for arm, factor in growth.items():
        assert found[arm, "log10_left"] == pytest.approx(100 * math.log10(factor), abs=1)
    assert 0 < found["Nesterov", "overshoot"] < found["heavy ball", "overshoot"] < 1
    heavy, other = 2 / (1 + math.sqrt(1000)), 2 / math.sqrt(3001)  # what a step takes off at best
    in_the_end = math.log(1 - heavy) / math.log(1 - other)  # before, the heavy ball gains by t (1 - heavy)^t only
    assert 1.1 < found["Nesterov", "steps"] / found["heavy ball", "steps"] < in_the_end


def test_where_nothing_curves_a_filter_has_its_limit() -> None:
    """(1 - (1 - lr h)^t) / h is lr t at h = 0."""
    h = np.array([0.0, 1e-6, 1.0])
    filtered = quadratics.shrinkage.descent_filter(h, lr=0.5, steps=10)
    found = quadratics._over(filtered, h, at_zero=5.0)[:, 0]
    assert found == pytest.approx([5.0, 5.0, 1 - 0.5**10], rel=1e-5)


def test_stopped_descent_is_its_closed_form_and_never_far_from_ridge(digits: Source) -> None:
    found = by_arm(quadratics.stopped_descent(resolve(Settings()), digits, 1, True))
    assert found["descent", "relative_error"] < 1e-9
    ratios = [found["descent against ridge", f"{end}_ratio"] for end in ("lowest", "highest")]
    assert 1 < ratios[0] < ratios[1] < 1.35 and found["descent against ridge", "lowest_cosine"] > 0.989


class Known(Run):
    """A run whose network is given."""

    def network(self) -> nn.Module:
        return self.cells["network"]  # type: ignore[return-value]


def a_run(source: Source, network: nn.Module, error: float) -> Run:
    cells = {"network": network, "status": "ok", "test_accuracy_last": str(1 - error)}
    return Known(cells, Path(), Tables(Path()), source)  # type: ignore[arg-type]


class Constant(nn.Module):
    """The same probabilities for every example."""

    def __init__(self, p: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(p).log()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def test_an_ensemble_averages_probabilities(digits: Source) -> None:
    """Of 0.6 and 0.05 for class 0, and 0.4 and 0.9 for class 1, class 1 has the larger mean: 0.65 to 0.325."""
    rest = [0.0] * 8
    runs = [a_run(digits, Constant([0.6, 0.4, *rest]), 0.9), a_run(digits, Constant([0.05, 0.95, *rest]), 0.8)]
    ones = float((digits.targets[digits.test] == 1).double().mean())
    assert figures.ensemble_error(runs) == pytest.approx(1 - ones) and figures.member_error(runs) == pytest.approx(0.85)
    assert figures.measured("ensembling_gain", runs) == pytest.approx(0.85 - (1 - ones))


def test_norms_and_biases_are_no_part_of_the_weights_norm(digits: Source) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with torch.no_grad():
        for w in network.parameters():
            w.fill_(2.0)
    assert figures.weight_norm(a_run(digits, network, 0.0)) == pytest.approx(math.sqrt(9 * 4))


def test_gains_are_those_of_every_norm_without_their_shifts(digits: Source) -> None:
    first, second = nn.BatchNorm1d(3), nn.LayerNorm(1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
        first.bias.fill_(9.0)
        second.weight.fill_(4.0)
    network = nn.Sequential(nn.Linear(2, 3), first, nn.Linear(3, 1), second)
    assert figures.gain_scale(a_run(digits, network, 0.0)) == pytest.approx(math.sqrt((1 + 4 + 9 + 16) / 4))


@pytest.mark.parametrize(
    ("rule", "patience", "error"), [("patience", "none", 0.3), ("patience", "3", 0.2), ("gap", "none", 0.2)]
)
def test_what_is_kept_is_the_best_where_a_rule_may_stop(digits: Source, rule: str, patience: str, error: float) -> None:
    stopping = "trainer.early_stopping."
    cells = {"status": "ok", "test_accuracy_last": "0.7", "test_accuracy_best": "0.8"}
    cells |= {f"{stopping}rule": rule, f"{stopping}patience": patience}
    run = Run(cells, Path(), Tables(Path()), digits)
    assert figures.measured("kept_error", [run]) == pytest.approx(error)


def test_what_descent_leaves_of_the_loss_is_what_its_steps_leave() -> None:
    """100 steps down a least-squares problem of three curvatures, by hand."""
    g = np.random.default_rng(0)
    a, y = g.normal(size=(50, 3)) * [1, 3, 10], g.normal(size=(50, 2))
    h, q = np.linalg.eigh(a.T @ a / 50)
    ((_, w),) = quadratics._descent(a, y, 1 / h[-1], [100])

    def loss(w: quadratics.Array) -> float:
        return float(((a @ w - y) ** 2).sum())

    best = loss(np.linalg.lstsq(a, y, rcond=None)[0])
    expected = (loss(w) - best) / (loss(np.zeros((3, 2))) - best)
    assert quadratics.loss_left(h, q.T @ (a.T @ y) / 50, steps=100) == pytest.approx(expected, rel=1e-9)


def test_a_table_of_standardized_columns_has_the_condition_of_their_correlations() -> None:
    source = load(Sklearn(name="wine"))
    run = resolve(Settings(data=Sklearn(name="wine")))
    found = by_arm(quadratics.conditioning(run, source, 3, True))
    chosen = quadratics.split(source, run.data, resolve(Settings(seed=3)).seeds).train
    h = np.linalg.eigvalsh(np.corrcoef(source.inputs[chosen].numpy().T))
    assert found["standardized", "log10_condition"] == pytest.approx(math.log10(h[-1] / min(h[0], 1.0)), abs=1e-4)
    assert found["raw", "loss_left"] > 0.2 > 1e-6 > found["standardized", "loss_left"]


class Watching(nn.Module):
    """Says class 0, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return torch.eye(10)[torch.zeros(len(x), dtype=torch.int64)]


def test_noise_on_test_is_half_of_the_range_and_the_same_for_all_arms_of_a_seed(digits: Source) -> None:
    watching, clean = Watching(), digits.inputs[digits.test].float()
    run = a_run(digits, watching, 0.0)
    runs = [replace(run, cells=run.cells | {"seed": seed}) for seed in ("1", "1", "2")]
    expected = 1 - float((digits.targets[digits.test] == 0).double().mean())
    assert [probes.noisy_error(one) for one in runs] == pytest.approx([expected] * 3)
    first, again, other = (x - clean for x in watching.seen)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.5 * 16, rel=0.02) and abs(first.mean().item()) < 0.2
    assert torch.equal(digits.inputs[digits.test].float(), clean)


def test_distances_shrink_by_the_rate_of_their_curvature() -> None:
    curvature, starts = torch.tensor([2.0], dtype=torch.float64), torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    found = quadratics.distances(curvature, starts, lr=0.1, momentum=0.0, steps=5)
    assert found == pytest.approx([0.8**t for t in range(6)], rel=1e-5)
