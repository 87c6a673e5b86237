"""What each seed makes of the variance: additive components come back, and what does nothing is exactly 0."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make

from regrun import components, records, settings, variance
from regrun import settings as s
from regrun.cli import main
from regrun.components import Component
from regrun.overrides import Cells
from regrun.settings import PURPOSES, Settings
from regrun.variance import TOGETHER

SMALL = ["model=shallow", "model.width=8", "trainer.progress=none", "trainer.epochs=1"]
SD = {"init": 3.0, "order": 1.0, "split": 2.0, "dropout": 0.5, "augment": 1.5}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells(run: Settings) -> Cells:
    return {name: records.cell(value) for name, value in settings.flatten(run).items()}


def additive(run: Settings, draw: Callable[[str, int], float]) -> float:
    """A figure to which each seed adds its own normal draw."""
    return sum(SD.get(p, 0.0) * draw(p, getattr(run.seeds, p)) for p in PURPOSES)


def draws(seed: int) -> Callable[[str, int], float]:
    table = {p: np.random.default_rng([seed, i]).normal(size=3000) for i, p in enumerate(PURPOSES)}
    return lambda purpose, at: float(table[purpose][at])


def shares(runs: list[Settings], draw: Callable[[str, int], float]) -> dict[str, s.Any]:
    found = variance._rows("val_accuracy_best", [(cells(run), additive(run, draw)) for run in runs])
    return {row.source: row for row in found}


def test_additive_figures_give_back_their_components() -> None:
    runs = variance.design(
        make(reg=s.Reg(dropout=s.Dropout(rate=0.5), mixup=s.Mixup(alpha=1.0))), contexts=4, seeds=100
    )
    found, whole = shares(runs, draws(0)), sum(sd**2 for sd in SD.values())
    for purpose, sd in SD.items():
        assert found[purpose].variance == pytest.approx(sd**2, rel=0.25)
        assert found[purpose].share == pytest.approx(sd**2 / whole, rel=0.35)
    assert found[TOGETHER].variance == pytest.approx(whole, rel=0.25)
    assert sum(found[purpose].share for purpose in SD) == pytest.approx(1, abs=0.2)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 400 simulated studies; 4 standard errors of a share are 0.044."""
    runs, whole, hits = (
        variance.design(make(), contexts=3, seeds=5),
        SD["init"] ** 2 + SD["order"] ** 2 + SD["split"] ** 2,
        [],
    )
    rows = [cells(run) for run in runs]
    for seed in range(400):
        draw = draws(seed)
        quiet = {p: SD[p] if p not in ("dropout", "augment") else 0.0 for p in SD}
        figures = [sum(quiet.get(p, 0) * draw(p, getattr(run.seeds, p)) for p in PURPOSES) for run in runs]
        found = {row.source: row for row in variance._rows("val_accuracy_best", list(zip(rows, figures, strict=True)))}
        split = found["split"]
        hits.append((split.variance_low < 4 < split.variance_high, split.share_low < 4 / whole < split.share_high))
    assert np.mean(hits, axis=0) == pytest.approx([0.95, 0.95], abs=0.044)


def test_in_a_full_grid_of_seeds_each_component_is_that_of_its_own_draws() -> None:
    draw = draws(1)
    grid = [make(seeds=s.Seeds(init=i, order=j)) for i in range(4) for j in range(5)]
    found = shares(grid, draw)
    assert (found["init"].groups, found["order"].groups, found[TOGETHER].runs) == (5, 4, 4)
    assert found["init"].variance == pytest.approx(9 * np.var([draw("init", i) for i in range(4)], ddof=1))
    assert found["order"].variance == pytest.approx(np.var([draw("order", i) for i in range(5)], ddof=1))


def test_equal_values_have_a_variance_of_exactly_0() -> None:
    assert components.within([[0.1] * 7, [1 / 3] * 5]) == Component(0.0, 10)
    assert components.share(Component(0.0, 10), Component(2.0, 5)) == (0.0, 0.0, 0.0)
    assert math.isnan(components.share(Component(0.0, 10), Component(0.0, 5)).mean)


