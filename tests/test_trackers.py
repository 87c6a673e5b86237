"""Trackers hold what the tables hold, once; the tables never know of them; what fails is told and made up for."""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regrun import foreign, settings, tracking
from regrun.trackers import mlflow, wandb

PACKAGES = [package for packages in settings.TRACKERS.values() for package in packages]
pytestmark = [
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, PACKAGES)),
        reason='needs pip install "regrun[tensorboard,mlflow,wandb]"',
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the packages', of themselves
]

ALL = "trainer.trackers=[tensorboard,mlflow,wandb]"
SMALL = ["model=shallow", "model.width=8", "trainer.epochs=3", "trainer.progress=plain"]
SWEEP = ["-m", *SMALL, "hydra.sweep.dir=s", "optimizer=sgd", "optimizer.lr=0.1,1e36", "seed=0,1"]  # half of it diverges
TIMED = ["seconds", "examples_per_second", "peak_memory_bytes", "seconds_mean", "seconds_sd", "seconds_low"]
Figures = dict[tuple[str, int], float]  # (name, epoch) -> value
Limit = Callable[[], None]


def regrun(folder: Path, *words: str, code: int = 0, limit: Limit | None = None, **environment: str) -> str:
    """What the command prints on stderr, after it ended as it should."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "WANDB"))} | environment
    command = [sys.executable, "-m", "regrun", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def tables(folder: Path) -> dict[str, str]:
    """Every table of runs as text, without what time changes, and which trackers were asked for."""
    paths = [path for path in folder.glob("*.csv") if path.name not in ("ledger.csv", "looks.csv")]
    found = {path.name: pd.read_csv(path, dtype=str, keep_default_na=False) for path in paths}
    drop = [*TIMED, "seconds_high", "trainer.trackers"]
    return {name: table.drop(columns=drop, errors="ignore").to_csv() for name, table in found.items()}


def cells(folder: Path, run_id: str) -> Figures:
    """Every number of the run's rows of the three tables by epoch, by the names that are documented."""
    found: Figures = {}
    for table in ("curves", "epochs", "layers"):
        for row in foreign.rows(folder / f"{table}.csv"):
            group = row.get("split") or (f"layers/{row['layer']}" if "layer" in row else "epochs")
            numbers = {
                k: v
                for k, v in row.items()
                if k not in ("run_id", "epoch", "split", "layer", "kind") and v not in ("", "none")
            }
            if row["run_id"] == run_id:
                found |= {(f"{group}/{k}", int(row["epoch"])): float(v) for k, v in numbers.items()}
    return found


def summary(folder: Path) -> dict[str, dict[str, str]]:
    return {row["run_id"]: row for row in foreign.rows(folder / "summary.csv")}


def in_tensorboard(folder: Path) -> dict[str, Figures]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, Figures] = {}
    for path in folder.glob("tensorboard/*"):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        tags = events.Tags()["scalars"]
        scalars = [(tag, e.step, e.value) for tag in tags for e in events.Scalars(tag)]
        assert len(scalars) == len({(tag, step) for tag, step, _ in scalars})
        found[path.name] = {(tag, step): value for tag, step, value in scalars}
    return found


def in_mlflow(folder: Path) -> tuple[dict[str, Figures], dict[str, Any]]:
    """The figures by epoch, and the runs themselves."""
    os.environ |= mlflow.ENVIRONMENT
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("regrun")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    named = {run.data.tags["regrun.run_id"]: run for run in runs}
    assert len(named) == len(runs)
    found: dict[str, Figures] = defaultdict(dict)
    for run_id, run in named.items():
        for name in (name for name in run.data.metrics if "/" in name):
            history = client.get_metric_history(run.info.run_id, name)
            assert len(history) == len({m.step for m in history})
            found[run_id] |= {(name, m.step): m.value for m in history}
    return found, named


