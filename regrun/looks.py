"""What runs are asked to keep predictions of: their best weights, or snapshots; the predictions are made at the end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regrun import measure
from regrun.stack import Stack

SPLITS = ("val", "test")

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Look:
    """What one run predicts with the weights of C epochs, which may be none."""

    epochs: list[int]
    outputs: dict[str, Tensor]  # of val and test: (C, N, K) log-probabilities, or (C, N, T) predictions


def looks(stack: Stack, moments: Sequence[dict[int, Weights]]) -> list[Look]:
    """Each replica's look with the weights that it had after some epochs. The stack's own weights are lost."""
    taken: list[list[dict[str, Tensor]]] = [[] for _ in moments]
    for i in range(max(map(len, moments))):
        there = [r for r, own in enumerate(moments) if i < len(own)]
        for r in there:
            stack.load(r, list(moments[r].values())[i])
        outputs = {split: measure.outputs(stack, split) for split in SPLITS}
        for r in there:
            taken[r].append({split: outputs[split][r] for split in SPLITS})
    return [Look(list(own), _stacked(stack, each)) for own, each in zip(moments, taken, strict=True)]


def _stacked(stack: Stack, taken: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    sizes = {split: (stack.batches.indices[split].shape[1], stack.batches.source.num_outputs) for split in SPLITS}
    return {
        split: torch.stack([each[split] for each in taken]) if taken else torch.empty(0, *sizes[split])
        for split in SPLITS
    }
