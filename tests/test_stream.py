"""Streamed inputs: the same numbers as inputs on the device, whoever gathers them."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
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


LONG = ["data=digits", "data.stream=always", "data.workers=2", "trainer.epochs=1000", "trainer.progress=none"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_killed_fails_the_run_and_leaves_none(tmp_path: Path) -> None:
    words, own = [*LONG, "trainer.early_stopping.patience=null", f"hydra.run.dir={tmp_path / 'r'}"], list[int]()
    command = [sys.executable, "-m", "regrun", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        while not (tmp_path / "r/curves.csv").is_file() or len(own) < 2:
            own = list(map(int, children.read_text().split()))
        os.kill(own[-1], signal.SIGKILL)
        begun, (output, _) = time.monotonic(), run.communicate(timeout=60)
    assert run.returncode == 1 and time.monotonic() - begun < 10
    (row,) = foreign.rows(tmp_path / "r/summary.csv")
    assert row["status"] == "failed" and "Traceback" not in output
    assert re.match(rf"RuntimeError: DataLoader worker \(pid(\(s\))? {own[-1]}\) ", row["error"])
    assert not [pid for pid in own if Path(f"/proc/{pid}").exists()]


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
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 1\.0 seconds"):
        next(got)
