"""Sweeps on a real Slurm and a real Ray cluster of two nodes each, both on this machine: the tables of a local sweep.

Whatever dies (a worker, a node, the sweep itself), its reason is told and nothing is lost.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from test_sweep import is_alive, table

from regrun import begun, config, prepare
from regrun.cli import main
from regrun.engines import choice
from regrun.engines.tasks import Engine, Task

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
HAS = {"slurm": find_spec("submitit") is not None, "ray": find_spec("ray") is not None}
HAS_SLURM = HAS["slurm"] and all(map(shutil.which, PROGRAMS)) and os.getuid() == 0
RUNS = ["-m", "model=shallow", "model.width=24", "trainer.progress=plain", "trainer.early_stopping.patience=null"]
SWEEP = [*RUNS, "trainer.epochs=80", "seed=range(4)"]
LONGER = [*RUNS, "trainer.epochs=900", "seed=range(4)"]


def children(process: int) -> list[int]:
    """The processes whose parent it is."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += [int(path.name)] if parent(int(path.name)) == process else []
    return found


@dataclass
class Cluster:
    """One that runs. `lose` kills its second node with all that is there, if the process is: whether it was."""

    line: list[str]  # chooses it
    mistaken: str  # an override that asks for what it lacks
    refused: str  # what is said to that
    killed: str  # what is said of a worker that was killed
    lose: Callable[[int], bool]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the sweep by the local engine."""
    root = tmp_path_factory.mktemp("local") / "s"
    assert main([*SWEEP, f"hydra.sweep.dir={root}"]) == 0
    return str(root)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same of one that takes longer."""
    root = tmp_path_factory.mktemp("longer") / "s"
    assert main([*LONGER, f"hydra.sweep.dir={root}"]) == 0
    return str(root)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("slurm", marks=pytest.mark.skipif(not HAS_SLURM, reason="needs submitit, Slurm and root")),
        pytest.param("ray", marks=pytest.mark.skipif(not HAS["ray"], reason="ray is not installed")),
    ],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with {"slurm": slurm, "ray": ray}[request.param]() as started:
        yield started


@contextmanager
def slurm() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slurm") as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{home}/slurm.conf")

        def lose(process: int) -> bool:
            if b"SLURMD_NODENAME=n2" not in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                return False
            script = parent(process)
            for victim in (int(Path(home, "n2.pid").read_text()), parent(script), script, process):
                os.kill(victim, signal.SIGKILL)
            return True

        try:
            subprocess.run([SCRIPT, "start", home], stdout=subprocess.DEVNULL, check=True)
            yield Cluster(
                line=["hydra/launcher=slurm", "hydra.launcher.poll_seconds=1", "hydra.launcher.jobs=2"],
                mistaken="hydra.launcher.partition=nope",
                refused="hydra.launcher: sbatch refuses such jobs: allocation failure: Invalid partition name",
                killed="its process was killed by SIGKILL",
                lose=lose,
            )
            assert subprocess.check_output(["squeue", "-h"]) == b""
        finally:
            subprocess.run([SCRIPT, "stop", home], stdout=subprocess.DEVNULL, check=True)


