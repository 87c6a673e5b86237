"""Whatever ends a run or a sweep, it goes on to the bytes that it would have come to: rows once each, none missing."""

import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Refused, Said
from survival import trials
from survival.commands import Command, Ended, begin, call, contents, wait_until

import regrun
from regrun import cli, foreign
from regrun.engines import work

LONG = [*trials.LONGER, "trainer.epochs=100000", "trainer.checkpoint_minutes=null"]
SWEEP = [*trials.SWEEP, "trainer.progress=plain", "hydra.sweep.dir=s"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands load, forks share: half a second each."""
    torch.set_num_threads(1)
    assert cli.main([*trials.TINY, f"hydra.run.dir={tmp_path_factory.mktemp('loaded') / 'r'}"]) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the sweep comes to where nothing happens."""
    root = tmp_path_factory.mktemp("whole") / "s"
    assert call([*SWEEP, f"hydra.sweep.dir={root}"], root.with_suffix(".out")).code == 0
    return contents(root, of_sweep=True)


def has(path: Path, count: int) -> Callable[[], bool]:
    """Whether a table has so many lines."""
    return lambda: path.is_file() and path.read_bytes().count(b"\n") >= count


@pytest.fixture
def long_run() -> Iterator[Command]:
    """A run that would take an hour, some epochs after its start."""
    command = begin([*LONG, "hydra.run.dir=r"], Path("out"))
    assert wait_until(has(Path("r/curves.csv"), 9), seconds=30)
    yield command


def test_a_run_that_is_killed_at_any_operation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Every ninth; `scripts/faults` takes all of them, and the other kinds of faults."""
    found = dict(trials.every_operation("kill", trials.TINY, tmp_path, step=9))
    assert len(found) > 13 and [each for each in found.items() if each[1]] == []


@pytest.mark.parametrize("kind", trials.ERRORS)
@pytest.mark.parametrize("number", [20, 51, 83, 118])
def test_a_run_whose_disk_fails_says_so_and_goes_on_to_the_same_bytes(
    kind: str, number: int, tmp_path: Path, tiny: tuple[trials.prepare.Prepared, dict[str, str]]
) -> None:
    assert trials.at_operation(kind, number, *tiny, tmp_path) == ""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[trials.prepare.Prepared, dict[str, str]]:
    root = tmp_path_factory.mktemp("tiny") / "whole"
    one = trials.prepared(trials.TINY, root)
    assert trials.start(one, root, dense=True).wait().code == 0
    return one, contents(root)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143)]
)
def test_a_signal_ends_a_run_between_two_steps(number: signal.Signals, code: int, long_run: Command) -> None:
    begun = time.monotonic()
    os.kill(long_run.process, number)
    ended = long_run.wait()
    assert time.monotonic() - begun < 2
    assert ended.code == code
    told = rf"regrun: interrupted by {number.name} in epoch \d+, step \d+; to go on: regrun resume r"
    assert re.fullmatch(told, ended.last_line)
    (row,) = foreign.rows(Path("r/summary.csv"))
    assert (row["status"], row["stop_reason"]) == ("interrupted", "interrupted") and number.name in row["error"]
    assert Path("r/checkpoint-1.pt").is_file() and not Path("r/lock").exists()


def test_a_second_signal_ends_it_at_once(long_run: Command) -> None:
    os.kill(long_run.process, signal.SIGSTOP)  # both arrive before its next step
    os.kill(long_run.process, signal.SIGTERM)
    os.kill(long_run.process, signal.SIGINT)
    os.kill(long_run.process, signal.SIGCONT)
    ended = long_run.wait()
    assert ended.code in (130, 143) and ended.output == ""
    assert not list(Path("r").glob("checkpoint*"))


def test_an_interrupted_run_goes_on_to_the_same_bytes(said: Said) -> None:
    line = [*trials.LONGER, "trainer.checkpoint_minutes=null"]
    assert call([*line, "hydra.run.dir=whole"], Path("out")).code == 0
    command = begin([*line, "hydra.run.dir=r"], Path("out"))
    for rows in (9, 33):
        assert wait_until(has(Path("r/curves.csv"), rows), seconds=30)
        os.kill(command.process, signal.SIGUSR1)
        assert command.wait().code == 143
        command = begin(["resume", "r"], Path("out"))
    assert command.wait().code == 0
    assert contents(Path("r")) == contents(Path("whole"))
    before = {path: path.stat().st_mtime_ns for path in Path("r").iterdir()}
    assert said("resume", "r") == ["r: has ended, ok (max_epochs); nothing to go on with"]
    assert before == {path: path.stat().st_mtime_ns for path in Path("r").iterdir()}


def test_a_run_is_not_resumed_while_it_trains(long_run: Command, refused: Refused) -> None:
    assert refused("resume", "r").startswith(f"resume: in use by process {long_run.process} on ")
    os.kill(long_run.process, signal.SIGKILL)
    long_run.wait()


@pytest.mark.parametrize(("lr", "status", "code"), [("1e30", "diverged", 1), ("0.01", "ok", 0)])
def test_a_run_that_has_ended_keeps_its_exit_code(
    lr: str, status: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*trials.TINY, "optimizer=sgd", "reg=none", f"optimizer.lr={lr}", "hydra.run.dir=r"]
    assert cli.main(line) == code
    capsys.readouterr()
    assert cli.main(["resume", "r"]) == code
    assert capsys.readouterr().out.startswith(f"r: has ended, {status} (")


def test_a_short_run_writes_no_checkpoint(said: Said) -> None:
    command = begin([*trials.LONGER, "trainer.checkpoint_minutes=10", "hydra.run.dir=r"], Path("out"))
    seen = set[str]()
    while os.waitpid(command.process, os.WNOHANG) == (0, 0):
        seen |= {path.name for path in Path("r").glob("*")}
        time.sleep(0.005)
    assert "curves.csv" in seen and not [name for name in seen if name.startswith("checkpoint")]


def limited(words: list[str], size: int) -> Ended:
    """A command no file of which may become larger than `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        command = begin(words, Path("out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return command.wait()


def test_a_run_that_a_file_can_no_longer_hold_goes_on_when_it_can(said: Said) -> None:
    line = [*trials.LONGER, "trainer.checkpoint_minutes=null"]
    ended = limited([*line, "hydra.run.dir=r"], 9000)
    assert ended.code == 4 and len(ended.output.splitlines()) == 1
    assert re.match(r"regrun: r/layers\.csv: cannot be written \(File too large\); free or choose", ended.output)
    assert Path("r/layers.csv").read_bytes().endswith(b"\n") and not Path("r/summary.csv").exists()
    said("resume", "r")
    assert call([*line, "hydra.run.dir=whole"], Path("out")).code == 0
    assert contents(Path("r")) == contents(Path("whole"))


def test_a_sweep_whose_disk_is_full_ends_and_goes_on_when_it_is_not(whole: dict[str, str]) -> None:
    ended = limited(SWEEP, 40_000)
    assert ended.code == 4 and len(re.findall("^regrun: ", ended.output, re.M)) == 1
    assert re.match(
        r"regrun: s/stacks/0000\d/.*: cannot be written \(File too large\); free or choose", ended.last_line
    )
    assert call(SWEEP, Path("out")).code == 0
    assert contents(Path("s"), of_sweep=True) == whole


def logs() -> str:
    return "".join(path.read_text() for path in sorted(Path("s").glob("stacks/*/run.log")))


def worker() -> int:
    """A process that trains a stack, some epochs after its start."""
    assert wait_until(has(Path("s/stacks/00000/curves.csv"), 100), seconds=60)
    found = re.match(r"begun by process (\d+)", Path("s/stacks/00000/run.log").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)]
)
def test_a_sweep_that_is_told_to_end_goes_on_from_its_checkpoints(
    number: signal.Signals, code: int, whole: dict[str, str]
) -> None:
    command = begin(SWEEP, Path("out"))
    worker()
    begun = time.monotonic()
    os.kill(command.process, number)
    ended = command.wait()
    assert ended.code == code and time.monotonic() - begun < 5
    assert re.fullmatch(r"ended early, \d+ of 12 runs are kept; to go on: regrun resume s", ended.last_line)
    assert logs().count("interrupted by SIGTERM") == 2
    assert call(["resume", "s"], Path("out")).code == 0
    assert re.search(r"going on from 0000\d, epoch \d+, step \d+\n", logs())
    assert not list(Path("s").glob("stacks/*/checkpoint*"))
    assert contents(Path("s"), of_sweep=True) == whole


def test_a_worker_that_is_told_to_end_is_continued(whole: dict[str, str]) -> None:
    """As on a cluster that wants its node back."""
    command = begin(SWEEP, Path("out"))
    os.kill(worker(), signal.SIGUSR1)
    ended = command.wait()
    assert ended.code == 0
    assert (
        "a stack of 4 ended early: interrupted by SIGUSR1 in epoch " in ended.output and "; again as 4" in ended.output
    )
    assert "going on from 00000, epoch " in logs()
    assert contents(Path("s"), of_sweep=True) == whole


def test_a_worker_that_is_killed_costs_what_came_after_its_last_checkpoint(whole: dict[str, str]) -> None:
    command = begin(SWEEP, Path("out"), dense=True)
    process = worker()
    assert wait_until(lambda: Path("s/stacks/00000/checkpoint-1.json").exists(), seconds=30)
    os.kill(process, signal.SIGKILL)
    assert command.wait().code == 0
    assert logs().count("going on from 00000, epoch ") == 2  # as halves
    assert contents(Path("s"), of_sweep=True) == whole


@pytest.mark.parametrize("number", [*(pytest.param(n, marks=pytest.mark.long) for n in (0, 1)), 2])
def test_a_sweep_that_is_killed_goes_on_to_the_same_bytes(number: int, tmp_path: Path, whole: dict[str, str]) -> None:
    """Its driver, a worker, both."""
    assert trials.killed_sweep(number, SWEEP, whole, 1.5, tmp_path) == ""


def test_a_damaged_checkpoint_of_a_stack_is_told_before_anything_starts(refused: Refused) -> None:
    command = begin([*SWEEP, "trainer.epochs=100000"], Path("out"))
    worker()
    os.kill(command.process, signal.SIGTERM)
    command.wait()
    for path in Path("s/stacks/00000").glob("checkpoint*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    assert "nothing to go on from; remove checkpoint-1.* and checkpoint-2.* there" in refused("resume", "s", code=3)
    assert len(list(Path("s/stacks").iterdir())) == 2


def test_weights_that_a_sweep_lacks_are_trained_again() -> None:
    line = [*SWEEP, "trainer.epochs=1", "trainer.save=best", "seed=0"]
    assert call(line, Path("out")).code == 0
    before = contents(Path("s"), of_sweep=True)
    Path("s/2/best.pt").unlink()
    assert call(line, Path("out")).code == 0
    assert contents(Path("s"), of_sweep=True) == before
    assert sum(1 for _ in regrun.load("s/2").parameters()) > 0 and work.failure(Path("s/stacks/00000")) is None
