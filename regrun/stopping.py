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


@dataclass(frozen=True)
class Gap:
    """Over once train accuracy leads val accuracy by more than `limit`."""

    limit: float
    is_over: bool = False

    def seen(self, value: float, _: int) -> "Gap":
        """The state after a gap was measured."""
        return replace(self, is_over=value > self.limit)


@dataclass(frozen=True)
class GeneralizationLoss:
    """GL_alpha of Prechelt (1998): over once val loss is more than `alpha` percent above its lowest so far."""

    alpha: float
    lowest: float = math.inf
    is_over: bool = False

    def seen(self, value: float, _: int) -> "GeneralizationLoss":
        """The state after a val loss was measured."""
        lowest = min(value, self.lowest) if math.isfinite(value) else self.lowest
        return replace(self, lowest=lowest, is_over=value > (1 + self.alpha / 100) * lowest)


@dataclass(frozen=True)
class Stopping:
    """Which epoch was the best by the monitored figure, and whether the rule, which may see it smoothed, is over."""

    best: Patience
    rule: Patience | Gap | GeneralizationLoss
    smoothing: float = 0.0
    smooth: float = math.nan

    def seen(self, monitored: float, epoch: int, *, gap: float, val_loss: float) -> "Stopping":
        """The state after an epoch."""
        figure = {Patience: monitored, Gap: gap, GeneralizationLoss: val_loss}[type(self.rule)]
        keeps = self.smoothing > 0 and math.isfinite(figure) and math.isfinite(self.smooth)
        smooth = self.smoothing * self.smooth + (1 - self.smoothing) * figure if keeps else figure
        after = replace(self, best=self.best.seen(monitored, epoch), rule=self.rule.seen(smooth, epoch))
        return replace(after, smooth=smooth if math.isfinite(smooth) else self.smooth)


def stopping(settings: EarlyStopping) -> Stopping:
    """The value to start from. `mode: auto` is min for a loss and max for an accuracy."""
    mode = settings.mode
    if mode == "auto":
        mode = "min" if settings.monitor == "val_loss" else "max"
    best = Patience(None, min_delta=settings.min_delta, sign=1 if mode == "min" else -1)
    rules: dict[str, Patience | Gap | GeneralizationLoss] = {
        "patience": replace(best, limit=settings.patience),
        "gap": Gap(settings.gap),
        "generalization_loss": GeneralizationLoss(settings.alpha),
    }
    return Stopping(best, rules[settings.rule], settings.smoothing)
