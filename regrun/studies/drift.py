"""Internal covariate shift: how far a step moves the inputs of the layers, and whether that matters for training.

After Santurkar, Tsipras, Ilyas and Madry 2018, How Does Batch Normalization Help Optimization?
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from regrun import objective, optim
from regrun.data.batches import Batches
from regrun.data.source import Source
from regrun.data.split import split
from regrun.layers import pad_rows
from regrun.measure import evaluate
from regrun.models.norms import BatchNorm
from regrun.models.ops import Op, Pass, run, run_back
from regrun.settings import BatchNorm as BatchNormSettings
from regrun.settings import Reg, Seeds, Settings, resolve
from regrun.stack import Stack, new_stack
from regrun.streams import generator
from regrun.studies.found import Found

RATES = (0.03, 0.1, 0.3, 1.0)
SAME = RATES.index(0.1)
EVERY = 20  # steps between two looks
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
        own = resolve(replace(run, seed=seed, seeds=Seeds(), reg=reg))
        stack, looks = trained(own, source, is_noisy=is_noisy)
        errors = {name: [1 - (score.accuracy or 0.0) for score in evaluate(stack, name)] for name in ("val", "test")}
        best = int(np.argmin(errors["val"]))
        yield Found(arm, "test_error", errors["test"][best])
        yield Found(arm, "lr", RATES[best])
        for rate, error in zip(RATES, errors["test"], strict=True):
            yield Found(arm, "test_error", error, rate)
        for figure, values in looks.items():
            yield Found(arm, figure, float(torch.stack(values).mean(0)[SAME if figure == "gradient_shift" else best]))


def trained(run: Settings, source: Source, *, is_noisy: bool) -> tuple[Stack, dict[str, list[Tensor]]]:
    """A stack with a replica for each of `RATES`, and what each look at a step has found, (R,)."""
    runs = [replace(run, optimizer=replace(run.optimizer, lr=lr)) for lr in RATES]
    batches = Batches(source, [split(source, run.data, run.seeds)] * len(runs), runs, torch.device("cpu"))
    stack = new_stack(runs, batches)
    if is_noisy:
        stack = Stack(runs, batches, noisy(stack.ops, run.seed), stack.params, stack.buffers, {})
    looks: dict[str, list[Tensor]] = defaultdict(list)
    probe, _ = batches.eval_batch(batches.indices["train"][:, :256])
    epochs = range(1, run.trainer.epochs + 1)
    parts = [part for epoch in epochs for part in batches.order(epoch).split(run.trainer.batch_size, dim=1)]
    rates = np.linspace(1, 0, len(parts), endpoint=False)[:, None] * RATES
    table = optim.epoch_table([own.optimizer for own in runs], rates, first_step=1, device=batches.device)
    for number, (part, at) in enumerate(zip(parts, table, strict=True)):
        x, targets = batches.train_batch(part, {})
        if number % EVERY:
            stack.step(x, targets, at, {})
        else:
            inputs, old = layer_inputs(stack, probe), stack.params.flat.clone()
            with torch.no_grad():
                gradients = weight_gradients(stack, x, targets)
            stack.step(x, targets, at, {})
            looks["drift"].append(drift(inputs, layer_inputs(stack, probe)))
            if not is_noisy:
                looks["gradient_shift"].append(gradient_shift(stack, old, gradients, x, targets))
    return stack, looks


def noisy(ops: tuple[Op, ...], seed: int) -> tuple[Op, ...]:
    """With noise after each batch norm."""
    draw = generator(seed, "augment", "norms")
    return tuple(one for op in ops for one in ((op, Noise(draw)) if isinstance(op, BatchNorm) else (op,)))


def layer_inputs(stack: Stack, x: Tensor) -> list[Tensor]:
    """What goes into each layer but the first one, (R, B, D), in training mode."""
    outputs = dict[str, Tensor]()
    with torch.no_grad():
        run(stack.ops, x, _pass(stack, x, outputs=outputs))
    return [h for name, h in outputs.items() if name != "output"]


def drift(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """(R,) change of the units' means, relative to the deviation across examples; root mean squares, mean of layers."""
    moved = [(b.mean(1) - a.mean(1)).square().mean(1).sqrt() for a, b in zip(before, after, strict=True)]
    deviations = [(a - a.mean(1, keepdim=True)).square().mean((1, 2)).sqrt() for a in before]
    return torch.stack([m / d for m, d in zip(moved, deviations, strict=True)]).mean(0)


def gradient_shift(stack: Stack, old: Tensor, before: dict[str, Tensor], x: Tensor, targets: Tensor) -> Tensor:
    """(R,) change of a layer's gradient as the layers before it go from `old` to what they are, mean of layers."""
    new, found = stack.params.flat.clone(), []
    views = {"old": stack.params.views(old), "new": stack.params.views(new)}
    layers = [name for name in before if name.endswith("weight") and not name.startswith("norm")]
    with torch.no_grad():
        for i, layer in enumerate(layers[1:], start=1):
            for name, leaf in stack.params.leaves.items():
                leaf.copy_(views["new" if _layer(name) in map(_layer, layers[:i]) else "old"][name])
            own = weight_gradients(stack, x, targets)[layer]
            found.append((own - before[layer]).flatten(1).norm(dim=1) / before[layer].flatten(1).norm(dim=1))
        stack.params.flat.copy_(new)
    return torch.stack(found).mean(0)


def _layer(name: str) -> str:
    """`hidden2.weight`, `norm2.bias` -> `2`; a norm belongs to the layer before it."""
    return name.partition(".")[0].removeprefix("hidden").removeprefix("norm")


def weight_gradients(stack: Stack, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Of the loss in training mode, by name; the stack stays as it is."""
    on = _pass(stack, x, tape=[], gradients=stack.params.views(torch.zeros_like(stack.params.flat)))
    logits = run(stack.ops, pad_rows(x, dim=1), on)[:, : on.rows]
    _, gradient = objective.cross_entropy_with_gradient(logits, targets)
    run_back(stack.ops, pad_rows(gradient, dim=1), on)
    return on.gradients


def _pass(stack: Stack, x: Tensor, **more: object) -> Pass:
    buffers = {name: buffer.clone() for name, buffer in stack.buffers.items()}
    return Pass(params=stack.params.leaves, buffers=buffers, rows=x.shape[1], training=True, **more)  # type: ignore[arg-type]
