"""The rows of a folder's tables -> the trackers that `trainer.trackers` names; TensorBoard also while runs train.

A tracker comes after the tables and never touches them. Whenever it is asked, it is given each run that it does not
hold whole: so every run is there once, however often its stack was tried. What a tracker could not take is told last.
"""

import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from regrun import collect, foreign, records, settings
from regrun.errors import DataError, EnvironmentFault, RunFailed, clip
from regrun.rows import ACTED, CurveRow, EpochRow, LayerRow, Outcome, Provenance, Row
from regrun.trackers import KEYS, NOTHING, Tracked, mlflow, tensorboard, wandb

TRACKERS = {
    "tensorboard": (tensorboard.done, tensorboard.log),
    "mlflow": (mlflow.done, mlflow.log),
    "wandb": (wandb.done, wandb.log),
}
TABLES = ("curves.csv", "epochs.csv", "layers.csv")
NUMBERS = (int, float, int | None, float | None)
FACTS = {f.name: f.type in NUMBERS for cls in (Outcome, Provenance) for f in fields(cls) if f.name != "acted"}


class Live:
    """TensorBoard while runs train, an epoch at a time. What fails is in the log; `publish` makes up for it."""

    def __init__(self, folder: Path, root: Path, run_ids: Sequence[str]) -> None:
        """folder: with the log that is told, and the rows that there are of runs that go on from a checkpoint.

        root: where the event files are, those of an earlier try included.
        """
        self.folder, self.new = folder, {run_id: list[dict[str, str]]() for run_id in run_ids}  # rows of those to begin
        for row in [row for name in TABLES for row in foreign.rows(folder / name)] if run_ids else ():
            if row["run_id"] in self.new:
                self.new[row["run_id"]].append(row)
        self.paths = {run_id: tensorboard.place(root, run_id) for run_id in run_ids}

    def __call__(self, news: Sequence[Row]) -> None:
        """Append an epoch's rows to the event files of their runs."""
        own = [row for row in news if isinstance(row, CurveRow | EpochRow | LayerRow)]
        by_run = groupby(sorted(own, key=attrgetter("run_id")), attrgetter("run_id"))
        try:
            for run_id, rows in by_run if self.paths else ():
                self._begin(run_id)
                records.extend(self.paths[run_id], tensorboard.events(map(asdict, rows)))
        except Exception as error:  # of the disk, of the package: neither may cost the run
            self._give_up(error)

    def _begin(self, run_id: str) -> None:
        before = self.new.pop(run_id, None)
        if before is not None:
            path = self.paths[run_id]
            records.make(path.parent)
            rows = sorted(before, key=lambda row: int(row["epoch"]))
            records.replace(path, tensorboard.head() + tensorboard.events(rows))

    def _give_up(self, error: Exception) -> None:
        """Half a curve would look like a whole one."""
        records.log(self.folder, f"warning: trainer.trackers: no more of tensorboard while this trains: {_why(error)}")
        for path in self.paths.values():
            with suppress(EnvironmentFault):
                records.discard(path)
        self.paths = {}


def publish(folder: Path, names: Sequence[str], note: Callable[[str], None]) -> None:
    """Give trackers the runs of `folder` that they lack. Raises RunFailed with a line for each that failed."""
    problems = []
    for name in dict.fromkeys(names):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the packages', of themselves
                note(f"{name}: {_log(folder, name)}")
        except DataError:  # the tables are none of regrun's, whatever the tracker
            raise
        except Exception as error:  # a package's, a server's, the disk's
            again = f"regrun track {shlex.quote(str(folder))} {name}"
            problems.append(
                f"trainer.trackers: {name} lacks runs whose tables are whole ({_why(error)}); {again} tries again"
            )
    if problems:
        raise RunFailed("\n".join(problems))


def _log(folder: Path, name: str) -> str:
    """Where to look for the runs of the folder, once the tracker holds them all."""
    done, log = TRACKERS[name]
    held, path = done(folder), folder / "summary.csv"
    if name == "tensorboard" and path.is_file():  # which may have a run that ended early without its last epoch
        ended = foreign.rows(path, ("run_id", "status"))
        held -= {row["run_id"] for row in ended if row["status"] not in collect.FINISHED}
    return log(folder, read(folder, held))


def _why(error: Exception) -> str:
    return clip(f"{type(error).__name__}: {error}", 100)


def read(folder: Path, held: set[str]) -> Iterator[Tracked]:
    """Each run of the folder's tables but those in `held`."""
    path = folder / "summary.csv"
    summaries = foreign.rows(path, ("run_id", "status")) if path.is_file() else []
    order = [row["run_id"] for row in summaries]
    for summary, *rows in zip(summaries, *(_by_run(folder / name, order) for name in TABLES), strict=True):
        if summary["run_id"] not in held:
            yield _tracked(path, summary, sorted(chain(*rows), key=itemgetter("epoch")))


def _by_run(path: Path, order: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Each run's rows of a table, which has the runs in this order; none of a run that it lacks."""
    groups = groupby(foreign.rows(path, ("run_id", "epoch")) if path.is_file() else (), itemgetter("run_id"))
    run_id, rows = next(groups, ("", iter(())))
    for wanted in order:
        found = [_with_numbers(path, row) for row in rows] if wanted == run_id else []
        if wanted == run_id:
            run_id, rows = next(groups, ("", iter(())))
        yield found


def _with_numbers(path: Path, row: dict[str, str]) -> dict[str, Any]:
    """A row whose figures are numbers. Raises DataError for one that is none."""
    if not collect.COUNT.fullmatch(row["epoch"]):
        raise _no_number(path, row["epoch"])
    figures = {name: cell for name, cell in row.items() if name not in KEYS and cell not in NOTHING}
    return row | _floats(path, figures) | {"epoch": int(row["epoch"])}


def _floats(path: Path, cells: dict[str, str]) -> dict[str, float]:
    try:
        return {name: float(cell) for name, cell in cells.items()}
    except ValueError as error:
        raise _no_number(path, str(error)) from None


def _no_number(path: Path, cell: str) -> DataError:
    return DataError(f"{path}: must hold numbers, got {clip(cell)!r}; repeat the run")


def _tracked(path: Path, summary: dict[str, str], rows: list[dict[str, Any]]) -> Tracked:
    """A run of any version of regrun's: columns that this one does not know are left out."""
    is_figure = FACTS | dict.fromkeys((f"acted.{name}" for name in ACTED), True)
    told = {name: cell for name, cell in summary.items() if name in is_figure and cell != "none"}
    return Tracked(
        run_id=summary["run_id"],
        status=summary["status"],
        settings={name: summary[name] for name in settings.columns() if name in summary},
        figures=_floats(path, {name: cell for name, cell in told.items() if is_figure[name]}),
        words={name: cell for name, cell in told.items() if not is_figure[name]},
        rows=rows,
    )
