"""What a person sees while a sweep trains: a live table in a terminal, plain lines anywhere else."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from regrun import collect, display, effectsview
from regrun.errors import clip
from regrun.overrides import Cells
from regrun.standing import NONE, AtWork, Begun, Pace, Tally, duration

PAUSE = 0.5  # seconds between two looks, or as many as keep looking and drawing below `SHARE` of a core
SHARE = 0.005
FEW = 100  # runs at most for a plain line each
GAP = 5.0  # seconds at least from one plain line on the whole work to the next, which has a new percent
FAILURES = 20  # that are told while the sweep trains
BEST = 5  # settings in the live table


class Silent:
    """Says nothing."""

    def start(
        self, plan: Sequence[Cells], before: Sequence[Cells], stacks: Sequence[Sequence[str]], begun: Begun = NONE
    ) -> None:
        """plan: all runs' settings; before: summary rows of those that are finished; stacks: run_ids to train.

        begun: the epoch in which a run goes on.
        """

    def note(self, line: str) -> None:
        """Something to know."""

    def ended(self, row: Cells) -> None:
        """A run has ended; its row of summary.csv."""

    def look(self, at_work: Mapping[Path, Sequence[str]]) -> None:
        """The folders of the stacks at work, and their run_ids; called often."""

    def close(self) -> None:
        """The training is over."""

    def finish(self, effects: Sequence[Cells], folder: Path) -> None:
        """The rows of effects.csv, the best first, and the sweep's folder."""


class Following(Silent):
    """What both displays have in common: they follow the sweep, and tell its first failures."""

    def start(
        self, plan: Sequence[Cells], before: Sequence[Cells], stacks: Sequence[Sequence[str]], begun: Begun = NONE
    ) -> None:
        self.tally, self.pace, self.failures = Tally(plan), Pace(plan, stacks, begun), 0
        for row in before:
            self.tally.ended(row)
        sizes = [len(stack) for stack in stacks]
        rest = f"; {len(sizes)} stacks of up to {max(sizes)}" if sizes else ""
        self.note(f"{len(plan)} runs, {len(before)} finished before{rest}")
        self.begun = self.due = time.monotonic()

    def ended(self, row: Cells) -> None:
        self.tally.ended(row)
        self.pace.ended(row)
        if row["status"] in collect.FINISHED:
            self.show_run(row)
            return
        self.failures += 1
        if self.failures <= FAILURES:
            self.warn(f"{row['status']}: run {row['run_id']} {self.tally.words(row)}: {clip(row['error'], 120)}")
        if self.failures == FAILURES:
            self.note("more failures are only counted; summary.csv has all")

    def look(self, at_work: Mapping[Path, Sequence[str]]) -> None:
        now, before = time.monotonic(), time.process_time()
        if now >= self.due:
            stacks = [AtWork(runs, collect.last_epoch(folder)) for folder, runs in at_work.items()]
            self.pace.look(stacks, now - self.begun)
            self.show()
            self.due = now + max(PAUSE, (time.process_time() - before) / SHARE)

    def warn(self, line: str) -> None:
        """A run has failed."""
        self.note(line)

    def show_run(self, row: Cells) -> None:
        """A run has finished."""

    def show(self) -> None:
        """How the sweep stands."""

    def counts(self) -> str:
        """37/60 done, 22 running, 2 oom, 1 diverged."""
        statuses = self.tally.statuses
        others = {name: number for name, number in statuses.items() if name != "ok"} | {"pruned": self.tally.pruned}
        parts = [f"{statuses.total()}/{len(self.tally.plan)} done", f"{self.pace.running()} running"]
        return ", ".join(parts + [f"{number} {name}" for name, number in others.items() if number])

    def rates(self) -> str:
        """4.1 runs/s, 312 run-epochs/s, at most 6 s left."""
        left = self.pace.seconds_left()
        if left is None:
            return "no epoch has ended yet"
        runs = self.pace.ended_runs / self.pace.seconds
        return f"{_short(runs)} runs/s, {_short(self.pace.speed())} run-epochs/s, at most {duration(left)} left"


