"""A stack's rows -> the tables of a folder, as they come: what a single run and a worker of a sweep have in common."""

import hashlib
import io
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

import regrun
from regrun import records, rows, settings
from regrun.config import to_yaml
from regrun.data.sources import Source
from regrun.data.split import Split, split
from regrun.errors import clip
from regrun.prepare import Prepared, configure_torch, device_name
from regrun.rows import LabelRow, Outcome, Provenance, Row
from regrun.trainer import Finished, train

TABLES = {cls: name for name, cls in rows.TABLES.items()}
Show = Callable[[Row], None]
Prune = Callable[[list[Row]], set[str]]


def train_into(
    folder: Path, runs: Sequence[Prepared], show: Show = lambda _: None, prune: Prune = lambda _: set()
) -> Iterator[tuple[Prepared, Outcome]]:
    """Train the runs as one stack, write every table, and yield each run as it ends, its summary row written.

    Rows are written an epoch at a time, then `show` gets each of them, and `prune` all: it names the runs that end
    here. A run is finished when its row is in summary.csv; its weights follow.
    """
    start, by_id = time.monotonic(), {p.run_id: p for p in runs}
    configure_torch(runs[0].job.settings, runs[0].device)
    for name in ("curves.csv", "epochs.csv", "layers.csv"):
        records.append(folder / name, rows.columns(rows.TABLES[name]), [])
    source, trained = runs[0].source, [p.job.settings for p in runs]
    splits = {p.run_id: split(source, run.data, run.seeds) for p, run in zip(runs, trained, strict=True)}
    _write_label_noise(folder, source, splits)
    training, pruned = train(trained, list(by_id), source, list(splits.values()), runs[0].device, runs[0].peers), None
    with suppress(StopIteration):
        while True:
            news, pruned = training.send(pruned), None
            if isinstance(news, Finished):
                prepared = by_id[news.outcome.run_id]
                write_summary(folder, prepared, news.outcome, time.monotonic() - start)
                # Second: a full disk must not cost the result.
                _save_weights(prepared, splits[prepared.run_id], news)
                yield prepared, news.outcome
            else:
                _write_epoch(folder, news)
                for row in news:
                    show(row)
                pruned = prune(news)


def _write_epoch(folder: Path, news: list[Row]) -> None:
    for cls, name in TABLES.items():
        if own := [rows.values(row) for row in news if type(row) is cls]:
            records.append(folder / name, rows.columns(cls), own, missing="")


def write_summary(folder: Path, prepared: Prepared, outcome: Outcome, seconds: float) -> None:
    """Append the run's row to summary.csv."""
    flat = settings.flatten(prepared.job.settings)
    values = rows.summary(outcome, _provenance(prepared, seconds), {c: flat.get(c) for c in settings.columns()})
    records.append(folder / "summary.csv", list(values), [list(values.values())])


def failed(run_id: str, status: str, error: str) -> Outcome:
    """How a run ended that could not be finished."""
    reason = "interrupted" if status == "interrupted" else "failed"
    return Outcome(run_id=run_id, status=status, stop_reason=reason, error=error)


def why_failed(error: BaseException) -> tuple[str, str]:
    """Status and one line for an error that ended a run: oom where memory was refused, else failed."""
    text = str(error)
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


def _save_weights(prepared: Prepared, own: Split, finished: Finished) -> None:
    """best.pt and last.pt as `trainer.save` asks; they also carry how inputs and targets are scaled.

    auto keeps best.pt for a single run and nothing in a sweep, whose runs have folders only for their weights.
    """
    job = prepared.job
    save = job.settings.trainer.save
    wanted = {"auto": ["best"] if job.sweep is None else [], "none": [], "both": ["best", "last"]}.get(save, [save])
    if wanted and job.sweep is not None:
        records.make(job.folder)  # the sweep's lock guards it; a retry writes it again
        records.replace(job.folder / "settings.yaml", to_yaml(job.settings))
    inputs = {
        "input.offset": own.offset,
        "input.scale": own.scale,
        "input.fill": own.fill,
        "input.shape": torch.tensor(prepared.source.shape),
    }
    if prepared.source.is_regression:
        inputs |= {"target.mean": own.target_mean.float(), "target.scale": own.target_scale.float()}
    for name in wanted:
        buffer = io.BytesIO()
        torch.save(getattr(finished, name) | inputs, buffer)
        records.replace(job.folder / f"{name}.pt", buffer.getvalue())


def _provenance(prepared: Prepared, seconds: float) -> Provenance:
    trainer, device = prepared.job.settings.trainer, prepared.device
    versions = f"python {platform.python_version()}, torch {torch.__version__}, regrun {regrun.__version__}"
    size = prepared.peers.size
    parts = [versions, device_name(device), trainer.precision, trainer.threads, trainer.deterministic]
    parts += [size] if size > 1 else []
    return Provenance(
        seconds=seconds,
        device=device_name(device),
        world_size=size,
        peak_memory_bytes=_peak_memory(device),
        versions=versions,
        fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10],
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
