"""Figures over a setting that an arm varies, and signals through untrained networks, against what they must be."""

import dataclasses
import itertools
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import qmc

from regrun.cli import main
from regrun.data.sources import Source
from regrun.demos.depth import sigmoid_gradient
from regrun.layers import ACTIVATIONS
from regrun.settings import Reg, Settings, resolve
from regrun.studies import depths, design, figures, trends
from regrun.studies.depths import Layer
from regrun.studies.found import Found
from regrun.studies.runs import Run, Tables


def runs_of(source: Source, column: str, errors: dict[float, tuple[float, float]], status: str = "ok") -> list[Run]:
    """A run for each setting, with these train and val errors; test errors are those of val."""
    found = []
    for at, (train, val) in errors.items():
        cells = dict.fromkeys(trends.LADDER, "none") | {column: str(at), "status": status}
        cells |= {f"{split}_accuracy_last": str(1 - e) for split, e in (("train", train), ("val", val), ("test", val))}
        found.append(Run(cells, Path(), Tables(Path()), source))
    return found


def test_a_slope_is_by_doubling(digits: Source) -> None:
    """An error of 0.5 - 0.03 log2(width) falls by 3 points, whatever the order of the runs and the gaps between."""
    runs = runs_of(digits, "model.width", {w: (0.5 - 0.03 * math.log2(w), 0.6) for w in (256, 1, 4, 8)})
    assert figures.measured("slope_of_train_error", runs) == pytest.approx(-0.03, abs=1e-12)
    assert figures.measured("slope_of_gap", runs) == pytest.approx(0.03, abs=1e-12)
    assert figures.measured("slope_of_test_error", runs) == pytest.approx(0, abs=1e-12)


def test_a_spread_a_rise_and_the_choice_of_val(digits: Source) -> None:
    runs = runs_of(digits, "model.init.std", {0.1: (0.2, 0.5), 1.0: (0.1, 0.3), 0.01: (0.25, 0.9)})
    assert figures.measured("spread_of_test_error", runs) == pytest.approx(0.6)
    assert figures.measured("chosen_setting", runs) == 1.0
    assert figures.measured("largest_rise_of_train_error", runs) == pytest.approx(-0.05)  # 0.25, 0.2, 0.1


def test_a_run_that_diverged_has_an_error_of_1_and_no_gap(digits: Source) -> None:
    (run,) = runs_of(digits, "model.width", {2: (0.1, 0.2)}, status="diverged")
    assert (figures.ONE["diverged"](run), figures.ONE["gap"](run), run.error("test", "last")) == (1.0, 0.0, 1.0)


def test_what_val_chooses_is_judged_by_both(digits: Source) -> None:
    runs = runs_of(digits, "model.width", {1: (0.0, 0.3), 2: (0.1, 0.2), 3: (0.0, 0.2)})
    runs[1] = replace(runs[1], cells=runs[1].cells | {"test_accuracy_last": "0.65"})
    assert figures.measured("chosen_error", runs) == pytest.approx(0.35)  # the first of those with 0.2
    assert figures.measured("chosen_optimism_gap", runs) == pytest.approx(0.15)


def test_gains_of_cocktails_are_by_what_val_chooses(digits: Source) -> None:
    """Val prefers a single one by loss where errors are equal, whatever test says; never what diverged."""
    none, acted = {f"acted.{f.name}": "none" for f in dataclasses.fields(Reg)}, {"acted.dropout": "0.5"}
    several = acted | {"acted.l2": "0.1", "acted.noise": "0.2"}
    rows = [(none, 0.2, 1, 0.4), (acted, 0.1, 0.5, 0.30), (acted, 0.1, 0.4, 0.25), (several, 0.1, 3, 0.25)]
    runs = []
    for regs, val, loss, test in rows:
        cells = {"status": "ok", "val_accuracy_best": str(1 - val), "test_accuracy_best": str(1 - test)}
        runs.append(Run(none | regs | cells | {"val_loss_best": str(loss)}, Path(), Tables(Path()), digits))
    runs.append(Run(none | several | {"status": "diverged", "val_loss_best": "none"}, Path(), Tables(Path()), digits))
    assert [run.regularizers for run in runs] == [0, 1, 1, 3, 3]
    assert figures.measured("single_gain", runs) == pytest.approx(0.15)
    assert figures.measured("cocktail_gain", runs) == pytest.approx(0)
    assert figures.measured("cocktail_wins", [*runs[:2], runs[3]]) == 1.0
    assert figures.measured("cocktail_wins", runs) == 0.5


