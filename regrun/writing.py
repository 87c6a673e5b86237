"""A stack's rows -> the tables of a folder, as they come: what a single run and a worker of a sweep have in common."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from regrun import checkpoints, records, revision, rows, settings, tracking
from regrun.checkpoints import Found
from regrun.data.sources import Source
from regrun.data.split import Split, split
from regrun.due import Pace
from regrun.ending import Finished
from regrun.errors import EnvironmentFault, Interrupted, clip
from regrun.prepare import Prepared, configure_torch, device_name, facts, fingerprint, versions
from regrun.rows import CurveRow, LabelRow, Outcome, Provenance, Row
from regrun.saving import save_predictions, save_weights
from regrun.signals import Noted
from regrun.state import State, select
from regrun.trainer import Checkpoint, train

TABLES = {cls: name for name, cls in rows.TABLES.items()}
SUMMARY, EACH_EPOCH = "summary.csv", ("curves.csv", "epochs.csv", "layers.csv")
Show = Callable[[Row], None]
Prune = Callable[[list[Row]], set[str]]


def train_into(
    folder: Path,
    runs: Sequence[Prepared],
    show: Show = lambda _: None,
    prune: Prune = lambda _: set(),
    *,
    found: Found | None = None,
    pace: Pace | None = None,
) -> Iterator[tuple[Prepared, Outcome]]:
    """Train the runs as one stack, write every table, and yield each run as it ends, its summary row written.

    Rows are written an epoch at a time, then TensorBoard gets them if it is asked for, `show` each of them, and `prune`
    all: it names the runs that end here. A run is finished when its row is in summary.csv; its predictions are there
    before, its weights follow.

    found: the checkpoint to go on from, whose tables are in the folder already. pace: when there are to be more, and
    the signal that ends training, by Interrupted; None for neither. They are removed when all runs have ended.
    """
    run_ids, source, device = [p.run_id for p in runs], runs[0].source, runs[0].device
    state, trained = None if found is None else select(found.state, run_ids), [p.job.settings for p in runs]
    configure_torch(trained[0], device)
    splits = [split(source, run.data, run.seeds) for run in trained]
    writer = Writer(folder, runs, splits, state, pace or Pace(None, Noted()))
    training = train(trained, run_ids, source, splits, device, runs[0].peers, state=state, due=writer.pace)
    answer: set[str] | None = None
    with suppress(StopIteration):
        while True:
            news, answer = training.send(answer), None
            match news:
                case Finished():
                    yield writer.end(news)
                case Checkpoint():
                    writer.checkpoint(news)
                case _:
                    writer.epoch(news)
                    for row in news:
                        show(row)
                    answer = prune(news)
    records.sync(folder / SUMMARY)
    checkpoints.discard(folder)


class Writer:
    """What comes of a stack -> the files in its folder."""

    def __init__(
        self, folder: Path, runs: Sequence[Prepared], splits: Sequence[Split], state: State | None, pace: Pace
    ) -> None:
        """state: that the stack goes on from."""
        self.folder, self.first, self.pace = folder, runs[0], pace
        self.runs = {p.run_id: p for p in runs}
        self.splits = dict(zip(self.runs, splits, strict=True))
        self.begun = time.monotonic() - (0.0 if state is None else state["seconds"])
        self.is_synced = False
        if state is None:
            for name in EACH_EPOCH:
                records.append(folder / name, rows.columns(rows.TABLES[name]), [])
            _write_label_noise(folder, self.first.source, self.splits)
        live = list(self.runs) if "tensorboard" in runs[0].job.settings.trainer.trackers else []
        self.live = tracking.Live(folder, self.first.job.sweep or folder, live)

    def epoch(self, news: list[Row]) -> None:
        """The rows of all runs."""
        self.is_synced = False
        for cls, name in TABLES.items():
            if own := [rows.values(row) for row in news if type(row) is cls]:
                missing = "" if cls is CurveRow else "none"
                records.append(self.folder / name, rows.columns(cls), own, missing=missing)
        self.live(news)

    def end(self, news: Finished) -> tuple[Prepared, Outcome]:
        """A run is over. Who finds its row in summary.csv relies on all others, whatever happens to the machine."""
        run = self.runs[news.outcome.run_id]
        own = self.splits[run.run_id]
        if not self.is_synced:
            for name in EACH_EPOCH:
                records.sync(self.folder / name)
            self.is_synced = True
        if news.look is not None:
            save_predictions(run, own, news.look)
        write_summary(self.folder, run, news.outcome, time.monotonic() - self.begun)
        save_weights(run, own, news)  # last: a full disk must not cost the result
        return run, news.outcome

    def checkpoint(self, news: Checkpoint) -> None:
        """Raises Interrupted, where it is the last."""
        begun = time.monotonic()
        manifest = checkpoints.save(self.folder, news.state, marks(self.first))
        self.pace.took(time.monotonic() - begun)
        if news.is_end:
            noted = self.pace.noted
            raise Interrupted(f"interrupted by {noted.name} in {manifest.where}", noted.exit_code)


def marks(run: Prepared, *, device: str | None = None) -> checkpoints.Facts:
    """What must be as it was where a run goes on: all that bits depend on, and the data. device: its name, if known."""
    return facts(run, device=device) | {"data": run.data_hash}


def write_summary(folder: Path, prepared: Prepared, outcome: Outcome, seconds: float) -> None:
    """Append the run's row to summary.csv."""
    flat = settings.flatten(prepared.job.settings)
    values = rows.summary(outcome, _provenance(prepared, seconds), {c: flat.get(c) for c in settings.columns()})
    records.append(folder / SUMMARY, list(values), [list(values.values())])


def failed(run_id: str, status: str, error: str) -> Outcome:
    """How a run ended that could not be finished."""
    reason = "interrupted" if status == "interrupted" else "failed"
    return Outcome(run_id=run_id, status=status, stop_reason=reason, error=error)


def why_failed(error: BaseException) -> tuple[str, str]:
    """Status and one line for an error that ended a run: oom where memory was refused, else failed.

    Not of the run's making: interrupted, and environment, which is no status but ends all that train there.
    """
    text = str(error)
    if isinstance(error, Interrupted | EnvironmentFault):
        return "interrupted" if isinstance(error, Interrupted) else "environment", text
    is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
    return "oom" if is_memory else "failed", clip(f"{type(error).__name__}: {text}", 300)


def _write_label_noise(folder: Path, source: Source, splits: Mapping[str, Split]) -> None:
    """Which labels were drawn at random; no file where none was."""
    noisy = [
        LabelRow(run_id, name, i, int(source.targets[i]), int(own.targets[i]))
        for run_id, own in splits.items()
        if own.noisy.any()
        for name in ("train", "val")
        for i in getattr(own, name).unique().tolist()
        if own.noisy[i]
    ]
    if noisy:
        records.append(folder / "label_noise.csv", rows.columns(LabelRow), [rows.values(row) for row in noisy])


def _provenance(prepared: Prepared, seconds: float) -> Provenance:
    device = device_name(prepared.device)
    return Provenance(
        seconds=seconds,
        device=device,
        world_size=prepared.peers.size,
        peak_memory_bytes=_peak_memory(prepared.device),
        versions=versions(),
        fingerprint=fingerprint(prepared),
        data_hash=prepared.data_hash,
        git=revision.commit(),
        code=revision.code(),
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
