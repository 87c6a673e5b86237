"""Whole commands, from the start of the process to its end: seconds, and memory of the process and its children."""

import os
import resource
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """What a command took. `wall` and `cpu` in seconds, `cpu` of all its processes."""

    wall: float
    cpu: float
    output: str


def timed(command: list[str], folder: Path) -> Ended:
    """Run a command in a folder; one that fails ends everything, with what it said."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(wall, cpu, done.stdout)


def peak_memory(command: list[str], folder: Path) -> tuple[int, int]:
    """The largest sum of proportional set sizes in a command's process tree, bytes, and how often it was looked at.

    A page that n processes share counts 1 / n in each (PSS), so the sum counts every page once. The kernel walks all
    pages at each look, 0.1 s for 2 GB, so looks take at most a tenth of the time.
    """
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        sums = []
        while process.poll() is None:
            start = time.perf_counter()
            sums.append(sum(_pss(pid) for pid in tree(process.pid)))
            time.sleep(max(0.2, 9 * (time.perf_counter() - start)))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{(folder / 'output').read_text()}")
    return max(sums), len(sums)


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _pss(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))
