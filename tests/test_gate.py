"""`regrun check`: honest reruns pass, planted faults are caught, and a false alarm is as rare as the level says."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from regrun import gate, measure, optim, schedules
from regrun.cli import main
from regrun.data.batches import Batches
from regrun.measure import Score
from regrun.stack import Stack

FULL = "trainer.early_stopping.patience=null"
SMALL = ["model=shallow", "model.width=32", "trainer.progress=none", "trainer.epochs=5", FULL, "optimizer.lr=0.01"]
REGULARIZED = [*SMALL, "reg=[dropout,weight_decay]", "reg.dropout.rate=0.5", "reg.weight_decay.value=0.3"]
COSINE = [*REGULARIZED, "scheduler=cosine"]
STEP = [*REGULARIZED, "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5"]


def sweep(root: Path, words: list[str], seeds: str) -> Path:
    """A sweep over seeds; its folder."""
    assert main(["-m", *words, f"seed={seeds}", f"hydra.sweep.dir={root}"]) == 0
    return root


@pytest.fixture(scope="module")
def cosine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline: ten seeds."""
    return sweep(tmp_path_factory.mktemp("baseline") / "s", COSINE, "range(10)")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, whose learning rate is halved after every second epoch."""
    return sweep(tmp_path_factory.mktemp("baseline") / "s", STEP, "range(10)")


def checked(root: Path, against: Path, code: int, *options: str) -> pd.DataFrame:
    """check.csv of a check that ends with `code`."""
    assert main(["check", str(root), "--against", str(against), *options]) == code
    return pd.read_csv(root / "check.csv", na_values=["none"])


def off(table: pd.DataFrame) -> set[str]:
    """The figures that are off."""
    return set(table[~table.holds].figure)


def with_dropout(stack: Stack, split: str, meter: Any = None) -> list[Score]:
    """Evaluation in training mode."""
    return measure.monte_carlo(stack, split, 1)


def without_decay(weights: Tensor, at: Any, value: Tensor) -> None:
    """No decay, though it was asked for."""


def a_step_late(
    scheduler: Any, lr: float, *, epoch: int, epochs: int, steps: int, _own: Any = schedules.epoch_lrs
) -> Any:
    """The schedule's rates, an epoch early."""
    return _own(scheduler, lr, epoch=epoch + 1, epochs=epochs, steps=steps)


def shuffled(self: Batches, *arguments: Any, _own: Any = Batches.train_batch, **options: Any) -> tuple[Tensor, Tensor]:
    """Each example with its neighbour's label."""
    x, targets = _own(self, *arguments, **options)
    return x, targets.roll(1, dims=1)


FAULTS: dict[str, tuple[Any, str, Any, set[str]]] = {
    "eval forgotten": (measure, "evaluate", with_dropout, {"val_loss_best", "test_accuracy_best", "train_loss_last"}),
    "decay dropped": (optim, "decay", without_decay, {"weight_norm"}),
    "schedule off by one": (schedules, "epoch_lrs", a_step_late, {"lr_first", "lr_first@epoch_1", "lr_last@epoch_5"}),
    "labels shuffled": (Batches, "train_batch", shuffled, {"val_accuracy_best", "test_accuracy_best", "val_loss_best"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(cosine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """By three runs and by a single one, whose settings say nothing of it."""
    where, name, faulty, signs = FAULTS[fault]
    monkeypatch.setattr(where, name, faulty)
    three = sweep(tmp_path / "three", COSINE, "100,101,102")
    one = tmp_path / "one"
    assert main([*COSINE, "seed=103", f"hydra.run.dir={one}"]) == 0
    monkeypatch.undo()
    for root in (three, one):
        found = checked(root, cosine, 1)
        assert signs <= off(found)
        assert set(pd.read_csv(root / "summary.csv")["reg.weight_decay.value"]) == {0.3}
        print(fault, root.name, off(found))


def test_honest_reruns_pass(cosine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = sweep(tmp_path / "three", COSINE, "100,101,102")
    one = tmp_path / "one"
    assert main([*COSINE, "seed=103", f"hydra.run.dir={one}"]) == 0
    for root, m in ((three, 3), (one, 1)):
        capsys.readouterr()
        found = checked(root, cosine / "summary.csv", 0)
        assert set(found[found.rule != "equal"].m) == {m}
        assert "passed: " in capsys.readouterr().out.splitlines()[-1]


def test_the_baselines_own_runs_pass(cosine: Path) -> None:
    found = checked(cosine, cosine, 0)
    assert np.allclose(found["mean"], found.baseline)
