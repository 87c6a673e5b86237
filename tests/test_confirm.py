"""The best setting of a sweep from fresh seeds."""

from pathlib import Path

import pandas as pd
import pytest

from regrun import confirm, ledger, plan
from regrun.cli import main

SMALL = ["model=shallow", "model.width=8", "trainer.progress=none", "trainer.epochs=3"]
SWEEP = ["-m", *SMALL, "optimizer.lr=0.0001,0.03", "seed=range(2)", "seeds.split=7", "hydra.sweep.dir=s"]


@pytest.fixture(autouse=True)
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(SWEEP) == 0


def test_the_best_by_val_is_trained_from_seeds_that_the_sweep_never_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["confirm", "s", "--seeds", "3"]) == 0
    runs = plan.rows(Path("s/confirm"))
    assert [[row["optimizer.lr"], row["seed"], row["seeds.split"], row["seeds.init"]] for row in runs] == [
        ["0.03", seed, seed, seed] for seed in ("8", "9", "10")
    ]
    first, *table, _, looks = capsys.readouterr().out.splitlines()
    assert looks == ledger.line(Path("s"), Path("s/confirm")) and looks.startswith(
        "test: look 2, 2 configurations tried"
    )
    assert first == "chosen by val from 2 settings: optimizer.lr=0.03"
    assert [line.split()[:-1][: 2 + (i < 2)] for i, line in enumerate(table[1:])]
    before, fresh = (pd.read_csv(f"{folder}/effects.csv").iloc[0] for folder in ("s", "s/confirm"))
    lost = 100 * (before.val_accuracy_best_mean - fresh.val_accuracy_best_mean)
    assert table[-1].split()[:3] == ["shrinkage", f"{lost:.1f}", "points"]
    assert f"{100 * fresh.val_accuracy_best_mean:.1f} % [{100 * fresh.val_accuracy_best_low:.1f}, " in table[2]


def test_the_same_command_again_trains_nothing_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["confirm", "s", "--seeds", "2"]) == 0
    told = capsys.readouterr().out
    stacks = sorted(Path("s/confirm/stacks").iterdir())
    assert main(["confirm", "s", "--seeds", "2"]) == 0
    assert capsys.readouterr().out == told and sorted(Path("s/confirm/stacks").iterdir()) == stacks
    assert main(["confirm", "s", "--seeds", "3"]) == 2
    assert capsys.readouterr().err == (
        "regrun: confirm: has another setting or other seeds, got s/confirm; remove it to confirm anew\n"
    )


def test_what_may_change_is_how_it_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["confirm", "s", "optimizer.lr=1"]) == 2
    assert capsys.readouterr().err.startswith("regrun: confirm: a sweep keeps its plan, got 'optimizer.lr=1'; ")
    assert not Path("s/confirm").exists()
    assert main(["confirm", "s", "--seeds", "2", "sweep.workers=1"]) == 0


def test_the_sweeps_own_tables_are_as_they_were() -> None:
    names = ("summary.csv", "effects.csv", "curves.csv", "ledger.csv", "plan.csv")
    before = [Path("s", name).read_bytes() for name in names]
    assert main(["confirm", "s", "--seeds", "2"]) == 0
    assert [Path("s", name).read_bytes() for name in names] == before
    assert confirm.winner(Path("s")).settings == 2
