"""Streamed inputs: the same numbers as inputs on the device, whoever gathers them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children, connection
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make, train_rows

from regrun import foreign
from regrun import settings as s
from regrun.data import stream
from regrun.data.batches import Batches
from regrun.data.source import Source
from regrun.data.sources import load
from regrun.data.split import split
from regrun.data.stream import is_streamed
from regrun.prepare import run_id

AUGMENTED = s.Reg(
    dropout=s.Dropout(0.2),
    noise=s.Noise(0.1),
    crop=s.Crop(1),
    flip=s.Flip(0.5),
    rotation=s.Rotation(10),
    mixup=s.Mixup(0.2),
    batchnorm=s.BatchNorm(active=True),
)
CASES = {
    "digits": s.Digits(normalize="standardize", label_noise=0.1, bootstrap=True),
    "sine": s.Sine(samples=300, normalize="standardize"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_streamed_rows_are_those_of_resident_data_bit_for_bit(name: str, workers: int) -> None:
    data = CASES[name]
    source = load(data)
    reg = AUGMENTED if name == "digits" else s.Reg(noise=s.Noise(0.1))
    resident = [make(data=data, reg=reg, trainer={"batch_size": 50}, seed=seed) for seed in range(3)]
    streamed = [replace(r, data=replace(data, stream="always", workers=workers)) for r in resident]
    rows, ends = train_rows(resident, source)
    other_rows, other_ends = train_rows(streamed, source)
    assert other_rows == rows
    for end, other in zip(ends, other_ends, strict=True):
        assert other.outcome == end.outcome
        assert all(torch.equal(other.last[name], weight) for name, weight in end.last.items())


def test_streaming_leaves_torchs_global_stream_alone(digits: Source) -> None:
    before = torch.get_rng_state()
    train_rows([make(data=s.Digits(stream="always"), trainer={"epochs": 1})], digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_streamed_inputs_are_those_of_the_source_itself(digits: Source) -> None:
    run = make(data=s.Digits(stream="always"))
    batches = Batches(digits, [split(digits, run.data, run.seeds)], [run], torch.device("cpu"))
    assert batches.is_streamed
    assert batches.inputs.data_ptr() == digits.inputs.data_ptr()


def test_auto_streams_nothing_where_the_device_is_the_host(digits: Source) -> None:
    assert not is_streamed(s.Digits(), digits.inputs, torch.device("cpu"))


def test_how_inputs_come_to_the_device_is_no_part_of_a_run() -> None:
    assert run_id(make()) == run_id(make(data=s.Digits(stream="always", workers=2)))


LONG = ["data=digits", "data.stream=always", "data.workers=2", "trainer.epochs=15", "trainer.progress=none"]
LONG += ["trainer.early_stopping.patience=null", "trainer.checkpoint_minutes=0.001"]
DIED = (
    r"ReaderLost: a process that reads the data died(: DataLoader worker \(pid.* exited unexpectedly| while it handed)"
)
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def processes(pid: int) -> list[int]:
    """Those that a process has started and that have started none themselves."""
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [leaf for child in map(int, own) for leaf in processes(child) or [child]]


def readers(pid: int, number: int) -> list[int]:
    """The processes that read data, as soon as there are so many."""
    with suppress(FileNotFoundError):  # one ended between two looks
        if len(own := processes(pid)) == number:
            return own
    time.sleep(0.002)
    return readers(pid, number) if Path(f"/proc/{pid}/cmdline").read_bytes() else []


def kill_one(run: subprocess.Popen[str], log: Path, is_noted: Callable[[str], bool]) -> list[int]:
    """Kill a process that reads data until the log has noted it: some end by themselves before the kill. Their pids."""

    def has_noted() -> bool:
        return log.is_file() and is_noted(log.read_text())

    every = list[int]()
    while not has_noted() and run.poll() is None:
        own = readers(run.pid, 2) if (log.parent / "curves.csv").is_file() else []
        if own and not has_noted():  # else they are those of the next try
            every += own
            with suppress(ProcessLookupError):
                os.kill(own[-1], signal.SIGKILL)
            time.sleep(0.2)
    return every


@needs_proc
@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_run_whose_reader_is_killed_goes_on_once_with_the_same_bits(tmp_path: Path, kills: int) -> None:
    folder, plain = tmp_path / "r", tmp_path / "plain"
    command = [sys.executable, "-m", "regrun", *LONG, f"hydra.run.dir={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        pids = kill_one(run, folder / "run.log", lambda text: "trying once more" in text)
        if kills == 2:
            pids += kill_one(run, folder / "run.log", lambda text: "Traceback" in text)
        begun, (output, _) = time.monotonic(), run.communicate(timeout=60)
    (row,) = foreign.rows(folder / "summary.csv")
    assert "Traceback" not in output
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    if kills == 2:
        assert run.returncode == 1 and time.monotonic() - begun < 10
        assert row["status"] == "failed"
        assert re.match(DIED, row["error"])
        return
    assert run.returncode == 0 and row["status"] == "ok"
    log = (folder / "run.log").read_text()
    assert re.search(r"a process that reads the data died.*; trying once more\n(going on in epoch|starting over)", log)
    subprocess.run([*command[:-1], f"hydra.run.dir={plain}"], check=True, capture_output=True)
    assert (folder / "curves.csv").read_bytes() == (plain / "curves.csv").read_bytes()


@needs_proc
@pytest.mark.long
def test_a_stack_whose_reader_is_killed_is_tried_once_more_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "regrun", "-m", *LONG, f"hydra.sweep.dir={tmp_path / 's'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for number in range(2):
            kill_one(run, tmp_path / f"s/stacks/0000{number}/run.log", lambda text: "Traceback" in text)
        run.communicate(timeout=60)
    assert run.returncode == 1
    (row,) = foreign.rows(tmp_path / "s/summary.csv")
    assert row["status"] == "failed" and re.match(DIED, row["error"])
    assert sorted(path.name for path in (tmp_path / "s/stacks").iterdir()) == ["00000", "00001"]


class Hanging:
    """Rows of a process that gets no further than the third batch."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def index_select(self, dim: int, indices: torch.Tensor) -> torch.Tensor:
        if indices[0] == 20:
            time.sleep(100)
        return self.inputs.index_select(dim, indices)


