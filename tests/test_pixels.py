"""Operations on images of bytes give torchvision's pixels, each image by its own magnitude."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from regrun import pixels, policies

Theirs = Callable[[Tensor, float], Tensor]


def smooth(channels: int, side: int = 32) -> Tensor:
    """(8, C, side, side): gradients and noise, as photographs have, in the whole range of a byte."""
    generator = Generator().manual_seed(channels)
    rough = torch.randn(8, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(rough, size=(side, side), mode="bilinear")
    images = 128 + 90 * images + 8 * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 255).byte()


def affine(image: Tensor, *, shear: tuple[float, float] = (0, 0), move: tuple[int, int] = (0, 0)) -> Tensor:
    """As its policies call it: shears are arcs, around the upper left corner."""
    degrees = [math.degrees(math.atan(share)) for share in shear]
    corner = [0.0, 0.0] if any(shear) else None
    return F.affine(image, angle=0.0, translate=list(move), scale=1.0, shear=degrees, center=corner)


bilinear = functools.partial(pixels.rotate, mode="bilinear")
SIGNED = (-0.9, -0.31, 0.0, 0.07, 0.5, 0.99)
# Ours, theirs, magnitudes; the largest share of pixels that differ, and by how much.
OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Theirs, tuple[float, ...], float, int]] = {
    "shear_x": (pixels.shear_x, lambda x, m: affine(x, shear=(m, 0)), (-0.3, 0.03, 0.21, 0.99), 0.01, 255),
    "shear_y": (pixels.shear_y, lambda x, m: affine(x, shear=(0, m)), (-0.3, 0.03, 0.21, 0.99), 0.01, 255),
    "translate_x": (pixels.translate_x, lambda x, m: affine(x, move=(int(m), 0)), (-9.7, -0.5, 3.2, 32), 0, 0),
    "translate_y": (pixels.translate_y, lambda x, m: affine(x, move=(0, int(m))), (-9.7, -0.5, 3.2, 32), 0, 0),
    "rotate": (pixels.rotate, lambda x, m: F.rotate(x, m), (-135, -30, 9, 29.5), 0.01, 255),
    "rotate bilinear": (
        bilinear,
        lambda x, m: F.rotate(x, m, interpolation=InterpolationMode.BILINEAR),
        (-170, -30, 9, 29.5, 90, 180),
        0.001,
        1,
    ),
    "brightness": (pixels.brightness, lambda x, m: F.adjust_brightness(x, 1 + m), SIGNED, 0.001, 1),
    "saturation": (pixels.saturation, lambda x, m: F.adjust_saturation(x, 1 + m), SIGNED, 0.001, 1),
    "contrast": (pixels.contrast, lambda x, m: F.adjust_contrast(x, 1 + m), SIGNED, 0.001, 1),
    "sharpness": (pixels.sharpness, lambda x, m: F.adjust_sharpness(x, 1 + m), SIGNED, 0.001, 1),
    "posterize": (pixels.posterize, lambda x, m: F.posterize(x, 8 - round(m)), (0, 1.2, 4, 6), 0, 0),
    "solarize": (pixels.solarize, lambda x, m: F.solarize(x, 255 * (1 - m)), (0, 0.11, 0.5, 1), 0, 0),
    "autocontrast": (pixels.autocontrast, lambda x, _: F.autocontrast(x), (0,), 0, 0),
    "equalize": (pixels.equalize, lambda x, _: F.equalize(x), (0,), 0, 0),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_torchvisions_pixels(name: str, channels: int) -> None:
    ours, theirs, magnitudes, share, most = OPERATIONS[name]
    images = smooth(channels)
    for magnitude in magnitudes:
        found, expected = ours(images, torch.full((8,), float(magnitude))), theirs(images, magnitude)
        assert found.dtype == torch.uint8
        difference = (found.int() - expected.int()).abs()
        assert (difference > 0).float().mean().item() <= share
        assert difference.max().item() <= most


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_image_has_its_own_magnitude(name: str) -> None:
    ours, _, magnitudes, _, _ = OPERATIONS[name]
    images, own = smooth(3), torch.tensor([float(magnitudes[i % len(magnitudes)]) for i in range(8)])
    together = ours(images, own)
    for i in range(8):
        assert torch.equal(together[i : i + 1], ours(images[i : i + 1], own[i : i + 1]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize", "solarize"}))
def test_magnitude_0_changes_nothing(name: str, channels: int) -> None:
    for side in (2, 7, 32):
        images = smooth(channels, side)
        assert torch.equal(OPERATIONS[name][0](images, torch.zeros(8)), images)


@pytest.mark.parametrize("operation", [pixels.autocontrast, pixels.equalize])
def test_an_image_of_one_value_stays_as_it_is(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    images = torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(operation(images, torch.zeros(2)), images)


SPACES = {"rand": v2.RandAugment, "trivial": v2.TrivialAugmentWide}
NAMES = [
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
]


@pytest.mark.parametrize("policy", SPACES)
def test_the_policies_operations_and_ranges_are_torchvisions(policy: str) -> None:
    """At every one of the 31 magnitudes; posterize is told how many bits go, solarize how far down it begins."""
    space = SPACES[policy]._AUGMENTATION_SPACE
    assert list(space) == NAMES
    for name, op in zip(NAMES, policies.operations(28, 32), strict=True):
        values, is_signed = space[name]
        theirs = values(31, 28, 32)
        ours = torch.arange(31) / 30 * getattr(op, policy)
        if theirs is None:
            assert getattr(op, policy) == 0
            continue
        assert op.is_signed == is_signed
        ours = {"Posterize": 8 - ours.round(), "Solarize": 1 - ours}.get(name, ours)
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)


def batch(replicas: int, size: int) -> Tensor:
    """The same image everywhere."""
    return smooth(3)[:1].unsqueeze(0).expand(replicas, size, 3, 32, 32)


def test_every_operation_of_a_policy_comes_equally_often() -> None:
    """Counted by the results that one image can have: at magnitude 9 of 30 an operation has at most two."""
    size = 4000
    changed = policies.randaugment(batch(1, size), [1], [9], [Generator().manual_seed(1)])[0]
    outcomes, counts = changed.flatten(1).unique(dim=0, return_counts=True)
    table = policies.operations(32, 32)
    signs = [(op, sign if op.is_signed else 1) for op in table for sign in (1, -1)]
    shares = torch.zeros(len(outcomes))
    for op, sign in signs:
        image = op.apply(smooth(3)[:1], torch.tensor([sign * 0.3 * op.rand]))
        (where,) = (outcomes == image.flatten()).all(1).nonzero().flatten().tolist()
        shares[where] += 1 / 28
    assert shares.sum().item() == pytest.approx(1)
    # Four standard errors of a count.
    assert ((counts - size * shares).abs() <= 4 * (size * shares * (1 - shares)).sqrt()).all()


def test_randaugment_applies_its_operations_one_after_another() -> None:
    """Two at once are one and then another one, of the same stream."""
    x = batch(1, 300)
    twice = policies.randaugment(x, [2], [9], [Generator().manual_seed(1)])
    source = Generator().manual_seed(1)
    once = policies.randaugment(x, [1], [9], [source])
    assert torch.equal(twice, policies.randaugment(once, [1], [9], [source]))


def test_trivialaugment_draws_every_magnitude() -> None:
    """A rotation, a shear or a shift of one image has 31 magnitudes of two signs, 0 twice: hundreds of results."""
    changed = policies.trivialaugment(batch(1, 8000), [True], [Generator().manual_seed(1)])[0]
    assert 350 < len(changed.flatten(1).unique(dim=0)) < 14 * 61
