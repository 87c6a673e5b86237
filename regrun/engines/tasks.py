"""A stack as a unit of work, and what trains such units: the one interface between a sweep and where it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from regrun.prepare import Prepared


@dataclass(eq=False)
class Task:
    """A stack in a folder of its own. The folder has its `plan.csv`: all that a worker on another machine needs."""

    folder: Path
    runs: tuple[Prepared, ...]


class Lost(str):
    """Why a worker ended, where the task is not to blame: its node was lost, say, or its job preempted."""


class Engine(Protocol):
    """Trains tasks, each in a process that may die without harm to the others."""

    slots: int  # tasks at a time

    def start(self, task: Task) -> None:
        """Begin, or queue, a task; returns at once."""

    def wait(self, seconds: float) -> list[tuple[Task, str | None]]:
        """The tasks that have ended, waiting at most so long for the first: why its worker died, None if it did not."""

    def kill(self, task: Task) -> None:
        """End a task; `wait` then reports it as any other."""

    def close(self) -> None:
        """Let what still runs write its checkpoint and end, and leave no process behind."""
