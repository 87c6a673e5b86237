"""Every command in the README runs, and shows what the README says it shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
BIN = Path(sys.executable).parent


def masked(text: str) -> list[str]:
    """Lines without what the machine may change: digits and the processor's name."""
    return [re.sub(r"\d+|\(\w+\)$", "#", line).rstrip() for line in text.splitlines() if line != "..."]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "error"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: later examples read what earlier ones left."""
    return tmp_path_factory.mktemp("readme")


def test_there_are_five_examples() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS, ids=[shlex.split(b.splitlines()[0])[1:3][-1] for b in BLOCKS])
def test_the_example_runs_as_shown(block: str, folder: Path) -> None:
    command, _, shown = block.removeprefix("$ ").partition("\n")
    done = run(command, folder)
    is_mistake = shown.startswith("regrun: ")
    assert done.returncode == (2 if is_mistake else 0), done.stderr
    output = masked(done.stderr if is_mistake else done.stdout)
    assert [line for line in masked(shown) if line not in output] == []
    assert is_mistake or done.stderr == ""


def test_the_main_command_runs(folder: Path) -> None:
    assert "python -m pip install -e . && regrun model=deep reg=dropout\n" in README
    done = run("regrun model=deep reg=dropout hydra.run.dir=main", folder)
    assert done.returncode == 0 and done.stderr == ""
    files = {
        "curves.csv",
        "epochs.csv",
        "layers.csv",
        "summary.csv",
        "settings.yaml",
        "best.pt",
        "run.log",
        "curves.png",
    }
    assert {path.name for path in (folder / "main").iterdir()} == files


def test_the_test_command_is_the_script() -> None:
    assert 'python -m pip install -e ".[test]" && scripts/test\n' in README
    script = Path(__file__).parents[1] / "scripts" / "test"
    assert os.access(script, os.X_OK)


def test_completion_is_installed_as_the_readme_says(folder: Path) -> None:
    done = run('eval "$(regrun -sc install=bash)" && complete -p regrun', folder)
    assert done.returncode == 0 and "regrun" in done.stdout
