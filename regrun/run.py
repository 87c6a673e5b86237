"""One run, from its prepared settings to its folder of tables, its weights and its picture; or from its checkpoint."""

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from regrun import checkpoints, collect, display, foreign, locks, plots, records, settings, signals, tracking
from regrun.checkpoints import Found
from regrun.config import Job, read_settings, to_yaml
from regrun.data.split import split
from regrun.data.stream import ReaderLost
from regrun.due import Pace
from regrun.ending import Finished
from regrun.errors import ConfigError, DataError, Interrupted, RegrunError, clip
from regrun.parallel import Peers
from regrun.prepare import Prepared, configure_torch, device_name, prepare
from regrun.rows import Outcome, Row
from regrun.saving import is_kept
from regrun.trainer import Checkpoint, train
from regrun.writing import SUMMARY, Show, failed, marks, train_into, why_failed, write_summary

SETTINGS, PICTURE = "settings.yaml", "curves.png"
ENDED = (*collect.FINISHED, "failed", "oom")


def execute(prepared: Prepared) -> Outcome:
    """Train one run and write everything it leaves. A run that fails is a row, too; Interrupted ends it."""
    with ExitStack() as held:
        prepared.peers.agreed(lambda: _begin(prepared, held))
        return _train(prepared, None, prepared.source.notes)


def _begin(prepared: Prepared, held: ExitStack) -> None:
    if prepared.peers.is_writer:
        folder = prepared.job.folder
        records.claim(folder)
        held.enter_context(locks.hold(folder, key="hydra.run.dir"))
        records.replace(folder / SETTINGS, to_yaml(prepared.job.settings))


def resume(folder: Path, peers: Peers, *, other_machine: bool) -> str:
    """Go on with the run in `folder` from its checkpoint, or from its start if it has none; its status at the end.

    A run that has ended is left as it is. Raises DataError where what is there is damaged, and ConfigError where bits
    would differ from those of the run that was begun, unless `other_machine`.
    """
    if not all((folder / name).is_file() for name in (SETTINGS, records.LOG)):
        raise DataError(f"{folder}: has no plan.csv of a sweep, nor the {SETTINGS} of a run; nothing has begun there")
    with ExitStack() as held:
        peers.agreed(lambda: _hold(folder, peers, held))
        job = Job(read_settings(folder / SETTINGS), folder, None, fetches=False)
        if (row := _end(job)) is not None:
            display.writer(sys.stdout)(
                f"{folder}: has ended, {row['status']} ({row['stop_reason']}); nothing to go on with"
            )
            return row["status"]
        (prepared,) = peers.agreed(lambda: prepare([job], peers=peers, own=folder))
        found = peers.agreed(lambda: _found(prepared, other_machine=other_machine))
        return _train(prepared, found, _where(found)).status


def _hold(folder: Path, peers: Peers, held: ExitStack) -> None:
    if peers.is_writer:
        held.enter_context(locks.hold(folder, key="resume"))


def _end(job: Job) -> dict[str, str] | None:
    """The run's row of summary.csv, if it has ended and all that it was to leave is there."""
    path = job.folder / SUMMARY
    row = next(iter(foreign.rows(path)), None) if path.is_file() else None
    if row is None or row.get("status") == "interrupted":
        return None
    if row.get("status") not in ENDED:
        raise DataError(f"{path}: is none of regrun's, got status {clip(str(row.get('status')))!r}; remove it")
    is_failed = row["status"] not in collect.FINISHED
    return row if is_failed or (is_kept(job, row["run_id"]) and (job.folder / PICTURE).is_file()) else None


def _found(prepared: Prepared, *, other_machine: bool) -> Found | None:
    """The checkpoint to go on from; the tables are as long as they were then."""
    folder = prepared.job.folder
    found = checkpoints.load(folder, [prepared.run_id])
    if found is not None and not other_machine and (others := checkpoints.differences(found.manifest, marks(prepared))):
        raise ConfigError(checkpoints.refusal(others))
    if prepared.peers.is_writer:
        records.tidy(folder)
        records.discard(folder / SUMMARY)
        checkpoints.shorten_tables(found, folder)
    return found


def _where(found: Found | None) -> list[str]:
    """What is said of where a run goes on."""
    if found is None:
        return ["starting over: there was no checkpoint yet"]
    return [*found.notes, f"going on in {found.manifest.where}"]


