"""The only module that writes files: exclusive folders, appended tables, atomically replaced files.

What goes wrong here is the environment's fault, in one line: `EnvironmentFault`.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from regrun.errors import ConfigError, EnvironmentFault

LOG = "run.log"
LOCK = "lock"
# What a spreadsheet takes for a formula, behind blanks and in full width, too; and what is marked already.
FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]|'")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


def claim(folder: Path) -> None:
    """Make `folder` ours: create it, or take it while it is empty. Of two that try, one succeeds."""
    with _faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if is_free(folder):
            with suppress(FileExistsError):  # another was faster
                (folder / LOG).open("x").close()
                return
    raise ConfigError(taken(folder, key="hydra.run.dir"))


def make(folder: Path) -> None:
    """Create a folder, and its parents, where it is not there yet."""
    with _faults(folder):
        folder.mkdir(parents=True, exist_ok=True)


def is_free(folder: Path) -> bool:
    """Whether a run may have the folder: it does not exist, or is empty."""
    with _faults(folder):
        return not folder.exists() or not any(folder.iterdir())


def taken(folder: Path, *, key: str) -> str:
    """The problem with a folder that is not free, and the key that named it."""
    return f"{key}: must be a new or an empty folder, got {str(folder)[-80:]}; choose another"


@contextmanager
def hold(root: Path, mark: str) -> Iterator[None]:
    """Hold a sweep's folder while it trains: new or empty, or one that has the file `mark`. Raises ConfigError.

    The lock lasts as long as this process: the kernel drops it when the process ends, however that happens. A
    holder that was killed leaves its name in the file; on this host it is taken over from, on another never.
    """
    if not (root / mark).is_file() and not is_free(root):
        raise ConfigError(taken(root, key="hydra.sweep.dir"))
    with _faults(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a+", encoding="utf-8")
    with lock:
        lock.seek(0)
        holder = lock.read().strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"hydra.sweep.dir: in use by {holder}, got {str(root)[-80:]}") from None
        host = socket.gethostname()
        if holder and not holder.endswith(f" on {host}"):
            raise ConfigError(
                f"hydra.sweep.dir: was left in use by {holder}, which cannot be looked at from {host}, "
                f"got {str(root)[-80:]}; if it has ended, remove the file {LOCK} there"
            )
        with _faults(root):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {host}\n")
            lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def prune(folder: Path, *, below: Path) -> None:
    """Remove `folder` and its parents under `below`, as far as they are empty."""
    while folder != below and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def log(folder: Path, line: str) -> None:
    """Append a line to the run's log."""
    with _faults(folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def divert(folder: Path) -> None:
    """From here on, the log gets what this process and its libraries print: a terminal is for the sweep's own view."""
    with _faults(folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def extend(path: Path, content: bytes) -> None:
    """Append to a file."""
    with _faults(path), path.open("ab") as file:
        file.write(content)


def discard(path: Path) -> None:
    """Remove a file, or a folder with all in it, if it is there."""
    with _faults(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def append(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], *, missing: str = "none") -> None:
    """Append rows to a CSV file (RFC 4180, UTF-8, LF), with the header first if the file is new."""
    with _faults(path), path.open("a", encoding="utf-8", newline="") as file:
        lines = [header] if file.tell() == 0 else []
        file.write(table([*lines, *rows], missing=missing))


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


def replace(path: Path, content: bytes | str) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part."""
    replace_with(path, [content.encode() if isinstance(content, str) else content])


def replace_with(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """The same for a file that comes in parts and need not fit into memory."""
    with _faults(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
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
