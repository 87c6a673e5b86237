"""Jobs -> runs that are ready to train: identified, their data loaded and split, their device found, all checked."""

import ctypes
import hashlib
import json
import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

import regrun
from regrun import checks, records, settings
from regrun.config import Job
from regrun.data import sources
from regrun.data.sources import Source
from regrun.data.split import sizes
from regrun.epoch import epoch_slices
from regrun.errors import ConfigError
from regrun.models import vision
from regrun.parallel import ALONE, Peers
from regrun.paths import is_below, is_short
from regrun.settings import Settings, Torchvision

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt, in bytes


@dataclass(frozen=True)
class Prepared:
    """A run whose data is loaded and whose every check has passed."""

    job: Job
    run_id: str
    source: Source
    data_hash: str  # made once, before workers are forked
    train_size: int
    device: torch.device
    warnings: list[str]
    peers: Peers = ALONE


def run_id(run: Settings, peers: Peers = ALONE) -> str:
    """A short hash of the resolved settings that can change a result.

    How many processes train the run changes rounding, as threads and devices do, and does not count; but where each
    normalizes its own shards it does.
    """
    flat = {key: value for key, value in settings.flatten(run).items() if key not in settings.WITHOUT_EFFECT}
    if peers.are_several and checks.normalizes_shards(run):
        flat["world_size"] = peers.size
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:10]


def prepare(
    jobs: list[Job],
    *,
    there: dict[str, bool] | None = None,
    loaded: dict[str, Source] | None = None,
    peers: Peers = ALONE,
    own: Path | None = None,
) -> list[Prepared]:
    """Load what the runs need and check all of them against it; nothing is written. Raises ConfigError.

    there: which devices the machines have that will train, where that is not this one. loaded: data sets to begin
    with, to which those are added that were missing. peers: who trains the runs. own: a folder that is a run's already.
    """
    mps = torch.backends.mps.is_available() and not peers.are_several
    found = there or {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    loaded = {} if loaded is None else loaded
    prepared, problems = [], _folder_problems(jobs, own) if peers.is_writer else []
    for job in jobs:
        run = job.settings
        try:
            device = _device(run, found, peers)
            key = sources.key(run.data)
            if key not in loaded:
                loaded[key] = sources.load(run.data, fetches=job.fetches)
            train_size, _ = sizes(loaded[key], run.data)
        except ConfigError as error:
            problems += error.problems
            continue
        source = loaded[key]
        found_wrong = list(checks.data_conflicts(run, train_size, source.shape, source.is_regression))
        if isinstance(run.model, Torchvision) and not found_wrong:
            found_wrong = list(vision.check(run.model, source.shape, source.num_outputs, run.trainer.batch_size))
        smallest = min((end - begin for begin, end in epoch_slices(run, train_size)), default=train_size)
        problems += [*found_wrong, *checks.parallel_conflicts(run, smallest, peers.size)]
        warnings = [*checks.warnings(run, train_size), *checks.parallel_warnings(run, peers.size)]
        prepared.append(
            Prepared(job, run_id(run, peers), source, source.data_hash, train_size, device, warnings, peers)
        )
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return prepared


def _has_place(folder: Path, sweep: Path) -> bool:
    """Whether a run's folder is below its sweep's, by its name and wherever links lead."""
    is_named_so = sweep in folder.parents and str(folder.relative_to(sweep)).isprintable()
    return is_named_so and is_below(folder, sweep) and is_short(folder)


def _folder_problems(jobs: list[Job], own: Path | None) -> list[str]:
    """Folders that are taken (a sweep's own is looked at in `sweep`), or that two runs would share."""
    alone = [job.folder for job in jobs if job.sweep is None and job.folder != own]
    problems = [records.taken(folder, key="hydra.run.dir") for folder in alone if not records.is_free(folder)]
    for job in jobs:
        if job.sweep is not None and not _has_place(job.folder, job.sweep):
            where = str(job.folder)[-80:]
            problems.append(f"hydra.sweep.subdir: must lead to a folder below hydra.sweep.dir, got {where}")
            break
    counts = Counter(job.folder for job in jobs)
    return problems + [
        f"hydra.sweep.subdir: gives {count} runs one folder, got {str(folder)[-80:]}; use ${{hydra.job.num}}"
        for folder, count in counts.items()
        if count > 1
    ]


def _device(run: Settings, found: dict[str, bool], peers: Peers) -> torch.device:
    """The device that the settings name; `auto` is the best one that is there. Each process needs a GPU of its own."""
    name = run.trainer.device
    if name == "auto":
        bfloat16 = run.trainer.precision == "bfloat16"
        name = next(n for n, there in found.items() if there and not (bfloat16 and n == "mps"))
    if not found[name]:
        there = ", ".join(n for n, is_there in found.items() if is_there)
        raise ConfigError(f"trainer.device: no such device on this machine, got {name}; choose auto or one of {there}")
    if peers.are_several and name == "cuda" and peers.local_rank >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"trainer.device: each process needs a GPU of its own, got {count} for process {peers.local_rank + 1}; "
            "start fewer, or use trainer.device=cpu"
        )
    return torch.device(name)


def configure_torch(run: Settings, device: torch.device) -> None:
    """Set for the whole process what the settings ask of torch."""
    torch.set_num_threads(run.trainer.threads)
    keep_freed_memory()
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


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, for the whole process: it would return large tensors' pages and take them again.

    A stack's step takes and frees the same tensors each time: 64 digits runs of 10 epochs spend 0.05 instead of 0.25 s
    of 2.3 s in the kernel.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 28)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)


def versions() -> str:
    """Of what computes."""
    return f"python {platform.python_version()}, torch {torch.__version__}, regrun {regrun.__version__}"


def facts(run: Prepared, *, device: str | None = None) -> dict[str, str | int | bool]:
    """What the bits of a result depend on beside the settings that count. device: its name; asked for if None.

    To ask a GPU initializes CUDA, after which no process can be forked any more.
    """
    trainer = run.job.settings.trainer
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "regrun": regrun.__version__,
        "device": device or device_name(run.device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": trainer.precision,
        "threads": trainer.threads,
        "deterministic": trainer.deterministic,
        "processes": run.peers.size,
    }


def fingerprint(run: Prepared) -> str:
    """A hash of `facts`."""
    return hashlib.sha256(json.dumps(facts(run), sort_keys=True).encode()).hexdigest()[:10]


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
