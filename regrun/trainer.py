"""The loop over a stack of runs. It yields rows and writes nothing; a single run is a stack of one.

Every number of replica r comes from its own settings, data and streams, so a run gives the same rows alone
and in company: bit for bit for MLPs at one thread on a CPU.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regrun import grouping, progress
from regrun.closing import EpochReport, close
from regrun.data.batches import Batches, Halt
from regrun.data.sources import Source
from regrun.data.split import Split
from regrun.due import Due
from regrun.ending import Finished, finish
from regrun.epoch import Epoch
from regrun.meter import Meter
from regrun.parallel import ALONE, Peers
from regrun.progress import Progress
from regrun.rows import Row
from regrun.settings import Settings
from regrun.stack import Stack, new_stack
from regrun.state import Phase, State, put_back, put_back_epoch, put_back_report, take

LOOK = 50  # steps between two looks at the losses on a GPU, where each look waits for the device


@dataclass(frozen=True)
class Checkpoint:
    """The state between two steps; to be written before the loop goes on, as its tensors are the stack's own."""

    state: State
    is_end: bool  # nothing comes after it


News = list[Row] | Finished | Checkpoint


def train(
    runs: Sequence[Settings],
    run_ids: Sequence[str],
    source: Source,
    splits: Sequence[Split],
    device: torch.device,
    peers: Peers = ALONE,
    *,
    state: State | None = None,
    due: Callable[[], Due] = lambda: Due.NOTHING,
) -> Generator[News, set[str] | None]:
    """Train the runs as one stack. Yields the rows of each epoch as it ends, and each run's `Finished` when it does.

    Whoever sends run_ids in answer to an epoch's rows ends these runs there: they are pruned.

    `due` is asked after each step, and by evaluations before each batch, whether a checkpoint is to be yielded; a call
    with its `state`, and the same runs, yields what would have come after it.

    The runs must share a structure (`grouping`), else ValueError; each has its own split of the source. Several `peers`
    train one run, and each yields the same rows but for seconds; they agree on what is due, once an epoch.
    """
    if apart := grouping.differences(runs):
        raise ValueError(f"these runs cannot share a stack: they differ in {', '.join(apart)}")
    if peers.are_several and len(runs) > 1:
        raise ValueError(f"several processes train one run, not {len(runs)}")
    stack = new_stack(runs, Batches(source, splits, runs, device), peers)
    members = [progress.begin(i, r) for i, r in zip(run_ids, runs, strict=True)]
    loop = Loop(stack, members, Clock(runs[0].trainer.time_limit, peers), due)
    if not peers.are_several:
        stack.batches.is_over = lambda: due() == Due.END
    if state is not None:
        loop.members = put_back(state, stack, runs)
        loop.clock.begun -= state["seconds"]
    return loop.train(state)


@dataclass
class Clock:
    """The seconds that training has taken, and whether that is as long as it may: by rank 0's clock."""

    limit: float | None
    peers: Peers
    begun: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def is_late(self) -> bool:
        return self.limit is not None and self.peers.told(self.seconds() >= self.limit)


