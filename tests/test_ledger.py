"""Looks at test: each is counted once, however commands end; and what luck alone makes of the best."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regrun import ledger, stats
from regrun.cli import main
from regrun.ledger import Read

SMALL = ["model=shallow", "model.width=8", "trainer.progress=none", "trainer.epochs=2"]
SWEEP = ["-m", *SMALL, "optimizer.lr=0.01,0.03", "seed=range(2)", "hydra.sweep.dir=s", "sweep.stack_size=2"]
TIMED = ["seconds", "examples_per_second", "peak_memory_bytes"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(path: str) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def counts(root: str = "s") -> list[tuple[str, int, int, int]]:
    """by, new runs, runs and configurations of each look."""
    return [(row.by, row.new_runs, row.runs, row.configurations) for row in ledger.ledger(Path(root))]


def read(configuration: int, accuracy: float, number: int) -> Read:
    return Read(str(number), 0, (str(configuration),), has_curve=False, accuracy=accuracy, r2=math.nan)


def test_a_sweep_is_a_look_and_a_command_that_finds_all_finished_is_none() -> None:
    assert main(SWEEP) == 0
    assert main(SWEEP) == 0 and main(["resume", "s"]) == 0
    assert counts() == [("sweep", 4, 4, 2)]
    assert table("s/ledger.csv").drop(columns="when").to_numpy().tolist() == [["1", "sweep", "4", "4", "2", "0"]]


def test_what_is_trained_later_is_a_look_of_its_own_and_no_run_counts_twice() -> None:
    assert main(SWEEP) == 0
    shutil.rmtree("s/stacks/00001")
    ledger.look(Path("s"), "resume")  # of a command that was killed before its first stack
    assert main(["resume", "s"]) == 0
    assert counts() == [("sweep", 2, 2, 1), ("resume", 2, 4, 2)]
    shutil.copytree("s/stacks/00000", "s/stacks/00009")  # the same runs, tried again
    assert main(["collect", "s"]) == 0
    assert counts() == [("sweep", 2, 2, 1), ("resume", 2, 4, 2)]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="kills a process and its workers")
def test_a_killed_sweep_has_its_look_and_loses_no_run() -> None:
    command = [*SWEEP, "seed=range(4)", "trainer.epochs=30", "trainer.early_stopping.patience=null", "sweep.workers=1"]
    process = subprocess.Popen([sys.executable, "-m", "regrun", *command], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(Path("s").glob("stacks/00001/summary.csv")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = counts()
    assert [row[0] for row in before] == ["sweep"] and 2 <= before[0][1] < 8
    assert main(["resume", "s"]) == 0
    (_, first, _, _), (by, second, runs, settings) = counts()
    assert (by, first + second, runs, settings) == ("resume", 8, 8, 2)
    assert first >= before[0][1]


def test_a_folder_without_a_list_of_looks_has_one_look_at_an_unknown_time() -> None:
    assert main(SWEEP) == 0
    Path("s/looks.csv").unlink()
    assert counts() == [("sweep", 4, 4, 2)]
    assert ledger.ledger(Path("s"))[0].when is None


def test_an_ensemble_is_a_look_at_runs_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "trainer.save=predictions"]) == 0
    assert main(["ensemble", "s"]) == 0 and main(["ensemble", "s", "--all"]) == 0
    assert counts() == [("sweep", 4, 4, 2), ("ensemble", 0, 4, 2), ("ensemble", 0, 4, 2)]
    assert "test: look 3, 2 configurations tried; the best of 2 by luck alone" in capsys.readouterr().out


def test_a_single_run_is_a_look_and_its_ensemble_of_snapshots_another() -> None:
    lines = ["scheduler=cosine_restarts", "scheduler.t_0=1", "trainer.save=snapshots", "hydra.run.dir=r"]
    assert main([*SMALL, *lines]) == 0
    assert counts("r") == [("run", 1, 1, 1)]
    assert main(["ensemble", "r"]) == 0
    assert counts("r") == [("run", 1, 1, 1), ("ensemble", 0, 1, 1)]


def test_every_table_of_a_sweep_ends_with_its_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "trainer.progress=plain"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("test: look 1, 2 configurations tried; the best of 2 by luck alone is expected about ")
    assert last == ledger.line(Path("s")) and last.endswith(", n = 2)")


def test_every_command_that_shows_test_figures_tells_the_looks(capsys: pytest.CaptureFixture[str]) -> None:
    whole = ["trainer.early_stopping.patience=null", "trainer.save=predictions", "seed=range(3)"]
    assert main([*SWEEP, *whole]) == 0
    expected = ledger.line(Path("s"))
    assert "; the best of 2 by luck alone is expected about " in expected
    commands = ["compare s", "stopping s", "check s --against s", "report s --terminal", "ensemble s"]
    for command in commands:
        capsys.readouterr()
        assert main(command.split()) == 0
        told = expected.replace("look 1", "look 2") if command == "ensemble s" else expected
        assert told[1:] in capsys.readouterr().out, command
    assert main(["report", "s"]) == 0
    assert Path("s/report.html").read_text(encoding="utf-8").count(expected[1:].replace("look 1", "look 2")) == 2


def test_tables_that_came_without_their_stacks_are_a_look() -> None:
    assert main(SWEEP) == 0
    before = ledger.line(Path("s"))
    shutil.rmtree("s/stacks")
    assert ledger.line(Path("s")) == before
    Path("s/summary.csv").rename("table.csv")
    assert ledger.line(Path("table.csv")) == before


def test_folders_count_alone_unless_they_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP) == 0 and main([*SWEEP, "optimizer.lr=0.03,0.1", "hydra.sweep.dir=t"]) == 0
    capsys.readouterr()
    assert main(["ledger", "s"]) == 0
    assert "test: look 1, 2 configurations tried;" in capsys.readouterr().out
    assert main(["ledger", "s", "t"]) == 0  # they share the setting with lr 0.03
    assert "test: look 2, 3 configurations tried;" in capsys.readouterr().out


def test_one_setting_has_no_luck_and_one_seed_does_not_say_how_much() -> None:
    assert main([*SWEEP, "optimizer.lr=0.01"]) == 0
    assert ledger.line(Path("s")) == "test: look 1, 1 configuration tried"
    assert main([*SWEEP, "seed=0", "hydra.sweep.dir=t"]) == 0
    assert "takes several seeds of each to know" in ledger.line(Path("t"))


def test_the_luck_that_is_told_is_that_of_equals() -> None:
    """2,000 sweeps of 12 equal settings with 3 seeds each: how far the best mean lies above the mean of all."""
    draw = np.random.default_rng(0).normal(0.9, 0.01, (2000, 12, 3))
    seen = float((draw.mean(2).max(1) - draw.mean((1, 2))).mean())
    own = [[read(k, float(a), 3 * k + i) for k, row in enumerate(d) for i, a in enumerate(row)] for d in draw[:200]]
    told = [stats.expected_luck(12) * sd / math.sqrt(n) for sd, n, _ in map(ledger.spread, own)]
    assert float(np.mean(told)) == pytest.approx(seen, rel=0.05)


def test_the_spread_is_pooled_within_settings() -> None:
    own = [read(0, 0.1, 0), read(0, 0.3, 1), read(1, 0.9, 2), read(1, 0.9, 3), read(1, 0.9, 4), read(2, 0.5, 5)]
    sd, n, name = ledger.spread(own)
    assert (sd, n, name) == (pytest.approx(math.sqrt(0.02 / 3)), pytest.approx(3 / (1 / 2 + 1 / 3 + 1)), "accuracy")


def test_a_test_curve_adds_its_rows_and_changes_no_other() -> None:
    more = [*SWEEP, "reg=dropout", "trainer.early_stopping.patience=1", "trainer.epochs=6"]
    assert main(more) == 0 and main([*more, "trainer.test_curve=true", "hydra.sweep.dir=t"]) == 0
    with_test = Path("t/curves.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    assert "".join(r for r in with_test if ",test," not in r) == Path("s/curves.csv").read_text(encoding="utf-8")
    for name in ("epochs", "layers", "summary"):
        own, other = (
            table(f"{f}/{name}.csv").drop(columns=[*TIMED, "trainer.test_curve"], errors="ignore") for f in "st"
        )
        pd.testing.assert_frame_equal(own, other)
    curves, summary = pd.read_csv("t/curves.csv"), pd.read_csv("t/summary.csv")
    for run in summary.itertuples():
        test = curves[(curves.run_id == run.run_id) & (curves.split == "test")].set_index("epoch").accuracy
        assert len(test) == run.last_epoch + 1
        assert (test[run.best_epoch], test[run.last_epoch]) == (run.test_accuracy_best, run.test_accuracy_last)
    assert ledger.ledger(Path("t"))[0].test_curves == 4
    assert "2 configurations tried, 4 test curves; " in ledger.line(Path("t"))


def test_a_test_curve_is_not_what_the_screen_shows(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for value in ("false", "true"):
        argv = [*SMALL, "trainer.progress=plain", f"trainer.test_curve={value}", f"hydra.run.dir={value}"]
        assert main(argv) == 0
        told.append(capsys.readouterr().out.splitlines()[:-1])
    assert told[0] == told[1]


def test_a_list_of_somebody_elses_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP) == 0
    Path("s/looks.csv").write_text("when,by,stacks\nnow,magic,0\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["ledger", "s"]) == 3
    assert capsys.readouterr().err == (
        "regrun: s/looks.csv: is no list of regrun's; remove it, and the looks at test are one\n"
    )