def test_a_seed_that_nothing_draws_from_has_a_share_of_exactly_0() -> None:
    assert main(["-m", *SMALL, "seeds.augment=range(3)", "seeds.init=range(3)", "hydra.sweep.dir=s"]) == 0
    assert main(["variance", "s"]) == 0
    table = pd.read_csv("s/variance.csv").set_index(["measure", "source"])
    for measure in ("val_accuracy_best", "test_accuracy_best"):
        row = table.loc[(measure, "augment")]
        assert (row.variance, row.share, row.groups, row.runs) == ("0.0", "0.0", 3, 9)
        assert float(table.loc[(measure, "init")].share) > 0
        assert table.loc[(measure, "order")].share == "none"


@pytest.mark.parametrize(
    ("changes", "purposes"),
    [
        ({}, {"init", "order", "split"}),
        ({"reg": s.Reg(dropout=s.Dropout(rate=0.1))}, {"init", "order", "split", "dropout"}),
        ({"reg": s.Reg(mixup=s.Mixup(alpha=1.0))}, {"init", "order", "split", "augment"}),
        ({"data": s.Digits(label_noise=0.1, bootstrap=True)}, {"init", "order", "split", "noise", "bootstrap"}),
        ({"data": s.Digits(split="tail")}, {"init", "order"}),
    ],
)
def test_only_seeds_that_are_drawn_from_are_varied(changes: dict[str, s.Any], purposes: set[str]) -> None:
    run = make(**changes)
    runs = variance.design(run, contexts=2, seeds=3)
    assert set(settings.drawn(run)) == purposes
    assert len(runs) == 2 + 6 + 2 * 2 * len(purposes)
    assert len({tuple(cells(r).items()) for r in runs}) == len(runs)
    for purpose in PURPOSES:
        assert len(variance.alone(purpose, [(cells(r), 0.0) for r in runs])) == 2 * (purpose in purposes)


def test_the_command_trains_tells_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["variance", *SMALL, "reg=dropout", "hydra.sweep.dir=v", "--contexts", "2", "--seeds", "2"]
    assert main(argv) == 0
    first = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in first[1:6]] == [
        ["val_accuracy", purpose, *counts]
        for purpose, counts in {p: ["2", "4"] for p in ("init", "order", "split", "dropout")}.items()
    ] + [["val_accuracy", "augment", "0", "0"]]
    before = Path("v/variance.csv").read_bytes()
    assert main(argv) == 0 and main(["variance", "v"]) == 0
    assert Path("v/variance.csv").read_bytes() == before
    assert len(pd.read_csv("v/summary.csv")) == 2 + 4 + 8


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["variance", "seeds.split=3"], "seeds.split: is what variance varies, got 3; leave it out"),
        (["variance", "optimizer.lr=0.1,0.2"], "variance: is of one setting, got 2; give each key one value"),
        (["variance", "--seeds", "1"], "--seeds: must be in [2, 1000], got 1"),
        (["variance", "--contexts", "0"], "--contexts: must be in [1, 1000], got 0"),
        (["variance", "-m"], "variance: is of one setting, got -m; leave it out"),
        (["variance", "nowhere"], "variance: must be followed by the folder of a sweep, got 'nowhere'"),
        (["seed=1", "--seeds", "3"], "--seeds: is for regrun confirm or regrun variance; leave it out"),
        (["confirm", ".", "--contexts", "3"], "--contexts: is for regrun variance; leave it out"),
        (["confirm"], "confirm: must be followed by the folder of a sweep, got nothing"),
        (["ledger"], "ledger: must be followed by the folder of a run or a sweep, got nothing"),
        (["ledger", "."], "ledger: must be followed by folders of runs or sweeps, got '.'"),
    ],
)
def test_a_mistake_is_a_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err == f"regrun: {says}\n"
    assert list(folder.iterdir()) == []


def test_a_sweep_in_which_all_seeds_vary_together_does_not_tell_them_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *SMALL, "seed=range(2)", "hydra.sweep.dir=s"]) == 0
    assert main(["variance", "s"]) == 3
    assert "has no finished runs that differ in one of seeds.* alone" in capsys.readouterr().err
