"""A sweep: one plan, checked whole, trained as stacks, resumable, one set of tables.

The folder has `plan.csv`, written before the first run starts, `stacks/` with what each stack wrote, and the
tables of all runs. The same command in the same folder, or `resume`, trains what is missing.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from regrun import (
    collect,
    config,
    display,
    driver,
    effects,
    foreign,
    keeping,
    ledger,
    locks,
    overrides,
    plan,
    records,
    search,
    settings,
    signals,
    sweepview,
    tracking,
)
from regrun.batches import Batch
from regrun.begun import Folders
from regrun.config import Command, Job
from regrun.conversion import to_group
from regrun.driver import Ended, Looked, Retried, Stack
from regrun.engines import choice
from regrun.errors import ConfigError, DataError, clip
from regrun.launchers import Launcher, Local, Plugin, has_gpus
from regrun.prepare import Prepared, prepare
from regrun.saving import is_kept
from regrun.stacking import stacks

LAUNCH = "launch.json"
HOW = ("sweep.", "hydra/launcher", "hydra.launcher.")  # what `resume` takes: it changes no result
SHARE = 0.01  # of a sweep's time may go into keeping its tables current
SHOWN = 10  # failures that are told at the end


@dataclass(frozen=True)
class Result:
    """How a sweep ended: the statuses of all runs that have one; the exit code if a signal ended it early, else 0."""

    statuses: set[str]
    signal_code: int


@dataclass
class Refresh:
    """When summary.csv and effects.csv are written anew while runs end: as often as `SHARE` of the time allows."""

    begun: float
    spent: float = 0.0
    last: float = 0.5  # seconds that a refresh takes; the first one loads pandas

    def __call__(self, write: Callable[[], object]) -> None:
        now = time.monotonic()
        if (now - self.begun) * SHARE >= self.spent + self.last:
            write()
            self.last = time.monotonic() - now
            self.spent += self.last


def execute(command: Command, *, by: str = "sweep", other_machine: bool = False) -> Result:
    """Train every run of the plan that is not finished yet; of a search, as many as its trials need.

    by: what the ledger of looks at test calls the command. other_machine: go on from checkpoints whatever has changed.
    """
    root, runs = _root(command.jobs), _plan(command)
    sweep = runs[0].job.settings.sweep
    if command.search is not None:
        search.check(command.search, runs, root)
        search.reach(command.search, root)
    records.enter(root, plan.NAME if command.search is None else search.FILE, key="hydra.sweep.dir")
    with locks.hold(root, key="hydra.sweep.dir"):
        records.tidy(root)
        if command.search is None:
            plan.check_same(root, runs)
            records.replace(root / plan.NAME, plan.text(runs))  # an old one may differ in what changes no result
            batches = iter([(runs, _missing(root, runs))])
        else:
            batches = search.begin(command.search, runs, command.launcher, root, _there(command.launcher))
            by = "search" if by == "sweep" else by
        records.replace(root / LAUNCH, json.dumps({"launcher": command.launcher.kind, "sweep": asdict(sweep)}))
        prunes = command.search is not None and command.search.options.pruner != "none"
        return _train(batches, runs, command, Folders(root, by, other_machine, prunes))


def resume(root: Path, overrides: Sequence[str], *, other_machine: bool) -> Result:
    """Train what is missing in a sweep's folder, by its own plan; overrides may say how (`HOW`), not what."""
    if (root / search.FILE).is_file():
        found = search.load(root)
        given = launched(root, overrides, verb="resume", how=(*HOW, *search.HOW), chosen=search.CHOSEN)
        return execute(search.resumed(found, given, root, overrides), by="resume", other_machine=other_machine)
    command = with_jobs(launched(root, overrides, verb="resume"), plan.read(root, root))
    return execute(command, by="resume", other_machine=other_machine)


def launched(
    root: Path, overrides: Sequence[str], *, verb: str, how: tuple[str, ...] = HOW, chosen: Sequence[str] = ()
) -> Command:
    """How the sweep in `root` was trained, changed by overrides that may say how (`how`), not what."""
    if bad := [line for line in overrides if not line.startswith(how)]:
        raise ConfigError(
            [f"{verb}: a sweep keeps its plan, got {clip(line)!r}; override only {', '.join(how)}" for line in bad]
        )
    name, sweep = _read_launch(root)
    if name != "local" and not any(line.startswith("hydra/launcher=") for line in overrides):
        raise ConfigError(f"{verb}: this sweep was launched by {name}; add hydra/launcher={name}, or another")
    before = [f"sweep.{key}={json.dumps(value)}" for key, value in sweep.items()]
    return config.command([*before, *chosen, *overrides], multirun=True)


