"""Crop and mirror while gathering: one copy of each example's window out of images that lie between zeros.

On a CPU a batch of crops then costs little more than a batch of images; the bits are those of `augment.flip` and
`augment.crop`. It takes memory: the images with `padding` zeros after each row and channel, and as much again for
their mirror images.
"""

import math
from dataclasses import dataclass

from torch import Tensor

MOST_BYTES = 1 << 30  # kept beside the inputs: room for CIFAR's images and mirror images padded by up to 10 pixels


@dataclass(frozen=True)
class Windows:
    """Images (N, C, H, W), mirrored ones after them, as one row of bytes."""

    bytes: Tensor
    shape: tuple[int, ...]  # (C, H, W)
    padding: int
    count: int  # N

    @classmethod
    def of(cls, images: Tensor, *, padding: int, mirrored: bool) -> "Windows":
        """images: (N, C, H, W). padding: the largest shift that will be asked for."""
        (_, *shape), (height, width) = images.shape, images.shape[2:]
        sides = (images, images.flip(-1)) if mirrored else (images,)
        laid_out = (len(sides), *_laid_out(images.shape, padding))
        margin = padding * (width + padding) + padding
        stored = images.new_zeros(margin + math.prod(laid_out) + margin)
        body = stored[margin : len(stored) - margin].view(laid_out)
        for place, side in zip(body, sides, strict=True):
            place[:, :, :height, :width] = side
        return cls(stored, tuple(shape), padding, len(images))

    def gather(self, indices: Tensor, mirrored: Tensor | None, shifts: Tensor | None) -> Tensor:
        """(R, B) of images, which of them are mirrored, and (R, B, 2) shifts down and right -> (R, B, C, H, W)."""
        _, height, width = self.shape
        laid_out = _laid_out(self.shape, self.padding)
        row, size = laid_out[-1], math.prod(laid_out)
        start = indices.long() if mirrored is None else indices + self.count * mirrored
        start = start * size + self.padding * row + self.padding
        if shifts is not None:
            start = start + shifts[..., 0] * row + shifts[..., 1]
        spans = self.bytes.as_strided((len(self.bytes) - size + 1, size), (1, 1))
        picked = spans.index_select(0, start.flatten())
        return picked.view(*indices.shape, *laid_out)[..., :height, :width]


def num_bytes(shape: tuple[int, ...], *, padding: int, mirrored: bool) -> int:
    """How much images shaped (N, C, H, W) take."""
    return (2 if mirrored else 1) * math.prod(_laid_out(shape, padding))


def _laid_out(shape: tuple[int, ...], padding: int) -> tuple[int, ...]:
    """The shape with the zeros after each row and each channel. shape: (..., H, W)."""
    return (*shape[:-2], shape[-2] + padding, shape[-1] + padding)
