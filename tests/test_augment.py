"""Random changes to a batch: identity at zero strength, exact pixels, each replica's own stream and strength."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from conftest import make, train_rows
from torch import Generator, Tensor
from torch.nn import functional as F

from regrun import augment, policies
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split

SHAPE = (3, 200, 2, 7, 5)  # R, B, C, H, W


def seeded(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def pictures(*shape: int) -> Tensor:
    """Pixels above 0, all different from one another in practice."""
    return 0.1 + torch.rand(shape or SHAPE, generator=Generator().manual_seed(99))


def features() -> Tensor:
    return pictures().flatten(2)


def std_column(stds: list[float]) -> Tensor:
    return torch.tensor(stds).view(-1, 1, 1)


def colors() -> Tensor:
    """Bytes of three channels."""
    return torch.randint(256, (3, 60, 3, 16, 15), dtype=torch.uint8, generator=Generator().manual_seed(98))


Change = Callable[[Tensor, list[float], list[Generator]], Tensor]
# Each takes images, the strengths of the replicas and their generators.
AUGMENTATIONS: dict[str, tuple[Change, list[float], Callable[[], Tensor]]] = {
    "noise": (
        lambda x, stds, g: augment.noise(x.flatten(2), std_column(stds), g).view_as(x),
        [0.1, 0.5, 2.0],
        pictures,
    ),
    "flip": (augment.flip, [0.2, 0.5, 0.9], pictures),
    "crop": (lambda x, paddings, g: augment.crop(x, [int(p) for p in paddings], g), [1, 2, 4], pictures),
    "rotation": (augment.rotation, [10, 45, 180], colors),
    "jitter": (lambda x, strengths, g: augment.jitter(x, [(s, s, s) for s in strengths], g), [0.1, 0.5, 2.0], colors),
    "cutout": (lambda x, sizes, g: augment.cutout(x, [int(s) for s in sizes], g), [1, 4, 7], pictures),
    "erasing": (augment.erasing, [0.2, 0.5, 1.0], pictures),
    "randaugment": (
        lambda x, counts, g: policies.randaugment(x, [int(c) for c in counts], [9] * 3, g),
        [1, 2, 3],
        colors,
    ),
    "trivialaugment": (
        lambda x, active, g: policies.trivialaugment(x, [bool(a) for a in active], g),
        [1, 1, 1],
        colors,
    ),
}
each = pytest.mark.parametrize(("change", "strengths", "images"), AUGMENTATIONS.values(), ids=AUGMENTATIONS)
Images = Callable[[], Tensor]


@each
def test_strength_0_is_the_identity(change: Change, strengths: list[float], images: Images) -> None:
    x = images()
    assert torch.equal(change(x, [0] * len(strengths), seeded(1, 2, 3)), x)


@each
def test_a_replica_of_strength_0_stays_as_it_is_among_others(
    change: Change, strengths: list[float], images: Images
) -> None:
    x = images()
    changed = change(x, [strengths[0], 0, strengths[2]], seeded(1, 2, 3))
    assert [torch.equal(a, b) for a, b in zip(changed, x, strict=True)] == [False, True, False]


@each
def test_each_replica_has_its_own_stream_and_strength(change: Change, strengths: list[float], images: Images) -> None:
    """A stack gives the bits that its replicas get alone, though their strengths differ."""
    x = images()
    together = change(x, strengths, seeded(1, 2, 3))
    for r, (strength, seed) in enumerate(zip(strengths, (1, 2, 3), strict=True)):
        assert torch.equal(together[r : r + 1], change(x[r : r + 1], [strength], seeded(seed)))


@each
def test_the_input_is_left_alone(change: Change, strengths: list[float], images: Images) -> None:
    x = images()
    before = x.clone()
    changed = change(x, strengths, seeded(1, 2, 3))
    assert torch.equal(x, before)
    assert changed.shape == x.shape and changed.dtype == x.dtype


@each
def test_examples_and_replicas_draw_for_themselves(change: Change, strengths: list[float], images: Images) -> None:
    """The same image everywhere does not become the same image everywhere."""
    x = images()
    x = x[:1, :1].expand_as(x)
    changed = change(x, [strengths[1]] * 3, seeded(1, 2, 3)).flatten(2)
    assert all(len(replica.unique(dim=0)) > 1 for replica in changed)
    assert not torch.equal(changed[0], changed[1])
    same = change(x, [strengths[1]] * 3, seeded(1, 1, 2))
    assert torch.equal(same[0], same[1])


def test_noise_has_its_replicas_std() -> None:
    x = torch.zeros(3, 100, 100)
    noisy = augment.noise(x, std_column([0.1, 0.5, 2.0]), seeded(1, 2, 3)).double()
    for replica, std in zip(noisy, (0.1, 0.5, 2.0), strict=True):
        # Four standard errors of a mean and a std of 10,000 normal values.
        assert abs(replica.mean().item()) < 4 * std / 100
        assert replica.std().item() == pytest.approx(std, rel=4 / math.sqrt(20_000))


def test_flip_at_rate_1_mirrors_every_image_exactly() -> None:
    x = pictures()
    flipped = augment.flip(x, [1, 1, 1], seeded(1, 2, 3))
    columns = [x[..., SHAPE[-1] - 1 - i] for i in range(SHAPE[-1])]
    assert torch.equal(flipped, torch.stack(columns, dim=-1))


def test_flip_mirrors_whole_images_at_its_replicas_rate() -> None:
    x, batch = pictures(3, 4000, 2, 3, 4), 4000
    changed = augment.flip(x, [0.2, 0.5, 0.9], seeded(1, 2, 3))
    mirrored = (changed == x.flip(-1)).flatten(2).all(2)
    kept = (changed == x).flatten(2).all(2)
    assert (mirrored ^ kept).all()
    for share, rate in zip(mirrored.double().mean(1).tolist(), (0.2, 0.5, 0.9), strict=True):
        assert abs(share - rate) < 4 * math.sqrt(rate * (1 - rate) / batch)  # four standard errors


def offsets(x: Tensor, cropped: Tensor, padding: int) -> Tensor:
    """(B, 2): where in its zero-padded image x (B, C, H, W) each cropped image lies; fails if it lies nowhere."""
    height, width = x.shape[2:]
    padded, span = F.pad(x, [padding] * 4), 2 * padding + 1
    windows = [padded[:, :, i : i + height, j : j + width] for i in range(span) for j in range(span)]
    found = (torch.stack(windows) == cropped).flatten(2).all(2)  # (span * span, B)
    assert (found.sum(0) == 1).all()
    where = found.int().argmax(0)
    return torch.stack([where // span, where % span], dim=1)


def test_crop_is_a_window_of_the_padded_image_anywhere_alike() -> None:
    """Every one of the (2 padding + 1)^2 windows comes equally often, and nothing else comes at all."""
    x, paddings, batch = pictures(3, 4000, 2, 7, 5), [0, 1, 2], 4000
    cropped = augment.crop(x, paddings, seeded(1, 2, 3))
    for replica, window, padding in zip(x, cropped, paddings, strict=True):
        span = 2 * padding + 1
        down, right = offsets(replica, window, padding).unbind(1)
        counts = torch.bincount(span * down + right, minlength=span**2)
        share = 1 / span**2
        # Four standard errors of a count.
        assert (counts - batch * share).abs().max().item() <= 4 * math.sqrt(batch * share * (1 - share))


def test_crop_moves_all_channels_of_an_image_together() -> None:
    x = pictures(1, 50, 1, 6, 6).expand(1, 50, 3, 6, 6)
    cropped = augment.crop(x, [3], seeded(1))
    assert torch.equal(cropped[:, :, 0], cropped[:, :, 1])
    assert torch.equal(cropped[:, :, 0], cropped[:, :, 2])


@pytest.mark.parametrize("change", [augment.flip, augment.crop])
def test_pixels_may_be_bytes(change: Callable[[Tensor, list[int], list[Generator]], Tensor]) -> None:
    x = (pictures() * 200).byte()
    changed = change(x, [1, 1, 1], seeded(1, 2, 3))
    assert changed.dtype == torch.uint8
    assert torch.equal(changed.float(), change(x.float(), [1, 1, 1], seeded(1, 2, 3)))


def test_jitter_keeps_factors_within_its_strength() -> None:
    """Of a white image: brightness alone shows, and is cut off at white."""
    x = torch.full((2, 4000, 3, 2, 2), 200, dtype=torch.uint8)
    jittered = augment.jitter(x, [(0.2, 0, 0), (1.5, 0, 0)], seeded(1, 2))[:, :, 0, 0, 0]
    assert jittered[0].min() == 160 and jittered[0].max() in (239, 240)
    assert jittered[1].min() == 0 and jittered[1].max() == 255


def test_cutout_zeroes_one_square_cut_off_at_the_edges() -> None:
    x, sizes = pictures(3, 4000, 2, 7, 5), [1, 2, 5]
    zeroed = augment.cutout(x, sizes, seeded(1, 2, 3)) == 0
    assert torch.equal(zeroed[:, :, 0], zeroed[:, :, 1])
    for own, size in zip(zeroed[:, :, 0], sizes, strict=True):
        rows, columns = own.any(2), own.any(1)
        assert torch.equal(own, rows.unsqueeze(2) & columns.unsqueeze(1))
        assert rows.sum(1).max() == min(size, 7) and columns.sum(1).max() == min(size, 5)
        assert rows.any(1).all() and rows.sum(1).min() == columns.sum(1).min() == (size + 1) // 2
        assert rows.any(0).all() and columns.any(0).all()


def test_erasing_zeroes_one_rectangle_of_its_area_and_shape_at_its_rate() -> None:
    x, rates, batch = pictures(2, 4000, 1, 32, 32), [0.3, 1.0], 4000
    zeroed = augment.erasing(x, rates, seeded(1, 2))[:, :, 0] == 0
    for own, rate in zip(zeroed, rates, strict=True):
        tall, wide = own.any(2).sum(1).double(), own.any(1).sum(1).double()
        assert torch.equal(tall * wide, own.sum((1, 2)).double())
        erased = tall > 0
        assert abs(erased.double().mean().item() - rate) <= 4 * math.sqrt(rate * (1 - rate) / batch)
        area, uncut = (tall * wide)[erased] / 1024, (tall < 32)[erased] & (wide < 32)[erased]
        assert 0.01 < area.min().item() < 0.03 and 0.32 < area.max().item() < 0.36
        assert ((tall / wide)[erased][uncut].log().abs() < math.log(1 / 0.3) + 0.3).all()
        assert uncut.double().mean() > 0.95


def test_rotation_turns_to_both_sides_within_its_degrees() -> None:
    """A white dot 10 pixels right of the center, and where it went."""
    x = torch.zeros(2, 500, 1, 31, 31, dtype=torch.uint8)
    x[..., 14:17, 24:27] = 255
    turned = augment.rotation(x, [20, 90], seeded(1, 2)).double()[:, :, 0]
    y = (turned.sum(3) * (15 - torch.arange(31))).sum(2) / turned.sum((2, 3))
    x_ = (turned.sum(2) * (torch.arange(31) - 15)).sum(2) / turned.sum((2, 3))
    for angle, most in zip(torch.atan2(y, x_).rad2deg(), (20, 90), strict=True):
        assert most - 1.5 < angle.max().item() < most + 0.5
        assert -most - 0.5 < angle.min().item() < 1.5 - most


ASKED = {
    "flip": s.Reg(flip=s.Flip(0.5)),
    "crop": s.Reg(crop=s.Crop(2)),
    "noise": s.Reg(noise=s.Noise(0.2)),
    "rotation": s.Reg(rotation=s.Rotation(20)),
    "randaugment": s.Reg(randaugment=s.RandAugment(2)),
    "trivialaugment": s.Reg(trivialaugment=s.TrivialAugment(True)),
    "jitter": s.Reg(jitter=s.Jitter(0.3, 0.3)),
    "cutout": s.Reg(cutout=s.Cutout(3)),
    "erasing": s.Reg(erasing=s.Erasing(0.5)),
    "mixup": s.Reg(mixup=s.Mixup(0.4)),
    "cutmix": s.Reg(cutmix=s.Cutmix(1.0)),
    "either": s.Reg(mixup=s.Mixup(0.4), cutmix=s.Cutmix(1.0)),
}


@pytest.mark.parametrize(("mine", "company"), list(pairwise([*ASKED, "flip"])))
def test_a_replica_is_augmented_as_if_it_were_alone(mine: str, company: str, digits: Source) -> None:
    """What the other runs of its stack ask for takes nothing from its stream."""
    run, other = (make(reg=ASKED[name], trainer={"epochs": 1}) for name in (mine, company))
    (rows, other_rows), _ = train_rows([run, other], digits)
    assert rows == train_rows([run], digits)[0][0]
    assert other_rows == train_rows([other], digits)[0][0]


@pytest.mark.parametrize("name", ASKED)
def test_the_seed_of_augmentation_drives_it(name: str, digits: Source) -> None:
    runs = [make(reg=ASKED[name], trainer={"epochs": 1}, seeds=s.Seeds(augment=seed)) for seed in (1, 1, 2)]
    (first, same, other), _ = train_rows(runs, digits)
    assert first == same
    assert first[:2] == other[:2]  # epoch 0
    assert first != other


def test_no_augmentation_moves_anothers_stream(digits: Source) -> None:
    """With all of the others beside it, what one draws stays as it is: here, where cutout zeroes."""
    alone, all_reg = (
        s.Reg(cutout=s.Cutout(3)),
        s.Reg(
            cutout=s.Cutout(3),
            flip=s.Flip(0.5),
            crop=s.Crop(2),
            randaugment=s.RandAugment(2),
            trivialaugment=s.TrivialAugment(True),
            jitter=s.Jitter(0.3, 0.3),
            rotation=s.Rotation(20),
            erasing=s.Erasing(0.5),
        ),
    )
    places = []
    for reg in (alone, all_reg):
        run = make(reg=reg)
        batches = Batches(digits, [split(digits, run.data, run.seeds)], [run], torch.device("cpu"))
        streams = batches.augmenters(1)
        batches.train_batch(batches.order(1)[:, :64], streams)
        places.append(augment.cutout(torch.ones(1, 64, 1, 8, 8), [3], streams["cutout"]))
    assert torch.equal(*places)
