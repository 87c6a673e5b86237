"""Internal covariate shift: how far a step moves the inputs of the layers, and whether that matters for training.

After Santurkar, Tsipras, Ilyas and Madry 2018, How Does Batch Normalization Help Optimization?
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from regrun.data.source import Source
from regrun.measure import evaluate
from regrun.models.norms import BatchNorm
from regrun.models.ops import Op, Pass, run
from regrun.settings import BatchNorm as BatchNormSettings
from regrun.settings import Reg, Settings
from regrun.stack import Stack
from regrun.streams import generator
from regrun.studies import watched
from regrun.studies.found import Found

RATES = (0.03, 0.1, 0.3, 1.0)
SAME = RATES.index(0.1)
BATCH_NORM = Reg(batchnorm=BatchNormSettings(active=True))
ARMS = {"without": (Reg(), False), "batch norm": (BATCH_NORM, False), "noisy batch norm": (BATCH_NORM, True)}


@dataclass(frozen=True)
class Noise(Op):
    """In training a unit's outputs are scaled and shifted at random, anew at each step, the same for its examples.

    The factor is uniform in 0.75 to 1.25 and the shift in -0.5 to 0.5; batch norm has given mean 0 and deviation 1.
    """

    draw: Generator

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        if not on.training:
            return x
        factor, shift = torch.rand(2, len(x), 1, x.shape[2], generator=self.draw)
        moved: Tensor = x * (0.75 + 0.5 * factor) + (shift - 0.5)
        return moved


def covariate_shift(run: Settings, source: Source, seed: int, is_quick: bool) -> Iterator[Found]:
    """Test error, and what a step does to the layers, without and with batch norm, and with noise after it.

    test_error, drift: at the learning rate that val chooses of four. drift: by how much a step changes the mean input
    of the layers after the first one, root mean square over units, relative to their deviation over 256 examples, mean
    over layers and steps. gradient_shift: the same of the gradient by a layer's weights if only the layers before it
    make their step, relative to its norm; at the learning rate of 0.1.
    """
    for arm, (reg, is_noisy) in ARMS.items():
        stack = watched.at_rates(run, source, seed, reg, RATES)
        if is_noisy:
            stack = Stack(stack.runs, stack.batches, noisy(stack.ops, seed), stack.params, stack.buffers, {})
        seen = trained(stack, is_noisy=is_noisy)
        errors = {name: [1 - (score.accuracy or 0.0) for score in evaluate(stack, name)] for name in ("val", "test")}
        best = int(np.argmin(errors["val"]))
        yield Found(arm, "test_error", errors["test"][best])
        yield Found(arm, "lr", RATES[best])
        for rate, error in zip(RATES, errors["test"], strict=True):
            yield Found(arm, "test_error", error, rate)
        for figure, values in seen.items():
            yield Found(arm, figure, float(torch.stack(values).mean(0)[SAME if figure == "gradient_shift" else best]))


def trained(stack: Stack, *, is_noisy: bool) -> dict[str, list[Tensor]]:
    """Train a stack; what each look at a step has found, (R,)."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    probe, _ = stack.batches.eval_batch(stack.batches.indices["train"][:, :256])
    for x, targets, step in watched.looks(stack):
        inputs, old = layer_inputs(stack, probe), stack.params.flat.clone()
        _, gradient = watched.gradient(stack, x, targets)
        step()
        found["drift"].append(drift(inputs, layer_inputs(stack, probe)))
        if not is_noisy:
            found["gradient_shift"].append(gradient_shift(stack, old, gradient, x, targets))
    return found


def noisy(ops: tuple[Op, ...], seed: int) -> tuple[Op, ...]:
    """With noise after each batch norm."""
    draw = generator(seed, "augment", "norms")
    return tuple(one for op in ops for one in ((op, Noise(draw)) if isinstance(op, BatchNorm) else (op,)))


def layer_inputs(stack: Stack, x: Tensor) -> list[Tensor]:
    """What goes into each layer but the first one, (R, B, D), in training mode."""
    outputs = dict[str, Tensor]()
    with torch.no_grad():
        run(stack.ops, x, watched.training_pass(stack, x, outputs=outputs))
    return [h for name, h in outputs.items() if name != "output"]


def drift(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """(R,) change of the units' means, relative to the deviation across examples; root mean squares, mean of layers."""
    moved = [(b.mean(1) - a.mean(1)).square().mean(1).sqrt() for a, b in zip(before, after, strict=True)]
    deviations = [(a - a.mean(1, keepdim=True)).square().mean((1, 2)).sqrt() for a in before]
    return torch.stack([m / d for m, d in zip(moved, deviations, strict=True)]).mean(0)


def gradient_shift(stack: Stack, old: Tensor, gradient: Tensor, x: Tensor, targets: Tensor) -> Tensor:
    """(R,) change of a layer's gradient as the layers before it go from `old` to what they are, mean of layers."""
    new, before, found = stack.params.flat.clone(), stack.params.views(gradient), []
    views = {"old": stack.params.views(old), "new": stack.params.views(new)}
    layers = [name for name in before if name.endswith("weight") and not name.startswith("norm")]
    with torch.no_grad():
        for i, layer in enumerate(layers[1:], start=1):
            for name, leaf in stack.params.leaves.items():
                leaf.copy_(views["new" if _layer(name) in map(_layer, layers[:i]) else "old"][name])
            own = stack.params.views(watched.gradient(stack, x, targets)[1])[layer]
            found.append((own - before[layer]).flatten(1).norm(dim=1) / before[layer].flatten(1).norm(dim=1))
        stack.params.flat.copy_(new)
    return torch.stack(found).mean(0)


def _layer(name: str) -> str:
    """`hidden2.weight`, `norm2.bias` -> `2`; a norm belongs to the layer before it."""
    return name.partition(".")[0].removeprefix("hidden").removeprefix("norm")
