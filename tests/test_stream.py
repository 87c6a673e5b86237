"""Streamed inputs: the same numbers as inputs on the device, whoever gathers them."""

from dataclasses import replace

import pytest
import torch
from conftest import make, train_rows

from regrun import settings as s
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
