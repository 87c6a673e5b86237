"""Layers with a replica axis. Pure functions; R replicas, B batch, D features, C channels, H W image, K classes.

Dense activations are (R, B, D); images are (B, R * C, H, W), so that one grouped convolution serves a stack.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "identity": lambda x: x,
}


ALIGN = 16  # floats in a cache line


def aligned(size: int) -> int:
    """The next multiple of a cache line's floats.

    Matrix products give different bits for differently aligned results (5 % of random shapes, MKL). So every
    replica's rows, weights and gradients start on a cache line: its bits never depend on its neighbours.
    """
    return -(-size // ALIGN) * ALIGN


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x: (R, B, in), weight: (R, out, in) in nn.Linear's layout, bias: (R, out) -> (R, B, out).

    The transposed view into `baddbmm` gives the bits of nn.Linear for each replica. B should be a multiple
    of `ALIGN` (see `aligned`).
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return cast(Tensor, _Linear.apply(x, weight, bias))


class _Linear(torch.autograd.Function):
    """torch's own formula, but for one thing: each replica's weight gradient starts on a cache line."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        replicas, out, fan_in = weight.shape
        memory = gradient.new_empty(replicas, aligned(out * fan_in))[:, : out * fan_in]
        by_weight = torch.bmm(gradient.transpose(1, 2), x, out=memory.view(weight.shape))
        by_input = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        by_bias = gradient.sum(1) if ctx.needs_input_grad[2] else None
        return by_input, by_weight, by_bias


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3 x 3 convolution, stride 1, same size. x: (B, R * C, H, W), weight: (R, out, C, 3, 3), bias: (R, out)."""
    replicas = weight.shape[0]
    flat_bias = None if bias is None else bias.flatten()
    return F.conv2d(x, weight.flatten(0, 1), flat_bias, padding=weight.shape[-1] // 2, groups=replicas)


def dropout(x: Tensor, threshold: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    """Zero each element with its replica's own probability; scale up the survivors.

    Inverted dropout (Srivastava et al. 2014, JMLR 15), so that evaluation needs no rescaling. The rate
    is realized to 1 / 65,536, and the scale is that of the realized rate: the mean is kept exactly.

    mask: int16 uniform over its range, shaped like x; threshold, int16, and scale broadcast against x.
    """
    return x * (mask >= threshold).to(x.dtype).mul_(scale)


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
) -> Tensor:
    """Batch normalization (Ioffe and Szegedy 2015) over the batch, and over space for images.

    x: (R, B, D) or (B, R * C, H, W), of which the first `rows` examples are real; gain, shift, running_mean,
    running_var: (R, D) or (R, C). In training the biased variance of the batch normalizes, and the running
    statistics move towards the batch's mean and unbiased variance by `momentum` (torch's convention: the
    weight of the new batch).
    """
    if x.dim() == 4:
        statistics = (running_mean.view(-1), running_var.view(-1))
        y = F.batch_norm(x[:rows], *statistics, gain.flatten(), shift.flatten(), training, momentum, eps)
        return pad_rows(y, dim=0)
    x = x.float()
    if not training:
        scale = (running_var + eps).rsqrt() * gain
        return torch.addcmul(shift.unsqueeze(1), x - running_mean.unsqueeze(1), scale.unsqueeze(1))
    normal, mean, var = _BatchNorm.apply(x, gain, shift, rows, eps)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * (rows / (rows - 1)), momentum)
    return cast(Tensor, normal)


class _BatchNorm(torch.autograd.Function):
    """Normalize (R, B, D) by the mean and biased variance of the first rows; returns (y, mean, var).

    torch's kernel treats the last D % 16 features by other instructions, so there a replica's bits would
    depend on its place in the stack.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, rows: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = x[:, :rows].mean(1)
        centered = x - mean.unsqueeze(1)
        var = centered[:, :rows].square().mean(1)
        inverse = (var + eps).rsqrt()
        normal = centered.mul_(inverse.unsqueeze(1))
        ctx.save_for_backward(normal, inverse, gain)
        ctx.rows = rows
        ctx.mark_non_differentiable(mean, var)
        return torch.addcmul(shift.unsqueeze(1), normal, gain.unsqueeze(1)), mean, var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        normal, inverse, gain = ctx.saved_tensors
        rows = ctx.rows  # the gradient of the padding is 0
        by_shift, by_gain = gradient.sum(1), (gradient * normal).sum(1)
        by_x = torch.addcmul(gradient, normal, (by_gain / -rows).unsqueeze(1))
        by_x.sub_((by_shift / rows).unsqueeze(1)).mul_((gain * inverse).unsqueeze(1))
        by_x[:, rows:] = 0
        return by_x, by_gain, by_shift, None, None


def pad_rows(x: Tensor, *, dim: int) -> Tensor:
    """Zeros after the examples of a batch, up to a multiple of `ALIGN`."""
    missing = aligned(x.shape[dim]) - x.shape[dim]
    return F.pad(x, [0] * (2 * (x.dim() - 1 - dim) + 1) + [missing]) if missing else x


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor, *, eps: float) -> Tensor:
    """Layer normalization (Ba et al. 2016) over the features of each example; for images over C, H and W.

    x: (R, B, D) with gain, shift (R, D), or (B, R * C, H, W) with (R, C): one gain per channel, as
    GroupNorm with one group.
    """
    replicas = gain.shape[0]
    if x.dim() == 3:
        return F.layer_norm(x, x.shape[2:], eps=eps) * gain.unsqueeze(1) + shift.unsqueeze(1)
    return F.group_norm(x, replicas, gain.flatten(), shift.flatten(), eps=eps)


def to_image(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(R, B, C * H * W) -> (B, R * C, H, W), channels last in memory: 1.4 times faster on a CPU."""
    replicas, batch, _ = x.shape
    image = x.transpose(0, 1).reshape(batch, replicas * shape[0], *shape[1:])
    return image.contiguous(memory_format=torch.channels_last)


def to_features(x: Tensor, replicas: int) -> Tensor:
    """(B, R * C, H, W) -> (R, B, C * H * W)."""
    return x.reshape(x.shape[0], replicas, -1).transpose(0, 1)
