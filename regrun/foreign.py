"""Files that may be somebody else's are data: read within limits, and never from outside their folder.

A folder of runs may come from anywhere. `check_folder` looks at all of it before anything is done with it; then each
reader takes its file as text, as JSON, as YAML or as a table. Whatever is wrong is a DataError of one line.
"""

import codecs
import csv
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from regrun.errors import DataError, EnvironmentFault, clip
from regrun.paths import is_below
from regrun.records import unguarded

# The folders that verbs write into. W&B has links of its own in its.
OWN = ("stacks", "predictions", "confirm", "tensorboard", "pictures")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")
# A journal that ends so names another file, which SQLite then removes; that of a study or of MLflow never does.
JOURNAL = bytes.fromhex("d9d505f920a163d7")
MOST_TEXT, MOST_TABLE, LONGEST = 64 << 20, 4 << 30, 1 << 20  # bytes: of a text, of a table, of a table's line
LARGEST = 1e100
MOST_YAML, DEEPEST = 64 << 10, 20  # characters and levels of settings, which have 3,000 and 4
# No cell of regrun's has a control character, the end of a line, or a mark that turns the direction of writing.
UNPRINTABLE = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\r(?!\n)")

Row = dict[str, str]


def check_folder(root: Path) -> None:
    """Raise DataError for a link that leads out of the folder of a run or a sweep, and for what is no file at all."""
    try:
        entries = list(_entries(root))
    except OSError as error:
        raise EnvironmentFault(f"{error.filename}: cannot be read ({error.strerror})") from None
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            if not is_below(path, root):
                raise DataError(f"{path}: is a link that leads out of its folder; remove it")
        elif not (entry.is_dir() or entry.is_file()):
            raise DataError(f"{path}: is a pipe or a device, and no file; remove it")
        elif entry.name.endswith("-journal") and _end(path) == JOURNAL:
            raise DataError(f"{path}: names another file for SQLite to remove; remove it")


def _entries(root: Path) -> Iterator["os.DirEntry[str]"]:
    """What is in the folder, and all that is below those folders of it that regrun makes."""
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as found:
            entries = list(found)
        yield from entries
        inner = [e for e in entries if e.is_dir(follow_symlinks=False)]
        folders += [e.path for e in inner if folder != str(root) or e.name in OWN]


def _end(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(JOURNAL)))
            return file.read()
    except FileNotFoundError:  # a search that is at work has just removed it
        return b""


def inside(root: Path, name: str) -> Path:
    """`root / name`, below root whatever links there are. Raises DataError for a name that leads out of it."""
    parts = Path(name).parts
    is_plain = bool(parts) and name.isprintable() and ".." not in parts and not Path(name).is_absolute()
    if not is_plain or not is_below(root / name, root):
        raise DataError(f"{root}: must hold the folders that its tables name, got {clip(name)!r}; repeat the sweep")
    return root / name


def text(path: Path, most: int = MOST_TEXT) -> str:
    """The text of a file in UTF-8."""
    check_size(path, most)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: is no text of regrun's ({clip(str(error))})") from None


def check_size(path: Path, most: int) -> None:
    """Raise DataError for what is no file, or a larger one than it may be."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({clip(str(getattr(error, 'strerror', error)))})") from None
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{path}: is no file")
    if about.st_size > most:
        raise DataError(f"{path}: has {about.st_size:,} bytes, where {most:,} are the most; it is none of regrun's")


def check_stored(path: Path) -> None:
    """Raise ValueError for a ZIP file whose parts are compressed: they may be far larger than it is."""
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED or part.file_size > part.compress_size for part in parts):
        raise ValueError("its parts are compressed")


def tree(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({clip(str(error))}); repeat the command in another folder") from None


def check_yaml(text: str) -> None:
    """Raise ValueError, or YAMLError, for YAML that is large, deep, or refers to something.

    An alias may stand for a thousand others, a tag for an object of Python's.
    """
    for number, event in yaml_events(text):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError(f"line {number} has an alias or a tag")


def yaml_events(text: str) -> Iterator[tuple[int, yaml.Event]]:
    """What YAML consists of, with the number of its line, as far as it is no larger and no deeper than settings are."""
    if len(text) > MOST_YAML:
        raise ValueError(f"{len(text):,} characters, where {MOST_YAML:,} are the most")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        number = event.start_mark.line + 1 if event.start_mark else 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"line {number} is more than {DEEPEST} levels deep")
        yield number, event


def lines(path: Path) -> Iterator[str]:
    """The lines of a table but blank ones, its header first. A last one that its writer has not finished is none."""
    check_size(path, MOST_TABLE)
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(LONGEST), b""), start=1):
                if not raw.endswith(b"\n") and len(raw) < LONGEST:
                    return
                line = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
                if not raw.endswith(b"\n") or UNPRINTABLE.search(line):
                    raise DataError(f"{path}: line {number} holds what no table of regrun's does; it is another's")
                if line.strip():
                    yield line
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read ({clip(str(error))}); name the folder of a run or a sweep") from None


def table(path: Path, needed: Sequence[str] = (), *, of: Iterable[str] | None = None) -> Iterator[list[str]]:
    """The header of a table, then its rows, which have as many cells, each row on a line of its own.

    of: some of its lines, the header first; else all of them. Raises DataError where it lacks a column that is needed,
    has one twice, or a run_id that could be no part of a file's name.
    """
    reader = csv.reader(lines(path) if of is None else of, strict=True)
    try:
        header = next(reader, [])
        if missing := [name for name in needed if name not in header]:
            raise _other(path, f"it has no {missing[0]}")
        if len(set(header)) < len(header):
            raise _other(path, "two columns have one name")
        yield header
        place = header.index("run_id") if "run_id" in header else None
        for number, row in enumerate(reader, start=2):
            if len(row) != len(header) or reader.line_num != number:
                raise _other(path, f"its rows differ in length, line {number}")
            if place is not None and not NAME.fullmatch(row[place]):
                raise _other(path, f"run_id is {clip(row[place])!r}")
            yield [unguarded(cell) for cell in row]
    except csv.Error as error:
        raise _other(path, str(error)) from None


def rows(path: Path, needed: Sequence[str] = (), *, of: Iterable[str] | None = None) -> list[Row]:
    """The same as dicts."""
    header, *found = table(path, needed, of=of)
    return [dict(zip(header, row, strict=True)) for row in found]


def figure(cell: str) -> float:
    """The number in a cell, NaN where it has none; infinite where it is beyond all of regrun's. Raises ValueError.

    Squares of figures, and sums of many of them, are numbers then.
    """
    value = math.nan if cell in ("none", "") else float(cell)
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value


def _other(path: Path, why: str) -> DataError:
    return DataError(f"{path}: is no such table of regrun's ({why}); regrun collect writes a sweep's anew")
