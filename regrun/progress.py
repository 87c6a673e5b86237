"""What one run of a stack has gone through so far."""

import copy
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from regrun.looks import Weights
from regrun.measure import Score
from regrun.schedules import ReduceOnPlateau
from regrun.settings import Plateau, Settings
from regrun.stopping import Patience, Stopping, stopping

PLAIN = ("lrs", "acted", "step", "stop_reason", "diverged_step")


@dataclass
class Progress:
    """Scores, learning rates, what acted, the best weights, and the rules that may end the run."""

    run_id: str
    settings: Settings
    stopping: Stopping
    plateau: ReduceOnPlateau | None = None
    train: list[Score] = field(default_factory=list)
    val: list[Score] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)  # first and last of each epoch
    acted: dict[str, list[float]] = field(default_factory=dict)
    best: Weights = field(default_factory=dict)
    snapshots: dict[int, Weights] = field(default_factory=dict)  # after the epochs with which cycles end
    step: int = 0
    stop_reason: str | None = None
    diverged_step: int | None = None

    @property
    def best_epoch(self) -> int:
        return max(self.stopping.best.best_epoch, 0)

    def has_diverged(self, losses: Tensor, objective: float, loss: float) -> bool:
        """Note the first step whose loss was not finite; the last one, where only the weights it left are not.

        losses: (S,) of an epoch's steps; objective: their mean; loss: of train after them.
        """
        if math.isfinite(objective) and math.isfinite(loss):
            return False
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        self.diverged_step = self.step + (bad[0] + 1 if bad else len(losses))
        self.step += len(losses)
        self.stop_reason = "diverged"
        return True

    def note_acted(self, means: dict[str, float]) -> None:
        """Collect what each mechanism did, NaN where it is off here; norm layers are counted."""
        figures: dict[str, list[float]] = {}
        for name, mean in means.items():
            if not math.isnan(mean):
                figures.setdefault(name.split("/")[0], []).append(mean)
        for name, values in figures.items():
            total = sum(values) if "norm" in name else sum(values) / len(values)
            self.acted.setdefault(name, []).append(total)

    def plain(self) -> dict[str, Any]:
        """All of it but the settings and the weights, as numbers, words, lists and dicts."""
        p = self.plateau
        return {name: getattr(self, name) for name in PLAIN} | {
            "run_id": self.run_id,
            "train": [[s.loss, s.accuracy, s.r2] for s in self.train],
            "val": [[s.loss, s.accuracy, s.r2] for s in self.val],
            "stopping": asdict(self.stopping),
            "plateau": None if p is None else [p.best, p.misses, p.cooling, p.multiplier],
        }


def begin(run_id: str, settings: Settings) -> Progress:
    """A run that has not begun to train."""
    plateau = ReduceOnPlateau(settings.scheduler) if isinstance(settings.scheduler, Plateau) else None
    return Progress(run_id, settings, stopping(settings.trainer.early_stopping), plateau)


def restored(found: dict[str, Any], settings: Settings) -> Progress:
    """What `plain` gave of a run of these settings; without weights."""
    p = begin(found["run_id"], settings)
    state, rule = dict(found["stopping"]), type(p.stopping.rule)
    p.stopping = Stopping(**state | {"best": Patience(**state["best"]), "rule": rule(**state["rule"])})
    if p.plateau is not None:
        names = ("best", "misses", "cooling", "multiplier")
        p.plateau = replace(p.plateau, **dict(zip(names, found["plateau"], strict=True)))
    for name in PLAIN:
        setattr(p, name, copy.deepcopy(found[name]))
    p.train, p.val = ([Score(*each) for each in found[split]] for split in ("train", "val"))
    return p
