"""What holds of trackers where none is installed: mistakes are a line, and nothing is imported unasked."""

import subprocess
import sys
from pathlib import Path

import pytest

from regrun import config, prepare
from regrun.cli import main

MISTAKES = [
    (["trainer.trackers=mlflow"], "trainer.trackers: must be a list of tensorboard, mlflow, wandb, got 'mlflow'"),
    (["trainer.trackers=[aim]"], "trainer.trackers: must be a list of tensorboard, mlflow, wandb, got ['aim']"),
    (["track"], "track: must be followed by the folder of a run or a sweep, got nothing"),
    (["track", "."], "track: a folder is followed by some of tensorboard, mlflow, wandb, got nothing"),
    (["track", ".", "aim"], "track: a folder is followed by some of tensorboard, mlflow, wandb, got 'aim'"),
    (["track", ".", "mlflow"], "track: must be followed by a folder with a summary.csv, got '.'"),
]
MISSING = [("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("mlflow", "sqlalchemy"), ("wandb", "wandb")]
WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None
from regrun.cli import main
sys.exit(main(sys.argv[1:]))
"""
IMPORTED = """
import sys
from regrun.cli import main
code = main(sys.argv[1:])
found = {"tensorboard", "mlflow", "wandb"} & {name.split(".")[0] for name in sys.modules}
sys.exit(f"imported {found}" if found else code)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line(words: list[str], line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"regrun: {line}\n" and list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "package"), MISSING)
@pytest.mark.parametrize("mode", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_missing_package_is_one_line_before_anything_starts(
    name: str, package: str, mode: list[str], folder: Path
) -> None:
    command = [sys.executable, "-c", WITHOUT, package, *mode, f"trainer.trackers=[{name}]"]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = f'regrun: trainer.trackers: {name} is not installed, got {name}; pip install "regrun[{name}]"\n'
    assert (done.returncode, done.stderr, done.stdout) == (2, expected, "") and list(folder.iterdir()) == []


def test_trackers_cannot_be_swept_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason='needs pip install "regrun[tensorboard]"')
    assert main(["-m", "trainer.trackers=[],[tensorboard]", "seed=0,1"]) == 2
    assert capsys.readouterr().err.startswith("regrun: trainer.trackers: is the same for all runs of a sweep")
    assert list(folder.iterdir()) == []


def test_a_run_is_the_same_run_with_trackers() -> None:
    pytest.importorskip("tensorboard", reason='needs pip install "regrun[tensorboard]"')
    plain, tracked = (
        config.jobs([f"trainer.trackers={names}"], multirun=False)[0].settings for names in ("[]", "[tensorboard]")
    )
    assert plain != tracked and prepare.run_id(plain) == prepare.run_id(tracked)


def test_nothing_is_imported_when_none_is_asked_for() -> None:
    command = [sys.executable, "-c", IMPORTED, "experiment=smoke", "trainer.progress=none", "trainer.epochs=1"]
    subprocess.run(command, check=True)