def in_wandb(folder: Path) -> tuple[dict[str, Figures], dict[str, dict[str, str]]]:
    """The figures by epoch, and the JSON of each run's configuration and summary by name."""
    found: dict[str, Figures] = {}
    words: dict[str, dict[str, str]] = {}
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        held = list(wandb.read(path))
        (run_id,) = [r.run.display_name for r in held if r.HasField("run")]
        assert run_id not in found
        found[run_id], words[run_id] = {}, {}
        for history in (r.history for r in held if r.HasField("history")):
            values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in history.item}
            own = {(name, values["_step"]): float(v) for name, v in values.items() if not name.startswith("_")}
            assert not own.keys() & found[run_id].keys()
            found[run_id] |= own
        updates = [i for r in held if r.HasField("run") for i in r.run.config.update]
        updates += [i for r in held if r.HasField("summary") for i in r.summary.update]
        words[run_id] = {"/".join(i.nested_key) or i.key: i.value_json for i in updates}
    return found, words


def odd(folder: Path) -> None:
    """Some figures of a run become what a run that diverges can have."""
    path = folder / "curves.csv"
    head, *lines = path.read_text().splitlines()
    for number, value in ((2, "nan"), (4, "inf"), (5, "-inf"), (6, "1e300")):
        parts = lines[number].split(",")
        lines[number] = ",".join([*parts[:4], value, *parts[5:]])
    path.write_text("\n".join([head, *lines, ""]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep with every tracker and one without any; beside the first a single run, and one with odd figures."""
    on, off = (tmp_path_factory.mktemp(name) for name in ("on", "off"))
    regrun(on, *SWEEP, ALL)
    regrun(off, *SWEEP)
    regrun(on, *SMALL, "optimizer=sgd", "optimizer.lr=0.1", "hydra.run.dir=single", ALL)
    (on / "odd").mkdir()
    for path in (on / "single").glob("*.csv"):
        (on / "odd" / path.name).write_bytes(path.read_bytes())
    odd(on / "odd")
    regrun(on, "track", "odd", "tensorboard", "mlflow", "wandb")
    return on / "s", off / "s"


def test_the_tables_are_the_same_with_trackers(pair: tuple[Path, Path]) -> None:
    on, off = (tables(folder) for folder in pair)
    assert set(on) == set(off) and len(on) == 6
    for name in off:
        assert on[name] == off[name], name


def test_tensorboard_holds_every_cell_in_float32(pair: tuple[Path, Path]) -> None:
    for folder in (pair[0], pair[0].parent / "odd"):
        found = in_tensorboard(folder)
        assert set(found) == set(summary(folder))
        for run_id, figures in found.items():
            with np.errstate(over="ignore"):
                expected = {key: float(np.float32(value)) for key, value in cells(folder, run_id).items()}
            np.testing.assert_equal(figures, expected)


def test_mlflow_holds_every_cell_in_float64(pair: tuple[Path, Path]) -> None:
    """But for an infinity, in place of which its database keeps the largest number."""
    most = float(np.finfo(np.float64).max)
    for folder in (pair[0], pair[0].parent / "odd"):
        found, _ = in_mlflow(folder)
        assert set(found) == set(summary(folder))
        for run_id, figures in found.items():
            expected = {k: most * np.sign(v) if np.isinf(v) else v for k, v in cells(folder, run_id).items()}
            np.testing.assert_equal(figures, expected)


def test_mlflow_holds_the_rest_of_the_summary(pair: tuple[Path, Path]) -> None:
    _, runs = in_mlflow(pair[0])
    for run_id, row in summary(pair[0]).items():
        run = runs[run_id]
        assert run.info.status == "FINISHED" and run.info.run_name == run_id
        assert run.data.params == {name: row[name] for name in settings.columns()}
        assert run.data.tags["status"] == row["status"] and run.data.tags["fingerprint"] == row["fingerprint"]
        own = {name: value for name, value in run.data.metrics.items() if "/" not in name}
        for name, value in own.items():
            np.testing.assert_equal(value, float(row[name]))
        assert {"test_accuracy_best", "best_epoch", "seconds"} <= set(own)


def test_wandb_holds_every_cell_in_float64(pair: tuple[Path, Path]) -> None:
    for folder in (pair[0], pair[0].parent / "odd"):
        found, _ = in_wandb(folder)
        np.testing.assert_equal(found, {run_id: cells(folder, run_id) for run_id in summary(folder)})


def test_wandb_holds_the_rest_of_the_summary(pair: tuple[Path, Path]) -> None:
    _, words = in_wandb(pair[0])
    for run_id, row in summary(pair[0]).items():
        assert words[run_id]["optimizer.lr"] == row["optimizer.lr"]
        assert float(words[run_id]["test_accuracy_best"]) == float(row["test_accuracy_best"])
        assert words[run_id]["status"] == f'"{row["status"]}"'


def test_who_asks_again_adds_nothing(pair: tuple[Path, Path]) -> None:
    folder = pair[0]
    ids = {run_id: run.info.run_id for run_id, run in in_mlflow(folder)[1].items()}
    files = {p: p.stat().st_mtime_ns for p in [*folder.glob("tensorboard/*/*"), *folder.glob("wandb/*/*.wandb")]}
    regrun(folder, "resume", ".")
    assert ids == {run_id: run.info.run_id for run_id, run in in_mlflow(folder)[1].items()}
    assert files == {
        p: p.stat().st_mtime_ns for p in [*folder.glob("tensorboard/*/*"), *folder.glob("wandb/*/*.wandb")]
    }


def test_one_run_has_the_figures_of_its_sweep(pair: tuple[Path, Path]) -> None:
    folder = pair[0].parent / "single"
    (run_id,) = summary(folder)
    for found in (in_tensorboard, lambda folder: in_mlflow(folder)[0], lambda folder: in_wandb(folder)[0]):
        one, of_sweep = found(folder)[run_id], found(pair[0])[run_id]
        timeless = {k for k in one if not k[0].endswith(("/seconds", "/examples_per_second"))}
        assert set(one) == set(of_sweep)
        np.testing.assert_equal({k: one[k] for k in timeless}, {k: of_sweep[k] for k in timeless})


def test_a_curve_is_in_tensorboard_before_its_run_has_ended(tmp_path: Path) -> None:
    words = ["trainer.epochs=100000", "trainer.early_stopping.patience=null", "trainer.trackers=[tensorboard]"]
    command = [sys.executable, "-m", "regrun", *SMALL, *words, "hydra.run.dir=r"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        while not any(f.get(("val/loss", 3)) for f in in_tensorboard(tmp_path / "r").values()):
            assert process.poll() is None
            time.sleep(0.1)
        assert not summary_is_there(tmp_path / "r")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    finally:
        process.kill()
    (run_id,) = summary(tmp_path / "r")
    assert in_tensorboard(tmp_path / "r")[run_id].keys() == cells(tmp_path / "r", run_id).keys()


def test_a_run_that_goes_on_has_each_figure_once_in_tensorboard(tmp_path: Path) -> None:
    words = ["trainer.epochs=400", "trainer.early_stopping.patience=null", "trainer.trackers=[tensorboard]"]
    command = [sys.executable, "-m", "regrun", *SMALL, *words, "hydra.run.dir=r"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(f.get(("val/loss", 3)) for f in in_tensorboard(tmp_path / "r").values()):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    (run_id,) = summary(tmp_path / "r")
    before = max(epoch for _, epoch in in_tensorboard(tmp_path / "r")[run_id])
    regrun(tmp_path, "resume", "r")
    expected = {key: float(np.float32(value)) for key, value in cells(tmp_path / "r", run_id).items()}
    np.testing.assert_equal(in_tensorboard(tmp_path / "r")[run_id], expected)
    assert before < max(epoch for _, epoch in expected) == 400


def summary_is_there(folder: Path) -> bool:
    return (folder / "summary.csv").exists()


def test_a_stack_that_is_tried_again_is_tracked_once(tmp_path: Path) -> None:
    words = ["trainer.epochs=80", "trainer.early_stopping.patience=null", "seed=range(2)", "sweep.workers=1"]
    command = [sys.executable, "-m", "regrun", "-m", *SMALL, *words, ALL, "hydra.sweep.dir=s"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    log, curves = tmp_path / "s/stacks/00000/run.log", tmp_path / "s/stacks/00000/curves.csv"
    while not (curves.is_file() and curves.read_text().count("\n") > 20):
        assert process.poll() is None
        time.sleep(0.02)
    begun = re.match(r"begun by process (\d+)", log.read_text())
    assert begun is not None
    os.kill(int(begun[1]), signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 0 and "a stack of 2 ended early" in output
    folder = tmp_path / "s"
    for found in (in_tensorboard(folder), in_mlflow(folder)[0], in_wandb(folder)[0]):
        assert {run_id: set(figures) for run_id, figures in found.items()} == {
            run_id: set(cells(folder, run_id)) for run_id in summary(folder)
        }


def test_a_server_that_nobody_answers_at_costs_no_row(pair: tuple[Path, Path], tmp_path: Path) -> None:
    nobody = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    errors = regrun(tmp_path, *SWEEP, "trainer.trackers=[mlflow,tensorboard]", code=1, **nobody)
    (line,) = errors.splitlines()
    assert line.startswith("regrun: trainer.trackers: mlflow lacks runs whose tables are whole (MlflowException: ")
    assert line.endswith("; regrun track s mlflow tries again") and len(line) <= 220
    assert tables(tmp_path / "s") == tables(pair[1])
    assert set(in_tensorboard(tmp_path / "s")) == set(summary(tmp_path / "s"))
    regrun(tmp_path, "track", "s", "mlflow")
    assert set(in_mlflow(tmp_path / "s")[0]) == set(summary(tmp_path / "s"))


def test_a_folder_that_cannot_be_made_costs_no_row(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A file is where TensorBoard's folder should be: nothing while the stacks train, a line at the end."""
    regrun(tmp_path, *SWEEP)
    for path in (tmp_path / "s" / "stacks").glob("*/*"):
        path.unlink()
    (tmp_path / "s" / "tensorboard").write_text("")
    errors = regrun(tmp_path, *SWEEP, "trainer.trackers=[tensorboard]", code=1)
    assert "tensorboard lacks runs whose tables are whole (EnvironmentFault: " in errors and errors.count("\n") == 1
    assert tables(tmp_path / "s") == tables(pair[1])
    logs = [path.read_text() for path in (tmp_path / "s").glob("stacks/*/run.log")]
    assert any("warning: trainer.trackers: no more of tensorboard while this trains: " in log for log in logs)
    (tmp_path / "s" / "tensorboard").unlink()
    regrun(tmp_path, "resume", "s")
    for run_id, figures in in_tensorboard(tmp_path / "s").items():
        assert figures.keys() == cells(tmp_path / "s", run_id).keys()


def test_what_wandb_could_not_write_is_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """W&B itself says nothing of a file that it could not write to its end."""
    (tmp_path / "r").mkdir()
    for path in (pair[0].parent / "single").glob("*.csv"):
        (tmp_path / "r" / path.name).write_bytes(path.read_bytes())

    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    errors = regrun(tmp_path, "track", "r", "wandb", code=1, limit=few_bytes)
    assert "trainer.trackers: wandb lacks runs whose tables are whole (" in errors
    regrun(tmp_path, "track", "r", "wandb")
    (run_id,) = summary(tmp_path / "r")
    np.testing.assert_equal(in_wandb(tmp_path / "r")[0][run_id], cells(tmp_path / "r", run_id))


def test_the_names_are_those_of_the_settings() -> None:
    assert list(tracking.TRACKERS) == list(settings.TRACKERS)


def test_the_packages_are_those_of_the_extras() -> None:
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, packages in settings.TRACKERS.items():
        named = [re.split("[>-]", line)[0] for line in extras[name]]  # mlflow-skinny is imported as mlflow
        assert named == packages