def with_jobs(given: Command, jobs: Sequence[Job]) -> Command:
    """These runs, trained as `given` is."""
    own = given.jobs[0].settings.sweep
    return Command([replace(job, settings=replace(job.settings, sweep=own)) for job in jobs], given.launcher)


def _read_launch(root: Path) -> tuple[str, dict[str, object]]:
    """The name of the launcher, and the values of `sweep.*`. Raises DataError."""
    found, problems = foreign.tree(root / LAUNCH), list[str]()
    match found:
        case {"launcher": str(name), "sweep": dict(own)} if foreign.NAME.fullmatch(name):
            known = asdict(settings.Sweep()) | own  # an older version may have had fewer keys
            if to_group(settings.Sweep, known, "sweep.", problems) is not None:
                return name, own
    raise DataError(f"{root / LAUNCH}: is not regrun's{problems[:1] or ''}; repeat the sweep's command instead")


def described(command: Command) -> list[str]:
    """What `execute` would do."""
    root, runs = _root(command.jobs), _plan(command)
    if command.search is not None:
        search.check(command.search, runs, root)
        return search.describe(command.search, root)  # it says what its runs keep when it knows them
    plan.check_same(root, runs)
    missing = _missing(root, runs)
    begun = Folders(root).begun(missing, is_here=False)
    workers = choice.slots(command.launcher, runs)
    planned = [*begun, *stacks(_without(missing, begun), workers=workers)]
    return [
        f"{len(runs)} runs in {root}, {len(runs) - len(missing)} finished",
        *(_described(stack, "from its checkpoint" if stack in begun else "") for stack in planned),
        f"{workers} at a time, by hydra/launcher={command.launcher.kind}",
        *([kept] if (kept := keeping.line(missing)) else []),
    ]


def _plan(command: Command) -> list[Prepared]:
    """The distinct runs, in order. Torch stays at one thread here: workers are forked from this process."""
    if len({job.settings.sweep for job in command.jobs}) > 1:
        raise ConfigError("sweep: is the same for all runs, got several values; give each of its keys one")
    if len({tuple(job.settings.trainer.trackers) for job in command.jobs}) > 1:
        raise ConfigError("trainer.trackers: is the same for all runs of a sweep, got several values; give it one")
    torch.set_num_threads(1)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for GPUs must not initialize CUDA
    runs = list({p.run_id: p for p in prepare(command.jobs, there=_there(command.launcher))}.values())
    choice.check(command.launcher, runs)
    return runs


def _there(launcher: Launcher) -> dict[str, bool] | None:
    """The devices of a cluster; None where the runs train on this machine."""
    if isinstance(launcher, Local | Plugin):
        return None
    return {"cuda": has_gpus(launcher), "mps": False, "cpu": True}


def _root(jobs: list[Job]) -> Path:
    """The sweep's folder. It may have come from elsewhere."""
    root = jobs[0].sweep
    assert root is not None
    if root.is_dir():
        foreign.check_folder(root)
    return root


def _train(batches: Iterator[Batch], like: list[Prepared], command: Command, folders: Folders) -> Result:
    """like: runs with the device and the settings of the sweep that those of the batches have."""
    runs, first, launcher, root = list[Prepared](), like[0].job.settings, command.launcher, folders.root
    view = sweepview.choose(first.trainer.progress)

    def todo() -> Iterator[list[Stack]]:
        for runs[:], new in batches:
            missing = _missing(root, new)
            begun = folders.begun(missing, is_here=isinstance(launcher, Local | Plugin))
            made = [*begun, *stacks(_without(missing, begun), workers=choice.slots(launcher, like))]
            done = {p.run_id for p in runs} - {p.run_id for p in missing}
            before = [row for row in collect.finished(root) if row["run_id"] in done]
            view.start(plan.rows(root), before, [[p.run_id for p in stack] for stack in made], folders.epochs)
            for line in dict.fromkeys(line for p in new for line in p.source.notes):
                view.note(line)
            for line in dict.fromkeys(line for p in new for line in p.warnings):
                view.note(f"warning: {line}")
            if kept := keeping.line(missing):
                view.note(kept)
            if begun:
                view.note(f"{sum(map(len, begun))} runs go on from checkpoints")
            yield made

    with closing(view), signals.noted() as noted:
        if isinstance(launcher, Plugin):
            view.note(f"hydra/launcher={launcher.kind} tells nothing before all its runs have ended")
        engine = choice.engine(launcher, like, root)
        is_over, run_timeout = (lambda: noted.number), first.sweep.run_timeout
        events = driver.train_all(todo(), engine, folders.new, run_timeout=run_timeout, is_over=is_over)
        _listen(events, view, lambda: _refresh(root, runs), fail_fast=first.sweep.fail_fast)
        rows, order = collect.summaries(root), [p.run_id for p in runs]
        collect.summary(root, order)
        missing = _missing(root, runs)
        folders.tidy(missing)
        if not noted.number:
            collect.tables(root, order)
        view.close()
        if rows:
            _finish(view, command, root, folders.by)
        _tell_failures(rows, plan.rows(root))
        if missing and (noted.number or first.sweep.fail_fast):
            view.note(_how_to_go_on(len(runs) - len(missing), len(runs), launcher, root))
        if not noted.number:
            tracking.publish(root, first.trainer.trackers, view.note)
        return Result({status for _, status, _ in rows.values()}, noted.exit_code)


