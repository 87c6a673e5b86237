"""Random changes to a training batch, on the device, each replica with its own stream. Val and test never come here.

R replicas, B batch, C channels, H W image, D features.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def noise(x: Tensor, std: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Add Gaussian noise. x: (R, B, D) normalized inputs; std: (R, 1, 1)."""
    drawn = [torch.randn(x.shape[1:], generator=g, device=x.device) for g in generators]
    return torch.addcmul(x, torch.stack(drawn), std)


def flip(images: Tensor, rates: Sequence[float], generators: Sequence[Generator]) -> Tensor:
    """Mirror each image left to right with its replica's probability. images: (R, B, C, H, W)."""
    batch, device = images.shape[1], images.device
    chosen = [torch.rand(batch, generator=g, device=device) < rate for rate, g in zip(rates, generators, strict=True)]
    return torch.where(torch.stack(chosen)[:, :, None, None, None], images.flip(-1), images)


def crop(images: Tensor, paddings: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Shift each image by up to its replica's padding in both directions, zeros coming in at the edges.

    The same as padding with zeros and cropping at random. images: (R, B, C, H, W).
    """
    height, width, device = images.shape[3], images.shape[4], images.device
    shifts = [
        torch.randint(-padding, padding + 1, (images.shape[1], 2), generator=g, device=device)
        for padding, g in zip(paddings, generators, strict=True)
    ]
    down, right = torch.stack(shifts).unbind(2)  # (R, B) each
    rows = torch.arange(height, device=device) + down.unsqueeze(2)  # (R, B, H) the row that comes here
    columns = torch.arange(width, device=device) + right.unsqueeze(2)
    inside = _inside(rows, height).unsqueeze(3) & _inside(columns, width).unsqueeze(2)  # (R, B, H, W)
    rows = rows.clamp(0, height - 1)[:, :, None, :, None].expand(images.shape)
    columns = columns.clamp(0, width - 1)[:, :, None, None, :].expand(images.shape)
    return images.gather(3, rows).gather(4, columns) * inside.unsqueeze(2)


def _inside(indices: Tensor, length: int) -> Tensor:
    return (indices >= 0) & (indices < length)
