"""What the mechanisms of a stack measurably did: the proof that they acted."""

from torch import Tensor


class Meter:
    """What regularizers measurably did: a running mean per mechanism and replica."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """values: (R,) one measurement for each replica."""
        values = values.detach().float().cpu()
        self.sums[name] = self.sums[name] + values if name in self.sums else values
        self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self, name: str) -> Tensor | None:
        """(R,) or None if the mechanism never ran."""
        return self.sums[name] / self.counts[name] if name in self.sums else None
