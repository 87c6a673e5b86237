"""Batches that are cropped and mirrored while they are gathered: the bits of the plain functions."""

import copy

import pytest
import torch
from conftest import make, train_rows
from torch import Generator

from regrun import settings as s
from regrun.data import augmentation
from regrun.data.batches import Batches
from regrun.data.source import Source
from regrun.data.split import split
from regrun.data.windows import Windows, num_bytes
from regrun.meter import Meter


def color(count: int = 90, height: int = 9, width: int = 7) -> Source:
    draw = Generator().manual_seed(5)
    images = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=draw)
    targets, everyone = torch.arange(count) % 3, torch.arange(count)
    return Source("npz", images, targets, everyone[:-10], everyone[-10:], num_classes=3, top=255.0)


REGS = {
    "crop": [s.Reg(crop=s.Crop(p)) for p in (3, 0, 1)],
    "flip": [s.Reg(flip=s.Flip(r)) for r in (0.5, 0.0, 1.0)],
    "both": [s.Reg(crop=s.Crop(p), flip=s.Flip(r)) for p, r in ((2, 0.5), (6, 0.0), (0, 1.0))],
    "one": [s.Reg(crop=s.Crop(2), flip=s.Flip(0.5))],
}


@pytest.mark.parametrize("name", REGS)
def test_a_gathered_batch_has_the_bits_of_a_cropped_and_mirrored_one(name: str) -> None:
    source = color()
    runs = [
        make(data=s.Npz(path="x", layout="chw", normalize="standardize"), reg=reg, seed=i)
        for i, reg in enumerate(REGS[name])
    ]
    batches = Batches(source, [split(source, r.data, r.seeds) for r in runs], runs, torch.device("cpu"))
    assert batches.windows is not None
    for members in (list(range(len(runs))), [0]):
        some = batches.select(members)
        unkept = copy.copy(some)
        unkept.windows = None
        streams, same, again = (some.augmenters(1) for _ in range(3))
        for part in some.order(1).split(32, dim=1):
            expected = some.train_batch(part, streams, Meter())[0].clone()
            assert torch.equal(some.train_batch(part, same)[0], expected)
            assert torch.equal(unkept.train_batch(part, again)[0], expected)


def test_images_too_many_to_keep_twice_are_changed_batch_by_batch(
    digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same rows."""
    run = make(reg=s.Reg(crop=s.Crop(1), flip=s.Flip(0.5)))
    (rows,), _ = train_rows([run], digits)
    monkeypatch.setattr(augmentation, "MOST_BYTES", 1000)
    batches = Batches(digits, [split(digits, run.data, run.seeds)], [run], torch.device("cpu"))
    assert batches.windows is None
    assert train_rows([run], digits)[0][0] == rows


def test_nothing_is_kept_where_nothing_moves(digits: Source) -> None:
    run = make(reg=s.Reg(cutout=s.Cutout(2)))
    assert Batches(digits, [split(digits, run.data, run.seeds)], [run], torch.device("cpu")).windows is None


@pytest.mark.parametrize(("padding", "mirrored"), [(0, True), (2, False), (4, True)])
def test_the_memory_is_what_it_is_said_to_be(padding: int, mirrored: bool) -> None:
    """But for the zeros at the two ends."""
    images = color().inputs
    kept = Windows.of(images, padding=padding, mirrored=mirrored).bytes.numel()
    ends = 2 * padding * (7 + padding + 1)
    assert kept == num_bytes(tuple(images.shape), padding=padding, mirrored=mirrored) + ends
