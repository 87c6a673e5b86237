"""Batches mixed with themselves: mixup and cutmix, inputs and targets alike.

R replicas, B batch, D features, T target columns (for classes their shares), H W image. Each replica draws one weight
and one pairing for each batch from its own stream, as both papers' code does; all draws are made on the CPU.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from regrun.augment import inside

Mixed = tuple[Tensor, Tensor, Tensor]  # inputs, targets, and (R,) the other examples' share


def weights(alphas: Sequence[float], generators: Sequence[Generator]) -> Tensor:
    """(R,) the examples' own weight, from Beta(alpha, alpha); 1, which mixes nothing, where alpha is 0.

    It is G / (G + H) of two draws from Gamma(alpha), each Gamma(alpha + 1) * U^(1 / alpha) (Marsaglia and Tsang
    2000), in logarithms: draws for a small alpha underflow.
    """
    alpha, drawn = torch.tensor(alphas), []
    for own, g in zip(alpha, generators, strict=True):
        uniform = 1 - torch.rand(2, generator=g)
        drawn.append(torch._standard_gamma(own.expand(2) + 1, generator=g).log() + uniform.log() / own)
    first, second = torch.stack(drawn).unbind(1)
    return torch.where(alpha > 0, torch.sigmoid(first - second), 1.0)


def either(mixup: Tensor, cutmix: Tensor, generators: Sequence[Generator]) -> tuple[Tensor, Tensor]:
    """The weights (R,) of both, one of them made 1 at random where both would mix (as Touvron et al. 2021)."""
    chosen = torch.stack([torch.rand((), generator=g) < 0.5 for g in generators])
    both = (mixup < 1) & (cutmix < 1)
    return torch.where(both & chosen, 1.0, mixup), torch.where(both & ~chosen, 1.0, cutmix)


def mixup(x: Tensor, targets: Tensor, weights: Tensor, generators: Sequence[Generator]) -> Mixed:
    """Weighted means of pairs of examples (Zhang et al. 2018). x: (R, B, D), targets: (R, B, T), weights: (R,)."""
    order, weight = _pairing(x, generators), weights[:, None, None].to(x.device)
    return _paired(x, order).lerp(x, weight), _paired(targets, order).lerp(targets, weight), 1 - weights


def cutmix(images: Tensor, targets: Tensor, weights: Tensor, generators: Sequence[Generator]) -> Mixed:
    """A box of another example in each one (Yun et al. 2019). images: (R, B, C, H, W), targets: (R, B, T).

    The box has a share of 1 - weight of the image, around a random pixel, and is cut off at the edges; targets are
    mixed by the share that is left of it.
    """
    height, width = images.shape[3:]
    order = _pairing(images, generators)
    drawn = [[torch.randint(side, (), generator=g) for side in (height, width)] for g in generators]
    y, x = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    half_y, half_x = (((1 - weights).sqrt() * side).long() // 2 for side in (height, width))
    box = inside(y - half_y, y + half_y, height).unsqueeze(2) & inside(x - half_x, x + half_x, width).unsqueeze(1)
    share = box.float().mean((1, 2))
    mixed = torch.where(box[:, None, None].to(images.device), _paired(images, order), images)
    weight = 1 - share[:, None, None].to(images.device)
    return mixed, _paired(targets, order).lerp(targets, weight), share


def _pairing(x: Tensor, generators: Sequence[Generator]) -> Tensor:
    """(R, B) positions in all replicas' examples: each one's partner, of its own replica."""
    orders = [torch.randperm(x.shape[1], generator=g) + r * x.shape[1] for r, g in enumerate(generators)]
    return torch.stack(orders).to(x.device)


def _paired(x: Tensor, order: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, order.flatten()).view_as(x)
