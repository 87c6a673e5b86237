"""Regression: targets are numbers, the loss is of standardized targets, R2 takes accuracy's place everywhere."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make, train_rows
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from torch.nn import functional as F

from regrun import checks, objective, reading
from regrun import settings as s
from regrun.cli import main
from regrun.data.source import Source, draw_test
from regrun.data.sources import load
from regrun.data.split import split
from regrun.rows import CurveRow

SINE = s.Sine(samples=200, normalize="standardize")


def plane(columns: int = 2, noise: float = 0.1, size: int = 300) -> Source:
    """Targets in different units that are linear in three inputs, but for noise."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(size, 3))
    y = x @ draw.normal(size=(3, columns)) + noise * draw.normal(size=(size, columns))
    targets = torch.from_numpy(y * 10.0 ** np.arange(columns) + 1000)
    train, test = draw_test(targets, 0.2, "test")
    inputs = torch.from_numpy(x.astype(np.float32))
    return Source("plane", inputs, targets, train=train, test=test, num_classes=0, top=None)


@pytest.mark.parametrize(("kind", "loss"), [("squared", F.mse_loss), ("absolute", F.l1_loss), ("huber", F.huber_loss)])
def test_each_error_and_its_gradient_are_torchs(kind: str, loss: torch.nn.Module) -> None:
    predictions, targets = 2 * torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    losses, gradient = objective.error_with_gradient(predictions, targets, kind)
    for r in range(3):
        own = predictions[r].clone().requires_grad_()
        expected = loss(own, targets[r])
        expected.backward()
        torch.testing.assert_close(losses[r], expected.detach())
        torch.testing.assert_close(gradient[r], own.grad)


def test_targets_are_standardized_by_train_alone() -> None:
    source = plane()
    own = split(source, SINE, make().seeds)
    y = own.targets[own.train].double()
    assert y.mean(0).abs().max() < 1e-6
    assert (y.std(0, correction=0) - 1).abs().max() < 1e-6
    changed = source.targets.clone()
    changed[own.val] = changed[own.test] = 1e6
    other = split(replace(source, targets=changed), SINE, make().seeds)
    assert torch.equal(other.target_mean, own.target_mean)
    assert torch.equal(other.target_scale, own.target_scale)
    assert torch.equal(other.targets[own.train], own.targets[own.train])


def test_loss_and_r2_are_scikit_learns(tmp_path: Path) -> None:
    """Of predictions in the targets' own units, made by the exported network."""
    source = plane()
    run = make(data=SINE)
    _, (end,) = train_rows([run], source)
    own = split(source, run.data, run.seeds)
    weights = end.last | {"input.offset": own.offset, "input.scale": own.scale, "input.fill": own.fill}
    weights |= {"target.mean": own.target_mean.float(), "target.scale": own.target_scale.float()}
    from regrun.models.build import build
    from regrun.models.export import export

    ops = build(run.model, run.reg, input_shape=source.shape, num_classes=2)
    network = export(ops, weights, dict.fromkeys(("input", "hidden1", "hidden2"), 0.0))
    for name in ("train", "val", "test"):
        members = getattr(own, name)
        predicted = network(source.inputs[members]).detach().double()
        y = source.targets[members]
        assert getattr(end.outcome, f"{name}_r2_last") == pytest.approx(r2_score(y, predicted), abs=1e-4)
        scaled = mean_squared_error(y / own.target_scale, predicted / own.target_scale)
        assert getattr(end.outcome, f"{name}_loss_last") == pytest.approx(scaled, rel=1e-3)
    assert end.outcome.target_scale == own.target_scale.tolist()


def test_a_linear_network_finds_the_least_squares(tmp_path: Path) -> None:
    source = plane()
    early = s.EarlyStopping(patience=None)
    run = make(
        data=SINE,
        model=s.Mlp(depth=0),
        optimizer=s.Sgd(lr=0.2),
        trainer={"epochs": 200, "batch_size": 1000, "early_stopping": early},
    )
    _, (end,) = train_rows([run], source)
    own = split(source, run.data, run.seeds)
    fit = LinearRegression().fit(source.inputs[own.train], source.targets[own.train])
    expected = r2_score(source.targets[own.test], fit.predict(source.inputs[own.test]))
    assert end.outcome.test_r2_last == pytest.approx(expected, abs=1e-5)


