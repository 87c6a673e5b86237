"""A sweep in which every tenth run fails, in one of four ways: no other run may be another for it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from survival.commands import TIMED, begun

from regrun import foreign, trainer
from regrun.cli import main
from regrun.settings import Settings

EVERY = 10
TIMEOUT = 3.0  # seconds a run: far more than one takes here, and 16 for each that hangs, as stacks are halved


def _raise() -> None:
    raise RuntimeError("planted")


# What a run does, and how its row tells it.
WAYS: list[tuple[Callable[[], object], str]] = [
    (_raise, "RuntimeError: planted"),
    (lambda: sys.exit(3), "SystemExit: 3"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    (lambda: time.sleep(1000), "sweep.run_timeout"),
]


def line(runs: int, folder: Path) -> list[str]:
    """The sweep's command."""
    return [
        *("-m", "model=shallow", "model.width=8", "reg=dropout", "data.train_size=100", "trainer.batch_size=50"),
        *("trainer.epochs=2", "trainer.progress=none", f"seed=range({runs})"),
        *("sweep.workers=2", "sweep.stack_size=4", f"sweep.run_timeout={TIMEOUT}", f"hydra.sweep.dir={folder}"),
    ]


def bad_neighbours(runs: int, work: Path) -> list[str]:
    """What is wrong, a line for each run."""
    whole, folder = work / "calm", work / "planted"
    ended = begun(lambda: main(line(runs, whole)), whole.with_suffix(".out")).wait()
    assert ended.code == 0, ended
    ended = begun(lambda: _planted(line(runs, folder)), folder.with_suffix(".out")).wait()
    if ended.code != 1:
        return [f"exit code {ended.code}: {ended.last_line}"]
    calm, rows = (sorted(foreign.rows(root / "summary.csv"), key=_seed) for root in (whole, folder))
    if len(rows) != runs:
        return [f"{len(rows)} rows of {runs} runs"]
    return [wrong for row, own in zip(rows, calm, strict=True) if (wrong := _wrong(row, own))]


def _seed(row: dict[str, str]) -> int:
    return int(row["seed"])


def _wrong(row: dict[str, str], calm: dict[str, str]) -> str:
    """calm: the row of the same run where nothing was planted."""
    seed = _seed(row)
    if seed % EVERY:
        differ = [name for name in calm if not name.startswith((*TIMED, "sweep.")) and row[name] != calm[name]]
        return f"seed {seed}: another {', '.join(differ)}" if differ else ""
    told = WAYS[seed // EVERY % len(WAYS)][1]
    is_told = row["status"] == "failed" and told in row["error"]
    return "" if is_told else f"seed {seed}: {row['status']}, {row['error']!r}, not {told!r}"


def _planted(words: Sequence[str]) -> int:
    """The command in this process, whose workers fail."""
    build = trainer.new_stack

    def new_stack(runs: list[Settings], *rest: Any) -> Any:
        for run in runs:
            if run.seed % EVERY == 0:
                WAYS[run.seed // EVERY % len(WAYS)][0]()
        return build(runs, *rest)

    trainer.new_stack = new_stack
    return main(list(words))
