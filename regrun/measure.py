"""What is measured of a stack between epochs, in eval mode: losses, accuracies or R2, and the state of each layer."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regrun import objective
from regrun.data.batches import EVAL_BATCH
from regrun.layers import per_example
from regrun.meter import Meter
from regrun.models.ops import Conv
from regrun.models.parameters import weighted
from regrun.parallel import ALONE, Peers
from regrun.stack import Stack

Moments = tuple[Tensor, Tensor]
PROBE = 256  # training examples that the layers are measured on

Forward = Callable[[Tensor], Tensor]  # inputs (R, B, D) -> logits or predictions (R, B, K)


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
    """Every replica's score on train, val or test, example by example of equal weight. Each process takes a part."""
    meters = iter([meter])  # the first batch alone is measured

    def forward(group: slice) -> Forward:
        return lambda x: stack.forward(x, replicas=group, meter=next(meters, None))

    return _all_scores(stack, split, forward, stack.peers)


def monte_carlo(stack: Stack, split: str, samples: int) -> list[Score]:
    """The same of the mean of `samples` predictions with dropout on: Gal and Ghahramani 2016.

    Classes: the mean of the probabilities. Norms take their running statistics; the masks are streams of their own.
    """

    def forward(group: slice) -> Forward:
        streams = stack.mask_streams(split, batch_size=EVAL_BATCH, steps=samples, purpose="mc_dropout", replicas=group)

        def mean(x: Tensor) -> Tensor:
            drawn = (stack.forward(x, replicas=group, streams=streams) for _ in range(samples))
            if stack.error is not None:
                return functools.reduce(torch.add, drawn) / samples
            return functools.reduce(_add_logs, map(objective.log_probabilities, drawn)) - math.log(samples)

        return mean

    return _all_scores(stack, split, forward, ALONE)


def _add_logs(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b), one replica after another: over all of them the last elements' bits would depend on R."""
    return torch.stack([torch.logaddexp(own, other) for own, other in zip(a, b, strict=True)])


def outputs(stack: Stack, split: str) -> list[Tensor]:
    """Each replica's log-probabilities (N, K), or predictions (N, T) of standardized targets, on the CPU."""
    log = objective.log_probabilities if stack.error is None else torch.clone
    found: list[Tensor] = []
    for group in stack.groups(EVAL_BATCH):
        batches = stack.batches.eval_batches(split, group)
        found += torch.cat([log(stack.forward(x, replicas=group)).cpu() for x, _ in batches], 1)
    return found


def _all_scores(stack: Stack, split: str, forward: Callable[[slice], Forward], peers: Peers) -> list[Score]:
    """forward: what gives the logits of a group of replicas. peers: who computes a part each."""
    scores = _scores if stack.error is None else _regression_scores
    return [score for group in stack.groups(EVAL_BATCH) for score in scores(stack, split, group, forward(group), peers)]


def _scores(stack: Stack, split: str, replicas: slice, forward: Forward, peers: Peers) -> list[Score]:
    losses, hits = [], []
    for x, targets in stack.batches.eval_batches(split, replicas, peers):
        logits = forward(x)
        losses.append(objective.cross_entropy(logits, targets).sum(1))
        hits.append(_hits(logits, targets))
    count = stack.batches.indices[split].shape[1]
    loss, accuracy = _total(losses, peers) / count, _total(hits, peers) / count
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


def _regression_scores(stack: Stack, split: str, replicas: slice, forward: Forward, peers: Peers) -> list[Score]:
    """The same for regression. R2 is the mean over target columns of 1 - sum of squared errors / sum of squares.

    A column that is constant in the split has an R2 of 1 if it is predicted exactly, else of 0.
    """
    losses, squares = [], []
    for x, targets in stack.batches.eval_batches(split, replicas, peers):
        error = forward(x) - targets
        error = error.transpose(1, 2).contiguous()  # (R, T, B): sums over the last axis round alike for any R
        losses.append(objective.ERRORS[stack.error or ""](error)[0].sum(2).mean(1))
        squares.append(error.square().sum(2))
    loss = _total(losses, peers) / stack.batches.indices[split].shape[1]
    total, spread = _total(squares, peers), stack.batches.spread(split, replicas)
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
    mean_drift: float
    dead_fraction: float
    zero_fraction: float


