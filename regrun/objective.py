"""What is minimized: the loss of the batch and the penalties on the weights. R replicas, B batch, K classes."""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from regrun.layers import pad_rows


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(R, B, K) logits and (R, B) classes -> (R, B) losses in nats."""
    return -_log_softmax(logits).gather(1, targets.unsqueeze(1)).squeeze(1)


def distributions(targets: Tensor, num_classes: int) -> Tensor:
    """(R, B) classes -> (R, B, K), 1 on the class; shares (R, B, K) and a regression's targets stay as they are."""
    if targets.is_floating_point():
        return targets
    shares = torch.zeros(*targets.shape, num_classes, device=targets.device)
    return shares.scatter_(2, targets.unsqueeze(2), 1.0)


def smoothed_targets(targets: Tensor, num_classes: int, smoothing: Tensor) -> Tensor:
    """Classes (R, B) or shares (R, B, K) -> 1 - e of these plus e / K on every class (Szegedy et al. 2016).

    smoothing: (R, 1), each replica's e.
    """
    spread = (smoothing / num_classes).unsqueeze(2)
    return distributions(targets, num_classes) * (1 - smoothing.unsqueeze(2)) + spread


def cross_entropy_with_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean losses (R,) of (R, B, K) logits and (R, B) classes, and their gradients by the logits.

    The gradients are (R, B', K): B' is B with padding (`pad_rows`).
    """
    log_p = _log_softmax(logits)
    by_log_p = torch.zeros_like(log_p).scatter_(1, targets.unsqueeze(1), -1 / targets.shape[1])
    return _loss_and_gradient(log_p, by_log_p)


def soft_cross_entropy_with_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same for target distributions (R, B, K)."""
    by_log_p = pad_rows(targets * (-1 / targets.shape[1]), dim=1).transpose(1, 2).contiguous()
    return _loss_and_gradient(_log_softmax(logits), by_log_p)


def log_probabilities(logits: Tensor) -> Tensor:
    """(R, B, K) logits -> (R, B, K), with the same bits for a replica alone and in company."""
    return _log_softmax(logits).transpose(1, 2)[:, : logits.shape[1]]


def _log_softmax(logits: Tensor) -> Tensor:
    """(R, B, K) -> (R, K, B), B padded to whole vectors.

    Over few classes torch's kernel takes 20 times as long where they come last; the bits are the same.
    """
    return F.log_softmax(pad_rows(logits, dim=1).transpose(1, 2), 1)


def _loss_and_gradient(log_p: Tensor, by_log_p: Tensor) -> tuple[Tensor, Tensor]:
    """From log-probabilities and the gradient by them, (R, K, B) each, to that by the logits: torch's own kernel.

    Both gradients are 0 in the padding.
    """
    gradient: Tensor = torch.ops.aten._log_softmax_backward_data(by_log_p, log_p, 1, log_p.dtype)
    return (by_log_p * log_p).sum((1, 2)), gradient.transpose(1, 2)


def squared(error: Tensor) -> tuple[Tensor, Tensor]:
    """e^2 and its derivative, element by element."""
    return error.square(), 2 * error


def absolute(error: Tensor) -> tuple[Tensor, Tensor]:
    """|e| and its derivative (0 at 0)."""
    return error.abs(), error.sign()


def huber(error: Tensor) -> tuple[Tensor, Tensor]:
    """e^2 / 2 up to 1, |e| - 1 / 2 beyond (Huber 1964; torch's huber_loss with delta 1), and its derivative."""
    slope = error.clamp(-1, 1)
    return slope * (error - slope / 2), slope


ERRORS = {"squared": squared, "absolute": absolute, "huber": huber}


def error_with_gradient(predictions: Tensor, targets: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean losses (R,) of (R, B, T) predictions and targets, over examples and columns, and their gradients."""
    losses, slopes = ERRORS[kind](predictions - targets)
    return losses.mean((1, 2)), slopes / losses[0].numel()


def entropy(distribution: Tensor) -> Tensor:
    """(R, B, K) distributions -> (R,) mean entropy in nats; 0 log 0 is 0."""
    return cast(Tensor, torch.special.entr(distribution).sum(2).mean(1))


def add_l2(g: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """Add the gradient of value / 2 * sum w^2 to g in place; return the penalty, (R,). value: (R, 1).

    This is torch's convention (its optimizers' weight_decay). The lectures also write value * sum w^2 and
    value / n * sum w^2: theirs are value = 2 lambda and 2 lambda / n here.
    """
    g.addcmul_(weights, value)
    return 0.5 * value.squeeze(1) * weights.square().sum(1)


def add_l1(g: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """Add the subgradient of value * sum |w| to g in place (0 at 0); return the penalty, (R,). value: (R, 1)."""
    g.addcmul_(weights.sign(), value)
    return l1(weights, value)


def l1(weights: Tensor, value: Tensor) -> Tensor:
    """value * sum |w|, (R,). value: (R, 1)."""
    return value.squeeze(1) * weights.abs().sum(1)
