"""A sweep's tables from those of its stacks: finished runs only, in the order of the plan, replaced atomically."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from regrun import foreign, records, settings
from regrun.errors import DataError, clip

FINISHED = ("ok", "diverged")
FIGURES = ("val_accuracy_best", "val_r2_best", "val_loss_best")
HEAD = "run_id,status,"
COUNT = re.compile(r"\d{1,12}", re.ASCII)
TAIL = 2048  # bytes that hold the last line of epochs.csv
TABLES = ("curves.csv", "epochs.csv", "layers.csv", "label_noise.csv")


def next_stack(root: Path) -> int:
    """The number of the next stack's folder; one of those before may have been removed."""
    numbers = [int(folder.name) for folder in root.glob("stacks/*") if COUNT.fullmatch(folder.name)]
    return max(numbers, default=-1) + 1


def summaries(root: Path) -> dict[str, tuple[Path, str, str]]:
    """run_id -> its stack's folder, its status, its line of summary.csv; finished goes before failed.

    Raises DataError where a stack's table does not begin as regrun's do. Its lines stand below its own header.
    """
    found: dict[str, tuple[Path, str, str]] = {}
    for path in sorted(root.glob("stacks/*/summary.csv")):
        own, *lines = [*foreign.lines(path)] or [HEAD]
        if not own.startswith(HEAD):
            raise DataError(f"{path}: has other columns than regrun's")
        _, *rows = foreign.table(path, of=[own, *lines])
        for line, (run_id, status, *_) in zip(lines, rows, strict=True):
            if run_id not in found or found[run_id][1] not in FINISHED:
                found[run_id] = (path.parent, status, line)
    return found


def summary(root: Path, order: Sequence[str]) -> None:
    """Write the sweep's summary.csv, with the columns of its newest stack: an older version's may lack some."""
    found = summaries(root)
    if found:
        headers = {folder: _header(folder / "summary.csv") for folder, _, _ in found.values()}
        header = headers[max(headers)]
        own = [(headers[found[i][0]], *found[i]) for i in order if i in found]
        lines = [line if before == header else _moved(folder, line, header) for before, folder, _, line in own]
        records.replace(root / "summary.csv", header + "".join(lines))


def _moved(folder: Path, line: str, header: str) -> str:
    """A line below another header; a column that its own does not have is none."""
    found, names = cells(folder, line), header.rstrip("\n").split(",")
    return records.table([[found.get(name) for name in names]])


def tables(root: Path, order: Sequence[str]) -> None:
    """Write every other table of the sweep."""
    folders = {i: folder for i, (folder, _, _) in summaries(root).items()}
    for name in TABLES:
        paths = [folder / name for folder in dict.fromkeys(folders.values()) if (folder / name).is_file()]
        if paths:
            parts = _by_run(name, [(i, folders[i]) for i in order if i in folders])
            records.replace_with(root / name, itertools.chain([_header(paths[0]).encode()], parts))


def _by_run(name: str, runs: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """Each run's lines of a table. A stack's file is in memory from its first run to its last, then no more."""
    left = Counter(folder for _, folder in runs)
    loaded: dict[Path, dict[str, list[str]]] = {}
    for run_id, folder in runs:
        if folder not in loaded:
            loaded[folder] = _grouped(folder / name)
        yield "".join(loaded[folder].pop(run_id, [])).encode()
        left[folder] -= 1
        if not left[folder]:
            del loaded[folder]


def _grouped(path: Path) -> dict[str, list[str]]:
    """run_id -> its lines."""
    groups: dict[str, list[str]] = {}
    for line in _lines(path) if path.is_file() else ():
        groups.setdefault(line.split(",", 1)[0], []).append(line)
    return groups


def checked_summary(path: Path, needed: Sequence[str], *, counts: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a summary.csv: kinds are known, and counts are some where a run has finished. Raises DataError."""
    kinds = {f"{group}.kind": options for group, options in settings.KINDS.items()}
    found = foreign.rows(path, ["run_id", "status", *needed, *counts, *kinds])
    if not found:
        raise DataError(f"{path}: has no run; name the folder of one that has ended")
    for number, row in enumerate(found, start=2):
        bad = [name for name, options in kinds.items() if row[name] not in options]
        bad += [name for name in counts if row["status"] in FINISHED and not COUNT.fullmatch(row[name])]
        if bad:
            raise DataError(f"{path}: line {number}: {bad[0]} is not one of regrun's, got {clip(row[bad[0]])!r}")
    return found


def cells(folder: Path, line: str) -> dict[str, str]:
    """One line of a folder's summary.csv as a dict."""
    path = folder / "summary.csv"
    (row,) = foreign.rows(path, of=[_header(path), line])
    return row


def finished(root: Path) -> list[dict[str, str]]:
    """The summary rows of the finished runs. Raises DataError where their figures are none."""
    found = [cells(folder, line) for folder, status, line in summaries(root).values() if status in FINISHED]
    for row in found:
        if "stop_reason" not in row or not COUNT.fullmatch(row.get("last_epoch", "")) or not _has_figures(row):
            raise DataError(f"{root}: run {row['run_id']} has no figures of regrun's; repeat the sweep elsewhere")
    return found


def _has_figures(row: dict[str, str]) -> bool:
    try:
        return bool([foreign.figure(row[name]) for name in FIGURES])
    except (KeyError, ValueError):
        return False


def last_epoch(folder: Path) -> int:
    """The last epoch in a stack's epochs.csv, read from the table's end; 0 before the first."""
    path = folder / "epochs.csv"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        line = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    cells = line.split(b",", 2)
    return int(cells[1]) if len(cells) == 3 and cells[1].isdigit() else 0


def _header(path: Path) -> str:
    return next(foreign.lines(path), "")


def _lines(path: Path) -> Iterator[str]:
    """The whole lines below the header. A line that a killed writer left unfinished is none."""
    return itertools.islice(foreign.lines(path), 1, None)