def _finish(view: sweepview.Silent, command: Command, root: Path, by: str) -> None:
    """Write the effects, and tell what the sweep came to."""
    effects.write(root)
    looks = ledger.write(root)
    if by in ("variance", "study"):  # runs share seeds, or are judged by other figures than means
        view.note(f"folder: {root}")
    elif command.search is None:
        view.finish(foreign.rows(root / "effects.csv"), root)
    else:
        for line in [*search.report(command.search, root), f"folder: {root}"]:
            view.note(line)
    view.note(looks)


def _how_to_go_on(kept: int, total: int, launcher: Launcher, root: Path) -> str:
    """What a sweep that ended early says last."""
    how = "" if isinstance(launcher, Local) else f" hydra/launcher={launcher.kind}"
    return f"ended early, {kept} of {total} runs are kept; to go on: regrun resume {shlex.quote(str(root))}{how}"


def _listen(
    events: Generator[Ended | Retried | Looked],
    view: sweepview.Silent,
    refresh: Callable[[], None],
    *,
    fail_fast: bool,
) -> None:
    """Show what happens, and keep the tables current."""
    keep = Refresh(time.monotonic())
    with closing(events):
        for event in events:
            match event:
                case Ended():
                    view.ended(event.row)
                    if fail_fast and event.row["status"] not in collect.FINISHED:
                        return
                case Retried():
                    sizes = " and ".join(map(str, event.sizes))
                    view.note(f"a stack of {sum(event.sizes)} ended early: {clip(event.why, 120)}; again as {sizes}")
                case Looked():
                    view.look({task.folder: [p.run_id for p in task.runs] for task in event.tasks})
                    keep(refresh)


def _refresh(root: Path, runs: Sequence[Prepared]) -> None:
    collect.summary(root, [p.run_id for p in runs])
    if (root / "summary.csv").is_file():
        effects.write(root)


def _tell_failures(found: dict[str, tuple[Path, str, str]], planned: Sequence[dict[str, str]]) -> None:
    """On stderr: each failed run, what sets it apart, why it failed and where to read more."""
    tell, names = display.writer(sys.stderr), overrides.varying(planned)
    failed = [row for row in planned if row["run_id"] in found and found[row["run_id"]][1] not in collect.FINISHED]
    for row in failed[:SHOWN]:
        folder, status, line = found[row["run_id"]]
        tell(f"regrun: {status}: run {row['run_id']} {clip(overrides.words(row, names), 150)}")
        tell(f"  {collect.cells(folder, line)['error']}")
        tell(f"  see {folder / records.LOG}")
    if len(failed) > SHOWN:
        tell(f"regrun: and {len(failed) - SHOWN} more failed; see summary.csv")


def _missing(root: Path, runs: Sequence[Prepared]) -> list[Prepared]:
    """Runs without a row, or without the weights or predictions that they are to keep."""
    done = {i for i, (_, status, _) in collect.summaries(root).items() if status in collect.FINISHED}
    return [p for p in runs if p.run_id not in done or not is_kept(p.job, p.run_id)]


def _without(missing: Sequence[Prepared], begun: Sequence[Stack]) -> list[Prepared]:
    """Those that have to start from the beginning."""
    there = {p.run_id for stack in begun for p in stack}
    return [p for p in missing if p.run_id not in there]


def _described(stack: Stack, how: str) -> str:
    return f"stack of {len(stack)}: {settings.describe(stack[0].job.settings.model)}" + (f", {how}" if how else "")
