"""The tensors of a stack: every parameter of every replica in one (R, P) tensor, seen through named views.

One flat tensor makes an optimizer step a handful of kernels whatever the depth (for 8 x 128 with adam: 8
instead of 144), and copying, keeping the best and dropping a replica one line each. Weights come first, so
that what decays is a slice.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from regrun.initializers import init_bias, init_weight, output_init
from regrun.models.ops import BatchNorm, Conv, Linear, Op, Slot, walk
from regrun.settings import Settings
from regrun.streams import generator

ALIGN = 16  # floats: each part starts on a cache line, so no replica's arithmetic depends on its neighbours


class Parameters:
    """(R, P) parameters and the views of the ops' slots on them, as leaves of the autograd graph."""

    def __init__(self, slots: Sequence[Slot], flat: Tensor | None = None, *, replicas: int, device: torch.device):
        weights = [s for s in slots if s.role == "weight"]
        others = [s for s in slots if s.role != "weight"]
        self.slots = slots
        self.order = weights + others
        self.num_weights = sum(math.prod(s.shape) for s in weights)
        self.num_parameters = self.num_weights + sum(math.prod(s.shape) for s in others)
        self.weights_end = _aligned(self.num_weights)
        size = self.weights_end + _aligned(self.num_parameters - self.num_weights)
        self.flat = torch.zeros(replicas, size, device=device) if flat is None else flat
        self.leaves = self._views(weights, 0) | self._views(others, self.weights_end)

    def _views(self, slots: list[Slot], start: int) -> dict[str, Tensor]:
        views = {}
        for slot in slots:
            end = start + math.prod(slot.shape)
            view = self.flat[:, start:end].view(-1, *slot.shape)
            views[slot.name] = view.detach().requires_grad_()
            start = end
        return views

    def gather(self, gradients: Sequence[Tensor], out: Tensor) -> Tensor:
        """The leaves' gradients, in the order of `leaves`, laid out like `flat`, in `out`."""
        replicas, size = self.flat.shape
        flat = [g.reshape(replicas, -1) for g in gradients]
        count = sum(s.role == "weight" for s in self.order)
        gaps = (self.weights_end - self.num_weights, size - self.weights_end - self.num_parameters + self.num_weights)
        zeros = [out.new_zeros(replicas, gap) for gap in gaps]
        return torch.cat([*flat[:count], zeros[0], *flat[count:], zeros[1]], 1, out=out)

    def select(self, indices: list[int]) -> "Parameters":
        """A copy that holds only some replicas."""
        flat = self.flat[indices].clone()
        return Parameters(self.slots, flat, replicas=len(indices), device=flat.device)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def all_slots(ops: tuple[Op, ...]) -> list[Slot]:
    """The slots of every op, in the order of the forward pass."""
    return [slot for op in walk(ops) for slot in op.slots()]


def weighted(ops: tuple[Op, ...]) -> list[Linear | Conv]:
    """The layers that have a weight matrix or kernel."""
    return [op for op in walk(ops) if isinstance(op, Linear | Conv)]


def initialize(params: Parameters, ops: tuple[Op, ...], runs: Sequence[Settings]) -> None:
    """Fill the parameters of each replica from its own settings and its own `init` stream."""
    views = {name: leaf.detach() for name, leaf in params.leaves.items()}
    for slot in params.slots:
        if slot.role == "gain":
            views[slot.name].fill_(1.0)
    for r, run in enumerate(runs):
        source = generator(run.seeds.init or 0, "init")
        for op in weighted(ops):
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
    """The running statistics of the batch norms: (R, D) means of 0 and variances of 1."""
    buffers = {}
    for op in walk(ops):
        if isinstance(op, BatchNorm):
            buffers[f"{op.name}.running_mean"] = torch.zeros(replicas, op.width, device=device)
            buffers[f"{op.name}.running_var"] = torch.ones(replicas, op.width, device=device)
    return buffers