@pytest.mark.long
def test_a_process_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 1.0)
    parts, inputs = list(torch.arange(60).view(6, 1, 10)), torch.randn(60, 4)
    troubled: Any = Hanging(inputs)
    got = stream.rows(troubled, parts, torch.device("cpu"), workers=2)
    assert torch.equal(torch.cat([next(got), next(got)], 1)[0], inputs[:20])
    with pytest.raises(stream.ReaderLost, match="hangs: no batch within 1 s"):
        next(got)


def test_a_dead_process_is_told_where_its_batch_is_awaited_and_nowhere_else() -> None:
    """Neither as it dies nor in what handles it: torch's own handler raises in both."""
    parts, inputs = list(torch.arange(600).view(60, 1, 10)), torch.randn(600, 4)
    before, others = signal.getsignal(signal.SIGCHLD), active_children()
    for number in range(20):
        batches = stream.rows(inputs, parts, torch.device("cpu"), workers=2)
        next(batches)
        assert signal.getsignal(signal.SIGCHLD) is before
        readers = [process for process in active_children() if process not in others]
        for reader in readers:
            reader.kill()
        if number % 2:
            connection.wait([reader.sentinel for reader in readers])
        with pytest.raises(stream.ReaderLost, match="a process that reads the data died"):
            list(batches)


def test_an_error_of_reading_itself_is_no_lost_process() -> None:
    parts = [torch.tensor([[99]])] * 3
    with pytest.raises(IndexError, match="out of range"):
        list(stream.rows(torch.randn(60, 4), parts, torch.device("cpu"), workers=2))
