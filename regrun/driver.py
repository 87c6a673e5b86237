"""Every stack of a sweep through an engine: what has ended is read from the stacks' folders, what was lost is retried.

A stack whose worker dies, fails or takes too long is tried again as halves, until the culprit is alone and fails. One
that its cluster lost is tried again as it is, and so is, once, one that lost a process that reads its data.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from regrun import checkpoints, foreign
from regrun.data.stream import ReaderLost
from regrun.engines.tasks import Engine, Lost, Task
from regrun.engines.work import failure, has_begun
from regrun.errors import EnvironmentFault
from regrun.prepare import Prepared
from regrun.writing import failed, write_summary

Stack = list[Prepared]
LOOK = 0.2  # seconds between two looks at the folders
LOSSES = 5  # times that a run may be lost by its cluster and get nowhere; then it may be what its nodes die of
NO_DISK = f"ended with exit code {EnvironmentFault.exit_code}"  # all that a worker can say on a full disk


@dataclass
class Watch:
    """What the driver knows of a task."""

    task: Task
    left: dict[str, Prepared]
    begun: float | None = None  # monotonic seconds when its worker was first seen at work
    size: int = 0  # bytes of its summary.csv that have been read
    ended_for: tuple[str, str] | None = None  # status and reason, where the driver ended it

    def seconds(self) -> float:
        return 0.0 if self.begun is None else time.monotonic() - self.begun


@dataclass(frozen=True)
class Ended:
    """One run's end: its row of summary.csv."""

    run: Prepared
    row: dict[str, str]


@dataclass(frozen=True)
class Retried:
    """A stack whose worker ended early; its unfinished runs are tried again, as stacks of these sizes."""

    sizes: list[int]
    why: str


@dataclass(frozen=True)
class Looked:
    """A look at what is at work: nothing has happened, or all that happened has been told."""

    tasks: list[Task] = field(default_factory=list)


def train_all(
    batches: Iterator[list[Stack]],
    engine: Engine,
    new_task: Callable[[Stack], Task],
    *,
    run_timeout: float | None,
    is_over: Callable[[], object],
) -> Generator[Ended | Retried | Looked]:
    """Train every stack, as many at a time as the engine has slots, until `is_over`. Leaves no process.

    A batch of stacks is asked for when those before it have ended.
    """
    queue, watched, losses = deque[Stack](), dict[Task, Watch](), Counter[str]()
    try:
        while not is_over() and (queue or watched or _refill(queue, batches)):
            while queue and len(watched) < engine.slots and not is_over():
                task = new_task(queue.popleft())
                watched[task] = Watch(task, {p.run_id: p for p in task.runs})
                engine.start(task)
            ended = engine.wait(LOOK)
            for watch in watched.values():
                yield from _news(watch)
            for task, why in ended:
                yield from _close(watched.pop(task), why, queue, losses)
            for watch in watched.values():
                _end_if_late(watch, engine, run_timeout)
            yield Looked(list(watched))
    finally:
        engine.close()


def _refill(queue: deque[Stack], batches: Iterator[list[Stack]]) -> bool:
    """Queue the next batch that has a stack; whether there is one."""
    queue.extend(next(filter(None, batches), []))
    return bool(queue)


def _news(watch: Watch) -> Iterator[Ended]:
    """The runs whose rows have come into the stack's summary.csv since the last look."""
    if watch.begun is None and has_begun(watch.task.folder):
        watch.begun = time.monotonic()
    path = watch.task.folder / "summary.csv"
    size = path.stat().st_size if path.is_file() else 0
    if size == watch.size:
        return
    watch.size = size
    for row in foreign.rows(path):
        if (run := watch.left.pop(row["run_id"], None)) is not None:
            yield Ended(run, row)


def _end_if_late(watch: Watch, engine: Engine, run_timeout: float | None) -> None:
    """A stack may take `run_timeout` for each of its runs."""
    if run_timeout is None or watch.ended_for is not None or watch.seconds() <= run_timeout * len(watch.task.runs):
        return
    watch.ended_for = ("failed", f"took longer than sweep.run_timeout={run_timeout:g} s")
    engine.kill(watch.task)


def _close(watch: Watch, why: str | None, queue: deque[Stack], losses: Counter[str]) -> Iterator[Ended | Retried]:
    """What a worker left undone: again as it is if it was lost, else as halves, or a failure if it was alone."""
    yield from _news(watch)
    folder, left = watch.task.folder, list(watch.left.values())
    told = watch.ended_for or failure(folder) or ("failed", why or "its worker ended without a word")
    if told[0] == "environment":
        raise EnvironmentFault(told[1])
    if told[1].endswith(NO_DISK):
        raise EnvironmentFault(f"{folder}: cannot be written any more; free or choose another place")
    is_lost = told[0] == "interrupted" or isinstance(told[1], Lost)
    is_again = _may_be_lost_again(watch, losses) if is_lost else _may_read_again(watch, told[1], losses)
    if parts := _parts(left, 1 if is_again else 2):
        queue.extendleft(reversed(parts))
        yield Retried([len(part) for part in parts], "out of memory" if told[0] == "oom" else told[1])
    elif left:
        write_summary(folder, left[0], failed(left[0].run_id, *told), watch.seconds())
        yield from _news(watch)


def _may_be_lost_again(watch: Watch, losses: Counter[str]) -> bool:
    """Count a loss: those with a checkpoint do not count, as the next try goes on from there."""
    for run_id in watch.left:
        losses[run_id] = 0 if checkpoints.is_there(watch.task.folder) else losses[run_id] + 1
    return all(losses[run_id] <= LOSSES for run_id in watch.left)


def _may_read_again(watch: Watch, why: str, losses: Counter[str]) -> bool:
    """Whether it was a process that reads the data which died or hangs, for the first time."""
    if not why.startswith(f"{ReaderLost.__name__}: "):
        return False
    names = [f"data of {run_id}" for run_id in watch.left]
    losses.update(names)
    return all(losses[name] == 1 for name in names)


def _parts(left: Stack, number: int) -> list[Stack]:
    """The stack as so many stacks of nearly the same size, or none if it has too few runs."""
    ends = [i * len(left) // number for i in range(number + 1)]
    return [left[a:b] for a, b in pairwise(ends)] if len(left) >= number else []
