"""All that changes while a stack trains, as tensors and plain values: taken between two steps, and put back.

What settings, data and seeds decide is not in it; of the streams that an epoch draws from, how far that has come.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from regrun import progress
from regrun.closing import EpochReport
from regrun.epoch import Epoch
from regrun.errors import DataError, clip
from regrun.meter import Meter
from regrun.progress import Progress
from regrun.settings import Settings
from regrun.stack import Stack

VERSION = 1
REPORTED, BY_RUN = ("seconds", "examples"), ("penalty", "grad_norm")

# version; epoch and phase of it; taken, its steps so far; seconds of training, and those of this epoch; report, what
# the steps came to, if they are over; runs, each one's progress; tensors by "<what>/<name>", (R, ...) each; masks, how
# often each stream has been drawn from.
State = dict[str, Any]


class Phase(IntEnum):
    """What comes next in an epoch. The epoch before the first step has no steps."""

    STEPS = 0
    CLOSE = 1  # measuring
    FINISH = 2  # the runs that end with it


def take(
    stack: Stack,
    runs: Sequence[Progress],
    number: int,
    phase: Phase = Phase.STEPS,
    *,
    seconds: float,
    epoch: Epoch | None = None,
    report: EpochReport | None = None,
) -> State:
    """The state in epoch `number`: before its steps, between two of them (`epoch`), or after them (`report`).

    Tensors on the CPU are the stack's own: they go into a file before it goes on.
    """
    tensors = {"params/": stack.params.flat}
    tensors |= _named("buffers", stack.buffers) | _named("optimizer", stack.state)
    tensors |= _named("mean", {n: mean for n, (mean, _) in stack.moments.items()})
    tensors |= _named("std", {n: std for n, (_, std) in stack.moments.items()})
    tensors |= _named("best", {n: torch.stack([p.best[n].cpu() for p in runs]) for n in runs[0].best})
    state: State = {"version": VERSION, "seconds": seconds, "epoch": number, "phase": int(phase), "taken": 0}
    state |= {"epoch_seconds": 0.0, "masks": {}, "report": None}
    if epoch is not None:
        tensors["losses/"] = epoch.losses[: epoch.taken].T.contiguous()
        drawn = {name: torch.stack([g.get_state() for g in own]) for name, own in epoch.augmenters.items()}
        tensors |= _named("augment", drawn)
        masks = {name: stream.drawn for name, stream in epoch.streams.items()}
        state |= {"taken": epoch.taken, "masks": masks, "epoch_seconds": epoch.seconds}
    if phase == Phase.CLOSE and report is not None:
        tensors |= {"losses/": report.losses, "lr/": torch.from_numpy(report.lr.T.copy())}
        tensors |= {f"{name}/": torch.tensor(getattr(report, name), dtype=torch.float64) for name in BY_RUN}
        tensors |= _named("meter", {n: total.expand(len(stack)) for n, total in report.meter.sums.items()})
        told = {name: getattr(report, name) for name in REPORTED}
        state |= {"taken": report.losses.shape[1], "report": told | {"counts": report.meter.counts}}
    state["runs"] = [p.plain() | {"snapshots": {e: _on_cpu(w) for e, w in p.snapshots.items()}} for p in runs]
    return state | {"tensors": _on_cpu(tensors)}


def select(state: State, run_ids: Sequence[str]) -> State:
    """The state of some of the runs, in this order. Raises DataError where it is not theirs."""
    there = [run["run_id"] for run in state["runs"]]
    if missing := [run_id for run_id in run_ids if run_id not in there]:
        raise DataError(f"a checkpoint of other runs: it has {', '.join(there[:3])}, not {missing[0]}")
    members = [there.index(run_id) for run_id in run_ids]
    tensors = {name: t if members == list(range(len(t))) else t[members] for name, t in state["tensors"].items()}
    return state | {"runs": [state["runs"][r] for r in members], "tensors": tensors}


def put_back(state: State, stack: Stack, settings: Sequence[Settings]) -> list[Progress]:
    """Put the state into a new stack of its runs. Raises DataError where it does not fit."""
    tensors: Mapping[str, Tensor] = state["tensors"]
    with _fitting():
        stack.params.flat.copy_(tensors["params/"])
        for name, buffer in stack.buffers.items():
            buffer.copy_(tensors[f"buffers/{name}"])
        for name, value in _those(tensors, "optimizer").items():
            stack.state[name] = torch.empty_like(stack.params.flat).copy_(value)
        means, stds = (_those(tensors, kind) for kind in ("mean", "std"))
        stack.moments = {name: (mean.to(stack.device), stds[name].to(stack.device)) for name, mean in means.items()}
        runs = [progress.restored(found, own) for found, own in zip(state["runs"], settings, strict=True)]
        best = _those(tensors, "best")
        for r, (p, found) in enumerate(zip(runs, state["runs"], strict=True)):
            p.best = {name: value[r].to(stack.device) for name, value in best.items()}
            p.snapshots = {e: {n: t.to(stack.device) for n, t in w.items()} for e, w in found["snapshots"].items()}
    return runs


def put_back_report(state: State) -> EpochReport | None:
    """What the steps of the epoch came to; None of that without steps. Raises DataError where it is none."""
    if state["report"] is None:
        return None
    with _fitting():
        tensors, meter = state["tensors"], Meter()
        meter.sums, meter.counts = dict(_those(tensors, "meter")), dict(state["report"]["counts"])
        told = {name: state["report"][name] for name in REPORTED}
        told |= {name: tensors[f"{name}/"].tolist() for name in BY_RUN}
        return EpochReport(losses=tensors["losses/"], lr=tensors["lr/"].T.numpy(), meter=meter, **told)


def put_back_epoch(state: State, epoch: Epoch) -> None:
    """Let an epoch begin where the state was taken. Raises DataError where it does not fit."""
    if state["taken"] == 0:
        return
    with _fitting():
        if not 0 < state["taken"] < len(epoch.updates):
            raise ValueError(f"{state['taken']} of {len(epoch.updates)} steps")
        epoch.taken, epoch.seconds = state["taken"], state["epoch_seconds"]
        epoch.losses[: epoch.taken] = state["tensors"]["losses/"].T.to(epoch.losses.device)
        for name, own in epoch.augmenters.items():
            for generator, drawn in zip(own, state["tensors"][f"augment/{name}"], strict=True):
                generator.set_state(drawn)
        for name, stream in epoch.streams.items():
            stream.skip(state["masks"][name])


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"a checkpoint that does not fit its run ({clip(f'{type(error).__name__}: {error}')})"
        ) from None


def _named(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": t for name, t in tensors.items()}


def _those(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.partition("/")[2]: t for name, t in tensors.items() if name.startswith(f"{kind}/")}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A view of a larger tensor would be saved with all of it."""
    there = {name: t.detach().cpu() for name, t in tensors.items()}
    return {name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in there.items()}
