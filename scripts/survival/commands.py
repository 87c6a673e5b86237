"""Commands in processes forked from this one, which has torch loaded and has computed nothing in parallel: 20 ms each.

What a folder holds in the end is compared byte for byte, but for what time changes.
"""

import csv
import hashlib
import io
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from regrun import disk, due
from regrun.cli import main
from regrun.errors import RegrunError

TIMED = ("seconds", "examples_per_second", "peak_memory_bytes", "when")
OF_ITS_OWN = ("run.log", "ledger.csv", "looks.csv", "launch.json")  # tell what happened, not what came of it


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, minus the signal that killed it; what it printed; after how many seconds."""

    code: int
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        return (self.output.splitlines() or [""])[-1]


@dataclass
class Command:
    """A command that runs."""

    process: int
    output: Path
    started: float

    def wait(self) -> Ended:
        _, status = os.waitpid(self.process, 0)
        seconds = time.monotonic() - self.started
        return Ended(os.waitstatus_to_exitcode(status), self.output.read_text(errors="replace"), seconds)


def begin(words: list[str], output: Path, *, fault: str | None = None, dense: bool = False) -> Command:
    """Start a command line."""
    return begun(lambda: main(words), output, fault=fault, dense=dense)


def begun(work: Callable[[], int], output: Path, *, fault: str | None = None, dense: bool = False) -> Command:
    """Start work that ends with an exit code. fault: as in REGRUN_FAULT. dense: checkpoints may take all the time."""
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _become(work, output, fault, dense)
    return Command(process, output, started)


def call(words: list[str], output: Path, *, fault: str | None = None, dense: bool = False) -> Ended:
    """A whole command."""
    return begin(words, output, fault=fault, dense=dense).wait()


def _become(work: Callable[[], int], output: Path, fault: str | None, dense: bool) -> None:
    """The process, which leads a group of its own."""
    code = 99
    try:
        os.setpgid(0, 0)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        disk.fault = None if fault is None else disk.Fault.named(fault)
        due.SHARE = math.inf if dense else due.SHARE
        code = work()
    except RegrunError as error:  # as the command line says it
        print(f"regrun: {error}", file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def contents(folder: Path, *, of_sweep: bool = False) -> dict[str, str]:
    """SHA-256 of every file, of tables without the columns that time changes; of a sweep without its stacks' own."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in OF_ITS_OWN and not (of_sweep and name.startswith("stacks/")):
            content = path.read_bytes()
            found[name] = hashlib.sha256(_timeless(content) if path.suffix == ".csv" else content).hexdigest()
    return found


def _timeless(content: bytes) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    kept = [i for i, name in enumerate(rows[0] if rows else []) if not name.startswith(TIMED)]
    return repr([[row[i] for i in kept] for row in rows]).encode()


def wait_until(is_so: Callable[[], bool], *, seconds: float) -> bool:
    """Whether it is so within the time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
