"""How likely the units of one place are to be dropped, in each replica."""

from dataclasses import dataclass

import torch
from torch import Tensor


def realized(rate: float) -> float:
    """The drop probability that 16-bit draws give: the nearest multiple of 1 / 65,536 below 1."""
    return min(round(rate * 65536), 65535) / 65536


@dataclass
class Rates:
    """The drop probabilities of one place, per replica, ready for `layers.dropout`."""

    threshold: Tensor  # (R, 1) int16: a 16-bit draw below it is dropped
    scale: Tensor  # (R, 1) float: what survivors are multiplied by, 1 / (1 - realized rate)
    mean: Tensor | None = None  # (R, 1) float: what all are multiplied by where nothing is drawn; None for 1

    @classmethod
    def of(cls, rates: list[float], device: torch.device) -> "Rates":
        """Inverted dropout: it keeps the mean."""
        share = torch.tensor([realized(rate) for rate in rates], dtype=torch.float64).unsqueeze(1)
        threshold = (share * 65536 - 32768).to(torch.int16)
        return cls(threshold.to(device), (1 / (1 - share)).float().to(device))

    @classmethod
    def classic(cls, rates: list[float], device: torch.device) -> "Rates":
        """Classic dropout: survivors stay as they are, and evaluation multiplies by the share that is kept."""
        kept = torch.tensor([1 - realized(rate) for rate in rates], device=device).unsqueeze(1)
        return cls(cls.of(rates, device).threshold, torch.ones_like(kept), kept)

    def some(self, replicas: slice) -> "Rates":
        """Those of some replicas."""
        mean = None if self.mean is None else self.mean[replicas]
        return Rates(self.threshold[replicas], self.scale[replicas], mean)

    @property
    def is_on(self) -> Tensor:
        """(R,) which replicas drop at all."""
        return self.threshold.squeeze(1) > -32768
