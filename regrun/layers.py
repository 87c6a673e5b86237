"""Layers with a replica axis. Pure functions; R replicas, B batch, D features, C channels, H W image, K classes.

Dense activations are (R, B, D); images are (B, R * C, H, W), so that one grouped convolution serves a stack.
Where a function has a `_backward` beside it, that one is what `models.ops` uses instead of autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regrun.parallel import Shard

ALIGN = 16  # floats in a cache line


def aligned(size: int) -> int:
    """The next multiple of a cache line's floats.

    Matrix products give different bits for differently aligned results (5 % of random shapes, MKL). So every
    replica's rows, weights and gradients start on a cache line: its bits never depend on its neighbours.
    """
    return -(-size // ALIGN) * ALIGN


def pad_rows(x: Tensor, *, dim: int) -> Tensor:
    """Zeros after the examples of a batch, up to a multiple of `ALIGN`."""
    missing = aligned(x.shape[dim]) - x.shape[dim]
    return F.pad(x, [0] * (2 * (x.dim() - 1 - dim) + 1) + [missing]) if missing else x


@dataclass(frozen=True)
class Activation:
    """A nonlinearity and, from the gradient by its output, that output and the input, the gradient by its input."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


_aten = torch.ops.aten
ACTIVATIONS = {
    "relu": Activation(torch.relu, lambda g, y, x: _aten.threshold_backward(g, y, 0)),
    "leaky_relu": Activation(F.leaky_relu, lambda g, y, x: _aten.leaky_relu_backward(g, x, 0.01, False)),
    "tanh": Activation(torch.tanh, lambda g, y, x: _aten.tanh_backward(g, y)),
    "sigmoid": Activation(torch.sigmoid, lambda g, y, x: _aten.sigmoid_backward(g, y)),
    "gelu": Activation(F.gelu, lambda g, y, x: _aten.gelu_backward(g, x)),
    "silu": Activation(F.silu, lambda g, y, x: _aten.silu_backward(g, x)),
    "elu": Activation(F.elu, lambda g, y, x: _aten.elu_backward(g, 1.0, 1.0, 1.0, False, x)),
    "identity": Activation(lambda x: x, lambda g, y, x: g),
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x: (R, B, in), weight: (R, out, in) in nn.Linear's layout, bias: (R, out) -> (R, B, out).

    The transposed view into `baddbmm` gives the bits of nn.Linear for each replica. B should be a multiple
    of `ALIGN` (see `aligned`).
    """
    if bias is None or min(weight.shape[1:]) == 1:
        y = product(x, weight.transpose(1, 2))
        return y if bias is None else y + bias.unsqueeze(1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def output(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` for a few outputs: (R, B, out) as a view of (R, out, B).

    Taken that way round the product takes half the time for 10 classes, and a softmax wants them so.
    """
    if bias is None or weight.shape[1] == 1:
        return linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(2), weight, x.transpose(1, 2)).transpose(1, 2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """(R, B, K) x (R, K, N) -> (R, B, N), with the same bits for a replica alone and in company.

    torch multiplies vectors by another routine where R is 1, which rounds otherwise on some CPUs: so a single column is
    taken twice, and of two vectors there is nothing to sum.
    """
    if a.shape[2] == 1:
        return a * b
    return torch.bmm(a, b) if b.shape[2] > 1 else torch.bmm(a, b.expand(-1, -1, 2).contiguous())[..., :1].contiguous()


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1) -> Tensor:
    """Convolution, at stride 1 of the same size. x: (B, R * C, H, W), weight: (R, out, C, k, k), bias: (R, out)."""
    flat_bias, padding = None if bias is None else bias.flatten(), weight.shape[-1] // 2
    return F.conv2d(x, weight.flatten(0, 1), flat_bias, stride=stride, padding=padding, groups=weight.shape[0])


