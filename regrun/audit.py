"""A network before training: what its first batch does to every layer, forward and back, and what it costs in memory.

The root mean square of a layer is not enough. torch's default weights and biases over 20 ReLU layers of 512 keep it
at 0.019, but across examples the standard deviation is 6.5e-9: the layer says the same whatever it is shown.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regrun import optim
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import Split
from regrun.initializers import fans, output_init, target_std
from regrun.layers import aligned, per_example
from regrun.models.ops import Activation, Conv, Linear, Op, walk
from regrun.models.parameters import weighted
from regrun.rows import AuditRow, MemoryRow
from regrun.settings import Settings
from regrun.stack import Stack, new_stack

DIES = 1e-3  # of the input's standard deviation across examples: what has less has lost the signal


@dataclass(frozen=True)
class Audit:
    """What was found."""

    batch: int  # examples that were shown
    layers: list[AuditRow]  # the input first
    path: list[str]  # the hidden layers that everything must pass: none that starts at zero beside a skip
    memory: list[MemoryRow]

    def signal(self, layer: str) -> float:
        """A layer's standard deviation across examples, as a multiple of the input's."""
        at_input = self.layers[0].across_example_std or 1.0
        return self.row(layer).across_example_std / at_input

    def row(self, layer: str) -> AuditRow:
        """The figures of a layer."""
        return next(row for row in self.layers if row.layer == layer)

    def dies_at(self) -> str | None:
        """The layer from which on none has a signal; None where the last hidden layer has one."""
        alive = [i for i, name in enumerate(self.path) if not self.signal(name) < DIES]
        after = alive[-1] + 1 if alive else 0
        return self.path[after] if after < len(self.path) else None


def audit(run: Settings, source: Source, split: Split, device: torch.device) -> Audit:
    """Build and initialize the run's network, and show it the first batch of its first epoch."""
    stack = new_stack([run], Batches(source, [split], [run], device))
    order = stack.batches.order(1)[:, : run.trainer.batch_size]
    x, targets = stack.batches.train_batch(order, stack.batches.augmenters(1))
    layers, activations = look(stack, x, targets)
    path = [op.name for op in weighted(stack.ops) if op.start in ("hidden", "given")]
    return Audit(len(targets[0]), layers, path, memory(stack, activations))


def look(stack: Stack, x: Tensor, targets: Tensor) -> tuple[list[AuditRow], int]:
    """The layers of a stack of one, and the bytes kept to go back through them. x: (1, B, D), targets: (1, B)."""
    outputs: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    inputs = x.clone()

    def note(t: Tensor) -> Tensor:
        kept.append(t.detach())
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        gradients = stack.first_gradients(x, targets, outputs, kept)
    features = list(stack.batches.source.shape)
    layers = [
        AuditRow("input", "input", features, 0, None, None, None, None, **_of_output(inputs, None), grad_rms=None)
    ]
    activations = {op.layer: op.kind for op in walk(stack.ops) if isinstance(op, Activation)}
    counts = _parameter_counts(stack.ops)
    for op in weighted(stack.ops):
        output = outputs[op.name].detach()
        layers.append(
            AuditRow(
                layer=op.name,
                kind="conv" if isinstance(op, Conv) else "linear",
                shape=_shape(output, examples=x.shape[1]),
                parameters=counts[op.name],
                **_of_weight(op, stack, gradients[f"{op.name}.weight"]),
                **_of_output(per_example(output, replicas=1, rows=x.shape[1]), activations.get(op.name)),
            )
        )
    return layers, _bytes(kept, without=stack.params.flat)


def _shape(output: Tensor, *, examples: int) -> list[int]:
    """Of one example's output: channels and image, tokens and features, or features."""
    if output.dim() == 4:
        return list(output.shape[1:])
    tokens = output.shape[1] // aligned(examples)
    return [tokens, output.shape[2]] if tokens > 1 else [output.shape[2]]


def _parameter_counts(ops: tuple[Op, ...]) -> dict[str, int]:
    """Each layer's parameters, together with those of what follows it and is no layer: its norm, say.

    What comes before the first layer counts as the first layer's.
    """
    layers = [op.name for op in weighted(ops)]
    counts, name = dict.fromkeys(layers, 0), layers[0]
    for slot in (slot for op in walk(ops) for slot in op.slots()):
        owner = slot.name.rpartition(".")[0]
        name = owner if owner in counts else name
        counts[name] += math.prod(slot.shape)
    return counts


def _of_weight(op: Linear | Conv, stack: Stack, gradient: Tensor) -> dict[str, Any]:
    run, weight = stack.runs[0], stack.params.leaves[f"{op.name}.weight"].detach()[0]
    fan_in, fan_out = fans(weight.shape)
    return {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "target_std": _aim(op, weight, run),
        "weight_std": weight.cpu().double().std(correction=0).item(),
        "grad_rms": _rms(gradient.cpu().double()),
    }


def _aim(op: Linear | Conv, weight: Tensor, run: Settings) -> float | None:
    """The standard deviation that the init asks for; None where a file has the weights."""
    if op.start == "given":
        return None
    if op.start == "residual_end" and getattr(run.model, "zero_residual", False):
        return 0.0
    init = output_init(run.model.init) if op.start == "output" else run.model.init
    return target_std(weight.shape, init, activation=run.model.activation)


def _of_output(output: Tensor, activation: str | None) -> dict[str, Any]:
    """In float64: the squares of 1e24 and of 1e-36 are none of float32's. output: (1, B, D)."""
    y = output[0].cpu().double()
    saturated = {"tanh": y.abs() > 0.97, "sigmoid": (y < 0.03) | (y > 0.97)}.get(activation or "")
    return {
        "activation_rms": _rms(y),
        "across_example_std": _rms(y - y.mean(0)),
        "saturated_fraction": None if saturated is None else saturated.double().mean().item(),
        "dead_fraction": (y == 0).all(0).double().mean().item(),
    }


def _rms(t: Tensor) -> float:
    return t.square().mean().sqrt().item()


def _bytes(tensors: list[Tensor], *, without: Tensor) -> int:
    """The bytes of all memory behind some tensors, each counted once."""
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    storages.pop(without.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def memory(stack: Stack, activations: int) -> list[MemoryRow]:
    """What a step holds. The optimizer's states are counted after an update: whatever it made is what it needs."""
    optimizer, state = stack.runs[0].optimizer, stack.state
    at = optim.epoch_table([optimizer], np.array([[optimizer.lr]]), first_step=1, device=stack.device)[0]
    with torch.no_grad():
        optim.update(stack.params.flat, stack.gradient, state, at, optimizer)
    return [
        MemoryRow("parameters", stack.params.flat.nbytes),
        MemoryRow("gradients", stack.gradient.nbytes),
        MemoryRow("optimizer", sum(tensor.nbytes for tensor in state.values())),
        MemoryRow("activations", activations),
    ]
