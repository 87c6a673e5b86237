"""All trials that are asked for, and a Markdown table of what they came to."""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from survival import trials
from survival.commands import call, contents

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
        bound = f"{100 * min(1.0, 3 / self.trials):.2g} %" if not self.failures and self.trials else "none"
        return f"| {self.name} | {self.trials} | {self.failures} | {bound} | {self.seconds:.0f} |"


def report(about: str | None, *, runs: int, sweeps: int, kinds: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="runs to kill")
    parser.add_argument("--sweeps", type=int, default=sweeps, help="sweeps to kill")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the random times; other seeds, other trials")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.pop("CI", None)
    with tempfile.TemporaryDirectory(prefix="survival") as name:
        work = Path(name)
        _warm_up(work)
        results = [_every_operation(kind, work / kind, options.workers) for kind in kinds]
        first = 1000 * options.seed
        if options.runs:
            results.append(_killed_runs(range(first, first + options.runs), work, options.workers))
        if options.sweeps:
            results.append(_killed_sweeps(range(first, first + options.sweeps), work, options.workers))
    print("\n| trials of | number | failures | rate below, with 95 % | seconds |\n|---|---|---|---|---|")
    print(*(result.row() for result in results), sep="\n")
    return 1 if any(result.failures for result in results) else 0


def _warm_up(work: Path) -> None:
    """Load what the commands load, which forks then share. One thread: forks of a process with more may hang."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*trials.TINY, f"hydra.run.dir={work / 'warm'}"]) == 0


def _every_operation(kind: str, work: Path, workers: int) -> Result:
    work.mkdir()
    found = (wrong for _, wrong in trials.every_operation(kind, trials.TINY, work, workers=workers))
    return _result(f"{kind} at every operation of a run", found)


def _killed_runs(numbers: Sequence[int], work: Path, workers: int) -> Result:
    one = trials.prepared(trials.LONGER, work / "whole")
    whole = trials.start(one, work / "whole", dense=True).wait()
    assert whole.code == 0, whole
    kill = partial(trials.killed_run, one=one, expected=contents(work / "whole"), seconds=whole.seconds, work=work)
    return _result("runs killed at random times", trials.side_by_side(kill, numbers, workers))


def _killed_sweeps(numbers: Sequence[int], work: Path, workers: int) -> Result:
    folder = work / "sweep"
    whole = call([*trials.SWEEP, f"hydra.sweep.dir={folder}"], work / "sweep.out")
    assert whole.code == 0, whole
    expected = contents(folder, of_sweep=True)
    kill = partial(trials.killed_sweep, words=trials.SWEEP, expected=expected, seconds=whole.seconds, work=work)
    return _result("sweeps killed at random times", trials.side_by_side(kill, numbers, max(1, workers // 2)))


def _result(name: str, found: Iterable[str | None]) -> Result:
    begun, number, failures = time.monotonic(), 0, 0
    for number, wrong in enumerate(found, start=1):
        if wrong:
            failures += 1
            print(f"{name}: trial {number}: {wrong}", file=sys.stderr)
    return Result(name, number, failures, time.monotonic() - begun)
