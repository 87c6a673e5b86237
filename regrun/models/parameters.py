"""The tensors of a stack: every parameter of every replica in one (R, P) tensor, seen through named views.

One flat tensor makes an optimizer step a handful of kernels whatever the depth (for 8 x 128 with adam: 8
instead of 144), and copying, keeping the best and dropping a replica one line each. Weights come first, so
that what decays is a slice.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

from regrun.initializers import init_bias, init_weight, output_init
from regrun.layers import aligned
from regrun.models.ops import Conv, Linear, Op, Slot, walk
from regrun.settings import Settings
from regrun.streams import generator


class Parameters:
    """(R, P) parameters and the views of the ops' slots on them, as leaves of the autograd graph."""

    def __init__(self, slots: Sequence[Slot], flat: Tensor | None = None, *, replicas: int, device: torch.device):
        self.slots = slots
        self.order = sorted(slots, key=lambda s: s.role != "weight")  # stable: weights first
        starts = [0, *accumulate(aligned(math.prod(s.shape)) for s in self.order)]
        self.starts = dict(zip((s.name for s in self.order), starts, strict=False))
        self.weights_end = sum(aligned(math.prod(s.shape)) for s in slots if s.role == "weight")
        self.num_weights = sum(math.prod(s.shape) for s in slots if s.role == "weight")
        self.num_parameters = sum(math.prod(s.shape) for s in slots)
        self.flat = torch.zeros(replicas, starts[-1], device=device) if flat is None else flat
        self.leaves = {name: view.requires_grad_() for name, view in self.views(self.flat).items()}

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The slots of a tensor laid out like `flat`, by name: (R, *shape) each."""
        return {s.name: self._view(flat, s) for s in self.order}

    def weights(self) -> list[Tensor]:
        """The weight matrices and kernels, (R, out, ...) each."""
        return [self._view(self.flat, s) for s in self.order if s.role == "weight"]

    def stretches(self, chosen: Callable[[Slot], bool]) -> list[Tensor]:
        """The slices of `flat` that hold the chosen slots: neighbours are one slice."""
        ends = {s.name: self.starts[s.name] + aligned(math.prod(s.shape)) for s in self.order}
        parts = [list(group) for is_chosen, group in groupby(self.order, chosen) if is_chosen]
        return [self.flat[:, self.starts[part[0].name] : ends[part[-1].name]] for part in parts]

    def _view(self, flat: Tensor, slot: Slot) -> Tensor:
        start, size = self.starts[slot.name], math.prod(slot.shape)
        return flat[:, start : start + size].view(-1, *slot.shape).detach()

    def with_flat(self, flat: Tensor) -> "Parameters":
        """The same slots of other replicas."""
        return Parameters(self.slots, flat, replicas=len(flat), device=flat.device)


def all_slots(ops: tuple[Op, ...]) -> list[Slot]:
    """The slots of every op, in the order of the forward pass."""
    return [slot for op in walk(ops) for slot in op.slots()]


def weighted(ops: tuple[Op, ...]) -> list[Linear | Conv]:
    """The layers that have a weight matrix or kernel, in the order of the forward pass."""
    return [layer for op in walk(ops) for layer in op.weighted()]


def initialize(params: Parameters, ops: tuple[Op, ...], runs: Sequence[Settings]) -> None:
    """Fill the parameters of each replica from its own settings and its own `init` stream."""
    views = {name: leaf.detach() for name, leaf in params.leaves.items()}
    for slot in params.slots:
        if slot.role == "gain":
            views[slot.name].fill_(1.0)
    for r, run in enumerate(runs):
        for op in walk(ops):
            for name, value in op.begin(run.seeds.init or 0).items():
                views[name][r] = value
        source = generator(run.seeds.init or 0, "init")
        for op in (layer for layer in weighted(ops) if layer.start != "given"):
            init = output_init(run.model.init) if op.start == "output" else run.model.init
            weight = views[f"{op.name}.weight"][r]
            init_weight(weight, init, activation=run.model.activation, generator=source)
            if op.start == "residual_end" and getattr(run.model, "zero_residual", False):
                weight.zero_()
            if op.bias:
                fan_in = weight[0].numel()
                init_bias(views[f"{op.name}.bias"][r], init, fan_in=fan_in, generator=source)
                if op.start == "residual_end" and getattr(run.model, "zero_residual", False):
                    views[f"{op.name}.bias"][r].zero_()


def new_buffers(ops: tuple[Op, ...], replicas: int, device: torch.device) -> dict[str, Tensor]:
    """The running statistics of the batch norms, (R, D): means of 0 and variances of 1, or those of a file."""
    buffers = {}
    for op in walk(ops):
        for name, width, _ in op.running():
            buffers[f"{name}.running_mean"] = torch.zeros(replicas, width, device=device)
            buffers[f"{name}.running_var"] = torch.ones(replicas, width, device=device)
        for name, value in op.begin_running().items():
            buffers[name].copy_(value)
    return buffers