class Plain(Following):
    """Lines without control characters, about a hundred beside the failures: for pipes, files and CI."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write, self.percent, self.told = write, 0, time.monotonic()  # what the last line on all of it said, when

    def start(
        self, plan: Sequence[Cells], before: Sequence[Cells], stacks: Sequence[Sequence[str]], begun: Begun = NONE
    ) -> None:
        self.percent = 0  # a search starts once for each of its batches
        super().start(plan, before, stacks, begun)

    def note(self, line: str) -> None:
        self.write(line)

    def show_run(self, row: Cells) -> None:
        if (total := len(self.tally.plan)) > FEW:
            return
        number, figure = self.tally.statuses.total(), self.tally.figure(row)
        figures = [f"{self.tally.measure()} {figure:.3f}"] if math.isfinite(figure) else []
        self.write("  ".join([f"{number}/{total}", row["run_id"], row["status"], *figures, self.tally.words(row)]))

    def show(self) -> None:
        percent, now = int(100 * self.pace.share() + 1e-6), time.monotonic()
        if percent > self.percent and now >= self.told + GAP:
            self.percent, self.told, measure = percent, now, self.tally.measure()
            best = [f"best {measure} {setting.mean(measure):.3f}" for setting in self.tally.best(1)]
            self.write(f"{percent} %: {', '.join([self.counts(), self.rates(), *best])}")

    def finish(self, effects: Sequence[Cells], folder: Path) -> None:
        for line in effectsview.lines(effects, folder):
            self.write(line)


class LiveTable(Following):
    """A bar, counts, speed, time left and the best settings so far; failures go by above it.

    It is drawn from `look` and not by a thread, which could hold a lock while a worker is forked.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.frame, self.width = console, Group(), console.width
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def start(
        self, plan: Sequence[Cells], before: Sequence[Cells], stacks: Sequence[Sequence[str]], begun: Begun = NONE
    ) -> None:
        super().start(plan, before, stacks, begun)
        self.live.start()
        self.console.show_cursor(True)  # nobody could bring it back if this process were killed
        self.show()

    def note(self, line: str) -> None:
        self._print(Text(line, style="yellow" if line.startswith("warning") else ""))

    def warn(self, line: str) -> None:
        self._print(Text(line, style="red"))

    def show(self) -> None:
        share, measure = self.pace.share(), self.tally.measure()
        bar = Table.grid(padding=(0, 1))
        width = min(40, self.console.width - 6)
        bar.add_row(ProgressBar(total=1.0, completed=share, width=width), f"{100 * share:.0f} %")
        best = [
            Text.assemble(
                (f"{setting.mean(measure):.3f}", "bold"), f"  n = {len(setting.figures[measure])}  {setting.words}"
            )
            for setting in self.tally.best(BEST)
        ]
        head = [Text(f"best {measure} so far:")] if best else []
        self._adapt()
        self.frame = Group(bar, Text(self.counts()), Text(self.rates()), *head, *best)
        self.live.update(self.frame, refresh=True)

    def _print(self, line: Text) -> None:
        self._adapt()
        self.console.print(line, soft_wrap=True)

    def _adapt(self) -> None:
        """Where the terminal has become narrower it has wrapped the last frame: go up by the rows that this added."""
        width, options = self.console.width, self.console.options.update(width=self.width)
        if width < self.width and self.live.is_started:
            lines = self.console.render_lines(self.frame, options, pad=False)
            added = sum(max(0, Segment.get_line_length(line) - 1) // width for line in lines)
            self.console.control(Control(*((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * added))
        self.width = width

    def close(self) -> None:
        self.live.stop()

    def finish(self, effects: Sequence[Cells], folder: Path) -> None:
        self.close()
        effectsview.tell(effects, folder, self.console)


def choose(progress: str, stream: TextIO | None = None) -> Silent:
    """The display of a sweep that `trainer.progress` names."""
    stream = stream or sys.stdout
    match display.way(progress, stream):
        case "rich":
            return LiveTable(display.console(stream))
        case "plain":
            return Plain(display.writer(stream))
    return Silent()


def _short(number: float) -> str:
    """1,234 or 12 or 0.034: two digits at least."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