def test_curves_have_r2_and_a_blank_for_accuracy() -> None:
    source = load(SINE)
    (rows,), (end,) = train_rows([make(data=SINE)], source)
    curves = [row for row in rows if isinstance(row, CurveRow)]
    assert all(row.accuracy is None and row.r2 is not None for row in curves)
    train = [row for row in curves if row.split == "train"]
    assert all(row.r2 == pytest.approx(1 - row.loss, abs=1e-6) for row in train)  # train's targets have variance 1
    o = end.outcome
    assert o.val_accuracy_best is o.test_accuracy_last is None
    assert o.gap == pytest.approx((o.train_r2_best or 0) - (o.val_r2_best or 0))


def test_a_target_that_never_changes_has_an_r2_of_0_unless_it_is_met() -> None:
    source = plane(columns=1)
    flat = replace(source, targets=torch.full_like(source.targets, 7))
    _, (end,) = train_rows([make(data=SINE)], flat)
    assert end.outcome.val_r2_last == 0
    assert end.outcome.target_scale == [1]


def test_early_stopping_may_watch_r2() -> None:
    source = load(SINE)
    watch = s.EarlyStopping(patience=3, min_delta=10, monitor="val_r2")
    (rows,), (end,) = train_rows([make(data=SINE, trainer={"epochs": 9, "early_stopping": watch})], source)
    val = [row.r2 for row in rows if isinstance(row, CurveRow) and row.split == "val"]
    assert end.outcome.stop_reason == "patience"
    assert (end.outcome.best_epoch, end.outcome.last_epoch) == (0, 3)
    assert end.outcome.val_r2_best == val[0]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"reg": s.Reg(label_smoothing=s.LabelSmoothing(0.1))}, "reg.label_smoothing.value"),
        ({"data": replace(SINE, label_noise=0.1)}, "data.label_noise"),
        ({"data": replace(SINE, label_noise_val=0.1)}, "data.label_noise_val"),
        (
            {"trainer": {"early_stopping": s.EarlyStopping(monitor="val_accuracy")}},
            "trainer.early_stopping.monitor",
        ),
    ],
)
def test_what_is_for_classes_is_refused(changes: dict[str, object], key: str) -> None:
    run = make(**({"data": SINE} | changes))
    [problem] = checks.data_conflicts(run, 100, (1,), is_regression=True)
    assert problem.startswith(f"{key}: ")


@pytest.mark.parametrize("changes", [{"loss": "huber"}, {"early_stopping": s.EarlyStopping(monitor="val_r2")}])
def test_what_is_for_regression_is_refused_for_classes(changes: dict[str, object]) -> None:
    [problem] = checks.data_conflicts(make(trainer=changes), 100, (1, 8, 8), is_regression=False)
    assert problem.startswith(("trainer.loss: ", "trainer.early_stopping.monitor: "))


def test_a_missing_number_is_taken_for_the_median_of_train() -> None:
    source = plane()
    inputs = source.inputs.clone()
    inputs[::3, 1] = torch.nan
    source = replace(source, inputs=inputs)
    own = split(source, SINE, make().seeds)
    known = inputs[own.train, 1]
    assert own.fill.tolist() == [0, float(known[~known.isnan()].median()), 0]
    filled = torch.where(inputs.isnan(), own.fill, inputs)
    _, (end,) = train_rows([make(data=SINE)], source)
    _, (other,) = train_rows([make(data=SINE)], replace(source, inputs=filled))
    assert end.outcome == other.outcome


def test_a_run_and_a_sweep_leave_tables_with_r2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data=sine", "data.samples=200", "trainer.epochs=2", "trainer.progress=none"]
    assert main([*words, "hydra.run.dir=run"]) == 0
    with Path("run/curves.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["accuracy"] == "" and row["r2"] for row in csv.DictReader(file))
    network, source = reading.load(Path("run")), load(s.Sine(samples=200))
    (summary,) = reading.read(Path("run")).summary.to_dict("records")
    predicted = network(source.inputs[source.test]).detach().double()
    assert summary["test_r2_best"] == pytest.approx(r2_score(source.targets[source.test], predicted), abs=1e-5)
    assert main(["-m", *words, "optimizer.lr=0.01,1e-5", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    table = pd.read_csv("sweep/effects.csv", na_values=["none"])
    assert table["val_accuracy_best_mean"].isna().all()
    assert table["val_r2_best_mean"].is_monotonic_decreasing
    assert table["optimizer.lr"].tolist() == [0.01, 1e-5]
