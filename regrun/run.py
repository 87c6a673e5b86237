"""Settings in, a folder of tables on disk out: one run from its checked job to its summary."""

import hashlib
import io
import json
import os
import platform
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

import regrun
from regrun import checks, display, plots, records, rows, settings
from regrun.config import Job, to_yaml
from regrun.data import sources
from regrun.data.sources import Source
from regrun.data.split import Split, split
from regrun.errors import ConfigError
from regrun.rows import LabelRow, Outcome, Provenance
from regrun.settings import Settings
from regrun.trainer import Finished, train


@dataclass(frozen=True)
class Prepared:
    """A run whose data is loaded and whose every check has passed."""

    job: Job
    run_id: str
    source: Source
    split: Split
    device: torch.device
    warnings: list[str]


def run_id(run: Settings) -> str:
    """A short hash of the resolved settings that can change a result."""
    flat = {key: value for key, value in settings.flatten(run).items() if key not in settings.WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:10]


def prepare(jobs: list[Job]) -> list[Prepared]:
    """Load what the runs need and check all of them against it; nothing is written. Raises ConfigError."""
    loaded: dict[str, Source] = {}
    prepared, problems = [], _folder_problems(jobs)
    for job in jobs:
        run = job.settings
        try:
            device = _device(run)
            key = repr(run.data)
            if key not in loaded:
                loaded[key] = sources.load(run.data)
            source = loaded[key]
            own = split(source, run.data, run.seeds)
        except ConfigError as error:
            problems += error.problems
            continue
        problems += checks.data_conflicts(run, len(own.train))
        prepared.append(Prepared(job, run_id(run), source, own, device, list(checks.warnings(run, len(own.train)))))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return prepared


def _folder_problems(jobs: list[Job]) -> list[str]:
    """Folders that are taken, or that two runs would share."""
    key = "hydra.run.dir" if len(jobs) == 1 else "hydra.sweep.dir"
    problems = [records.taken(job.folder, key=key) for job in jobs if not records.is_free(job.folder)]
    counts = Counter(job.folder for job in jobs)
    return problems + [
        f"hydra.sweep.subdir: gives {count} runs one folder, got {str(folder)[-80:]}; use ${{hydra.job.num}}"
        for folder, count in counts.items()
        if count > 1
    ]


def _device(run: Settings) -> torch.device:
    """The device that the settings name; `auto` is the best one that is there."""
    name = run.trainer.device
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        bfloat16 = run.trainer.precision == "bfloat16"
        name = next(n for n, there in found.items() if there and not (bfloat16 and n == "mps"))
    if not found[name]:
        there = ", ".join(n for n, is_there in found.items() if is_there)
        raise ConfigError(f"trainer.device: no such device on this machine, got {name}; choose auto or one of {there}")
    return torch.device(name)


def execute(prepared: Prepared) -> Outcome:
    """Train one run and write everything it leaves. A run that fails is a row, too."""
    start, run, folder = time.monotonic(), prepared.job.settings, prepared.job.folder
    _configure_torch(run, prepared.device)
    records.claim(folder)
    records.replace(folder / "settings.yaml", to_yaml(run))
    view, log = display.choose(run.trainer.progress), display.Plain(lambda line: records.log(folder, line))
    title, finished = _title(prepared), None
    for shown in (view, log):
        shown.start(title, run.trainer.epochs)
        for line in prepared.warnings:
            shown.warn(line)
    try:
        _write_empty_tables(folder)
        _write_label_noise(prepared)
        finished = _consume(prepared, view, log)
        outcome = finished.outcome
    except torch.OutOfMemoryError as error:
        outcome = _failed(prepared, "oom", str(error).splitlines()[0])
    except KeyboardInterrupt:
        outcome = _failed(prepared, "interrupted", "interrupted from the keyboard")
    finally:
        view.close()
    _write_summary(prepared, outcome, time.monotonic() - start)  # first: a full disk must not cost the result
    if finished is not None:
        _save_weights(prepared, finished)
    if outcome.best_epoch is not None:
        records.replace(folder / "curves.png", plots.curves_png(folder))
    for shown in (view, log):
        shown.finish(outcome, folder)
    return outcome


