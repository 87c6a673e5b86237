"""The local engine: stacks in isolated processes, forked from this one, which has torch loaded and computes nothing.

A forked child with two threads hangs if its parent has run a parallel region, so the parent stays at one
thread. A stack whose process dies, fails or takes too long is retried as halves, until the culprit is alone.
"""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from regrun import records
from regrun.prepare import Prepared
from regrun.rows import Outcome
from regrun.writing import failed, train_into, why_failed

Stack = list[Prepared]
FORK = get_context("fork")
PARENT_DIED = 1  # prctl's PR_SET_PDEATHSIG


@dataclass
class Task:
    """A stack in its process."""

    runs: Stack
    folder: Path
    process: BaseProcess
    slot: int
    started: float = field(default_factory=time.monotonic)
    error: tuple[str, str] | None = None  # status and reason, as the process told them

    def seconds(self) -> float:
        return time.monotonic() - self.started


@dataclass(frozen=True)
class Ended:
    """One run's end. `folder` has its rows; `is_written` says whether its summary row is there, too."""

    run: Prepared
    outcome: Outcome
    folder: Path
    seconds: float
    is_written: bool


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: a flag, since an exception that is raised while a process forks can be lost.

    A second one interrupts at once. A process that was started deaf to it (nohup) stays so.
    """
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def train_all(
    stacks: list[Stack],
    new_folder: Callable[[], Path],
    *,
    workers: int,
    run_timeout: float | None,
    is_over: Callable[[], bool],
) -> Generator[Ended]:
    """Train every stack, `workers` at a time, until `is_over`. Yields each run as it ends; leaves no process."""
    queue, tasks, slots = deque(stacks), dict[Connection, Task](), list(range(workers))
    try:
        while (queue or tasks) and not is_over():
            while queue and slots:
                receiver, task = _start(queue.popleft(), new_folder(), slots.pop(0))
                tasks[receiver] = task
            for ready in connection.wait(list(tasks), timeout=0.2):
                assert isinstance(ready, Connection)
                task = tasks[ready]
                try:
                    message = ready.recv()
                except EOFError:
                    del tasks[ready]
                    slots.append(task.slot)
                    task.process.join()
                    yield from _close(task, queue)
                else:
                    yield from _heard(task, message)
            for task in tasks.values():
                if run_timeout is not None and task.seconds() > run_timeout * len(task.runs) and task.error is None:
                    task.error = ("failed", f"took longer than sweep.run_timeout={run_timeout:g} s")
                    task.process.kill()
    finally:
        for task in tasks.values():
            task.process.kill()
            task.process.join()


def _start(runs: Stack, folder: Path, slot: int) -> tuple[Connection, Task]:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_work, args=(runs, folder, sender, slot, os.getpid()))
    process.start()
    sender.close()
    return receiver, Task(list(runs), folder, process, slot)


def _heard(task: Task, message: Outcome | tuple[str, str]) -> Iterator[Ended]:
    if isinstance(message, tuple):
        task.error = message
        return
    (run,) = (p for p in task.runs if p.run_id == message.run_id)
    task.runs = [p for p in task.runs if p is not run]
    yield Ended(run, message, task.folder, task.seconds(), is_written=True)


def _close(task: Task, queue: deque[Stack]) -> Iterator[Ended]:
    """What a process left undone: again as halves, or a failure if it was alone."""
    if len(task.runs) > 1:
        middle = len(task.runs) // 2
        queue.extendleft([task.runs[middle:], task.runs[:middle]])
        return
    for run in task.runs:
        status, reason = task.error or ("failed", _why(task.process.exitcode))
        yield Ended(run, failed(run.run_id, status, reason), task.folder, task.seconds(), is_written=False)


def _why(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its process was killed by {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode}"


def _work(runs: Stack, folder: Path, sender: Connection, slot: int, parent: int) -> None:
    """The process: train one stack and tell each end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to die with it
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if runs[0].device.type == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot)
    try:
        for _, outcome in train_into(folder, runs):
            sender.send(outcome)
    except Exception as error:
        sender.send(why_failed(error))
        records.log(folder, traceback.format_exc())
