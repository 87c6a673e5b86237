"""Launcher and plan -> engine."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from regrun.engines import ray, slurm
from regrun.engines.local import LocalEngine
from regrun.engines.plugin import PluginEngine
from regrun.engines.tasks import Engine
from regrun.errors import ConfigError
from regrun.launchers import Launcher, Local, Plugin, Ray, Slurm
from regrun.prepare import Prepared


def check(launcher: Launcher, runs: Sequence[Prepared]) -> None:
    """Raise ConfigError for what this launcher cannot do."""
    sweep = runs[0].job.settings.sweep
    if not isinstance(launcher, Local) and sweep.workers is not None:
        raise ConfigError(f"sweep.workers: is for hydra/launcher=local, got {launcher.kind}; leave it out")
    if isinstance(launcher, Plugin) and sweep.run_timeout is not None:
        raise ConfigError(f"sweep.run_timeout: hydra/launcher={launcher.kind} cannot end a run; leave it out")
    match launcher:
        case Slurm():
            slurm.check(launcher)
        case Ray():
            ray.check(launcher, cores=cores(), gpus=len(gpus()))


def slots(launcher: Launcher, runs: Sequence[Prepared]) -> int:
    """How many stacks may train at a time: the cluster's jobs, or this machine's GPUs, or its cores over threads."""
    if isinstance(launcher, Ray) and launcher.address is None and launcher.num_cpus > 0:
        return min(launcher.jobs, int(cores() / launcher.num_cpus))
    if not isinstance(launcher, Local | Plugin):
        return launcher.jobs
    run = runs[0].job.settings
    if run.sweep.workers is not None:
        return run.sweep.workers
    if runs[0].device.type == "cuda":
        return len(gpus())
    return max(1, cores() // run.trainer.threads)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def engine(launcher: Launcher, runs: Sequence[Prepared], root: Path) -> Engine:
    """The engine, ready to start tasks."""
    match launcher:
        case Local():
            return LocalEngine(slots(launcher, runs), gpus() if runs[0].device.type == "cuda" else [])
        case Plugin():
            return PluginEngine(launcher, root)
        case Slurm():
            return slurm.SlurmEngine(launcher, root)
        case Ray():
            return ray.RayEngine(launcher)
