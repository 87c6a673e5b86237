"""When to stop, and which epoch was the best. A small frozen value that the loop asks."""

import math
from dataclasses import dataclass, replace

from regrun.settings import EarlyStopping


@dataclass(frozen=True)
class Patience:
    """Epochs since the monitored value last improved by more than `min_delta`. What is not finite is a miss.

    `sign` is 1 where lower is better and -1 where higher is. A limit of None never stops, but still knows
    the best epoch (Prechelt 1998).
    """

    limit: int | None
    min_delta: float = 0.0
    sign: int = 1
    best: float = math.inf
    best_epoch: int = -1
    misses: int = 0

    def seen(self, value: float, epoch: int) -> "Patience":
        """The state after `value` was measured at `epoch`."""
        score = self.sign * value
        if math.isfinite(score) and score < self.best - self.min_delta:
            return replace(self, best=score, best_epoch=epoch, misses=0)
        return replace(self, misses=self.misses + 1)

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.limit is not None and self.misses >= self.limit


def patience(settings: EarlyStopping) -> Patience:
    """The value to start from. `mode: auto` is min for a loss and max for an accuracy."""
    mode = settings.mode
    if mode == "auto":
        mode = "min" if settings.monitor == "val_loss" else "max"
    return Patience(settings.patience, min_delta=settings.min_delta, sign=1 if mode == "min" else -1)
