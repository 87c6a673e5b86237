"""plan.csv: every run of a sweep with every setting, written before the first one starts, and read back as runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regrun import foreign, records, settings
from regrun.config import Job
from regrun.conversion import from_cells
from regrun.errors import ConfigError, DataError, clip
from regrun.settings import resolve

if TYPE_CHECKING:
    from regrun.prepare import Prepared

NAME = "plan.csv"
NEEDED = ("run_id", "folder", "seed", "trainer.epochs")
SHOWN = 10  # settings in which an old plan differs, at most


def text(runs: Sequence["Prepared"]) -> str:
    """The table: run_id, the folder for the run's weights under the sweep's, every setting but how it is trained."""
    names, flat = settings.columns(), [settings.flatten(p.job.settings) for p in runs]
    lines = [[p.run_id, _folder(p.job), *map(values.get, names)] for p, values in zip(runs, flat, strict=True)]
    return records.table([["run_id", "folder", *names], *lines])


def _folder(job: Job) -> str:
    assert job.sweep is not None
    return str(job.folder.relative_to(job.sweep))


def is_there(folder: Path) -> bool:
    """Whether it is the folder of a sweep; a search has no plan before its first batch."""
    return any((folder / name).is_file() for name in (NAME, "launch.json", "search.json"))


def read(folder: Path, root: Path) -> list[Job]:
    """The runs of the plan in `folder`, of the sweep in `root`. Raises DataError."""
    jobs, problems = [], list[str]()
    for number, row in enumerate(rows(folder), start=2):
        found: list[str] = []
        run = from_cells(row, found)
        problems += [f"{folder / NAME}: line {number}: {line}" for line in found]
        if run is not None:
            jobs.append(Job(resolve(run), foreign.inside(root, row["folder"]), root, fetches=False))
    if problems or not jobs:
        raise DataError("\n".join(problems) or f"{folder / NAME}: has no run; repeat the sweep in another folder")
    return jobs


def rows(folder: Path) -> list[dict[str, str]]:
    """The plan as it stands. Raises DataError where there is none."""
    if not (folder / NAME).is_file():
        raise DataError(f"{folder}: has no {NAME}; name the folder of a sweep")
    return foreign.rows(folder / NAME, NEEDED)


def check_same(root: Path, runs: Sequence["Prepared"]) -> None:
    """Raise ConfigError, with what differs, if the folder has a plan of other runs than these, or in another order."""
    if not (root / NAME).is_file():
        return
    old, new = rows(root), foreign.rows(root / NAME, of=text(runs).splitlines(keepends=True))
    if [row["run_id"] for row in old] == [row["run_id"] for row in new]:
        return
    gone, come = ({r["run_id"] for r in a} - {r["run_id"] for r in b} for a, b in ((old, new), (new, old)))
    head = (
        f"hydra.sweep.dir: has another plan, got {str(root)[-80:]} ({len(gone)} of its {len(old)} runs are not in "
        f"this command's, {len(come)} are new); choose another folder"
    )
    raise ConfigError([head, *list(_differences(old, new))[:SHOWN]])


def _differences(old: list[dict[str, str]], new: list[dict[str, str]]) -> Iterator[str]:
    """The settings whose values differ, as `name: old values; now new values`."""
    for name in dict.fromkeys([*(old or new)[0], *new[0]]):
        before, now = (list(dict.fromkeys(row.get(name, "") for row in plan)) for plan in (old, new))
        if before != now and name not in ("run_id", "folder"):
            yield f"  {clip(f'{name}: {_listed(before)}; now {_listed(now)}', 200)}"


def _listed(values: list[str]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
