"""What is written: folders that one claims, tables that grow, files that are replaced whole. `disk` does it.

What goes wrong here is the environment's fault, in one line: `EnvironmentFault`.
"""

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from regrun import disk
from regrun.errors import ConfigError, EnvironmentFault

LOG = "run.log"
NEW = ".new"  # what the name of a file ends with that is to replace another
FULL = (errno.ENOSPC, errno.EDQUOT)
# What a spreadsheet takes for a formula, behind blanks and in full width, too; and what is marked already.
FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]|'")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


def claim(folder: Path) -> None:
    """Make `folder` ours: create it, or take it while it is empty. Of two that try, one succeeds."""
    with faults(folder):
        disk.make(folder)
        if is_free(folder):
            with suppress(FileExistsError), disk.opened(folder / LOG, disk.FIRST):  # or another was faster
                return
    raise ConfigError(taken(folder, key="hydra.run.dir"))


def make(folder: Path) -> None:
    """Create a folder, and its parents, where it is not there yet."""
    with faults(folder):
        disk.make(folder)


def is_free(folder: Path) -> bool:
    """Whether a run may have the folder: it does not exist, or is empty."""
    with faults(folder):
        return not folder.exists() or not any(folder.iterdir())


def taken(folder: Path, *, key: str) -> str:
    """The problem with a folder that is not free, and the key that named it."""
    return f"{key}: must be a new or an empty folder, got {str(folder)[-80:]}; choose another"


def enter(folder: Path, mark: str, *, key: str) -> None:
    """Create a folder that is new or empty, or find the file `mark` in it, by which it is known again. ConfigError."""
    if not (folder / mark).is_file() and not is_free(folder):
        raise ConfigError(taken(folder, key=key))
    make(folder)


def tidy(folder: Path) -> None:
    """Remove what a process that is gone had begun to write in the place of files. The folder is held."""
    for new in sorted(folder.glob(f".*{NEW}")):
        number = new.name.split(".")[-2]
        if number.isdecimal() and not disk.is_alive(int(number)):
            discard(new)


def prune(folder: Path, *, below: Path) -> None:
    """Remove `folder` and its parents under `below`, as far as they are empty."""
    while folder != below and folder.is_dir() and not any(folder.iterdir()):
        disk.drop_folder(folder)
        folder = folder.parent


def log(folder: Path, line: str) -> None:
    """Append a line to the run's log."""
    extend(folder / LOG, f"{line}\n".encode())


def divert(folder: Path) -> None:
    """From here on, the log gets what this process and its libraries print: a terminal is for the sweep's own view."""
    with faults(folder / LOG), disk.opened(folder / LOG, disk.APPEND) as file:
        for stream in (1, 2):
            os.dup2(file, stream)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def discard(path: Path) -> None:
    """Remove a file, or a folder with all in it, if it is there."""
    with faults(path):
        if path.is_dir() and not path.is_symlink():
            disk.drop_folder(path, whole=True)
        else:
            disk.drop(path)


def extend(path: Path, content: bytes) -> None:
    """Append to a file: all of the content, or nothing of it."""
    with faults(path, len(content)), disk.opened(path, disk.APPEND) as file:
        _add(file, content)


def append(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], *, missing: str = "none") -> None:
    """Append rows to a CSV file (RFC 4180, UTF-8, LF), with the header first if the file is new.

    All of them, or none: what a full disk has torn is cut off again, so that a table ends with a whole row.
    """
    with faults(path), disk.opened(path, disk.APPEND) as file:
        lines = rows if os.fstat(file).st_size else [header, *rows]
        content = table(lines, missing=missing).encode()
        with faults(path, len(content)):
            _add(file, content)


def _add(file: int, content: bytes) -> None:
    before = os.fstat(file).st_size
    try:
        disk.write(file, content)
    except OSError:
        disk.cut(file, before)
        raise


def sync(path: Path) -> None:
    """Return when what has been appended is on the disk itself: a row alone is safe from a kill, not from a power cut.

    Costs 0.3 ms here, a few ms on slower disks; so not for each row, but where something else is to rely on them.
    """
    with faults(path), disk.opened(path, disk.AS_IT_IS) as file:
        disk.sync(file)


def cut(path: Path, size: int) -> None:
    """Shorten a file to its first bytes."""
    with faults(path), disk.opened(path, disk.AS_IT_IS) as file:
        disk.cut(file, size)
        disk.sync(file)


def table(rows: Iterable[Sequence[Any]], *, missing: str = "none") -> str:
    """Rows as CSV text. A word that a spreadsheet would compute has a mark before it (`guarded`)."""
    return "".join(",".join(_quoted(_written(value, missing)) for value in row) + "\n" for row in rows)


def _written(value: Any, missing: str) -> str:
    return guarded(value) if isinstance(value, str) else cell(value, missing)


def guarded(text: str) -> str:
    """A cell as it is written: an apostrophe comes before what may be a formula and is no number ("CSV injection").

    And before an apostrophe, so that `unguarded` gives every text back.
    """
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The text of a cell as it is read."""
    return text[1:] if text.startswith("'") else text


def _quoted(text: str) -> str:
    """RFC 4180. Python's csv writer leaves a lone carriage return bare, which readers take for a new line."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def replace(path: Path, content: bytes | memoryview | str) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part, whatever happens."""
    replace_with(path, [content.encode() if isinstance(content, str) else content])


def replace_with(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """The same for a file that comes in parts and need not fit into memory."""
    new, size = path.with_name(f".{path.name}.{os.getpid()}{NEW}"), 0
    with faults(path, lambda: size):
        try:
            with disk.opened(new, disk.ANEW) as file:
                for part in parts:
                    size += part.nbytes if isinstance(part, memoryview) else len(part)
                    disk.write(file, part)
                disk.sync(file)
                if (there := os.fstat(file).st_size) != size:
                    raise OSError(errno.EIO, f"{there} of {size} bytes are there")
            disk.move(new, path)
            disk.sync_folder(path.parent)
        except BaseException:
            disk.drop(new)
            raise


def cell(value: Any, missing: str = "none") -> str:
    """A value as the tables show it: numbers unformatted and exact, lists as JSON, flags in lower case."""
    if value is None:
        return missing
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(value)
    return value if isinstance(value, str) else repr(value)


@contextmanager
def faults(path: Path, size: int | Callable[[], int] | None = None) -> Iterator[None]:
    """Turn what the operating system says into one line that names the path. size: bytes that are needed, if known."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in FULL:
            why += _room(path, size() if callable(size) else size)
        raise EnvironmentFault(f"{path}: cannot be written ({why}); free or choose another place") from error


def _room(path: Path, size: int | None) -> str:
    """How much was needed, and how much there is."""
    there = os.statvfs(next(folder for folder in path.absolute().parents if folder.exists()))
    needed = f" {size:,} bytes needed," if size is not None else ""
    return f":{needed} {there.f_bavail * there.f_frsize:,} free"
