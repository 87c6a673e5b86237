"""The pieces of a transformer. Tokens are rows: R replicas, B batch, N tokens, D features -> (R, B * N, D).

So a `Linear` or a `LayerNorm` takes every token by itself, with the bits that a replica has alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regrun.models.dropping import Dropout
from regrun.models.ops import Op, Pass, Slot
from regrun.streams import generator


@dataclass(frozen=True)
class Patches(Op):
    """Rows of pixels -> tokens: square patches of `side` pixels, row by row, (R, B, C * H * W) -> (R, B * N, D)."""

    shape: tuple[int, int, int]
    side: int

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        channels, height, width = self.shape
        grid = (channels, height // self.side, self.side, width // self.side, self.side)
        patches = x.unflatten(2, grid).permute(0, 1, 3, 5, 2, 4, 6)
        tokens: Tensor = patches.reshape(len(x), -1, channels * self.side**2)
        return tokens


@dataclass(frozen=True)
class Positions(Op):
    """A learned vector for each of `tokens` places is added: a bias by place. It starts from N(0, 0.02^2)."""

    name: str
    tokens: int
    width: int

    def slots(self) -> Iterator[Slot]:
        yield Slot(f"{self.name}.weight", (self.tokens, self.width), "bias")

    def begin(self, seed: int) -> dict[str, Tensor]:
        values = torch.empty(self.tokens, self.width)
        return {f"{self.name}.weight": values.normal_(0.0, 0.02, generator=generator(seed, "init", self.name))}

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        placed: Tensor = x.unflatten(1, (-1, self.tokens)) + on.params[f"{self.name}.weight"].unsqueeze(1)
        return placed.flatten(1, 2)


@dataclass(frozen=True)
class Attention(Op):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017), (R, B * N, 3 D) -> (R, B * N, D).

    A row holds query, key and value, D features each, of which each head takes its share in turn, as in
    torch's MultiheadAttention. `drop` acts on the weights that each token gives to the others.
    """

    heads: int
    tokens: int
    drop: Dropout

    def inside(self) -> tuple[Op, ...]:
        return (self.drop,)

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        split = x.unflatten(1, (-1, self.tokens)).unflatten(3, (3, self.heads, -1))
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)  # (R, B, heads, N, D / heads) each
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = scores.float().softmax(-1)
        dropped, _ = self.drop.dropped(weights.flatten(2), on)
        mixed: Tensor = dropped.view_as(weights).to(value.dtype) @ value
        return mixed.transpose(2, 3).reshape(*x.shape[:2], -1)


@dataclass(frozen=True)
class MeanTokens(Op):
    """The mean of an example's tokens, (R, B * N, D) -> (R, B, D)."""

    tokens: int

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        tokens: Tensor = x.unflatten(1, (-1, self.tokens))
        return tokens.mean(2)