def inspect(stack: Stack, outputs: dict[str, Tensor]) -> list[list[LayerState]]:
    """For each replica, the state of each layer with weights, from input to output; `outputs` receives theirs."""
    probe = stack.batches.indices["train"][:, :PROBE]
    x, targets = stack.batches.eval_batch(probe)
    gradients = stack.weight_gradients(x, targets, outputs)
    states: list[list[LayerState]] = [[] for _ in stack.runs]
    for op in weighted(stack.ops):
        weight, gradient = stack.params.leaves[f"{op.name}.weight"].detach(), gradients[f"{op.name}.weight"]
        kind = "conv" if isinstance(op, Conv) else "linear"
        outputs[op.name] = per_example(outputs[op.name].detach(), replicas=len(stack), rows=x.shape[1])
        moments, before = _moments(outputs[op.name]), stack.moments.get(op.name)
        stack.moments[op.name] = moments
        figures = _figures(weight, gradient, outputs[op.name], moments, before or moments)
        for replica, row in enumerate(figures.tolist()):
            states[replica].append(LayerState(op.name, kind, *row))
    return states


def _moments(output: Tensor) -> Moments:
    """(R, B, D) -> (R, D) means over examples and (R,) standard deviations across them, root mean square over units."""
    a = output.float()
    mean = a.mean(1)
    return mean, _rms(a - mean.unsqueeze(1))  # two passes by hand: torch's one-pass var takes five times as long


def _figures(weight: Tensor, gradient: Tensor, output: Tensor, moments: Moments, before: Moments) -> Tensor:
    """(R, 8) in the order of LayerState. output: (R, B, D); its moments, and those at the last look."""
    a, w = output.float(), weight.flatten(1)
    zeros = torch.eq(a, 0, out=torch.empty_like(a)).sum(1)  # 0 or 1 as floats: bools take three times as long
    columns = [
        w.norm(dim=1),
        _rms(w - w.mean(1, keepdim=True)),
        gradient.flatten(1).norm(dim=1),
        _rms(a),
        moments[1],
        _rms(moments[0] - before[0]) / before[1].clamp(min=torch.finfo(torch.float32).tiny),
        (zeros == a.shape[1]).float().mean(1),
        zeros.mean(1) / a.shape[1],
    ]
    return torch.stack(columns, 1).cpu()


def gate_entropies(outputs: dict[str, Tensor], replicas: int) -> list[tuple[float | None, float | None]]:
    """For each replica, from what `inspect` saw, the mean entropy of the gate and that of the mean gate, nats."""
    if "gate" not in outputs:
        return [(None, None)] * replicas
    shares = outputs["gate"].double()  # (R, B, E)
    entropies = [torch.special.entr(of).sum(-1).mean(1).tolist() for of in (shares, shares.mean(1, keepdim=True))]
    return list(zip(*entropies, strict=True))


def _rms(x: Tensor) -> Tensor:
    """(R, ...) -> (R,) root mean square."""
    norms: Tensor = x.flatten(1).norm(dim=1)
    return norms / math.sqrt(x[0].numel())


def zero_weights(stack: Stack) -> list[float]:
    """Each replica's share of weights that are exactly 0."""
    zeros = sum((weight == 0).flatten(1).sum(1) for weight in stack.params.weights())
    assert isinstance(zeros, Tensor)
    shares: list[float] = (zeros.cpu().double() / stack.params.num_weights).tolist()
    return shares


def weight_norms(stack: Stack) -> list[float]:
    """Each replica's norm of all parameters."""
    norms: list[float] = stack.params.flat.norm(dim=1).tolist()
    return norms
