"""A built wheel carries its configuration and runs from any folder, without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as pip would lay them out."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run([sys.executable, *build], cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site packages"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def python(unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_has_every_configuration_file(unpacked: Path) -> None:
    ours = {path.relative_to(CHECKOUT) for path in (CHECKOUT / "conf").rglob("*.yaml")}
    carried = {path.relative_to(unpacked / "regrun") for path in (unpacked / "regrun" / "conf").rglob("*.yaml")}
    assert carried == ours


def test_the_wheel_runs_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    where = python(unpacked, tmp_path, "-c", "from regrun.paths import conf_dir; print(conf_dir())")
    assert where.stdout.strip() == str(unpacked / "regrun" / "conf")
    done = python(unpacked, tmp_path, "-m", "regrun", "experiment=smoke", "hydra.run.dir='a run, é'", "reg=dropout")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a run, é" / "summary.csv").is_file()
