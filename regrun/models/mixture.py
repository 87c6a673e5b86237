"""A mixture of experts: networks of one shape, and a gate that says for each example how much each of them counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regrun.models.ops import Linear, Op, Pass, back, run


@dataclass(frozen=True)
class Mixture(Op):
    """sum_e gate_e(x) expert_e(x), the gate a softmax of a linear layer (Jacobs et al. 1991), (R, B, D) -> (R, B, K).

    With `top_k` only the largest gates of an example count, and they sum to 1 (Shazeer et al. 2017, without their
    noise and their loss for balance); every expert is computed all the same. The paper's experts compete by the
    likelihood of the mixture; here their outputs are mixed, and the loss is that of any other network.
    """

    experts: tuple[tuple[Op, ...], ...]
    gate: Linear
    top_k: int | None

    def inside(self) -> tuple[Op, ...]:
        return (*(op for expert in self.experts for op in expert), self.gate)

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        outputs = [run(expert, x, on).float() for expert in self.experts]
        logits = self.gate.forward(x, on).float()
        with torch.set_grad_enabled(on.tape is not None):
            leaves = [t.detach().requires_grad_(on.tape is not None) for t in (logits, *outputs)]
            gates = gate_shares(leaves[0], self.top_k)
            mixed = mix(gates, leaves[1:])
        on.record(self.gate.name, gates)
        on.keep(mixed, *leaves)
        return mixed.detach()

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        mixed, *leaves = on.take()
        by_logits, *by_outputs = torch.autograd.grad(mixed, leaves, gradient)
        total = back((self.gate,), by_logits, on)
        for expert, by_output in zip(reversed(self.experts), reversed(by_outputs), strict=True):
            total = total + back(expert, by_output, on)
        return total


def gate_shares(logits: Tensor, top_k: int | None) -> Tensor:
    """(..., E) -> shares that sum to 1, those aside of the `top_k` largest logits 0."""
    if top_k is None or top_k >= logits.shape[-1]:
        return logits.softmax(-1)
    chosen = logits.topk(top_k, dim=-1).indices
    return torch.full_like(logits, -torch.inf).scatter(-1, chosen, logits.gather(-1, chosen)).softmax(-1)


def mix(gates: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """(R, B, E) gates and E outputs (R, B, K) -> (R, B, K), expert by expert: the bits never depend on R."""
    total: Tensor
    total, *others = (gate * output for gate, output in zip(gates.split(1, -1), outputs, strict=True))
    for other in others:
        total = total + other
    return total
