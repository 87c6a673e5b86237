"""Random changes to a training batch, on the device, each replica with its own stream. Val and test never come here.

R replicas, B batch, C channels, H W image, D features. Each image draws for itself, and strength 0 changes nothing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from regrun import pixels

ERASED = (0.02, 1 / 3)  # random erasing: shares of the image's area
RATIOS = (0.3, 1 / 0.3)  # and heights over widths


def noise(x: Tensor, std: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Add Gaussian noise. x: (R, B, D) normalized inputs; std: (R, 1, 1)."""
    drawn = [torch.randn(x.shape[1:], generator=g, device=x.device) for g in generators]
    return torch.addcmul(x, torch.stack(drawn), std)


def flip(images: Tensor, rates: Sequence[float], generators: Sequence[Generator]) -> Tensor:
    """Mirror each image left to right with its replica's probability. images: (R, B, C, H, W)."""
    chosen = mirrored(images.shape[1], rates, generators)
    return torch.where(chosen[:, :, None, None, None], images.flip(-1), images)


def mirrored(batch: int, rates: Sequence[float], generators: Sequence[Generator]) -> Tensor:
    """(R, B) bool: which images `flip` mirrors."""
    return torch.stack([_uniform(g, batch) < rate for rate, g in zip(rates, generators, strict=True)])


def crop(images: Tensor, paddings: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Shift each image by up to its replica's padding in both directions, zeros coming in at the edges.

    The same as padding with zeros and cropping at random. images: (R, B, C, H, W).
    """
    height, width, device = images.shape[3], images.shape[4], images.device
    down, right = shifts(images.shape[1], paddings, generators).unbind(2)  # (R, B) each
    rows = torch.arange(height, device=device) + down.unsqueeze(2)  # (R, B, H) the row that comes here
    columns = torch.arange(width, device=device) + right.unsqueeze(2)
    within = _within(rows, height).unsqueeze(3) & _within(columns, width).unsqueeze(2)  # (R, B, H, W)
    rows = rows.clamp(0, height - 1)[:, :, None, :, None].expand(images.shape)
    columns = columns.clamp(0, width - 1)[:, :, None, None, :].expand(images.shape)
    return images.gather(3, rows).gather(4, columns) * within.unsqueeze(2)


def shifts(batch: int, paddings: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """(R, B, 2): by how many rows and columns the window of `crop` lies further down and to the right."""
    drawn = [
        torch.randint(-padding, padding + 1, (batch, 2), generator=g, device=g.device)
        for padding, g in zip(paddings, generators, strict=True)
    ]
    return torch.stack(drawn)


def rotation(images: Tensor, degrees: Sequence[float], generators: Sequence[Generator]) -> Tensor:
    """Turn each image by an angle within its replica's degrees to either side: bilinear, zeros coming in.

    images: (R, B, C, H, W) uint8.
    """
    drawn = [most * (2 * _uniform(g, images.shape[1]) - 1) for most, g in zip(degrees, generators, strict=True)]
    return pixels.rotate(images.flatten(0, 1), torch.cat(drawn), mode="bilinear").view_as(images)


def jitter(images: Tensor, strengths: Sequence[Sequence[float]], generators: Sequence[Generator]) -> Tensor:
    """Change each image's brightness, contrast and saturation by factors within 1 - strength and 1 + strength.

    No factor is below 0. In this order, where torchvision's ColorJitter draws one. images: (R, B, C, H, W) uint8, up
    to 255; strengths: R times three.
    """
    high = torch.tensor(strengths, device=images.device).unsqueeze(1)  # (R, 1, 3)
    low = high.clamp(max=1)
    drawn = torch.stack([_uniform(g, images.shape[1], 3) for g in generators])
    changed = images.flatten(0, 1)
    shares = (drawn * (low + high) - low).flatten(0, 1).unbind(1)
    for change, share in zip((pixels.brightness, pixels.contrast, pixels.saturation), shares, strict=True):
        changed = change(changed, share)
    return changed.view_as(images)


def cutout(images: Tensor, sizes: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Zero a square around a random pixel, cut off at the edges (DeVries and Taylor 2017).

    images: (R, B, C, H, W) normalized: 0 is train's mean if they are standardized. sizes: the squares' sides.
    """
    _, batch, _, height, width = images.shape
    y, x = torch.stack([_uniform(g, 2, batch) for g in generators]).unbind(1)
    size = torch.tensor(sizes, device=images.device).unsqueeze(1)
    top, left = (y * height).long() - size // 2, (x * width).long() - size // 2
    return _zeroed(images, top, left, size, size)


def erasing(images: Tensor, rates: Sequence[float], generators: Sequence[Generator]) -> Tensor:
    """Zero a random rectangle with its replica's probability (Zhong et al. 2020).

    Of the image's area it has a share in `ERASED`; its height over its width is in `RATIOS`, alike in the logarithm.
    Here it holds zeros rather than random values, and a side too long is cut to the image's, not drawn again.
    images: (R, B, C, H, W) normalized.
    """
    _, batch, _, height, width = images.shape
    chosen, area, ratio, y, x = torch.stack([_uniform(g, 5, batch) for g in generators]).unbind(1)
    area = height * width * (ERASED[0] + (ERASED[1] - ERASED[0]) * area)
    ratio = torch.exp(math.log(RATIOS[0]) + math.log(RATIOS[1] / RATIOS[0]) * ratio)
    tall, wide = (area * ratio).sqrt().round().clamp(max=height), (area / ratio).sqrt().round().clamp(max=width)
    tall = torch.where(chosen < torch.tensor(rates, device=images.device).unsqueeze(1), tall, 0)
    top, left = (y * (height - tall + 1)).floor(), (x * (width - wide + 1)).floor()
    return _zeroed(images, top, left, tall, wide)


def inside(low: Tensor, high: Tensor, length: int) -> Tensor:
    """(..., length) bool: the positions from low (included) to high (not)."""
    positions = torch.arange(length, device=low.device)
    return (positions >= low.unsqueeze(-1)) & (positions < high.unsqueeze(-1))


def _zeroed(images: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Zeros in one rectangle of each image; its place and size: (R, B)."""
    rows, columns = inside(top, top + tall, images.shape[3]), inside(left, left + wide, images.shape[4])
    return images.masked_fill((rows.unsqueeze(3) & columns.unsqueeze(2)).unsqueeze(2), 0)


def _uniform(source: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=source, device=source.device)


def _within(indices: Tensor, length: int) -> Tensor:
    return (indices >= 0) & (indices < length)
