"""Trials of a command that is killed, or whose disk fails, and that then goes on: what is wrong in the end, or "".

Right is: every file as in a folder where nothing happened, but for what time changes; no row twice, none missing.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from survival.commands import Command, Ended, begin, begun, contents, wait_until

from regrun import config, prepare, run

# A run of four steps with a checkpoint after each, and all that may have a state.
TINY = [
    *("model=shallow", "model.width=8", "reg=[dropout,batchnorm,crop]", "optimizer=adamw", "scheduler=cosine"),
    *("data.train_size=100", "data.label_noise=0.1", "trainer.batch_size=50", "trainer.epochs=2", "trainer.save=both"),
    *("trainer.early_stopping.patience=null", "trainer.progress=none", "trainer.checkpoint_minutes=1e-9"),
]
# A run that takes a second, with a checkpoint ten times a second; twelve such in three stacks.
LONGER = [*TINY, "data.train_size=400", "trainer.epochs=100", "trainer.checkpoint_minutes=0.0016"]
SWEEP = [
    *("-m", *LONGER, "trainer.save=auto", "reg=none,dropout", "optimizer.lr=0.001,0.01", "seed=range(3)"),
    *("sweep.workers=2", "sweep.stack_size=4"),
]
ERRORS = ("ENOSPC", "EIO", "short")


def prepared(words: Sequence[str], folder: Path) -> prepare.Prepared:
    """A run that is ready: composing its configuration anew would take longer than the trial."""
    (one,) = prepare.prepare(config.jobs([*words, f"hydra.run.dir={folder}"], multirun=False))
    return one


def start(one: prepare.Prepared, folder: Path, **how: object) -> Command:
    """The run in another folder, in a process of its own."""
    here = replace(one, job=replace(one.job, folder=folder))
    return begun(lambda: 0 if run.execute(here).status == "ok" else 1, folder.with_suffix(".out"), **how)


def at_operation(kind: str, number: int, one: prepare.Prepared, expected: dict[str, str], work: Path) -> str | None:
    """The fault at the number-th operation, then `regrun resume`; None where there are not so many operations."""
    folder = work / f"{kind}{number}"
    first = start(one, folder, fault=f"{kind}@{number}", dense=True).wait()
    wrong = _wrong_end(kind, first, folder) if first.code else ""
    if wrong == "" and first.code == 0 and contents(folder) != expected:
        wrong = "ended as if nothing had happened, but not so"
    if wrong == "" and first.code and (folder / run.SETTINGS).exists():
        wrong = _resumed(folder, expected)
    shutil.rmtree(folder, ignore_errors=True)
    return None if first.code == 0 and not wrong else wrong


def _wrong_end(kind: str, ended: Ended, folder: Path) -> str:
    """What is wrong with how a command ended when the fault had struck."""
    if kind == "kill":
        return "" if ended.code == -signal.SIGKILL else f"was not killed: {ended}"
    lines = ended.output.splitlines()
    if ended.code != 4 or len(lines) != 1 or str(folder) not in lines[0]:
        return f"did not end with 4 and one line: {ended}"
    torn = [path.name for path in folder.glob("*.csv") if path.read_bytes()[-1:] not in (b"", b"\n")]
    return f"torn: {torn}" if torn else ""


def _resumed(folder: Path, expected: dict[str, str]) -> str:
    ended = begin(["resume", str(folder)], folder.with_suffix(".out"), dense=True).wait()
    if ended.code:
        return f"resume: {ended}"
    found = contents(folder)
    return f"differs: {sorted(dict(found.items() ^ expected.items()))}" if found != expected else ""


def every_operation(
    kind: str, words: Sequence[str], work: Path, *, step: int = 1, workers: int = 1
) -> Iterator[tuple[int, str]]:
    """Each (step-th) operation's trial, until there is no operation left to fail."""
    one, folder = prepared(words, work / "whole"), work / "whole"
    if not folder.exists():
        assert start(one, folder, dense=True).wait().code == 0
    trial = partial(at_operation, kind, one=one, expected=contents(folder), work=work)
    numbers = range(1, 1000, step)
    for number, wrong in zip(numbers, side_by_side(trial, numbers, workers), strict=False):
        if wrong is None:
            return
        yield number, wrong


def killed_run(number: int, one: prepare.Prepared, expected: dict[str, str], seconds: float, work: Path) -> str:
    """A run that is killed at a random time, and perhaps again while it goes on, until it is left alone."""
    chance, folder, kills = random.Random(number), work / f"run{number}", 0
    command = start(one, folder, dense=True)
    while True:
        if kills < 3 and chance.random() < 0.9**kills:
            time.sleep(chance.uniform(0, seconds))
            with suppress(ProcessLookupError):
                os.kill(command.process, signal.SIGKILL)
        ended = command.wait()
        if ended.code != -signal.SIGKILL:
            break
        kills += 1
        again = (folder / run.SETTINGS).exists()  # else nothing has begun
        words = ["resume", str(folder)]
        if not again:
            shutil.rmtree(folder, ignore_errors=True)
        command = begin(words, folder.with_suffix(".out"), dense=True) if again else start(one, folder, dense=True)
    found = contents(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if ended.code:
        return f"{ended} after {kills} kills"
    return f"differs after {kills} kills: {sorted(dict(found.items() ^ expected.items()))}" if found != expected else ""


def killed_sweep(number: int, words: Sequence[str], expected: dict[str, str], seconds: float, work: Path) -> str:
    """A sweep whose driver, worker or both are killed at a random time; then the same command, or resume."""
    chance, folder = random.Random(number), work / f"sweep{number}"
    line, output = [*words, f"hydra.sweep.dir={folder}"], folder.with_suffix(".out")
    command = begin(line, output, dense=True)
    time.sleep(chance.uniform(0, seconds))
    whom = ("driver", "worker", "both")[number % 3]
    victims = _workers(command.process)[-1:] if whom != "driver" else []
    victims += [command.process] if whom != "worker" else []
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    ended = command.wait()
    if not wait_until(lambda: not _is_group(command.process), seconds=5):
        return f"{whom}: left a process behind"
    if ended.code:
        again = ["resume", str(folder)] if number % 2 and (folder / "launch.json").exists() else line
        ended = begin(again, output, dense=True).wait()
    found = contents(folder, of_sweep=True)
    wrong = sorted(dict(found.items() ^ expected.items())) if found != expected else []
    left = [path.name for path in folder.glob("stacks/*/checkpoint*")]
    shutil.rmtree(folder, ignore_errors=True)
    return f"{whom}: {ended}, differs: {wrong}, left: {left}" if ended.code or wrong or left else ""


def _workers(driver: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{driver}/task/{driver}/children").read_text().split()]


def _is_group(leader: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def side_by_side(trial: Callable[[int], str | None], numbers: Sequence[int], workers: int) -> Iterator[str | None]:
    """The trials' answers, in order; so many at a time, each in a process that has what this one has loaded."""
    if workers == 1:
        yield from map(trial, numbers)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        for begin_at in range(0, len(numbers), 4 * workers):  # not all of them at once: who asks may have enough
            yield from pool.map(trial, numbers[begin_at : begin_at + 4 * workers])
