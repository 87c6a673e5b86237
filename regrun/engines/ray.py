"""Stacks as tasks of Ray: on a cluster that is joined, or on one that is started here and ends with the sweep."""

import os
import signal
import socket
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regrun.engines.tasks import Lost, Task
from regrun.engines.work import train_folder
from regrun.errors import ConfigError, clip
from regrun.launchers import Ray

ANSWER = 5.0  # seconds in which a cluster must take a connection; Ray itself would try for minutes
CLOSING = 10.0  # seconds that cancelled tasks get to end
LOCAL = {"include_dashboard": False, "object_store_memory": 100 << 20}  # nothing but a path goes through Ray
DEATHS = {
    "WorkerCrashedError": "its process died: killed, out of memory, or crashed",
    "OutOfMemoryError": "Ray ended its process, as its node ran out of memory",
    "TaskCancelledError": "it was cancelled",
}


def check(launcher: Ray, *, cores: int, gpus: int) -> None:
    """Raise ConfigError if Ray is not installed, no cluster is where one is to be joined, or this machine is too small.

    On a cluster that is joined, a task that fits no node waits for one that an autoscaler may add.
    """
    if find_spec("ray") is None:
        raise ConfigError('hydra/launcher: ray needs ray, which is not installed; pip install "regrun[ray]"')
    if launcher.address is None:
        asked = {"num_cpus": (launcher.num_cpus, cores), "num_gpus": (launcher.num_gpus, gpus)}
        for key, (number, there) in asked.items():
            if number > there:
                raise ConfigError(f"hydra.launcher.{key}: this machine has {there}, got {number:g}; join a cluster")
    elif launcher.address != "auto":
        _check_address(launcher.address)


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except (OSError, ValueError) as error:
        line = f"hydra.launcher.address: must be null, auto or the host:port of a Ray cluster, got {address}"
        raise ConfigError(f"{line} ({clip(str(error))})") from None


class RayEngine:
    """One task of Ray's for each of ours, in a process of its own, which Ray does not start again if it dies."""

    def __init__(self, launcher: Ray) -> None:
        import ray

        self.slots = launcher.jobs
        self.running: dict[Any, Task] = {}  # by the reference to its result
        _connect(launcher.address)
        options = {"num_cpus": launcher.num_cpus, "num_gpus": launcher.num_gpus, "max_retries": 0, "max_calls": 1}
        self.train = ray.remote(**options)(_train)

    def start(self, task: Task) -> None:
        self.running[self.train.remote(str(task.folder.absolute()), str(Path.cwd()))] = task

    def wait(self, seconds: float) -> list[tuple[Task, str | None]]:
        import ray

        first, _ = ray.wait(list(self.running), timeout=seconds)
        ended, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0) if first else ([], [])
        return [(self.running.pop(reference), _why(reference)) for reference in ended]

    def kill(self, task: Task) -> None:
        import ray

        for reference in [r for r, t in self.running.items() if t is task]:
            ray.cancel(reference, force=True)

    def close(self) -> None:
        import ray

        for force in (False, True):  # at first as by Ctrl-C, which a worker notes and writes its checkpoint
            for reference in self.running:
                ray.cancel(reference, force=force)
            deadline = time.monotonic() + CLOSING
            while self.running and (left := deadline - time.monotonic()) > 0:
                self.wait(left)
        ray.shutdown()


def _connect(address: str | None) -> None:
    """Join the cluster, or start one; what Ray takes of this process, SIGTERM and standard output, is taken back."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray._private.worker._worker_logs_enabled = False  # it prints what raylets say whatever log_to_driver is
    worker = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}  # num_gpus=0 means none, also where there are some
    if "PYTHONPATH" in os.environ:
        worker["PYTHONPATH"] = os.environ["PYTHONPATH"]
    before = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings(action="ignore"):
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="critical",
                runtime_env={"env_vars": worker},
                **({} if address else LOCAL),
            )
    except ConnectionError as error:
        hint = "start one with ray start --head, or give RAY_AUTH_MODE=token if it wants one"
        raise ConfigError(f"hydra.launcher.address: {clip(str(error), 80)}, got {address}; {hint}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(folder: str, working_folder: str) -> None:
    """The worker. A joined cluster's starts in a folder of its own, where a relative `data.root` would not be found."""
    os.chdir(working_folder)
    train_folder(folder)


def _why(reference: Any) -> str | None:
    """Why the task did not end well, if so."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return f"its process raised {clip(repr(error.cause), 200)}"
    except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError) as error:
        return Lost(f"its node was lost: {clip(str(error), 150)}")
    except ray.exceptions.RayError as error:
        name = type(error).__name__
        return DEATHS.get(name, "{name}: {text}").format(name=name, text=clip(str(error), 150))
    return None
