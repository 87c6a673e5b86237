"""What is measured of a stack between epochs, in eval mode: losses, accuracies or R2, and the state of each layer."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regrun import objective
from regrun.data.batches import EVAL_BATCH
from regrun.layers import to_features
from regrun.meter import Meter
from regrun.models.ops import Conv
from regrun.models.parameters import weighted
from regrun.parallel import Peers
from regrun.stack import Stack

PROBE = 256  # training examples that the layers are measured on


@dataclass(frozen=True)
class Score:
    """Loss (mean over examples; nats for classes), and accuracy or R2, of one run on one split."""

    loss: float
    accuracy: float | None = None
    r2: float | None = None

    @property
    def figure(self) -> float:
        """The one that applies; higher is better."""
        figure = self.r2 if self.accuracy is None else self.accuracy
        assert figure is not None
        return figure


def evaluate(stack: Stack, split: str, meter: Meter | None = None) -> list[Score]:
    """Every replica's score on train, val or test, example by example of equal weight. Each process computes a part."""
    groups = stack.groups(EVAL_BATCH)
    scores = _scores if stack.error is None else _regression_scores
    return [score for group in groups for score in scores(stack, split, group, meter if group is groups[0] else None)]


def _scores(stack: Stack, split: str, replicas: slice, meter: Meter | None) -> list[Score]:
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for x, targets in stack.batches.eval_batches(split, replicas, stack.peers):
        logits = stack.forward(x, replicas=replicas, meter=None if losses else meter)
        losses.append(objective.cross_entropy(logits, targets).sum(1))
        hits.append(_hits(logits, targets))
    count = stack.batches.indices[split].shape[1]
    loss, accuracy = _total(losses, stack.peers) / count, _total(hits, stack.peers) / count
    return [Score(*pair) for pair in zip(loss.tolist(), accuracy.tolist(), strict=True)]


def _total(sums: list[Tensor], peers: Peers) -> Tensor:
    """The sum over batches and processes.

    In float64 on the CPU: batches of 1,024 in float32 first, so a mean is right to 1e-7.
    """
    return peers.add(torch.stack(sums).cpu().double().sum(0))


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    """(R,) how often the first of the largest logits (R, B, K) is that of the target (R, B): never where one is NaN.

    That is argmax, which takes ten times as long over few classes.
    """
    logits, ranks = logits.transpose(1, 2), torch.arange(logits.shape[2], 0, -1.0, device=logits.device)
    is_largest = torch.ge(logits, logits.amax(1, keepdim=True), out=torch.empty_like(logits))
    return (is_largest.mul_(ranks.unsqueeze(1)).amax(1) == ranks[0] - targets).sum(1)


def _regression_scores(stack: Stack, split: str, replicas: slice, meter: Meter | None) -> list[Score]:
    """The same for regression. R2 is the mean over target columns of 1 - sum of squared errors / sum of squares.

    A column that is constant in the split has an R2 of 1 if it is predicted exactly, else of 0.
    """
    losses: list[Tensor] = []
    squares: list[Tensor] = []
    for x, targets in stack.batches.eval_batches(split, replicas, stack.peers):
        error = stack.forward(x, replicas=replicas, meter=None if losses else meter) - targets
        error = error.transpose(1, 2).contiguous()  # (R, T, B): sums over the last axis round alike for any R
        losses.append(objective.ERRORS[stack.error or ""](error)[0].sum(2).mean(1))
        squares.append(error.square().sum(2))
    loss = _total(losses, stack.peers) / stack.batches.indices[split].shape[1]
    total, spread = _total(squares, stack.peers), stack.batches.spread(split, replicas)
    r2 = torch.where(spread > 0, 1 - total / spread, (total == 0).double()).mean(1)
    return [Score(each, r2=figure) for each, figure in zip(loss.tolist(), r2.tolist(), strict=True)]


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
    zeros = torch.eq(a, 0, out=torch.empty_like(a)).sum(1)  # 0 or 1 as floats: bools take three times as long
    # Two passes by hand: torch's one-pass var takes five times as long.
    columns = [
        w.norm(dim=1),
        _rms(w - w.mean(1, keepdim=True)),
        gradient.flatten(1).norm(dim=1),
        _rms(a),
        _rms(a - a.mean(1, keepdim=True)),
        (zeros == a.shape[1]).float().mean(1),
        zeros.mean(1) / a.shape[1],
    ]
    return torch.stack(columns, 1).cpu()


def _rms(x: Tensor) -> Tensor:
    """(R, ...) -> (R,) root mean square."""
    norms: Tensor = x.flatten(1).norm(dim=1)
    return norms / math.sqrt(x[0].numel())


def zero_weights(stack: Stack) -> list[float]:
    """Each replica's share of weights that are exactly 0."""
    zeros = sum((stack.params.leaves[f"{op.name}.weight"] == 0).flatten(1).sum(1) for op in weighted(stack.ops))
    assert isinstance(zeros, Tensor)
    return (zeros.cpu().double() / stack.params.num_weights).tolist()


def weight_norms(stack: Stack) -> list[float]:
    """Each replica's norm of all parameters."""
    norms: list[float] = stack.params.flat.norm(dim=1).tolist()
    return norms
