"""What a person sees while a run trains and when it ends: a live view in a terminal, plain lines anywhere else."""

import io
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from regrun.errors import printable
from regrun.rows import CurveRow, EpochRow, Outcome, Row

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=*#"


def spark(values: list[float], *, width: int, bars: str = BARS) -> str:
    """A line of bars, lowest to highest; many values are thinned to `width`. What is not finite is `!`."""
    step = max(1, math.ceil(len(values) / width))
    shown = values[::-1][::step][::-1]
    finite = [v for v in shown if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = (high - low) or 1.0
    top = len(bars) - 1
    return "".join(bars[round((v - low) / span * top)] if math.isfinite(v) else "!" for v in shown)


def percent(share: float | None) -> str:
    """0.9721 -> 97.2 %."""
    return "none" if share is None else f"{100 * share:.1f} %"


def figure(accuracy: float | None, r2: float | None) -> str:
    """The one that applies: 97.2 %, or R2 0.512."""
    return percent(accuracy) if r2 is None else f"R2 {r2:.3f}"


def aligned(rows: Sequence[Mapping[str, str]], left: Collection[str] = ()) -> list[str]:
    """Rows of the same columns as lines of text, their names first, as wide as that gets. left: words, not figures."""
    names, cells = list(rows[0]), [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    justified = [str.ljust if name in left else str.rjust for name in names]
    return ["  ".join(map(lambda f, *a: f(*a), justified, row, widths)).rstrip() for row in cells]


def summary_lines(outcome: Outcome) -> list[tuple[str, str]]:
    """The figures that matter, named."""
    o = outcome
    if o.error is not None:
        return [("status", o.status), ("error", o.error)]
    best, last = figure(o.test_accuracy_best, o.test_r2_best), figure(o.test_accuracy_last, o.test_r2_last)
    train, val = figure(o.train_accuracy_best, o.train_r2_best), figure(o.val_accuracy_best, o.val_r2_best)
    gap = f"{100 * (o.gap or 0):.1f} points" if o.val_r2_best is None else f"{o.gap or 0:.3f}"
    lines = [
        ("test accuracy" if o.test_r2_best is None else "test", f"{best} at the best epoch, {last} at the last"),
        ("train / val", f"{train} / {val}, gap {gap}"),
        ("best epoch", f"{o.best_epoch} of {o.last_epoch}, stopped by {o.stop_reason}"),
        ("parameters", f"{o.num_parameters:,}"),
        ("diagnosis", o.advice or ""),
    ]
    if o.diverged_step is not None:
        lines.insert(0, ("diverged", f"at step {o.diverged_step}"))
    if o.test_loss_mc is not None:
        mc = figure(o.test_accuracy_mc, o.test_r2_mc)
        lines.insert(1, ("Monte Carlo", f"test {mc} by the mean of predictions with dropout"))
    acted = {name: f"{value:.4g}" for name, value in o.acted.items() if value is not None}
    if o.acted["grad_clip"] == 0:
        acted["grad_clip"] = "0, the bound never bound: lower it or leave it out"
    return lines + [(f"acted: {name}", figure) for name, figure in acted.items()]


class Silent:
    """Says nothing."""

    def start(self, title: str, epochs: int) -> None: ...

    def row(self, row: Row) -> None: ...

    def note(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...

    def finish(self, outcome: Outcome, folder: Path) -> None: ...

    def close(self) -> None: ...


class Plain(Silent):
    """One line per epoch, without control characters: for pipes, files and CI."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.train: CurveRow | None = None
        self.epoch: EpochRow | None = None
        self.epochs = 0

    def start(self, title: str, epochs: int) -> None:
        self.epochs = epochs
        self.write(title)

    def note(self, line: str) -> None:
        self.write(line)

    def warn(self, line: str) -> None:
        self.write(f"warning: {line}")

    def row(self, row: Row) -> None:
        if isinstance(row, EpochRow):
            self.epoch = row
        elif isinstance(row, CurveRow) and row.split == "train":
            self.train = row
        elif isinstance(row, CurveRow) and row.split == "val" and self.train is not None:
            self.write(self._line(self.train, row))

    def _line(self, train: CurveRow, val: CurveRow) -> str:
        lr = f"  lr {self.epoch.lr_last:.3g}" if self.epoch is not None else ""
        return (
            f"epoch {val.epoch}/{self.epochs}  train {train.loss:.4f} {figure(train.accuracy, train.r2)}  "
            f"val {val.loss:.4f} {figure(val.accuracy, val.r2)}{lr}"
        )

    def finish(self, outcome: Outcome, folder: Path) -> None:
        lines = [f"{name}: {value}" for name, value in summary_lines(outcome)]
        self.write("\n".join([*lines, f"folder: {folder}"]))


class LiveView(Silent):
    """Progress, speed, time left, the last losses and a spark line of val loss; a panel at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = BARS if (console.encoding or "").lower().startswith("utf") else ASCII_BARS
        self.live = Live(console=console, refresh_per_second=8, transient=True)
        self.title, self.epochs, self.started = "", 0, 0.0
        self.train: CurveRow | None = None
        self.val: list[CurveRow] = []

    def start(self, title: str, epochs: int) -> None:
        self.title, self.epochs, self.started, self.val = title, epochs, time.monotonic(), []
        self.live.start()

    def note(self, line: str) -> None:
        self.console.print(Text(line, style="dim"))

    def warn(self, line: str) -> None:
        self.console.print(Text(f"warning: {line}", style="yellow"))

    def row(self, row: Row) -> None:
        if isinstance(row, CurveRow) and row.split == "train":
            self.train = row
        elif isinstance(row, CurveRow) and row.split == "val":
            self.val.append(row)
            self.live.update(self._view())

    def _view(self) -> Group:
        train, val, elapsed = self.train, self.val[-1], time.monotonic() - self.started
        speed = (val.epoch - self.val[0].epoch) / elapsed if elapsed > 0 else 0.0  # a run may go on from any epoch
        left = (self.epochs - val.epoch) / speed if speed else math.inf
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(1, self.epochs), completed=val.epoch, width=20)
        pace = f"{speed:.1f} epochs/s, at most {left:.0f} s left" if speed else ""
        grid.add_row("epoch", f"{val.epoch}/{self.epochs}", bar)
        if train is not None:
            grid.add_row("train", f"{train.loss:.4f}", figure(train.accuracy, train.r2))
        grid.add_row("val", f"{val.loss:.4f}", figure(val.accuracy, val.r2))
        width = max(10, min(60, self.console.width - 12))
        line = spark([v.loss for v in self.val], width=width, bars=self.bars)
        return Group(Text(self.title, style="bold"), grid, Text(pace), Text(f"val loss {line}"))

    def finish(self, outcome: Outcome, folder: Path) -> None:
        self.live.stop()
        grid = Table.grid(padding=(0, 2))
        for name, value in summary_lines(outcome):
            grid.add_row(Text(name, style="bold"), Text(value))
        style = "green" if outcome.status == "ok" else "red"
        self.console.print(Panel(grid, title=self.title, border_style=style, expand=False))
        self.console.print(Text(str(folder)), soft_wrap=True)

    def close(self) -> None:
        self.live.stop()


def choose(progress: str, stream: TextIO | None = None) -> Silent:
    """The display of a run that `trainer.progress` names."""
    stream = stream or sys.stdout
    match way(progress, stream):
        case "rich":
            return LiveView(console(stream))
        case "plain":
            return Plain(writer(stream))
    return Silent()


def way(progress: str, stream: TextIO | None) -> str:
    """How to show: rich, plain or none. `auto` is rich in a terminal and plain elsewhere; a closed stdout gets none."""
    if stream is None or progress != "auto":
        return "none" if stream is None else progress
    is_dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("CI"))
    return "rich" if stream.isatty() and not is_dumb else "plain"


class _Console(Console):
    """A console that falls silent, rather than end the process, when nobody reads it any more.

    No text that it shows can steer the terminal: it may come from a file of somebody else's.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard(self.file)


def console(stream: IO[str]) -> Console:
    """A console on the stream."""
    return _Console(file=_tolerant(stream))


def writer(stream: IO[str]) -> Callable[[str], None]:
    """Prints lines until nobody reads them any more (`regrun ... | head`); the run itself goes on.

    Nothing that they hold can steer the terminal.
    """
    _tolerant(stream)

    def write(line: str) -> None:
        try:
            print(printable(line), file=stream, flush=True)
        except BrokenPipeError:
            _discard(stream)

    return write


def _tolerant(stream: IO[str]) -> IO[str]:
    """The stream; what its encoding lacks becomes a question mark."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def _discard(stream: IO[str]) -> None:
    """Send what is written from here on nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