def _train(prepared: Prepared, found: Found | None, notes: Sequence[str]) -> Outcome:
    """notes: what there is to say first."""
    return _lead(prepared, found, notes) if prepared.peers.is_writer else _follow(prepared, found)


def _lead(prepared: Prepared, found: Found | None, notes: Sequence[str]) -> Outcome:
    """Train and write, in a folder that is held, with nothing in its tables but what the checkpoint knows of."""
    start, run, folder = time.monotonic(), prepared.job.settings, prepared.job.folder
    view, log = display.choose(run.trainer.progress), display.Plain(lambda line: records.log(folder, line))
    views = (view, log)

    def show(row: Row) -> None:
        for shown in views:
            shown.row(row)

    def note(line: str) -> None:
        for shown in views:
            shown.note(line)

    for shown in views:
        shown.start(title(prepared), run.trainer.epochs)
        for line in notes:
            shown.note(line)
        for line in prepared.warnings:
            shown.warn(line)
    try:
        with signals.noted() as noted:
            outcome = _trained(prepared, found, show, note, Pace(run.trainer.checkpoint_minutes, noted))
    except Interrupted as error:
        write_summary(folder, prepared, failed(prepared.run_id, "interrupted", str(error)), time.monotonic() - start)
        told = f"{error}; to go on: regrun resume {shlex.quote(str(folder))}"
        records.log(folder, told)
        raise Interrupted(told, error.exit_code) from None
    except RegrunError:  # the disk, say: `cli` knows what to do
        raise
    except Exception as error:
        records.log(folder, traceback.format_exc())
        outcome = failed(prepared.run_id, *why_failed(error))
    finally:
        view.close()
    if outcome.best_epoch is None:
        write_summary(folder, prepared, outcome, time.monotonic() - start)
    else:
        records.replace(folder / PICTURE, plots.curves_png(folder))
    for shown in views:
        shown.finish(outcome, folder)
    tracking.publish(folder, run.trainer.trackers, note)
    if outcome.best_epoch is not None:
        prepared.peers.wait()
    return outcome


def _trained(prepared: Prepared, found: Found | None, show: Show, note: Callable[[str], None], pace: Pace) -> Outcome:
    """Train and write; once more from the last checkpoint where a process that reads the data died or hangs."""
    folder = prepared.job.folder
    try:
        ((_, outcome),) = train_into(folder, [prepared], show, found=found, pace=pace)
        return outcome
    except ReaderLost as error:
        if prepared.peers.are_several:
            raise
        why = str(error)
    # It may be one that an earlier process has left: whatever this one could go on from, it can go on from again.
    found = _found(prepared, other_machine=True)
    for line in [f"{why}; trying once more", *_where(found)]:
        note(line)
    ((_, outcome),) = train_into(folder, [prepared], show, found=found, pace=pace)
    return outcome


def _follow(prepared: Prepared, found: Found | None) -> Outcome:
    """Train one run as the rank that writes does, and write nothing. It ends with that rank: torchrun ends the others
    as soon as one fails, which a run that diverged does.
    """
    run, source, peers = prepared.job.settings, prepared.source, prepared.peers
    configure_torch(run, prepared.device)
    own, state = split(source, run.data, run.seeds), None if found is None else found.state
    with signals.noted() as noted:
        for news in train([run], [prepared.run_id], source, [own], prepared.device, peers, state=state):
            match news:
                case Checkpoint(is_end=True):
                    raise Interrupted("interrupted", noted.exit_code or 143)
                case Finished():
                    peers.wait()
                    return news.outcome
    raise RuntimeError("a run ends by its last row, or by a checkpoint")


def title(prepared: Prepared) -> str:
    """A run in a line: data, shape, regularizers, optimizer, seed, device."""
    run = prepared.job.settings
    wanted = ", ".join(settings.requested(run)) or "none"
    parts = [
        prepared.source.name,
        settings.describe(run.model),
        f"reg {wanted}",
        run.optimizer.kind,
        f"seed {run.seed}",
    ]
    processes = [f"{prepared.peers.size} processes"] if prepared.peers.are_several else []
    return " | ".join([*parts, device_name(prepared.device), *processes])
