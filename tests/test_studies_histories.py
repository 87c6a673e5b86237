"""Figures over epochs against planted curves."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_studies import DESIGN, study, write

from regrun import records
from regrun.data.sources import Source
from regrun.studies import figures, histories
from regrun.studies.runs import Run, Tables

FALLS_RISES_FALLS = [0.9, *5 * [0.3], *6 * [0.8], *5 * [0.4]]


def test_smoothing_is_a_mean_of_five() -> None:
    assert histories.smoothed([0, 0, 0, 0, 5, 10]).tolist() == pytest.approx([1, 3])
    assert histories.smoothed([2, 4]).tolist() == [3]


def test_a_double_descent_has_its_climb_and_its_second_fall() -> None:
    assert histories.climb(FALLS_RISES_FALLS) == pytest.approx(0.5)
    assert histories.second_descent(FALLS_RISES_FALLS) == pytest.approx(0.4)


def test_a_second_fall_below_the_first_is_one_too() -> None:
    curve = [*5 * [0.5], *5 * [0.8], *5 * [0.1]]
    assert (histories.climb(curve), histories.second_descent(curve)) == pytest.approx((0.3, 0.7))


def test_what_only_falls_or_only_rises_has_no_second_descent() -> None:
    assert histories.climb([9 - i for i in range(9)]) == histories.second_descent([9 - i for i in range(9)]) == 0
    assert histories.second_descent(list(range(9))) == 0 and histories.climb(list(range(9))) == 4


def test_a_target_is_reached_once_or_an_epoch_after_the_last(digits: Source, tmp_path: Path) -> None:
    curves = {"a": [0.9, 0.2, 0.05, 0.3], "b": [0.9, 0.3, 0.2, 0.11], "c": [0.9, 0.05]}
    rows = [[run, epoch, 0, "val", 0.0, 1 - e, ""] for run, errors in curves.items() for epoch, e in enumerate(errors)]
    columns = ["run_id", "epoch", "step", "split", "loss", "accuracy", "r2"]
    records.replace(tmp_path / "curves.csv", records.table([columns, *rows]))
    tables, cells = Tables(tmp_path), {"trainer.epochs": "3", "status": "ok"}
    a, b, c = (Run(cells | {"run_id": i}, tmp_path, tables, digits) for i in curves)
    assert [figures.measured("epochs_to_target", [run]) for run in (a, b)] == [2, 4]
    assert figures.measured("fewest_epochs_to_target", [b, a]) == 2
    diverged = replace(c, cells=c.cells | {"status": "diverged"})
    assert figures.measured("epochs_to_target", [diverged]) == 4


def test_a_run_that_diverged_in_its_first_epoch_has_no_curve(digits: Source, tmp_path: Path) -> None:
    columns = ["run_id", "epoch", "step", "split", "loss", "accuracy", "r2"]
    records.replace(tmp_path / "curves.csv", records.table([columns, ["a", 0, 0, "val", 2.3, 0.1, ""]]))
    run = Run({"run_id": "a"}, tmp_path, Tables(tmp_path), digits)
    assert list(histories.over_epochs(run)) == []


def test_errors_are_those_of_the_run_and_the_split(digits: Source, tmp_path: Path) -> None:
    """Two runs whose rows alternate; epoch 0 is before training and not shown."""
    rows = [
        [run, epoch, 0, split, 0.0, 1 - error, ""]
        for epoch, error in enumerate(FALLS_RISES_FALLS)
        for run in ("a", "b")
        for split, error in (("train", 0.0), ("val", error if run == "a" else 0.25))
    ]
    columns = ["run_id", "epoch", "step", "split", "loss", "accuracy", "r2"]
    records.replace(tmp_path / "curves.csv", records.table([columns, *rows]))
    a, b = (Run({"run_id": i}, tmp_path, Tables(tmp_path), digits) for i in "ab")
    assert histories.val_errors(a) == pytest.approx(FALLS_RISES_FALLS)
    assert figures.measured("second_descent_of_val_error", [a]) == pytest.approx(0.4)
    assert figures.measured("climb_of_val_error", [b]) == pytest.approx(0)
    shown = dict(histories.over_epochs(a))
    assert min(shown) == 1 and max(shown) == 16 and shown[16] == pytest.approx(0.4)


def test_a_gates_entropies_are_those_of_the_last_epoch_over_the_largest(digits: Source, tmp_path: Path) -> None:
    """Four experts: half of ln 4 is ln 2, that of two experts that share evenly."""
    rows = [["a", epoch, gate, load] for epoch, gate, load in ((1, 1.0, 1.0), (2, math.log(2), math.log(4)))]
    columns = ["run_id", "epoch", "gate_entropy", "gate_load_entropy"]
    records.replace(tmp_path / "epochs.csv", records.table([columns, *rows]))
    run = Run({"run_id": "a", "model.experts": "4"}, tmp_path, Tables(tmp_path), digits)
    assert figures.measured("gate_entropy_share", [run]) == pytest.approx(0.5)
    assert figures.measured("load_entropy_share", [run]) == pytest.approx(1)


def test_a_picture_over_epochs_has_each_run_at_each_of_them(tmp_path: Path) -> None:
    arms = DESIGN.replace("test_error, over: optimizer.lr", "val_error, over: epoch")
    write(tmp_path, "steps", expected="reproduced", arms=arms)
    assert study(tmp_path, "steps", "sweep.workers=1") == 0
    found = pd.read_csv(tmp_path / "out" / "figures.csv")
    shown = found[(found.over != "none") & (found.arm == "no step")]
    curves = pd.read_csv(tmp_path / "out" / "runs" / "steps" / "curves.csv")
    assert sorted(shown.over.astype(float).unique()) == [1, 2] and len(shown) == 2 * 4
    untrained = curves[(curves.split == "val") & (curves.epoch == 0)]
    assert set(shown.value.round(12)) <= set((1 - untrained.accuracy).round(12))
