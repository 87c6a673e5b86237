"""Trials of every kind, and a Markdown table of what they came to."""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from survival import trials
from survival.commands import call, contents
from survival.neighbours import bad_neighbours

import regrun.sweep  # noqa: F401  (loaded before the first fork)
from regrun.cli import main


@dataclass(frozen=True)
class Result:
    """The trials of a kind."""

    name: str
    trials: int
    failures: int
    seconds: float

    def row(self) -> str:
        bound = f"{min(100.0, 300 / self.trials):.3g} %" if not self.failures and self.trials else "none"
        return f"| {self.name} | {self.trials} | {self.failures} | {bound} | {self.seconds:.0f} |"


def arguments(about: str | None, **numbers: int) -> argparse.Namespace:
    """What the command line asks for. numbers: how many of what, by default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the random times; other seeds, other trials")
    return parser.parse_args()


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for trials, in a process that has loaded what they share. One thread: forks of more may hang."""
    torch.set_num_threads(1)
    os.environ.pop("CI", None)
    with tempfile.TemporaryDirectory(prefix="survival") as name:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*trials.TINY, f"hydra.run.dir={Path(name) / 'warm'}"]) == 0
        yield Path(name)


def report(results: Iterable[Result]) -> int:
    """Print the table, a row as soon as it is known; the exit code."""
    failures = 0
    print("| trials of | number | failures | rate below, with 95 % | seconds |\n|---|---|---|---|---|", flush=True)
    for result in results:
        print(result.row(), flush=True)
        failures += result.failures
    return 1 if failures else 0


def every_operation(kind: str, work: Path, workers: int) -> Result:
    """A run each of whose operations on the disk fails once."""
    (work / kind).mkdir()
    found = (wrong for _, wrong in trials.every_operation(kind, trials.TINY, work / kind, workers=workers))
    return told(f"{kind} at every operation of a run", found)


def killed(options: argparse.Namespace, work: Path) -> Iterator[Result]:
    """Runs and sweeps that are killed at random times."""
    first = 1000 * options.seed
    if options.runs:
        yield _killed_runs(range(first, first + options.runs), work, options.workers)
    if options.sweeps:
        yield _killed_sweeps(range(first, first + options.sweeps), work, options.workers)


def _killed_runs(numbers: Sequence[int], work: Path, workers: int) -> Result:
    one = trials.prepared(trials.LONGER, work / "whole")
    whole = trials.start(one, work / "whole", dense=True).wait()
    assert whole.code == 0, whole
    kill = partial(trials.killed_run, one=one, expected=contents(work / "whole"), seconds=whole.seconds, work=work)
    return told("runs killed at random times", trials.side_by_side(kill, numbers, workers))


def _killed_sweeps(numbers: Sequence[int], work: Path, workers: int) -> Result:
    folder = work / "sweep"
    whole = call([*trials.SWEEP, f"hydra.sweep.dir={folder}"], work / "sweep.out")
    assert whole.code == 0, whole
    expected = contents(folder, of_sweep=True)
    kill = partial(trials.killed_sweep, words=trials.SWEEP, expected=expected, seconds=whole.seconds, work=work)
    return told("sweeps killed at random times", trials.side_by_side(kill, numbers, max(1, workers // 2)))


def neighbours(number: int, work: Path) -> Result:
    """The runs of a sweep in which every tenth fails."""
    begun, wrong = time.monotonic(), bad_neighbours(number, work)
    for line in wrong:
        print(f"bad neighbours: {line}", file=sys.stderr)
    return Result("runs of a sweep in which 10 % fail in four ways", number, len(wrong), time.monotonic() - begun)


def told(name: str, found: Iterable[str | None]) -> Result:
    """What was found, the trials that went wrong on stderr."""
    begun, number, failures = time.monotonic(), 0, 0
    for number, wrong in enumerate(found, start=1):
        if wrong:
            failures += 1
            print(f"{name}: trial {number}: {wrong}", file=sys.stderr)
    return Result(name, number, failures, time.monotonic() - begun)