def widen(x: Tensor, channels: int, more: int) -> Tensor:
    """(B, R * channels, H, W) -> (B, R * (channels + more), H / 2, W / 2): every other pixel, zeros behind."""
    thin = x[:, :, ::2, ::2].unflatten(1, (-1, channels))
    return F.pad(thin, (0, 0, 0, 0, 0, more)).flatten(1, 2)


def dropout(x: Tensor, threshold: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    """Zero each element with its replica's own probability; scale up the survivors.

    Inverted dropout (Srivastava et al. 2014, JMLR 15), so that evaluation needs no rescaling. The rate
    is realized to 1 / 65,536, and the scale is that of the realized rate: the mean is kept exactly.

    mask: int16 uniform over its range, shaped like x; threshold, int16, and scale broadcast against x.
    """
    return x * dropout_factors(threshold, scale, mask)


def dropout_factors(threshold: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    """What `dropout` multiplies by: 0 or scale."""
    # As floats, in place: a sixth of the time of comparing integers and casting the bools.
    return mask.to(scale.dtype).ge_(threshold).mul_(scale)


def batch_norm(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    rows: int,
    training: bool,
    momentum: float,
    eps: float,
    ghost: int | None = None,
) -> Tensor:
    """Batch normalization (Ioffe and Szegedy 2015) over the batch, and over space for images.

    x: (R, B, D) or (B, R * C, H, W), of which the first `rows` examples are real; gain, shift, running_mean,
    running_var: (R, D) or (R, C). In training the biased variance of the batch normalizes, and the running
    statistics move towards the batch's mean and unbiased variance by `momentum` (torch's convention: the
    weight of the new batch). With `ghost`, one after another of its parts is such a batch (`ghosts`).
    """
    ghost = ghost if training else None
    if x.dim() == 4:
        running = (running_mean.view(-1), running_var.view(-1))
        affine = (gain.flatten(), shift.flatten())
        images = x[:rows].split(ghost_sizes(rows, ghost))
        normal = [F.batch_norm(part, *running, *affine, training, momentum, eps) for part in images]
        return pad_rows(joined(normal, dim=0), dim=0)
    how: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    normal = [
        batch_standardize(part, running_mean, running_var, rows=size, **how)[0]
        for part, size in ghosts(x, rows=rows, size=ghost)
    ]
    return torch.addcmul(shift.unsqueeze(1), joined(normal, dim=1), gain.unsqueeze(1))


def ghost_sizes(rows: int, size: int | None) -> list[int]:
    """The examples of each ghost batch (Hoffer et al. 2017): `size`, and what is left; None for one batch of all.

    A single example that is left joins the last ghost batch, as it has no variance of its own.
    """
    full, rest = divmod(rows, size or rows)
    sizes = [size or rows] * full + [rest] * (rest > 0)
    return [*sizes[:-2], sizes[-2] + 1] if full and rest == 1 else sizes


def ghosts(x: Tensor, *, rows: int, size: int | None) -> list[tuple[Tensor, int]]:
    """(R, B, D) in ghost batches, and how many examples of each are real: the padding goes with the last one."""
    if size is None:
        return [(x, rows)]  # a split in one part shows in the step of a small network
    sizes = ghost_sizes(rows, size)
    return list(zip(x.split([*sizes[:-1], sizes[-1] + x.shape[1] - rows], 1), sizes, strict=True))


def joined(parts: list[Tensor], *, dim: int) -> Tensor:
    """The parts as one tensor, without a copy where there is only one."""
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def batch_standardize(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    rows: int,
    training: bool,
    momentum: float,
    eps: float,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor]:
    """(R, B, D) -> (x - mean) / sqrt(var + eps), (R, B, D), and 1 / sqrt(var + eps), (R, D).

    torch's kernel treats the last D % 16 features by other instructions, so there a replica's bits would
    depend on its place in the stack; here every operation is element by element or a sum over the batch.
    With `shard` x is one process's part of a batch, and the statistics are those of the whole batch.
    """
    if not training:
        inverse = (running_var + eps).rsqrt()
        return (x - running_mean.unsqueeze(1)) * inverse.unsqueeze(1), inverse
    mean = _over_batch(x[:, :rows].mean(1), shard)
    centered = x - mean.unsqueeze(1)
    var = _over_batch(centered[:, :rows].square().mean(1), shard)
    rows = rows if shard is None else shard.total(rows)
    inverse = (var + eps).rsqrt()
    running_mean.lerp_(mean.detach(), momentum)
    running_var.lerp_(var.detach() * (rows / (rows - 1)), momentum)
    return centered * inverse.unsqueeze(1), inverse


def _over_batch(mean: Tensor, shard: Shard | None) -> Tensor:
    return mean if shard is None else shard.mean(mean)


def batch_norm_backward(
    gradient: Tensor,
    normal: Tensor,
    inverse: Tensor,
    gain: Tensor,
    *,
    rows: int,
    training: bool,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x (R, B, D), gain and shift (R, D), from what `batch_standardize` gave.

    gradient: (R, B, D), 0 in the padding after `rows`; so is the gradient by x. With `shard` all are of one process's
    part of a batch, and those by gain and shift are to be summed over the processes.
    """
    by_shift, by_gain = gradient.sum(1), (gradient * normal).sum(1)
    scale = (gain * inverse).unsqueeze(1)
    if not training:
        return gradient * scale, by_gain, by_shift
    of_batch, count = [by_gain, by_shift], rows
    if shard is not None:
        of_batch, count = list(shard.peers.add(torch.stack(of_batch))), shard.total(rows)
    by_x = torch.addcmul(gradient, normal, (of_batch[0] / -count).unsqueeze(1))
    by_x.sub_((of_batch[1] / count).unsqueeze(1)).mul_(scale)
    by_x[:, rows:] = 0
    return by_x, by_gain, by_shift


def group_norm(x: Tensor, gain: Tensor, shift: Tensor, *, groups: int, eps: float) -> Tensor:
    """Group normalization (Wu and He 2018) of each example: neighbouring features or channels share their statistics.

    x: (R, B, D) with gain, shift (R, D), or (B, R * C, H, W) with (R, C). One group is layer normalization (Ba et
    al. 2016; for images over C, H and W), as many as channels instance normalization (Ulyanov et al. 2016).
    """
    if x.dim() == 4:
        return F.group_norm(x, groups * gain.shape[0], gain.flatten(), shift.flatten(), eps=eps)
    grouped = x.unflatten(2, (groups, -1))
    normal, _, _ = torch.native_layer_norm(grouped, grouped.shape[3:], None, None, eps)
    return torch.addcmul(shift.unsqueeze(1), normal.flatten(2), gain.unsqueeze(1))


def to_pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) of one replica -> (1, B * H * W, C): a view where channels are last in memory."""
    return x.permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(0)


def from_pixels(x: Tensor, shape: torch.Size) -> Tensor:
    """Back to (B, C, H, W)."""
    batch, channels, height, width = shape
    return x.view(batch, height, width, channels).permute(0, 3, 1, 2)


def to_image(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(R, B, C * H * W) -> (B, R * C, H, W), channels last in memory: 1.4 times faster on a CPU."""
    replicas, batch, _ = x.shape
    image = x.transpose(0, 1).reshape(batch, replicas * shape[0], *shape[1:])
    return image.contiguous(memory_format=torch.channels_last)


def to_features(x: Tensor, replicas: int) -> Tensor:
    """(B, R * C, H, W) -> (R, B, C * H * W)."""
    return x.reshape(x.shape[0], replicas, -1).transpose(0, 1)


def per_example(x: Tensor, *, replicas: int, rows: int) -> Tensor:
    """A layer's output -> (R, rows, features) of the examples that are real; positions and tokens are features.

    x: (B, R * C, H, W), (R, B, D) or (R, B * N, D) for N tokens an example, B padded.
    """
    dense = to_features(x, replicas) if x.dim() == 4 else x.reshape(replicas, aligned(rows), -1)
    return dense[:, :rows]
