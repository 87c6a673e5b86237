"""Random changes to a batch: identity at zero strength, exact pixels, each replica's own stream and strength."""

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from conftest import make, train_rows
from torch import Generator, Tensor
from torch.nn import functional as F

from regrun import augment
from regrun import settings as s
from regrun.data.sources import Source

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


# Each takes images, the strengths of the replicas and their generators.
AUGMENTATIONS: dict[str, tuple[Callable[[Tensor, list[float], list[Generator]], Tensor], list[float]]] = {
    "noise": (lambda x, stds, g: augment.noise(x.flatten(2), std_column(stds), g).view_as(x), [0.1, 0.5, 2.0]),
    "flip": (augment.flip, [0.2, 0.5, 0.9]),
    "crop": (lambda x, paddings, g: augment.crop(x, [int(p) for p in paddings], g), [1, 2, 4]),
}
each = pytest.mark.parametrize(("change", "strengths"), AUGMENTATIONS.values(), ids=AUGMENTATIONS)
Change = Callable[[Tensor, list[float], list[Generator]], Tensor]


@each
def test_strength_0_is_the_identity(change: Change, strengths: list[float]) -> None:
    x = pictures()
    assert torch.equal(change(x, [0] * len(strengths), seeded(1, 2, 3)), x)


@each
def test_a_replica_of_strength_0_stays_as_it_is_among_others(change: Change, strengths: list[float]) -> None:
    x = pictures()
    changed = change(x, [strengths[0], 0, strengths[2]], seeded(1, 2, 3))
    assert [torch.equal(a, b) for a, b in zip(changed, x, strict=True)] == [False, True, False]


@each
def test_each_replica_has_its_own_stream_and_strength(change: Change, strengths: list[float]) -> None:
    """A stack gives the bits that its replicas get alone, though their strengths differ."""
    x = pictures()
    together = change(x, strengths, seeded(1, 2, 3))
    for r, (strength, seed) in enumerate(zip(strengths, (1, 2, 3), strict=True)):
        assert torch.equal(together[r : r + 1], change(x[r : r + 1], [strength], seeded(seed)))


@each
def test_the_input_is_left_alone(change: Change, strengths: list[float]) -> None:
    x = pictures()
    before = x.clone()
    change(x, strengths, seeded(1, 2, 3))
    assert torch.equal(x, before)


@each
def test_examples_and_replicas_draw_for_themselves(change: Change, strengths: list[float]) -> None:
    """The same image everywhere does not become the same image everywhere."""
    x = pictures(1, 1, *SHAPE[2:]).expand(SHAPE)
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


ASKED = {"flip": s.Reg(flip=s.Flip(0.5)), "crop": s.Reg(crop=s.Crop(2)), "noise": s.Reg(noise=s.Noise(0.2))}


@pytest.mark.parametrize(("mine", "company"), list(permutations(ASKED, 2)))
def test_a_replica_is_augmented_as_if_it_were_alone(mine: str, company: str, digits: Source) -> None:
    """What the other runs of its stack ask for takes nothing from its stream."""
    run, other = (make(reg=ASKED[name], trainer={"epochs": 1}) for name in (mine, company))
    (rows, _), _ = train_rows([run, other], digits)
    (alone,), _ = train_rows([run], digits)
    assert rows == alone
