"""A sweep: one plan, checked whole, trained as stacks, resumable, one set of tables.

The folder has `plan.csv`, written before the first run starts, `stacks/` with what each stack wrote, and the
tables of all runs. The same command in the same folder trains what is missing.
"""

import math
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import torch

from regrun import collect, display, effects, records, settings
from regrun.config import Job
from regrun.errors import ConfigError
from regrun.grouping import structure
from regrun.models.build import build
from regrun.models.parameters import all_slots
from regrun.prepare import Prepared, prepare
from regrun.settings import Cnn
from regrun.workers import Ended, Stack, ctrl_c, train_all
from regrun.writing import write_summary

# On a CPU the stack whose weights, gradients and two moments fill about this much of the last cache level is the
# fastest: at 1.4 MB a replica 8 of them, at 154 kB 64.
CACHE_BYTES = 16 << 20
LARGEST_ON_CPU, LARGEST_ON_GPU = 64, 1024


def execute(jobs: list[Job]) -> set[str]:
    """Train every run of the plan that is not finished yet; returns the statuses of all."""
    runs, root = _plan(jobs), _root(jobs)
    order, first = [p.run_id for p in runs], runs[0].job.settings
    view = display.choose_for_sweep(first.trainer.progress)
    with records.claim_sweep(root, plan_text(runs)):
        missing = _missing(root, runs)
        view.start(len(runs), len(runs) - len(missing), [len(s) for s in stacks(missing)])
        for line in dict.fromkeys(line for p in runs for line in p.warnings):
            view.write(f"warning: {line}")
        with ctrl_c() as is_over:
            ends = train_all(
                stacks(missing),
                _folders(root),
                workers=workers(runs),
                run_timeout=first.sweep.run_timeout,
                is_over=is_over,
            )
            statuses = _listen(ends, view, fail_fast=first.sweep.fail_fast)
            statuses |= {"interrupted"} if is_over() else set()
        collect.summary(root, order)
        collect.tables(root, order)
        rows = collect.summaries(root)
        if rows:
            view.finish(effects.write(root), root)
    return statuses | {status for _, status, _ in rows.values()}


def _listen(ends: Generator[Ended], view: display.SweepView, *, fail_fast: bool) -> set[str]:
    """Write what the workers could not, and show each end."""
    statuses: set[str] = set()
    with closing(ends):
        for end in ends:
            if not end.is_written:
                write_summary(end.folder, end.run, end.outcome, end.seconds)
            statuses.add(end.outcome.status)
            view.ended(end.outcome)
            if fail_fast and end.outcome.status not in collect.FINISHED:
                break
    return statuses


def show_plan(jobs: list[Job]) -> int:
    """Print what `execute` would do."""
    runs, root = _plan(jobs), _root(jobs)
    missing = _missing(root, runs)
    print(f"{len(runs)} runs in {root}, {len(runs) - len(missing)} finished")
    for stack in stacks(missing):
        model = stack[0].job.settings.model
        print(f"stack of {len(stack)}: {model.kind} {'x'.join(map(str, settings.hidden_layers(model)))}")
    print(f"{workers(runs)} at a time")
    return 0


def _plan(jobs: list[Job]) -> list[Prepared]:
    """The distinct runs, in order. Torch stays at one thread here: the workers are forked from this process."""
    if len({job.settings.sweep for job in jobs}) > 1:
        raise ConfigError("sweep: is the same for all runs, got several values; give each of its keys one")
    torch.set_num_threads(1)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for GPUs must not initialize CUDA
    return list({p.run_id: p for p in prepare(jobs)}.values())


def _root(jobs: list[Job]) -> Path:
    assert jobs[0].sweep is not None
    return jobs[0].sweep


def plan_text(runs: Sequence[Prepared]) -> str:
    """plan.csv: one row per run, with every setting."""
    names = [name for name in settings.columns() if not name.startswith("sweep.")]
    flat = [settings.flatten(p.job.settings) for p in runs]
    lines = [[p.run_id, *(values.get(name) for name in names)] for p, values in zip(runs, flat, strict=True)]
    return records.table([["run_id", *names], *lines])


def _missing(root: Path, runs: Sequence[Prepared]) -> list[Prepared]:
    done = {i for i, (_, status, _) in collect.summaries(root).items() if status in collect.FINISHED}
    return [p for p in runs if p.run_id not in done]


def _folders(root: Path) -> Callable[[], Path]:
    numbers = count(len(list(root.glob("stacks/*"))))

    def new() -> Path:
        folder = root / "stacks" / f"{next(numbers):05d}"
        records.claim(folder)
        return folder

    return new


def stacks(runs: Sequence[Prepared]) -> list[Stack]:
    """Runs of one structure and size together, in stacks that suit the device and keep every worker busy."""
    groups: dict[object, Stack] = {}
    for p in runs:
        key = (structure(p.job.settings), id(p.source), len(p.split.train), p.device.type)
        groups.setdefault(key, []).append(p)
    return [stack for group in groups.values() for stack in _chunks(group)]


def _chunks(group: Stack) -> list[Stack]:
    """Stacks of nearly equal size, at most `stack_size`, and at least as many as there are workers."""
    number = max(math.ceil(len(group) / stack_size(group[0])), min(workers(group), len(group)))
    return [group[i * len(group) // number : (i + 1) * len(group) // number] for i in range(number)]


def stack_size(run: Prepared) -> int:
    """How many replicas of this run a stack should have: what the cache holds, or 1 for a CNN on a CPU."""
    chosen = run.job.settings.sweep.stack_size
    if chosen is not None:
        return chosen
    if run.device.type != "cpu":
        return LARGEST_ON_GPU
    if isinstance(run.job.settings.model, Cnn):
        return 1
    model, reg = run.job.settings.model, run.job.settings.reg
    ops = build(model, reg, input_shape=run.source.shape, num_classes=run.source.num_classes)
    floats = 4 * sum(math.prod(slot.shape) for slot in all_slots(ops))
    return max(1, min(LARGEST_ON_CPU, CACHE_BYTES // (4 * floats)))


def workers(runs: Sequence[Prepared]) -> int:
    """Processes at a time: as many as GPUs, or as cores over threads, unless the settings say."""
    run = runs[0].job.settings
    if run.sweep.workers is not None:
        return run.sweep.workers
    if runs[0].device.type == "cuda":
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // run.trainer.threads)
