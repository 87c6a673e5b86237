"""The only module that writes files: exclusive folders, appended tables, atomically replaced files.

What goes wrong here is the environment's fault, in one line: `EnvironmentFault`.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrun.errors import ConfigError, EnvironmentFault

LOG = "run.log"


def claim(folder: Path) -> None:
    """Make `folder` ours: create it, or take it while it is empty. Of two that try, one succeeds."""
    with _faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        is_taken = any(folder.iterdir())
        try:
            (folder / LOG).open("x").close()
        except FileExistsError:
            is_taken = True
    if is_taken:
        raise ConfigError(f"hydra.run.dir: must be a new or an empty folder, got {folder}; choose another")


def log(folder: Path, line: str) -> None:
    """Append a line to the run's log."""
    with _faults(folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def append(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], *, missing: str = "none") -> None:
    """Append rows to a CSV file (RFC 4180, UTF-8, LF), with the header first if the file is new."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    with _faults(path), path.open("a", encoding="utf-8", newline="") as file:
        if file.tell() == 0:
            writer.writerow(header)
        writer.writerows([cell(value, missing) for value in row] for row in rows)
        file.write(buffer.getvalue())


def replace(path: Path, content: bytes | str) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    with _faults(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
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
def _faults(path: Path) -> Iterator[None]:
    """Turn what the operating system says into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: cannot be written ({error.strerror or error}); free or choose another place"
        ) from error
