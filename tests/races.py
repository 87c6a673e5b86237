"""Commands that start at one moment in one folder, each in a process of its own."""

import contextlib
import io
import multiprocessing
import os
from typing import Any

from regrun.cli import main

SMALL = ["experiment=smoke", "trainer.epochs=0", "trainer.progress=none", "model.width=16"]
COMMANDS = (["hydra.run.dir=f"], ["-m", "hydra.sweep.dir=f"])
FORK = multiprocessing.get_context("fork")


def race(words: list[str], runners: int = 8) -> list[int]:
    """The exit codes of so many commands that differ in their seeds."""
    barrier = FORK.Barrier(runners)
    own = [[*words, *SMALL, f"seed={i}"] for i in range(runners)]
    processes = [FORK.Process(target=_run, args=(barrier, each)) for each in own]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


def _run(barrier: Any, words: list[str]) -> None:
    """99 where one that has won says anything on stderr, or one that was refused nothing."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        barrier.wait()
        code = main(words)
    lines = errors.getvalue().splitlines()
    is_said = bool(lines) == (code != 0) and all(line.startswith("regrun: ") for line in lines)
    os._exit(code if is_said else 99)
