"""Operations on images of bytes, each image by its own magnitude: the pixels that torchvision's v2 functional gives.

Images are (N, C, H, W) uint8 of 1 or 3 channels, up to 255; magnitudes are (N,) float32, and 0 changes nothing (but
for autocontrast and equalize, which have none, and solarize, which inverts 255). Rounding can move a pixel by 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

GRAY = (0.2989, 0.587, 0.114)  # luma of ITU-R BT.601, torchvision's digits


def affine(images: Tensor, matrices: Tensor, *, mode: str = "nearest") -> Tensor:
    """Take each pixel from where its image's matrix sends it; zeros come in from outside.

    matrices: (N, 2, 3), of columns (x, y, 1) in pixels from the image's center.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2).unsqueeze(1)
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrices[:, :, :, None, None].unbind(1))
    grid = torch.stack([(a * x + b * y + c) / (width / 2), (d * x + e * y + f) / (height / 2)], dim=3)
    sampled: Tensor = F.grid_sample(images.float(), grid, mode=mode, align_corners=False)
    return sampled.round_().to(images.dtype)


def rotate(images: Tensor, degrees: Tensor, *, mode: str = "nearest") -> Tensor:
    """Turn counterclockwise around the center."""
    angle, zero = degrees.deg2rad(), torch.zeros_like(degrees)
    return affine(images, _matrices(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero), mode=mode)


def shear_x(images: Tensor, shares: Tensor) -> Tensor:
    """Move each row to the left by a share of its distance from the top."""
    one, zero = torch.ones_like(shares), torch.zeros_like(shares)
    return affine(images, _matrices(one, shares, shares * images.shape[2] / 2, zero, one, zero))


def shear_y(images: Tensor, shares: Tensor) -> Tensor:
    """Move each column up by a share of its distance from the left."""
    one, zero = torch.ones_like(shares), torch.zeros_like(shares)
    return affine(images, _matrices(one, zero, zero, shares, one, shares * images.shape[3] / 2))


def translate_x(images: Tensor, distances: Tensor) -> Tensor:
    """Move to the right by whole pixels."""
    one, zero = torch.ones_like(distances), torch.zeros_like(distances)
    return affine(images, _matrices(one, zero, -distances.trunc(), zero, one, zero))


def translate_y(images: Tensor, distances: Tensor) -> Tensor:
    """Move down by whole pixels."""
    one, zero = torch.ones_like(distances), torch.zeros_like(distances)
    return affine(images, _matrices(one, zero, zero, zero, one, -distances.trunc()))


def _matrices(*entries: Tensor) -> Tensor:
    return torch.stack(entries, dim=1).view(-1, 2, 3)


def brightness(images: Tensor, shares: Tensor) -> Tensor:
    """Times 1 + share."""
    return _to_bytes(images * _each(1 + shares))


def contrast(images: Tensor, shares: Tensor) -> Tensor:
    """Away from the mean of the image's gray by a share of the distance."""
    gray = _gray(images) if images.shape[1] == 3 else images.float()
    return _away(images, gray.mean((1, 2, 3), keepdim=True), shares)


def saturation(images: Tensor, shares: Tensor) -> Tensor:
    """Away from the pixel's gray by a share of the distance; an image of one channel stays as it is."""
    return _away(images, _gray(images), shares) if images.shape[1] == 3 else images


def sharpness(images: Tensor, shares: Tensor) -> Tensor:
    """Away from the mean of the pixel's neighbors and 5 times itself, by a share; the outermost pixels stay."""
    channels, height, width = images.shape[1:]
    if min(height, width) < 3:
        return images
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    sharp = images.float()
    smooth = F.conv2d(sharp, (kernel / 13).expand(channels, 1, 3, 3), groups=channels).round_()
    sharp[:, :, 1:-1, 1:-1].addcmul_(sharp[:, :, 1:-1, 1:-1] - smooth, _each(shares))
    return _to_bytes(sharp)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Clear the lowest bits, rounded to a whole number of them."""
    return images - images % _each(bits.round().exp2()).to(images.dtype)


def solarize(images: Tensor, shares: Tensor) -> Tensor:
    """Invert what reaches 255 * (1 - share)."""
    return torch.where(images >= _each(255 * (1 - shares)), 255 - images, images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to the whole range; one of a single value stays as it is."""
    low, high = _range(images)
    spread = (high - low) * (1 / 255)
    stretched = _to_bytes((images - low) / torch.where(spread == 0, 1.0, spread))
    return torch.where(spread == 0, images, stretched)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Give each channel a flat histogram, as PIL does; one of fewer than 255 pixels below its maximum stays."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    below = counts.cumsum(2) - counts
    largest = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - largest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    flat = table.gather(2, pixels).to(images.dtype).view_as(images)
    return torch.where(step.unsqueeze(3) == 0, images, flat)


def _each(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _to_bytes(x: Tensor) -> Tensor:
    return x.clamp_(0, 255).to(torch.uint8)


def _away(images: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    """images * (1 + share) - other * share, rounded as torchvision rounds it."""
    return _to_bytes(torch.addcmul(images * _each(1 + shares), other, -_each(shares)))


def _gray(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W) float32, whole numbers."""
    r, g, b = images.unbind(1)
    return (r * GRAY[0]).add_(g, alpha=GRAY[1]).add_(b, alpha=GRAY[2]).floor_().unsqueeze(1)


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's least and greatest pixel, (N, C, 1, 1) float32."""
    return images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