def _configure_torch(run: Settings, device: torch.device) -> None:
    torch.set_num_threads(run.trainer.threads)
    # Gradients of a fitted network underflow into denormals, which cost two threads 1.5 times the step
    # (MNIST, batch 1024: 0.23 s an epoch against 0.155 s). Set before the threads are made: they inherit it.
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.cuda.reset_peak_memory_stats(device)
    # As use_deterministic_algorithms, which also imports torch's compiler (1.25 s).
    torch.set_deterministic_debug_mode("error" if run.trainer.deterministic else "default")
    # Nothing here reads memory that it did not write, so it need not be filled first.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  (mypy does not know it)


def _title(prepared: Prepared) -> str:
    run = prepared.job.settings
    wanted = ", ".join(settings.requested(run)) or "none"
    parts = [run.data.kind, _shape(run), f"reg {wanted}", run.optimizer.kind, f"seed {run.seed}"]
    return " | ".join([*parts, _device_name(prepared.device)])


def _shape(run: Settings) -> str:
    """mlp 8 x 128, or mlp 75, 45."""
    hidden = settings.hidden_layers(run.model)
    same = len(set(hidden)) == 1
    return f"{run.model.kind} " + (f"{len(hidden)} x {hidden[0]}" if same else ", ".join(map(str, hidden)) or "linear")


def _consume(prepared: Prepared, view: display.Silent, log: display.Silent) -> Finished:
    """Write and show each row as it comes."""
    run, folder = prepared.job.settings, prepared.job.folder
    names = {cls: name for name, cls in rows.TABLES.items()}
    for row in train([run], [prepared.run_id], prepared.source, [prepared.split], prepared.device):
        if isinstance(row, Finished):
            return row
        records.append(folder / names[type(row)], rows.columns(type(row)), [rows.values(row)], missing="")
        view.row(row)
        log.row(row)
    raise AssertionError("a stack always finishes")


def _write_empty_tables(folder: Path) -> None:
    for name in ("curves.csv", "epochs.csv", "layers.csv"):
        records.append(folder / name, rows.columns(rows.TABLES[name]), [])


def _write_label_noise(prepared: Prepared) -> None:
    """Which labels were drawn at random; no file where none was."""
    own, labels = prepared.split, prepared.source.targets
    noisy = [
        LabelRow(prepared.run_id, name, i, int(labels[i]), int(own.targets[i]))
        for name in ("train", "val")
        for i in getattr(own, name).tolist()
        if own.noisy[i]
    ]
    if noisy:
        path = prepared.job.folder / "label_noise.csv"
        records.append(path, rows.columns(LabelRow), [rows.values(row) for row in noisy])


def _save_weights(prepared: Prepared, finished: Finished) -> None:
    """best.pt and last.pt as `trainer.save` asks; they also carry how inputs are scaled."""
    own = prepared.split
    inputs = {
        "input.offset": own.offset,
        "input.scale": own.scale,
        "input.shape": torch.tensor(prepared.source.shape),
    }
    wanted = {"auto": ["best"], "none": [], "both": ["best", "last"]}
    save = prepared.job.settings.trainer.save
    for name in wanted.get(save, [save]):
        buffer = io.BytesIO()
        torch.save(getattr(finished, name) | inputs, buffer)
        records.replace(prepared.job.folder / f"{name}.pt", buffer.getvalue())


def _failed(prepared: Prepared, status: str, error: str) -> Outcome:
    reason = "interrupted" if status == "interrupted" else "failed"
    return Outcome(run_id=prepared.run_id, status=status, stop_reason=reason, error=error)


def _write_summary(prepared: Prepared, outcome: Outcome, seconds: float) -> None:
    flat = settings.flatten(prepared.job.settings)
    values = rows.summary(outcome, _provenance(prepared, seconds), {c: flat.get(c) for c in settings.columns()})
    path = prepared.job.folder / "summary.csv"
    records.replace(path, records.table([list(values), list(values.values())]))


def _provenance(prepared: Prepared, seconds: float) -> Provenance:
    trainer, device = prepared.job.settings.trainer, prepared.device
    versions = f"python {platform.python_version()}, torch {torch.__version__}, regrun {regrun.__version__}"
    parts = [versions, _device_name(device), trainer.precision, trainer.threads, trainer.deterministic]
    return Provenance(
        seconds=seconds,
        device=_device_name(device),
        peak_memory_bytes=_peak_memory(device),
        versions=versions,
        fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10],
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
