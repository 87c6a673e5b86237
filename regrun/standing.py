"""Where a sweep stands: how its runs ended, which settings are best so far, how far the work is, how long it takes.

Work is counted in run-epochs, one epoch of one run: the runs of a stack end together, but epochs come steadily.
"""

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from regrun import overrides
from regrun.collect import FINISHED
from regrun.overrides import Cells

Begun = Mapping[str, int]  # the epoch in which a run goes on from a checkpoint
NONE: Begun = {}
MEASURES = ("val accuracy", "val r2", "val loss")  # the first that a run has ranks


@dataclass
class Setting:
    """One distinct setting, seeds aside, and the finite figures of its finished runs by measure."""

    words: str
    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})

    def mean(self, measure: str) -> float:
        """NaN without a run."""
        figures = self.figures[measure]
        return math.fsum(figures) / len(figures) if figures else math.nan


class Tally:
    """How the runs of a plan ended, and what their settings have reached."""

    def __init__(self, plan: Sequence[Cells]) -> None:
        """plan: every run's row of plan.csv."""
        self.plan, self.names = {row["run_id"]: row for row in plan}, overrides.varying(plan)
        self.statuses, self.pruned = Counter[str](), 0
        shared = overrides.without_seeds(self.names)
        words = {row["run_id"]: overrides.words(row, shared) for row in plan}
        self.distinct = {line: Setting(line) for line in words.values()}  # in the order of the plan
        self.settings = {run: self.distinct[line] for run, line in words.items()}

    def ended(self, row: Cells) -> None:
        """A run has ended; its row of summary.csv."""
        self.statuses[row["status"]] += 1
        self.pruned += row["stop_reason"] == "pruned"
        if row["status"] not in FINISHED:
            return
        for measure, own in self.settings[row["run_id"]].figures.items():
            if math.isfinite(figure := _figure(row, measure)):
                own.append(figure)

    def words(self, row: Cells) -> str:
        """What sets a run apart, its seed too."""
        return overrides.words(self.plan[row["run_id"]], self.names)

    def measure(self) -> str:
        """What settings are ranked by: val accuracy or R2, or val loss where no run has either."""
        found = [name for name in MEASURES if any(setting.figures[name] for setting in self.distinct.values())]
        return found[0] if found else MEASURES[-1]

    def figure(self, row: Cells) -> float:
        """A run's own, NaN where it has none."""
        return _figure(row, self.measure())

    def best(self, count: int) -> list[Setting]:
        """The settings with the highest mean accuracy or R2, the lowest mean loss, the earliest in the plan."""
        return heapq.nsmallest(count, (s for s in self.distinct.values() if any(s.figures.values())), key=_rank)


def _figure(row: Cells, measure: str) -> float:
    cell = row.get(f"{measure.replace(' ', '_')}_best", "none")
    return math.nan if cell == "none" else float(cell)


def _rank(setting: Setting) -> list[float]:
    accuracy, r2, loss = (setting.mean(name) for name in MEASURES)
    return [math.inf if math.isnan(figure) else figure for figure in (-accuracy, -r2, loss)]


@dataclass(frozen=True)
class AtWork:
    """A stack that trains: its run_ids, and the last epoch that it has written."""

    runs: Sequence[str]
    epoch: int


class Pace:
    """How much work is left, and how fast it gets done."""

    def __init__(self, plan: Sequence[Cells], stacks: Sequence[Sequence[str]], begun: Begun = NONE) -> None:
        """stacks: the run_ids of each stack that will be trained. begun: the epoch that a run goes on in."""
        self.epochs = {row["run_id"]: max(1, int(row["trainer.epochs"])) for row in plan}
        self.stacks, self.going, self.begun = stacks, {run for stack in stacks for run in stack}, begun
        self.at_work: list[AtWork] = []
        self.ended_runs, self.ended_epochs, self.slots = 0, 0, 1
        self.seconds = self.busy = 0.0  # since the start; of all slots together

    def ended(self, row: Cells) -> None:
        """A run of these stacks has ended; its row of summary.csv."""
        self.going.discard(row["run_id"])
        self.ended_runs += 1
        last = int(row["last_epoch"]) if row["last_epoch"] != "none" else 0
        self.ended_epochs += max(0, last - self._before(row["run_id"]))

    def look(self, at_work: Sequence[AtWork], seconds: float) -> None:
        """What is at work `seconds` after the start."""
        self.busy += (seconds - self.seconds) * len(at_work)
        self.at_work, self.seconds, self.slots = list(at_work), seconds, max(self.slots, len(at_work))

    def running(self) -> int:
        """Runs in training."""
        return sum(run in self.going for stack in self.at_work for run in stack.runs)

    def speed(self) -> float:
        """Run-epochs per second."""
        at_work = ((s.epoch, run) for s in self.at_work for run in s.runs if run in self.going)
        done = self.ended_epochs + sum(max(0, epoch - self._before(run)) for epoch, run in at_work)
        return done / self.seconds if self.seconds else 0.0

    def _before(self, run: str) -> int:
        """The epochs that were there at the start."""
        return max(0, self.begun.get(run, 0) - 1)

    def share(self) -> float:
        """How much of the plan's work is done, in [0, 1]."""
        return 1 - (sum(map(self._left, self.at_work)) + sum(self._waiting())) / sum(self.epochs.values())

    def seconds_left(self) -> float | None:
        """At most so long, if the speed stays: early stopping makes it shorter. None before there is a speed."""
        if not self.speed():
            return None
        slots = [float(self._left(stack)) for stack in self.at_work] + [0.0] * (self.slots - len(self.at_work))
        heapq.heapify(slots)
        for work in self._waiting():  # the next stack goes where a slot is free first
            heapq.heapreplace(slots, slots[0] + work)
        return max(slots) * self.busy / (self.speed() * self.seconds)

    def _left(self, stack: AtWork) -> int:
        return sum(max(0, self.epochs[run] - stack.epoch) for run in stack.runs if run in self.going)

    def _waiting(self) -> list[int]:
        """The work of each stack that has not been started; of one that is tried again, all that it had then."""
        waiting = self.going.difference(*(stack.runs for stack in self.at_work))
        works = [sum(self.epochs[run] - self._before(run) for run in stack if run in waiting) for stack in self.stacks]
        return [work for work in works if work]


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min, 4 d 0 h."""
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"
