"""The pieces of a network that leave something out in training: units, feature maps, whole branches."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regrun import layers
from regrun.models.ops import Op, Pass
from regrun.models.rates import Rates


@dataclass(frozen=True)
class Dropout(Op):
    """Dropout at a named place; `size` draws per example. Where no replica asks for it, nothing happens.

    Inverted, or classic (Srivastava et al. 2014): then whatever is measured without draws is scaled down instead.
    """

    name: str
    size: int
    kind: str = "inverted"
    mechanism: str = "dropout"  # whose figure it is
    axes: ClassVar[int] = 5  # of (R, B, D) or (R, B, C, H, W), the first ones along which draws differ: all

    def dropped(self, x: Tensor, on: Pass) -> tuple[Tensor, Tensor | None]:
        """x times factors of 0 or more, and these; None where nothing is dropped. (R, B, D) or images."""
        rates = on.rates.get(self.name)
        factors = None if rates is None else self._factors(x, rates, on)
        if rates is None or factors is None:
            return x, None
        y = x * factors
        if on.meter is not None and on.training:
            parts = [t if t.dim() == 3 else layers.to_features(t, len(rates.threshold)) for t in (x, y, factors)]
            share = self._share_zeroed(*parts, rows=on.rows)
            on.meter.add(f"{self.mechanism}/{self.name}", share.where(rates.is_on, torch.nan))
        return y, factors

    def forward(self, x: Tensor, on: Pass) -> Tensor:
        y, factors = self.dropped(x, on)
        on.keep(factors)
        return y

    def backward(self, gradient: Tensor, on: Pass, *, needs_input: bool = True) -> Tensor | None:
        (factors,) = on.take()
        return gradient if factors is None else gradient * factors

    def _factors(self, x: Tensor, rates: Rates, on: Pass) -> Tensor | None:
        """What x is multiplied by, broadcasting against it; None for 1."""
        replicas = len(rates.threshold)
        split = x if x.dim() == 3 else x.unflatten(1, (replicas, -1)).transpose(0, 1)
        per_replica = (replicas, *[1] * (split.dim() - 1))
        if on.masks is not None:
            drawn = (*split.shape[: self.axes], *[1] * (split.dim() - self.axes))
            mask = on.masks(self.name, math.prod(drawn[1:])).view(drawn)
            factors = layers.dropout_factors(rates.threshold.view(per_replica), rates.scale.view(per_replica), mask)
        elif rates.mean is None:
            return None
        else:
            factors = rates.mean.view(per_replica)
        if x.dim() == 3:
            return factors
        return factors.expand(-1, -1, split.shape[2], -1, -1).transpose(0, 1).flatten(1, 2)

    def _share_zeroed(self, x: Tensor, y: Tensor, factors: Tensor, *, rows: int) -> Tensor:
        """(R,) the share of each replica's nonzero elements that became zero. All are (R, B, D)."""
        alive, kept = ((t != 0).sum((1, 2)) for t in (x, y))
        return 1 - kept / alive.clamp(min=1)


@dataclass(frozen=True)
class SpatialDropout(Dropout):
    """Dropout of whole feature maps (Tompson et al. 2015): `size` channels, one draw for each of an example's.

    Survivors are scaled up as those of dropout, so that evaluation needs no rescaling.
    """

    mechanism: str = "spatial_dropout"
    axes: ClassVar[int] = 3

    def _share_zeroed(self, x: Tensor, y: Tensor, factors: Tensor, *, rows: int) -> Tensor:
        """(R,) the share of the draws of real examples that dropped."""
        return (factors[:, :rows] == 0).float().mean((1, 2))


@dataclass(frozen=True)
class StochasticDepth(SpatialDropout):
    """The end of a branch beside a skip: for some examples the branch is left out (Huang et al. 2016).

    `share`: of the last block's rate, l / L for block l of L as in the paper (timm's is (l - 1) / (L - 1)). Drawn
    for each example and with survivors scaled by 1 / (1 - rate), as timm and torchvision do it; the paper leaves a
    block out for a whole batch, and scales in evaluation.
    """

    mechanism: str = "stochastic_depth"
    axes: ClassVar[int] = 2
    share: float = 1.0
    tokens: int = 1  # rows of an example

    def dropped(self, x: Tensor, on: Pass) -> tuple[Tensor, Tensor | None]:
        if self.tokens == 1:
            return super().dropped(x, on)
        y, factors = super().dropped(x.reshape(len(x), -1, self.tokens * x.shape[2]), on)
        return y.view_as(x), None if factors is None else factors.repeat_interleave(self.tokens, 1)
