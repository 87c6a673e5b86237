"""What the mechanisms of a stack measurably did: the proof that they acted."""

from torch import Tensor


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

    def means(self, replicas: int) -> dict[str, list[float]]:
        """Each mechanism's figure for each replica."""
        return {name: (total / self.counts[name]).expand(replicas).tolist() for name, total in self.sums.items()}
