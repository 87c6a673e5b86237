"""What a run's network does on other inputs or with other weights, and before any training: figures of one run."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regrun.streams import generator
from regrun.studies import equivalents
from regrun.studies.runs import Run

if TYPE_CHECKING:
    from torch import nn

SHIFT = 2  # pixels
NOISE = 0.5  # deviation, of the pixels' range


@torch.no_grad()
def outputs(run: Run, network: "nn.Module", inputs: Tensor | None = None) -> Tensor:
    """(N, K) logits on test, or on other inputs."""
    inputs = run.source.inputs[run.source.test] if inputs is None else inputs
    return torch.cat([network(part) for part in inputs.split(1000)])


def error(run: Run, logits: Tensor) -> float:
    """Share of test that is classed wrongly."""
    return float((logits.argmax(1) != run.source.targets[run.source.test]).double().mean())


def shifted(images: Tensor, *, down: int, right: int) -> Tensor:
    """(N, C, H, W) images moved by so many pixels, negative ones up or left; what comes in is 0."""
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    return padded[..., max(-down, 0) :, max(-right, 0) :][..., :height, :width]


def shift_excess_error(run: Run) -> float:
    """By how much test error is higher on images moved by 2 pixels, mean of up, down, left and right."""
    images, network = run.source.inputs[run.source.test], run.network()
    moves = [(-SHIFT, 0), (SHIFT, 0), (0, -SHIFT), (0, SHIFT)]
    moved = [error(run, outputs(run, network, shifted(images, down=d, right=r))) for d, r in moves]
    return float(np.mean(moved)) - error(run, outputs(run, network))


def noisy_error(run: Run) -> float:
    """Test error of images with Gaussian noise, of half of the pixels' range, on every pixel."""
    inputs = run.source.inputs[run.source.test].float()
    noise = torch.randn(inputs.shape, generator=generator(int(run.cells["seed"]), "test", "noise"))
    return error(run, outputs(run, run.network(), inputs.add_(noise, alpha=NOISE * (run.source.top or 1.0))))


def largest_deviation(run: Run) -> float:
    """The largest difference between a prediction and its target on test, of a regression."""
    source = run.source
    return float((outputs(run, run.network()) - source.targets[source.test]).abs().max())


def variation(run: Run) -> float:
    """How far the prediction goes up and down in all as the input goes from its lowest value on test to its highest.

    Of a regression in one dimension.
    """
    x = run.source.inputs[run.source.test]
    return float(outputs(run, run.network(), x[x.flatten().argsort()]).diff(dim=0).abs().sum())


def nonzero_parameters(run: Run) -> float:
    """Weights and biases that are not exactly 0 after training."""
    return float(sum(int(w.count_nonzero()) for w in run.network().parameters()))


def first_loss(run: Run) -> float:
    """Loss on train before the first step, nats."""
    return float(run.tables.curves[run.cells["run_id"], "train"][0]["loss"])


def off_the_schedule(run: Run) -> float:
    """The largest relative difference of the first and last rates of epochs to lr e^(-k t) of an exponential decay."""
    lr, k, before, off = run.number("optimizer.lr"), run.number("scheduler.k"), 0, list[float]()
    for number, row in enumerate(run.tables.epochs[run.cells["run_id"]]):
        first, last = before, int(row["step"]) - 1
        before = last + 1
        times = (first, last) if run.cells["scheduler.interval"] == "step" else (number, number)
        rates = float(row["lr_first"]), float(row["lr_last"])
        off += [abs(rate / (lr * math.exp(-k * t)) - 1) for rate, t in zip(rates, times, strict=True)]
    return max(off)


def _relative_difference(change: Callable[["nn.Module", torch.Generator], "nn.Module"]) -> Callable[[Run], float]:
    """The largest difference that a change of the weights makes to a logit, over the largest logit."""

    def found(run: Run) -> float:
        network, g = run.network(), torch.Generator().manual_seed(int(run.cells["seed"]))
        before, after = outputs(run, network), outputs(run, change(network, g))
        return float((before - after).abs().max() / before.abs().max())

    return found


def permuted_distance(run: Run) -> float:
    """How far the permuted weights are from the run's, relative to their norm."""
    network, g = run.network(), torch.Generator().manual_seed(int(run.cells["seed"]))
    return equivalents.distance(network, equivalents.permuted(network, g))


ONE: dict[str, Callable[[Run], float]] = {
    "collapse_difference": _relative_difference(lambda network, _: equivalents.collapsed(network)),
    "permutation_difference": _relative_difference(equivalents.permuted),
    "flip_difference": _relative_difference(equivalents.flipped),
    "scaling_difference": _relative_difference(equivalents.rescaled),
    "block_difference": _relative_difference(lambda network, _: equivalents.without_blocks(network)),
    "permuted_distance": permuted_distance,
    "log10_equal_settings": lambda run: equivalents.log10_count(run.network()),
    "shift_excess_error": shift_excess_error,
    "noisy_error": noisy_error,
    "largest_deviation": largest_deviation,
    "variation": variation,
    "nonzero_parameters": nonzero_parameters,
    "off_the_schedule": off_the_schedule,
    "first_loss": first_loss,
}
