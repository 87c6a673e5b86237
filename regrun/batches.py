"""The trials of a search, a batch at a time: planned, trained by whoever takes the runs, told what they came to.

Only val counts. A trial's value is the best of the val figure that early stopping watches; nothing here, and nothing
that prunes, reads any other split.

A trial is told as complete, with its value; as pruned, with its last figure; or as failed: if its run failed, ran out
of memory or was interrupted, if its settings contradict each other, and if it diverged. A diverged run has no figure
that compares with others, and any number put in its place would bend the models that TPE and GP make of the rest.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrun import asktell, checks, collect, foreign, plan, pruning, records, settings
from regrun.config import Job
from regrun.conversion import to_settings
from regrun.data.sources import Source
from regrun.errors import ConfigError, clip
from regrun.findings import TrialRow
from regrun.prepare import Prepared, prepare
from regrun.pruning import Rules
from regrun.rows import columns
from regrun.space import Point, Search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TABLE = "trials.csv"

Batch = tuple[list[Prepared], list[Prepared]]  # the distinct runs so far, and those of them to train


@dataclass(frozen=True)
class Asked:
    """A trial that has not ended: its point, and its run, or why there can be none."""

    number: int
    point: Point
    run: Prepared | None
    error: str | None


@dataclass
class Batches:
    """The search in a folder that is held. there: which devices there are, as in `prepare`."""

    search: Search
    root: Path
    rules: Rules
    there: dict[str, bool] | None
    call: Callable[..., Any]  # `apart` or `here`
    trials: list["FrozenTrial"] = field(default_factory=list)  # that have ended
    known: dict[str, Prepared] = field(default_factory=dict)  # the run of each run_id
    loaded: dict[str, Source] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Batch]:
        """One batch after another, its plan written. Each must have ended when the next one is asked for."""
        asktell.warm_up()
        points, size = self._turn([], wants=True), asktell.batch_size(self.search.options)
        self._meet([self._asked(trial.number, trial.params) for trial in self.trials])
        if self.trials:
            yield list(self.known.values()), []
        while points:
            start = len(self.trials) // size * size  # a batch of which some has been told is asked for again
            here, points = points[: start + size - len(self.trials)], points[start + size - len(self.trials) :]
            batch = [self._asked(number, point) for number, point in enumerate(here, start=len(self.trials))]
            new = self._meet(batch)
            self._write(batch)
            self._write_pruning(batch, self.trials[:start])
            yield list(self.known.values()), new
            more = self._turn(self._ended(batch, self.trials[:start]), wants=not points)
            points = points or more
        self._write([])

    def _turn(self, ended: Sequence["FrozenTrial"], *, wants: bool) -> list[Point]:
        """Tell what has ended; new points, if they are wanted."""
        direction = self.rules.direction
        points: list[Point]
        self.trials, points = self.call(asktell.turn, self.search, self.root, direction, ended, wants=wants)
        return points

    def _asked(self, number: int, point: Point) -> Asked:
        try:
            return Asked(number, point, self._run(number, point), None)
        except ConfigError as error:
            return Asked(number, point, None, clip(error.problems[0], 200))

    def _run(self, number: int, point: Point) -> Prepared:
        """The run of a trial. Raises ConfigError where its settings contradict each other."""
        problems: list[str] = []
        run = to_settings(self.search.tree(point), problems)
        run = None if run is None else settings.resolve(run)
        problems += checks.conflicts(run) if run is not None else []
        if run is None or problems:
            raise ConfigError(problems)
        job = Job(run, self.root / str(number), self.root, fetches=False)  # the corners of the space have fetched it
        (prepared,) = prepare([job], there=self.there, loaded=self.loaded)
        return prepared

    def _meet(self, batch: Sequence[Asked]) -> list[Prepared]:
        """The runs that were not known yet; now they are. A point may be asked twice."""
        before = set(self.known)
        for asked in batch:
            if asked.run is not None:
                self.known.setdefault(asked.run.run_id, asked.run)
        return [run for run_id, run in self.known.items() if run_id not in before]

    def _ended(self, batch: Sequence[Asked], past: Sequence["FrozenTrial"]) -> list["FrozenTrial"]:
        """The trials as they are told. A point that was asked in an earlier batch gets the answer that it got then."""
        told = {trial.user_attrs.get("run_id"): trial for trial in reversed(self.trials)}
        rows = collect.summaries(self.root)
        return [self._end(asked, past, told, rows) for asked in batch]

    def _end(
        self,
        asked: Asked,
        past: Sequence["FrozenTrial"],
        told: Mapping[str | None, "FrozenTrial"],
        rows: Mapping[str, tuple[Path, str, str]],
    ) -> "FrozenTrial":
        end = partial(asktell.ended, asked.number, asked.point, self.search.space)
        if asked.run is None:
            return end({"error": asked.error or ""}, "FAIL")
        run_id = asked.run.run_id
        if run_id in told:
            return end({"run_id": run_id}, told[run_id].state.name, told[run_id].value, told[run_id])
        folder, _, line = rows[run_id]
        state, value = _outcome(collect.cells(folder, line), self.rules.metric)
        if self.rules.pruner == "none":
            return end({"run_id": run_id}, state, value)
        judged = pruning.replay(self.rules, past, asked.number, _figures(folder, run_id, self.rules.metric))
        if state == "PRUNED":
            value = judged.intermediate_values[max(judged.intermediate_values)]
        return end({"run_id": run_id}, state, value, judged)

    def _write(self, batch: Sequence[Asked]) -> None:
        """The plan of all runs so far, and the table of all trials, those of the batch as running."""
        names = [axis.name for axis in self.search.space]
        rows = [
            [t.number, t.user_attrs.get("run_id"), t.state.name.lower(), t.value, *map(t.params.get, names)]
            for t in self.trials
        ]
        rows += [[a.number, a.run and a.run.run_id, "running", None, *map(a.point.get, names)] for a in batch]
        records.replace(self.root / plan.NAME, plan.text(list(self.known.values())))
        records.replace(self.root / TABLE, records.table([[*columns(TrialRow), *names], *rows]))

    def _write_pruning(self, batch: Sequence[Asked], past: Sequence["FrozenTrial"]) -> None:
        """What a stack's folder gets, so that its worker can prune."""
        if self.rules.pruner != "none":
            numbers = {asked.run.run_id: asked.number for asked in reversed(batch) if asked.run is not None}
            records.replace(self.root / pruning.FILE, pruning.text(self.rules, past, numbers))


def _outcome(cells: Mapping[str, str], metric: str) -> tuple[str, float | None]:
    """State and value of a run, from its row of summary.csv."""
    if cells["status"] != "ok":
        return "FAIL", None
    if cells["stop_reason"] == "pruned":
        return "PRUNED", None
    value = float(cells[f"val_{metric}_best"])
    return ("COMPLETE", value) if math.isfinite(value) else ("FAIL", None)


def _figures(folder: Path, run_id: str, metric: str) -> Iterator[tuple[int, float]]:
    """Epoch and val figure, from the curves of a run's stack."""
    for row in foreign.rows(folder / "curves.csv"):
        if row["run_id"] == run_id and row["split"] == "val":
            yield int(row["epoch"]), float(row[metric])
