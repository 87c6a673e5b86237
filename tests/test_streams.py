"""Streams of randomness: functions of the seed and the purpose, and of nothing else."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor

from regrun.settings import PURPOSES
from regrun.streams import MaskStream, derive, epoch_order, generator


def test_derive_is_the_same_for_ever() -> None:
    """Pinned: another value here means that every published run changes."""
    assert derive(0, "init") == 188427437559096679
    assert derive(42, "dropout", "hidden1", 7) == 5609472790049810985


def test_seeds_purposes_and_epochs_derive_different_seeds() -> None:
    labels = [(seed, purpose, epoch) for seed in range(20) for purpose in PURPOSES for epoch in range(20)]
    derived = {derive(*label) for label in labels}
    assert len(derived) == len(labels)
    assert all(0 <= seed < 2**64 for seed in derived)


def test_streams_of_neighbouring_seeds_purposes_and_epochs_are_uncorrelated() -> None:
    n = 20_000
    labels = [(seed, purpose, epoch) for seed in (0, 1) for purpose in PURPOSES for epoch in (1, 2)]
    draws = torch.stack([torch.randn(n, generator=generator(*label)) for label in labels])
    correlations = torch.corrcoef(draws).triu(diagonal=1)
    # 276 pairs, each with a standard error of 1 / sqrt(n): five of them are passed once in 6,000 times.
    assert correlations.abs().max().item() < 5 / math.sqrt(n)


def test_a_generator_begins_anew_for_the_same_labels() -> None:
    first, second = (torch.rand(9, generator=generator(3, "augment", 2)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("size", [1, 2, 1437])
def test_an_epochs_order_is_a_permutation(size: int) -> None:
    assert torch.equal(epoch_order(5, 3, size).sort().values, torch.arange(size))


def test_an_epochs_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): epoch_order(seed, epoch, 100) for seed in range(4) for epoch in range(4)}
    torch.rand(5)  # nothing that others draw moves it
    assert all(torch.equal(order, epoch_order(*at, 100)) for at, order in orders.items())
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def drawn(stream: MaskStream, sizes: list[int]) -> list[Tensor]:
    return [stream.next(size).clone() for size in sizes]


def test_masks_are_uniform_over_all_16_bit_integers() -> None:
    """Pearson's statistic of 16 million values, in each replica and each of the four lanes of a 64-bit word."""
    stream = MaskStream(seeded(0, 1), size=1 << 15, steps=2)
    values = torch.cat(drawn(stream, [1 << 15] * 256), dim=1).int() + (1 << 15)
    for replica in values:
        for lane in range(4):
            part = replica[lane::4]
            counts = torch.bincount(part, minlength=1 << 16).double()
            mean = len(part) / (1 << 16)
            statistic = ((counts - mean) ** 2 / mean).sum().item()
            freedom = (1 << 16) - 1
            assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)  # four standard deviations


def test_masks_reach_both_ends_of_their_range() -> None:
    stream = MaskStream(seeded(0), size=1 << 20, steps=1)
    values = stream.next(1 << 20)
    assert (values.min().item(), values.max().item()) == (-(1 << 15), (1 << 15) - 1)


def test_no_two_steps_and_no_two_replicas_share_masks() -> None:
    stream = MaskStream(seeded(0, 1), size=100, steps=3)
    masks = [m for step in drawn(stream, [100] * 10) for m in step]
    assert len({tuple(m.tolist()) for m in masks}) == 20


@pytest.mark.parametrize("size", [1, 3, 4, 97, 4096])
def test_a_replicas_masks_do_not_depend_on_its_company(size: int) -> None:
    together = drawn(MaskStream(seeded(7, 8, 9), size=size, steps=5), [size] * 12)
    for r, seed in enumerate((7, 8, 9)):
        alone = drawn(MaskStream(seeded(seed), size=size, steps=5), [size] * 12)
        assert all(torch.equal(a[r], b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("size", [1, 3, 4, 97, 4096, 70_000])
def test_masks_do_not_depend_on_how_many_steps_are_drawn_at_once(size: int) -> None:
    sizes = [size, max(1, size // 2)] * 4  # the smaller batch takes a part of its step and leaves the rest
    streams = [MaskStream(seeded(7, 8), size=size, steps=steps) for steps in (1, 2, 3, 8, 1000)]
    for one, other in pairwise(drawn(stream, sizes) for stream in streams):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_step_takes_the_first_part_of_a_full_batchs_masks() -> None:
    full, part = (drawn(MaskStream(seeded(7), size=40, steps=2), sizes) for sizes in ([40] * 4, [40, 9, 40, 9]))
    assert all(torch.equal(a[:, : b.shape[1]], b) for a, b in zip(full, part, strict=True))
