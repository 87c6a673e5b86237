"""What is measured of a stack between epochs, in eval mode: losses and accuracies, and the state of each layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from regrun import objective
from regrun.data.batches import EVAL_BATCH
from regrun.layers import to_features
from regrun.meter import Meter
from regrun.models.ops import Conv
from regrun.models.parameters import weighted
from regrun.stack import Stack

PROBE = 256  # training examples that the layers are measured on


@dataclass(frozen=True)
class Score:
    """Loss (nats, mean over examples) and accuracy of one run on one split."""

    loss: float
    accuracy: float


def evaluate(stack: Stack, split: str, meter: Meter | None = None) -> list[Score]:
    """Every replica's score on train, val or test, example by example of equal weight."""
    groups = stack.groups(EVAL_BATCH)
    return [score for group in groups for score in _scores(stack, split, group, meter if group is groups[0] else None)]


def _scores(stack: Stack, split: str, replicas: slice, meter: Meter | None) -> list[Score]:
    losses, hits, count = [], [], 0
    for x, targets in stack.batches.eval_batches(split, replicas):
        logits = stack.forward(x, replicas=replicas, meter=meter if count == 0 else None)
        losses.append(objective.cross_entropy(logits, targets).sum(1))
        hits.append((logits.argmax(2) == targets).sum(1))
        count += targets.shape[1]
    # Summed in float64 on the CPU: batches of 1,024 in float32 first, so the mean is right to 1e-7.
    loss = torch.stack(losses).cpu().double().sum(0) / count
    accuracy = torch.stack(hits).cpu().double().sum(0) / count
    return [Score(*pair) for pair in zip(loss.tolist(), accuracy.tolist(), strict=True)]


@dataclass(frozen=True)
class LayerState:
    """One layer of one run (see `rows.LayerRow`)."""

    layer: str
    kind: str
    weight_norm: float
    weight_std: float
    grad_norm: float
    activation_rms: float
    across_example_std: float
    dead_fraction: float
    zero_fraction: float


def inspect(stack: Stack) -> list[list[LayerState]]:
    """For each replica, the state of each layer with weights, from input to output."""
    probe = stack.batches.indices["train"][:, :PROBE]
    x, targets = stack.batches.eval_batch(probe)
    outputs: dict[str, Tensor] = {}
    gradients = stack.weight_gradients(x, targets, outputs)
    states: list[list[LayerState]] = [[] for _ in stack.runs]
    for op in weighted(stack.ops):
        weight, gradient = stack.params.leaves[f"{op.name}.weight"].detach(), gradients[f"{op.name}.weight"]
        kind = "conv" if isinstance(op, Conv) else "linear"
        output = outputs[op.name].detach()
        output = to_features(output, len(stack)) if output.dim() == 4 else output
        figures = _figures(weight, gradient, output[:, : x.shape[1]])
        for replica, row in enumerate(figures.tolist()):
            states[replica].append(LayerState(op.name, kind, *row))
    return states


def _figures(weight: Tensor, gradient: Tensor, output: Tensor) -> Tensor:
    """(R, 7) in the order of LayerState. output: (R, B, D)."""
    a, w = output.float(), weight.flatten(1)
    zeros = torch.empty_like(a).copy_(a).eq_(0)  # 0 or 1 as floats: bools take three times as long
    # Two passes by hand: torch's one-pass var takes five times as long.
    centered, spread = a - a.mean(1, keepdim=True), w - w.mean(1, keepdim=True)
    columns = [
        w.norm(dim=1),
        spread.square().mean(1).sqrt(),
        gradient.flatten(1).norm(dim=1),
        a.square().mean((1, 2)).sqrt(),
        centered.square().mean((1, 2)).sqrt(),
        (zeros.sum(1) == a.shape[1]).float().mean(1),
        zeros.mean((1, 2)),
    ]
    return torch.stack(columns, 1).cpu()


def zero_weights(stack: Stack) -> list[float]:
    """Each replica's share of weights that are exactly 0."""
    zeros = sum((stack.params.leaves[f"{op.name}.weight"] == 0).flatten(1).sum(1) for op in weighted(stack.ops))
    assert isinstance(zeros, Tensor)
    return (zeros.cpu().double() / stack.params.num_weights).tolist()


def weight_norms(stack: Stack) -> list[float]:
    """Each replica's norm of all parameters."""
    norms: list[float] = stack.params.flat.norm(dim=1).tolist()
    return norms
