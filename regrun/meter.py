"""What the mechanisms of a stack measurably did: the proof that they acted."""

import torch
from torch import Tensor

from regrun.parallel import ALONE, Peers


class Meter:
    """What regularizers measurably did: a running mean per mechanism and replica."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """values: (R,) one measurement for each replica, or (1,) that holds for all."""
        values = values.detach().float().cpu()
        self.sums[name] = self.sums[name] + values if name in self.sums else values
        self.counts[name] = self.counts.get(name, 0) + 1

    def copy(self) -> "Meter":
        """One to go on with, without changing this one."""
        other = Meter()
        other.sums, other.counts = dict(self.sums), dict(self.counts)
        return other

    def means(self, replicas: int, peers: Peers = ALONE) -> dict[str, list[float]]:
        """Each mechanism's figure for each replica: of several processes, the mean of theirs."""
        if not self.sums:
            return {}
        means = torch.stack([(total / self.counts[name]).expand(replicas) for name, total in self.sums.items()])
        return dict(zip(self.sums, peers.mean(means).tolist(), strict=True))
