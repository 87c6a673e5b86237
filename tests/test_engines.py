"""One sweep, any launcher: the same tables, the same mistakes refused, a dead worker costs its stack only."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

import regrun
from regrun import records
from regrun.cli import main
from regrun.engines.local import LocalEngine
from regrun.engines.tasks import Task

SWEEP = ["-m", "model=shallow", "model.width=24", "trainer.progress=plain", "trainer.epochs=3", "seed=range(4)"]
TIMED = ["seconds", "examples_per_second", "peak_memory_bytes"]
TABLES = ("summary", "curves", "epochs", "layers")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(folder: str, name: str) -> pd.DataFrame:
    """A table's cells as text, without what time changes."""
    return pd.read_csv(f"{folder}/{name}.csv", dtype=str).drop(columns=TIMED, errors="ignore")


def begun_by(stack: str) -> int:
    """The process that trains a stack, once it has begun."""
    log = Path(f"s/stacks/{stack}/run.log")
    while not (log.is_file() and (found := re.match(r"begun by process (\d+)", log.read_text()))):
        time.sleep(0.02)
    return int(found[1])


def kill_worker(stack: str) -> threading.Thread:
    """Kill the process that trains a stack as soon as its first epochs are on disk."""

    def kill() -> None:
        process, curves = begun_by(stack), Path(f"s/stacks/{stack}/curves.csv")
        while not (curves.is_file() and curves.read_text().count("\n") > 5):
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_hydras_own_launchers_give_the_same_tables(launcher: str) -> None:
    assert main([*SWEEP, "hydra.sweep.dir=local"]) == 0
    assert main([*SWEEP, f"hydra/launcher={launcher}", "hydra.sweep.dir=other"]) == 0
    for name in TABLES:
        pd.testing.assert_frame_equal(table("local", name), table("other", name))
    assert len(list(Path("other/stacks").iterdir())) == len(list(Path("local/stacks").iterdir()))
    assert not list(Path("other").rglob(".hydra"))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="kills a process of loky")
def test_a_killed_worker_of_joblib_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = [*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s"]
    thread = kill_worker("00000")
    assert main([*line, "trainer.epochs=60", "trainer.early_stopping.patience=null"]) == 0
    thread.join()
    assert "TerminatedWorkerError in hydra/launcher=joblib" in capsys.readouterr().out
    assert list(regrun.read(Path("s")).summary.status) == ["ok"] * 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["-m", "hydra/launcher=slrm"], "hydra/launcher: no such option, got 'slrm'; did you mean slurm; choose from"),
        (["-m", "hydra/launcher=slurm", "hydra.launcher.jobs=0"], "hydra.launcher.jobs: must be a whole number in"),
        (["-m", "hydra/launcher=local,slurm"], "hydra/launcher: is the same for all runs, got"),
        (["hydra/launcher=slurm"], "hydra/launcher: is about the runs of a sweep, got 'hydra/launcher=slurm'; add -m"),
        (["-m", "hydra.launcher._target_=os.system"], "hydra.launcher._target_: has no effect here"),
        (["-m", "hydra/launcher=ray", "sweep.workers=2"], "sweep.workers: is for hydra/launcher=local, got ray"),
        (["-m", "hydra/launcher=joblib", "sweep.run_timeout=2"], "sweep.run_timeout: hydra/launcher=joblib cannot end"),
    ],
)
def test_a_mistaken_launcher_is_one_line(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"regrun: {message}") and len(error.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_a_resumed_sweep_must_be_told_its_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder may come from anywhere: it decides what is trained, never what runs it."""
    assert main([*SWEEP, "hydra/launcher=basic", "hydra.sweep.dir=s"]) == 0
    capsys.readouterr()
    assert main(["resume", "s"]) == 2
    assert capsys.readouterr().err.startswith("regrun: resume: this sweep was launched by basic; add hydra/launcher=")
    assert main(["resume", "s", "hydra/launcher=local"]) == 0


def test_each_worker_sees_a_gpu_of_its_own_until_there_are_more_workers() -> None:
    engine = LocalEngine(3, gpus=["4", "GPU-77"])
    tasks = [Task(Path(f"stacks/{i}"), ()) for i in range(3)]
    for task in tasks:
        records.claim(task.folder)
        engine.start(task)
    ended = []
    while len(ended) < 3:
        ended += engine.wait(1)
    engine.close()
    assert {why for _, why in ended} == {None}
    logs = [(task.folder / "run.log").read_text().splitlines()[0] for task in tasks]
    assert [line.rpartition(", GPU ")[2] for line in logs] == ["4", "GPU-77", "4"]