@dataclass
class Loop:
    """A stack that trains, and its runs' progress: of those that are still going."""

    stack: Stack
    members: list[Progress]
    clock: Clock
    due: Callable[[], Due]

    def train(self, state: State | None) -> Generator[News, set[str] | None]:
        """From the first epoch on, or from the state that has been put back."""
        epochs, first, phase, report = self.stack.runs[0].trainer.epochs, 0, Phase.STEPS, None
        if state is not None:
            first, phase, report = state["epoch"], Phase(state["phase"]), put_back_report(state)
        for number in range(first, epochs + 1):
            if phase == Phase.STEPS and number > 0:
                report = yield from self._train(Epoch(self.stack, self.members, number), state)
                if report is None:
                    return
            try:
                if phase < Phase.FINISH:
                    yield from self._close(number, report)
                    phase = Phase.FINISH
                yield from self._finish_some()
            except Halt:
                yield Checkpoint(self._state(number, phase=max(phase, Phase.CLOSE), report=report), is_end=True)
                return
            if not self.members or (yield from self._offer(number + 1)):
                return
            phase, report, state = Phase.STEPS, None, None

    def _close(self, number: int, report: EpochReport | None) -> Generator[list[Row], set[str] | None]:
        """The rows of an epoch, and which runs end with it."""
        with self.stack.averaged() as distances:
            rows = list(close(self.stack, self.members, number, report, distances))
        pruned = (yield rows) or set()
        for p in self.members:
            p.stop_reason = p.stop_reason or _reason(p, number, self.clock)
            if p.stop_reason is None and p.run_id in pruned:
                p.stop_reason = "pruned"

    def _train(self, epoch: Epoch, state: State | None) -> Generator[Checkpoint, None, EpochReport | None]:
        """One pass over train, or what a state has left of it; None if it is to end before.

        Ends early when time is up, or when no replica's loss is finite any more.
        """
        if state is not None:
            put_back_epoch(state, epoch)
        start, stack, batches, order = time.monotonic() - epoch.seconds, self.stack, self.stack.batches, epoch.order
        updates, losses, is_alone = epoch.updates, epoch.losses, not stack.peers.are_several
        left = updates[epoch.taken :]
        rows = batches.rows([order[:, begin:end] for update in left for begin, end in update])
        meter = Meter()
        for (*held, (begin, end)), at in zip(left, epoch.table[epoch.taken :], strict=True):
            is_last = epoch.taken == len(updates) - 1 or self.clock.is_late()
            watch = meter if is_last else None
            for held_begin, held_end in held:
                x, targets = batches.train_batch(
                    order[:, held_begin:held_end], epoch.augmenters, watch, rows=next(rows)
                )
                stack.hold(x, targets, epoch.streams, watch)
            x, targets = batches.train_batch(order[:, begin:end], epoch.augmenters, watch, rows=next(rows))
            losses[epoch.taken], penalty, norms = stack.step(x, targets, at, epoch.streams, watch)
            epoch.taken += 1
            if is_last:
                meter.add("accumulate", torch.full((len(stack),), len(epoch.slices) / len(updates)))
                break
            is_looked_at = stack.device.type == "cpu" or epoch.taken % LOOK == 0
            if is_looked_at and not _any_finite(losses[epoch.taken - 1]):
                break
            if is_alone and self.due():
                epoch.seconds = time.monotonic() - start
                if (yield from self._offer(epoch.number, epoch=epoch)):
                    return None
        stack.agree()
        taken = epoch.taken
        losses = losses[:taken].T.contiguous().cpu()
        return EpochReport(
            losses=losses,
            seconds=time.monotonic() - start,
            examples=updates[taken - 1][-1][1],
            lr=epoch.lr[:taken],
            penalty=penalty.tolist(),
            grad_norm=norms.tolist(),
            meter=meter,
        )

    def _offer(self, number: int, **more: Any) -> Generator[Checkpoint, None, bool]:
        """A checkpoint, if one is due; whether training ends with it."""
        if what := self.stack.peers.told(self.due()):
            yield Checkpoint(self._state(number, **more), what == Due.END)
        return what == Due.END

    def _state(self, number: int, **more: Any) -> State:
        return take(self.stack, self.members, number, seconds=self.clock.seconds(), **more)

    def _finish_some(self) -> Iterator[Finished]:
        """The ends of the runs that have a reason to end. They leave the stack."""
        ended = [r for r, p in enumerate(self.members) if p.stop_reason is not None]
        going = [r for r in range(len(self.members)) if r not in ended]
        if ended:
            leaving = self.stack.select(ended) if going else self.stack
            with leaving.averaged():
                yield from finish(leaving, [self.members[r] for r in ended])
            if going:
                self.stack.keep(going)
            self.members = [self.members[r] for r in going]


def _any_finite(losses: Tensor) -> bool:
    """Whether any replica's loss is finite: one cheap sum as long as all are."""
    return math.isfinite(losses.sum().item()) or bool(losses.isfinite().any())


def _reason(p: Progress, epoch: int, clock: Clock) -> str | None:
    """Why a run ends after `epoch`, or None."""
    if p.stopping.rule.is_over:
        return p.settings.trainer.early_stopping.rule
    if epoch == p.settings.trainer.epochs:
        return "max_epochs"
    return "time_limit" if clock.is_late() else None
