"""The local engine: stacks in processes forked from this one, which has torch loaded and computes nothing.

A fork takes 23 ms where a new process takes 2 s, and shares the data. A forked child with two threads hangs if
its parent has run a parallel region, so the parent stays at one thread.
"""

import ctypes
import os
import signal
import sys
import time
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess

from regrun import records
from regrun.engines import work
from regrun.engines.tasks import Task
from regrun.errors import EnvironmentFault

FORK = get_context("fork")
PARENT_DIED = 1  # prctl's PR_SET_PDEATHSIG
CLOSING = 10.0  # seconds that workers get to write their checkpoints


class LocalEngine:
    """One process for each task, at most `slots` at a time, each on a GPU of its own if they train on GPUs."""

    def __init__(self, slots: int, gpus: list[str]) -> None:
        """gpus: what CUDA_VISIBLE_DEVICES calls those to use; with fewer than slots, processes share them."""
        self.slots, self.gpus = slots, gpus
        self.running: dict[Task, tuple[BaseProcess, int]] = {}

    def start(self, task: Task) -> None:
        taken = {slot for _, slot in self.running.values()}
        slot = next(i for i in range(self.slots) if i not in taken)
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        process = FORK.Process(target=_work, args=(task, gpu, os.getpid()))
        process.start()
        self.running[task] = (process, slot)

    def wait(self, seconds: float) -> list[tuple[Task, str | None]]:
        by_sentinel = {process.sentinel: task for task, (process, _) in self.running.items()}
        ready = connection.wait(list(by_sentinel), timeout=seconds)
        return [self._end(task) for sentinel, task in by_sentinel.items() if sentinel in ready]

    def _end(self, task: Task) -> tuple[Task, str | None]:
        process, _ = self.running.pop(task)
        process.join()
        return task, _why(process.exitcode)

    def kill(self, task: Task) -> None:
        self.running[task][0].kill()

    def close(self) -> None:
        for process, _ in self.running.values():
            process.terminate()
        deadline = time.monotonic() + CLOSING
        for process, _ in self.running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        self.running.clear()


def _why(exitcode: int | None) -> str | None:
    if exitcode is not None and exitcode < 0:
        return f"its process was killed by {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode}" if exitcode else None


def _work(task: Task, gpu: str | None, parent: int) -> None:
    """The process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to die with it
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all; the parent decides
    try:
        records.divert(task.folder)
    except EnvironmentFault as fault:  # the parent comes upon it, too, and says so
        os._exit(fault.exit_code)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    work.train(task.folder, lambda: task.runs)