def test_cocktails_are_points_of_a_sobol_sequence() -> None:
    """Each regularizer is off in half of the cube; the first 30 points with two or more on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 100 is no power of 2
        cube = 2 * qmc.Sobol(6, seed=17).random(100) - 1
    found = [words for point in cube if len(words := cocktail(point)) > 1][:30]
    assert [list(trial) for trial in design.find("cocktail").trials if len(trial) > 1] == found


def cocktail(at: NDArray[np.float64]) -> list[str]:
    words = [
        f"reg.dropout.rate={0.1 + 0.6 * at[0]:.2f}",
        f"reg.weight_decay.value={10 ** (-2 + 2 * at[1]):.2g}",
        f"reg.label_smoothing.value={0.02 + 0.28 * at[2]:.2f}",
        f"reg.noise.std={10 ** (-1.3 + 1.3 * at[3]):.2f}",
        f"reg.mixup.alpha={10 ** (-1 + 1.3 * at[4]):.2f}",
        "reg.batchnorm.active=true",
    ]
    return [word for word, own in zip(words, at, strict=True) if own > 0]


def test_what_a_mean_of_passes_gains_is_against_the_same_weights(digits: Source) -> None:
    cells = {"status": "ok", "test_accuracy_best": "0.9", "test_accuracy_last": "0.2", "test_accuracy_mc": "0.93"}
    run = Run(cells | {"test_loss_mc": "0.3", "test_loss_best": "0.2"}, Path(), Tables(Path()), digits)
    assert figures.measured("mc_gain", [run]) == pytest.approx(0.03)
    assert figures.measured("mc_loss_ratio", [run]) == pytest.approx(1.5)


def test_a_slope_needs_a_setting_that_differs(digits: Source) -> None:
    runs = 2 * runs_of(digits, "model.width", {2: (0.1, 0.2)})
    with pytest.raises(ValueError, match=r"none of data\.train_size, .* differs"):
        trends.ladder(runs)


@pytest.mark.parametrize("depth", [2, 5, 10])
def test_the_gradient_of_a_chain_of_sigmoids_has_its_closed_form(depth: int) -> None:
    """One unit a layer, weights 1: between the first and the last pre-activation lie all sigmoids but the last one."""
    chain = [Layer(torch.ones(1, 1).double(), torch.zeros(1).double())] * depth
    head = Layer(torch.tensor([[1.0], [-2.0]]).double(), torch.zeros(2).double())
    x, targets = torch.full((1, 1), 0.3, dtype=torch.float64), torch.tensor([1])
    ratio = depths.gradient_ratio([*chain, head], x, targets, ACTIVATIONS["sigmoid"].forward)
    assert ratio == pytest.approx(sigmoid_gradient(0.3, depth - 1), rel=1e-12)


def test_the_gradient_by_the_first_weights_is_that_of_finite_differences() -> None:
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((4, 3), (5, 4), (2, 5))]
    x = torch.randn(6, 3, generator=g, dtype=torch.float64)

    def logit(first: torch.Tensor) -> float:
        return float((torch.relu(torch.relu(x @ first.T) @ weights[1].T) @ weights[2].T).mean())

    steps = [1e-6 * torch.eye(12, dtype=torch.float64)[i].view(4, 3) for i in range(12)]
    differences = [(logit(weights[0] + step) - logit(weights[0] - step)) / 2e-6 for step in steps]
    assert depths.first_gradient(weights, x) == pytest.approx(float(np.linalg.norm(differences)), rel=1e-6)


def found(compute: str, source: Source) -> list[Found]:
    return list(depths.__dict__[compute](resolve(Settings()), source, 0, True))


def test_gradients_go_with_the_power_of_the_scale(digits: Source) -> None:
    by_arm = {own.arm: own.value for own in found("scales", digits) if own.figure == "slope"}
    assert by_arm == pytest.approx({f"{m} layers": m - 1 for m in (2, 5, 10, 20)}, abs=1e-9)


def test_no_sigmoid_network_exceeds_its_bound(digits: Source) -> None:
    ends = {(own.arm, own.figure): own.value for own in found("gradients", digits) if own.over is None}
    assert 0 < ends["sigmoid, Xavier", "share_of_bound"] < 1 and 0 < ends["sigmoid, 4 x Xavier", "share_of_bound"] < 1
    assert ends["relu, He", "share_of_bound"] > 1  # which is no bound for it


def test_skips_add_one_to_what_each_pair_of_layers_leaves() -> None:
    """One unit a layer and positive weights, so that ReLUs are the identity: the product of a b, or of 1 + a b."""
    weights = [0.5, 0.8, 1.5, 0.1]
    chain = [Layer(torch.full((1, 1), w).double(), torch.zeros(1).double()) for w in (1.0, *weights)]
    head = Layer(torch.tensor([[1.0], [-2.0]]).double(), torch.zeros(2).double())
    x, targets = torch.full((1, 1), 0.3, dtype=torch.float64), torch.tensor([1])
    for skips, expected in ((False, 0.4 * 0.15), (True, 1.4 * 1.15)):
        first, last = depths.end_gradients([*chain, head], x, targets, skips=skips)
        assert float(first / last) == pytest.approx(expected, rel=1e-6)


def test_gradients_by_skips_are_of_the_last_ones_size(digits: Source) -> None:
    ends = {(own.arm, own.figure): own.value for own in found("skip_gradients", digits) if own.over is None}
    assert ends["plain", "log10_gradient_ratio"] < -30 and -0.5 < ends["skips", "log10_gradient_ratio"] < 1
    assert ends["plain", "gradient_factor"] == pytest.approx(10 ** (ends["plain", "log10_gradient_ratio"] / 100))
    straight = 10 ** -ends["skips", "log10_gradient_ratio"]  # its share, where all else is at right angles to it
    assert ends["skips", "direct_cosine"] == pytest.approx(straight, rel=0.2) and ends["skips", "direct_cosine"] > 0.3
    assert abs(ends["plain", "direct_cosine"]) < 0.3


def test_fans_keep_the_signal_or_the_gradient(digits: Source) -> None:
    """Each layer multiplies squares by fan-in 2 / fan / 2 forward and by fan-out 2 / fan / 2 back."""
    ends = {(own.arm, own.figure): own.value for own in found("fan_modes", digits) if own.over is None}
    pairs = list(itertools.pairwise(depths.NARROWER))
    fans = {"fan-in": lambda a, b: a, "fan-out": lambda a, b: b, "their mean": lambda a, b: (a + b) / 2}
    for arm, fan in fans.items():
        for figure, of in (("log2_signal", 0), ("log2_gradient", 1)):
            expected = sum(math.log2(pair[of] / fan(*pair)) for pair in pairs) / 2
            assert ends[arm, figure] == pytest.approx(expected, abs=0.6), (arm, figure)


def test_signals_have_the_scale_of_their_initialization(digits: Source) -> None:
    """log10 after 20 layers of 512: ReLU halves the square, so that N(0, s^2) gives 20 log10(s sqrt 256)."""
    rows = found("signals", digits)
    ends = {(own.arm, own.figure): own.value for own in rows if own.over is None}
    expected = {"N(0, 1), relu": 24.08, "N(0, 0.001), relu": -35.92, "Xavier, relu": -3.01, "He, relu": 0.0}
    for arm, value in expected.items():
        assert ends[arm, "log10_rms"] == pytest.approx(value, abs=0.5)
    assert ends["N(0, 1), relu", "log10_rms"] - ends["N(0, 0.001), relu", "log10_rms"] == pytest.approx(60, abs=1e-5)
    assert ends["torch's default, relu", "log10_variation"] < -5 < -1 < ends["He, relu", "log10_variation"] < 0
    last = {own.arm: own.value for own in rows if own.over == depths.DEEP}
    assert all(ends[arm, "log10_rms"] == value for arm, value in last.items())


def test_where_files_lie_is_no_mistake_for_data_that_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study=capacity", "--dry-run", "data.root=/nowhere"]) == 0
    assert capsys.readouterr().out == "capacity: 6 seeds, 48 runs; expected: reproduced\n"


def test_the_spread_over_settings_is_that_of_what_val_chooses_for_each(digits: Source) -> None:
    """Val chooses 0.3 of one scale and 0.2 of the other, whatever better there was on test."""
    found = []
    for std, val, test in ((0.1, 0.25, 0.3), (0.1, 0.4, 0.1), (1.0, 0.9, 0.9), (1.0, 0.1, 0.2)):
        cells = dict.fromkeys(trends.LADDER, "none") | {"model.init.std": str(std), "status": "ok"}
        cells |= {"val_accuracy_best": str(1 - val), "test_accuracy_best": str(1 - test), "val_loss_best": "1"}
        found.append(Run(cells, Path(), Tables(Path()), digits))
    assert figures.measured("spread_of_tuned_error", found) == pytest.approx(0.1)


def test_figures_of_the_summary_are_its_cells(digits: Source) -> None:
    (run,) = runs_of(digits, "model.width", {2: (0.1, 0.2)})
    run = replace(run, cells=run.cells | {"oscillation": "0.25", "test_loss_last": "0.5", "train_loss_last": "0.3"})
    assert [figures.ONE[name](run) for name in ("oscillation", "gap_loss")] == pytest.approx([0.25, 0.2])
