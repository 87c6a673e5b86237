"""Augmentation policies: each image of a batch undergoes operations drawn at random from one table.

R replicas, B batch, C channels, H W image; uint8 images of 1 or 3 channels, up to 255. Interpolation is nearest and
zeros come in at the edges, as in torchvision, whose operations, ranges and 31 magnitudes these are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from regrun import pixels

LARGEST = 30  # magnitudes are 0 to 30 thirtieths of an operation's largest


@dataclass(frozen=True)
class Operation:
    """What is done to images by their magnitudes, and the largest magnitude of each policy."""

    apply: Callable[[Tensor, Tensor], Tensor]
    rand: float = 0.0  # RandAugment
    trivial: float = 0.0  # TrivialAugment, its wide space
    is_signed: bool = True  # the magnitude's sign is drawn, too


def operations(height: int, width: int) -> tuple[Operation, ...]:
    """The table, by the size of the images: both papers' 14 operations. The first one changes nothing."""
    return (
        Operation(lambda images, _: images),
        Operation(pixels.shear_x, 0.3, 0.99),
        Operation(pixels.shear_y, 0.3, 0.99),
        Operation(pixels.translate_x, 150 / 331 * width, 32),
        Operation(pixels.translate_y, 150 / 331 * height, 32),
        Operation(pixels.rotate, 30, 135),
        Operation(pixels.brightness, 0.9, 0.99),
        Operation(pixels.saturation, 0.9, 0.99),
        Operation(pixels.contrast, 0.9, 0.99),
        Operation(pixels.sharpness, 0.9, 0.99),
        Operation(pixels.posterize, 4, 6, is_signed=False),
        Operation(pixels.solarize, 1, 1, is_signed=False),
        Operation(pixels.autocontrast),
        Operation(pixels.equalize),
    )


def randaugment(
    images: Tensor, counts: Sequence[int], magnitudes: Sequence[int], generators: Sequence[Generator]
) -> Tensor:
    """Its replica's count of operations on each image, one after another, all of its magnitude (Cubuk et al. 2020).

    images: (R, B, C, H, W).
    """
    table, batch = operations(*images.shape[3:]), images.shape[1]
    for turn in range(max(counts)):
        drawn = [
            _draw(batch, len(table), g) if turn < count else _nothing(batch, g)
            for count, g in zip(counts, generators, strict=True)
        ]
        kinds, signs = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        shares = torch.tensor(magnitudes, device=images.device).unsqueeze(1) / LARGEST
        images = _applied(images, kinds, signs * shares, table, [op.rand for op in table])
    return images


def trivialaugment(images: Tensor, active: Sequence[bool], generators: Sequence[Generator]) -> Tensor:
    """One operation of any magnitude on each image of the replicas where it is active (Müller and Hutter 2021).

    images: (R, B, C, H, W).
    """
    table, batch, device = operations(*images.shape[3:]), images.shape[1], images.device
    drawn = [
        (*_draw(batch, len(table), g), torch.randint(LARGEST + 1, (batch,), generator=g, device=device))
        for g in generators
    ]
    kinds, signs, magnitudes = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    kinds = kinds * torch.tensor(active, device=device).unsqueeze(1)
    return _applied(images, kinds, signs * magnitudes / LARGEST, table, [op.trivial for op in table])


def _draw(batch: int, operations: int, source: Generator) -> tuple[Tensor, Tensor]:
    """(B,) which operation, and (B,) 1 or -1."""
    kinds = torch.randint(operations, (batch,), generator=source, device=source.device)
    return kinds, 1 - 2 * torch.randint(2, (batch,), generator=source, device=source.device)


def _nothing(batch: int, source: Generator) -> tuple[Tensor, Tensor]:
    """The first operation, of no magnitude; nothing is drawn."""
    zeros = torch.zeros(batch, dtype=torch.int64, device=source.device)
    return zeros, zeros


def _applied(
    images: Tensor, kinds: Tensor, shares: Tensor, table: Sequence[Operation], largest: Sequence[float]
) -> Tensor:
    """Each image's operation at its share in [-1, 1] of the largest magnitude, all images of one kind at once."""
    flat, shares, kinds = images.flatten(0, 1), shares.flatten(), kinds.flatten()
    changed = torch.empty_like(flat)
    sizes = torch.bincount(kinds, minlength=len(table)).tolist()
    for op, most, members in zip(table, largest, kinds.argsort().split(sizes), strict=True):
        if len(members):
            own = shares[members] if op.is_signed else shares[members].abs()
            changed[members] = op.apply(flat[members], own * most)
    return changed.view_as(images)
