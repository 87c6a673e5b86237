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

import numpy as np
import torch

import regrun
from regrun import predictions, records, rows, settings, tracking
from regrun.config import Job, to_yaml
from regrun.data.sources import Source
from regrun.data.split import Split, split
from regrun.ending import Finished
from regrun.errors import clip
from regrun.looks import Look
from regrun.predictions import Predictions
from regrun.prepare import Prepared, configure_torch, device_name
from regrun.rows import CurveRow, LabelRow, Outcome, Provenance, Row
from regrun.trainer import train

TABLES = {cls: name for name, cls in rows.TABLES.items()}
# The weights that `trainer.save` keeps of a run; auto keeps best.pt for a single run and nothing in a sweep, whose runs
# have folders only for their weights.
WEIGHTS = {"best": ["best"], "last": ["last"], "both": ["best", "last"]}
Show = Callable[[Row], None]
Prune = Callable[[list[Row]], set[str]]


def train_into(
    folder: Path, runs: Sequence[Prepared], show: Show = lambda _: None, prune: Prune = lambda _: set()
) -> Iterator[tuple[Prepared, Outcome]]:
    """Train the runs as one stack, write every table, and yield each run as it ends, its summary row written.

    Rows are written an epoch at a time, then TensorBoard gets them if it is asked for, `show` each of them, and `prune`
    all: it names the runs that end here. A run is finished when its row is in summary.csv; its predictions are there
    before, its weights follow.
    """
    start, by_id = time.monotonic(), {p.run_id: p for p in runs}
    configure_torch(runs[0].job.settings, runs[0].device)
    for name in ("curves.csv", "epochs.csv", "layers.csv"):
        records.append(folder / name, rows.columns(rows.TABLES[name]), [])
    source, trained = runs[0].source, [p.job.settings for p in runs]
    splits = {p.run_id: split(source, run.data, run.seeds) for p, run in zip(runs, trained, strict=True)}
    _write_label_noise(folder, source, splits)
    live = tracking.Live(folder, runs[0].job.sweep or folder, list(by_id) if _is_live(runs) else [])
    training, pruned = train(trained, list(by_id), source, list(splits.values()), runs[0].device, runs[0].peers), None
    with suppress(StopIteration):
        while True:
            news, pruned = training.send(pruned), None
            if isinstance(news, Finished):
                prepared = by_id[news.outcome.run_id]
                if news.look is not None:
                    _save_predictions(prepared, splits[prepared.run_id], news.look)
                write_summary(folder, prepared, news.outcome, time.monotonic() - start)
                # Second: a full disk must not cost the result.
                _save_weights(prepared, splits[prepared.run_id], news)
                yield prepared, news.outcome
            else:
                _write_epoch(folder, news)
                live(news)
                for row in news:
                    show(row)
                pruned = prune(news)


def _is_live(runs: Sequence[Prepared]) -> bool:
    return "tensorboard" in runs[0].job.settings.trainer.trackers


def _write_epoch(folder: Path, news: list[Row]) -> None:
    for cls, name in TABLES.items():
        if own := [rows.values(row) for row in news if type(row) is cls]:
            records.append(folder / name, rows.columns(cls), own, missing="" if cls is CurveRow else "none")


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


def _save_predictions(prepared: Prepared, own: Split, look: Look) -> None:
    """The run's file under `predictions/`; a regression's are in the units of its targets."""
    source, job = prepared.source, prepared.job
    outputs, members = look.outputs, {split: getattr(own, split) for split in predictions.SPLITS}
    if source.is_regression:
        outputs = {split: y.double() * own.target_scale + own.target_mean for split, y in outputs.items()}
    targets = source.targets if source.is_regression else own.targets.int()
    found = Predictions(
        epochs=np.array(look.epochs, np.int32),
        outputs={split: y.numpy() for split, y in outputs.items()},
        targets={split: targets[at].numpy() for split, at in members.items()},
        examples={split: at.int().numpy() for split, at in members.items()},
        target_scale=own.target_scale.numpy(),
    )
    path = predictions.path(job.sweep or job.folder, prepared.run_id)
    records.make(path.parent)
    records.replace(path, predictions.content(found))


def weights_kept(job: Job) -> list[str]:
    """Which of best and last `trainer.save` keeps of a run."""
    save = job.settings.trainer.save
    return ["best"] if save == "auto" and job.sweep is None else WEIGHTS.get(save, [])


def _save_weights(prepared: Prepared, own: Split, finished: Finished) -> None:
    """best.pt and last.pt as `trainer.save` asks; they also carry how inputs and targets are scaled."""
    job, wanted = prepared.job, weights_kept(prepared.job)
    if wanted and job.sweep is not None:
        records.make(job.folder)  # the sweep's lock guards it; a retry writes it again
        records.replace(job.folder / "settings.yaml", to_yaml(job.settings))
    inputs = {
        "input.offset": own.offset,
        "input.scale": own.scale,
        "input.fill": own.fill,
        "input.shape": torch.tensor(prepared.source.shape),
        "output.size": torch.tensor(prepared.source.num_outputs),
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
