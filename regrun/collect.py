"""A sweep's tables from those of its stacks: finished runs only, in the order of the plan, replaced atomically."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from regrun import records, settings
from regrun.errors import DataError, clip

FINISHED = ("ok", "diverged")
TAIL = 2048  # bytes that hold the last line of epochs.csv
TABLES = ("curves.csv", "epochs.csv", "layers.csv", "label_noise.csv")


def summaries(root: Path) -> dict[str, tuple[Path, str, str]]:
    """run_id -> its stack's folder, its status, its line of summary.csv; finished goes before failed."""
    found: dict[str, tuple[Path, str, str]] = {}
    for path in sorted(root.glob("stacks/*/summary.csv")):
        for line in _lines(path):
            run_id, status = line.split(",", 2)[:2]
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
    found, (names,) = cells(folder, line), csv.reader([header])
    return records.table([[found.get(name) for name in names]])


def tables(root: Path, order: Sequence[str]) -> None:
    """Write every other table of the sweep."""
    folders = {i: folder for i, (folder, _, _) in summaries(root).items()}
    for name in TABLES:
        paths = [folder / name for folder in dict.fromkeys(folders.values()) if (folder / name).is_file()]
        if paths:
            parts = _by_run(name, [(i, folders[i]) for i in order if i in folders])
            records.replace_with(root / name, chain([_header(paths[0]).encode()], parts))


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


def rows(path: Path) -> list[dict[str, str]]:
    """A table as dicts; a row that its writer has not finished is none."""
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return list(csv.DictReader(io.StringIO(whole, newline="")))


def checked(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The same of a table that may be missing or somebody else's. Raises DataError."""
    try:
        found = rows(path)
    except (OSError, UnicodeError, csv.Error):
        raise DataError(f"{path}: cannot be read; name the folder of a run or a sweep") from None
    missing = [name for name in needed if not found or name not in found[0]]
    if missing or any(None in row or None in row.values() for row in found):
        why = f"it has no {missing[0]}" if missing else "its rows differ in length"
        raise DataError(f"{path}: is no such table of regrun's ({why}); regrun collect writes a sweep's anew")
    return found


def checked_summary(path: Path, needed: Sequence[str], *, counts: Sequence[str]) -> list[dict[str, str]]:
    """The same of a summary.csv: kinds are known, and whole numbers are some where a run has finished. DataError."""
    kinds = {f"{group}.kind": options for group, options in settings.KINDS.items()}
    found = checked(path, [*needed, *counts, *kinds])
    for number, row in enumerate(found, start=2):
        bad = [name for name, options in kinds.items() if row[name] not in options]
        bad += [name for name in counts if row["status"] in FINISHED and not row[name].isdecimal()]
        if bad:
            raise DataError(f"{path}: line {number}: {bad[0]} is not one of regrun's, got {clip(row[bad[0]])!r}")
    return found


def cells(folder: Path, line: str) -> dict[str, str]:
    """One line of a folder's summary.csv as a dict."""
    (row,) = csv.DictReader(io.StringIO(_header(folder / "summary.csv") + line, newline=""))
    return row


def finished(root: Path) -> list[dict[str, str]]:
    """The summary rows of the finished runs."""
    return [cells(folder, line) for folder, status, line in summaries(root).values() if status in FINISHED]


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
    with path.open(encoding="utf-8", newline="") as file:
        return file.readline()


def _lines(path: Path) -> Iterator[str]:
    """The whole lines below the header. A line that a killed writer left unfinished is none."""
    with path.open(encoding="utf-8", newline="") as file:
        next(file, None)
        yield from (line for line in file if line.endswith("\n"))
