"""The operations that change files: each whole, or an OSError. The only module that does this; `records` uses it.

`REGRUN_FAULT=KIND@N` lets the N-th operation of a process fail, as the tests of SQLite do, for tests alone:
`kill` ends the process by SIGKILL (in the midst of it, where it is a write), `ENOSPC` and `EIO` raise that error in its
place, and `short` writes a part and then finds the disk full.
"""

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
FIRST = os.O_WRONLY | os.O_CREAT | os.O_EXCL
SHARED = os.O_RDWR | os.O_CREAT
AS_IT_IS = os.O_WRONLY

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "short": errno.ENOSPC}


@dataclass
class Fault:
    """What befalls the operation that `left` counts down to."""

    kind: str
    left: int

    @classmethod
    def named(cls, text: str) -> "Fault":
        """kill@7."""
        kind, _, number = text.partition("@")
        return cls(kind, int(number))

    def strike(self, descriptor: int | None = None, content: memoryview | None = None) -> None:
        """Count an operation, and fail at the one that was named. content: what it is about to write."""
        self.left -= 1
        if self.left != 0:
            return
        if descriptor is not None and content is not None and self.kind in ("kill", "short"):
            os.write(descriptor, content[: len(content) // 2])
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))


fault = Fault.named(os.environ["REGRUN_FAULT"]) if "REGRUN_FAULT" in os.environ else None


@contextmanager
def opened(path: Path, how: int) -> Iterator[int]:
    """A descriptor of the file, open for writing."""
    _may_fail()
    descriptor = os.open(path, how | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(descriptor: int, content: bytes | memoryview) -> int:
    """Write all of it; how many bytes that are."""
    left = memoryview(content).cast("B")
    if fault is not None:
        fault.strike(descriptor, left)
    size = left.nbytes
    while left.nbytes:
        left = left[os.write(descriptor, left) :]
    return size


def sync(descriptor: int) -> None:
    """Return when the file, or the folder, is on the disk itself."""
    _may_fail()
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """The same for the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def cut(descriptor: int, size: int) -> None:
    """Shorten a file."""
    _may_fail()
    os.ftruncate(descriptor, size)


def move(old: Path, new: Path) -> None:
    """Give a file the name of another, which is replaced at once."""
    _may_fail()
    old.replace(new)


def make(folder: Path) -> None:
    """Create a folder, and its parents, where it is not there yet."""
    if folder.is_dir():
        return
    make(folder.parent)
    _may_fail()
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def drop(path: Path) -> None:
    """Remove a file, if it is there."""
    _may_fail()
    path.unlink(missing_ok=True)


def drop_folder(folder: Path, *, whole: bool = False) -> None:
    """Remove an empty folder, or a whole one."""
    _may_fail()
    if whole:
        shutil.rmtree(folder)
    else:
        folder.rmdir()


def is_alive(process: int) -> bool:
    """Whether there is such a process on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def _may_fail() -> None:
    if fault is not None:
        fault.strike()