@contextmanager
def ray() -> Iterator[Cluster]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray") as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or a token in the home folder would decide
        head = ray_node(home, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={home}")
        second = ray_node(home, f"--address=127.0.0.1:{port}")

        def lose(process: int) -> bool:
            if parent(raylet := parent(process)) != second.pid:
                return False
            for victim in (raylet, *children(raylet)):
                os.kill(victim, signal.SIGKILL)
            return True

        try:
            yield Cluster(
                line=["hydra/launcher=ray", f"hydra.launcher.address=127.0.0.1:{port}", "hydra.launcher.jobs=2"],
                mistaken="hydra.launcher.address=127.0.0.1:1",
                refused="hydra.launcher.address: must be null, auto or the host:port of a Ray cluster, got 127.0.0.1:1",
                killed="its process died: killed, out of memory, or crashed",
                lose=lose,
            )
        finally:
            for node in (second, head):
                node.terminate()
                node.communicate(timeout=30)


def ray_node(home: str, *options: str) -> "subprocess.Popen[str]":
    """A node of one CPU, once it is up, that was started in another folder and not told where regrun is."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *options]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"RAY_USAGE_STATS_ENABLED": "0"}
    node = subprocess.Popen(
        command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert node.stdout is not None
    assert any("Ray runtime started" in line for line in node.stdout)
    return node


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def begun_by(stack: Path) -> int:
    """The process that trains a stack, once it has begun."""
    log, deadline = stack / "run.log", time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.is_file() and (found := re.match(r"begun by process (\d+)", log.read_text())):
            return int(found[1])
        time.sleep(0.02)
    raise TimeoutError(f"{stack} has not begun")


def trains(stack: Path, epochs: int) -> int:
    """The process that trains a stack, once it has trained some epochs."""
    process, path, deadline = begun_by(stack), stack / "epochs.csv", time.monotonic() + 60
    while not path.is_file() or path.read_text().count("\n") < 2 * epochs:
        assert time.monotonic() < deadline, f"{stack} does not train"
        time.sleep(0.02)
    return process


def logs() -> str:
    return "".join(path.read_text() for path in sorted(Path("s").glob("stacks/*/run.log")))


def fates(engine: Engine, *tasks: Task) -> list[str | None]:
    """Why each task died, or None, once all have ended; no other has."""
    told: dict[Task, str | None] = {}
    while len(told) < len(tasks):
        told |= dict(engine.wait(1))
    assert set(told) == set(tasks)
    return [told[task] for task in tasks]


@pytest.mark.parametrize("name", HAS)
def test_a_launcher_that_is_not_installed_says_what_to_install(
    name: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    if HAS[name]:
        pytest.skip(f"what {name} needs is installed")
    assert main([*SWEEP, f"hydra/launcher={name}"]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f'which is not installed; pip install "regrun[{name}]"\n') and len(error.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_what_a_cluster_would_refuse_is_a_line_before_anything_starts(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert main([*SWEEP, *cluster.line, cluster.mistaken]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"regrun: {cluster.refused}") and len(error.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_an_engine_tells_the_fate_of_each_task_and_leaves_none(cluster: Cluster) -> None:
    line = [*RUNS, "trainer.epochs=1,100000,200000,300000", "hydra.sweep.dir=s", *cluster.line]
    command = config.command(line[1:], multirun=True)
    Path("s").mkdir()
    runs, new = prepare.prepare(command.jobs), begun.Folders(Path("s")).new
    engine = choice.engine(command.launcher, runs, Path("s"))
    short, killed, ended, left = tasks = [new([run]) for run in runs]
    for task in tasks:
        engine.start(task)
    os.kill(begun_by(killed.folder), signal.SIGKILL)
    ends, dies = fates(engine, short, killed)
    assert ends is None and dies is not None and dies.startswith(cluster.killed)
    process = begun_by(left.folder)
    begun_by(ended.folder)
    engine.kill(ended)
    fates(engine, ended)
    assert is_alive(process)
    engine.close()
    time.sleep(1)
    assert not is_alive(process)


def same_tables(one: str, other: str) -> None:
    for name in ("summary", "curves", "epochs", "layers"):
        pd.testing.assert_frame_equal(table(one, name), table(other, name))


def test_the_same_command_goes_on_where_a_killed_sweep_ended(cluster: Cluster, local: str) -> None:
    """What was at work is ended first, also where jobs outlive who submitted them."""
    line = [*SWEEP, "hydra.sweep.dir=s", *cluster.line]
    with subprocess.Popen([sys.executable, "-m", "regrun", *line], stdout=subprocess.DEVNULL) as driver:
        processes = [begun_by(Path(f"s/stacks/0000{i}")) for i in range(2)]
        driver.kill()
    assert main(line) == 0
    assert not any(map(is_alive, processes))
    same_tables("s", local)


def test_a_lost_node_costs_nothing(cluster: Cluster, local: str, capsys: pytest.CaptureFixture[str]) -> None:
    def lose() -> None:
        assert any(cluster.lose(begun_by(Path("s/stacks", stack))) for stack in ("00000", "00001"))

    thread = Thread(target=lose)
    thread.start()
    assert main([*SWEEP, "hydra.sweep.dir=s", *cluster.line]) == 0
    thread.join()
    assert re.search("a stack of 2 ended early: .*node.* was lost.*; again as 2\\n", capsys.readouterr().out)
    same_tables("s", local)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_told_to_end_goes_on_from_its_checkpoints(
    number: signal.Signals, cluster: Cluster, longer: str
) -> None:
    """Its workers write them before they end, wherever they are."""
    line = [*LONGER, "hydra.sweep.dir=s", *cluster.line]
    command = [sys.executable, "-m", "regrun", *line]
    hear_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c) as driver:
        process = trains(Path("s/stacks/00000"), epochs=5)
        driver.send_signal(number)
        output, _ = driver.communicate(timeout=60)
    assert driver.returncode == (130 if number == signal.SIGINT else 143)
    how = r"ended early, [02] of 4 runs are kept; to go on: regrun resume s hydra/launcher=\w+"
    assert re.fullmatch(how, output.splitlines()[-1])
    assert Path("s/stacks/00000/checkpoint-1.json").is_file()
    deadline = time.monotonic() + 15  # Ray takes some seconds to end a worker that has nothing to do
    while is_alive(process):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert main(["resume", "s", *cluster.line]) == 0
    assert re.search(r"going on from 00000, epoch \d+, step \d+\n", logs())
    assert not list(Path("s").glob("stacks/*/checkpoint*"))
    same_tables("s", longer)


@pytest.mark.skipif(not HAS_SLURM, reason="needs submitit, Slurm and root")
@pytest.mark.parametrize("number", ["USR1", "USR2", "TERM"])
@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_a_job_that_slurm_tells_to_end_goes_on_in_another_one(
    number: str, cluster: Cluster, longer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a preemption does, or a time limit: to the whole job, its shell too."""
    told: list[int] = []

    def tell() -> None:
        trains(Path("s/stacks/00000"), epochs=5)
        job = next(Path("s/stacks/00000/slurm").glob("*_submission.sh")).name.partition("_")[0]
        told.append(subprocess.run(["scancel", "--full", f"--signal={number}", job], check=False).returncode)

    thread = Thread(target=tell)
    thread.start()
    assert main([*LONGER, "hydra.sweep.dir=s", *cluster.line]) == 0
    thread.join()
    assert told == [0]
    why = rf"a stack of 2 ended early: interrupted by SIG{number} in epoch \d+, step \d+; again as 2\n"
    assert re.search(why, capsys.readouterr().out)
    assert re.search(r"going on from 00000, epoch \d+, step \d+\n", logs())
    same_tables("s", longer)
