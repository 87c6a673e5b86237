"""Who trains the stacks of a sweep: `hydra/launcher` as checked, plain data."""

from dataclasses import dataclass

from regrun.settings.fields import number, plain


@dataclass(frozen=True)
class Local:
    """Processes on this machine, one per core or GPU (`sweep.workers`)."""

    kind: str = plain("local")


@dataclass(frozen=True)
class Slurm:
    """Jobs of a Slurm cluster whose nodes share the sweep's folder; null leaves the choice to the cluster."""

    kind: str = plain("slurm")
    jobs: int = number(16, "[1, 100000]")
    partition: str | None = plain(None)
    account: str | None = plain(None)
    qos: str | None = plain(None)
    constraint: str | None = plain(None)
    timeout_min: int = number(60, "[1, inf)")
    cpus_per_task: int = number(1, "[1, 1024]")
    mem_gb: float | None = number(None, "(0, inf)")
    gpus_per_node: int = number(0, "[0, 1024]")
    setup: list[str] | None = plain(None)
    poll_seconds: float = number(10.0, "[1, 3600]")


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster whose nodes share the sweep's folder; `address: null` starts one on this machine."""

    kind: str = plain("ray")
    address: str | None = plain(None)
    jobs: int = number(16, "[1, 100000]")
    num_cpus: float = number(1.0, "[0, inf)")
    num_gpus: float = number(0.0, "[0, inf)")


@dataclass(frozen=True)
class Plugin:
    """Hydra's own launcher or one of its plugins, by name, and what was overridden of its configuration."""

    kind: str
    overrides: tuple[str, ...]


Launcher = Local | Slurm | Ray | Plugin
LAUNCHERS: dict[str, type] = {"local": Local, "slurm": Slurm, "ray": Ray}


def has_gpus(launcher: Launcher) -> bool:
    """Whether the launcher's workers have GPUs, whatever this machine has."""
    return (isinstance(launcher, Slurm) and launcher.gpus_per_node > 0) or (
        isinstance(launcher, Ray) and launcher.num_gpus > 0
    )
