"""Folders that one process trains in: a lock that lasts as long as the process, however that ends."""

import fcntl
import itertools
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regrun import disk
from regrun.errors import ConfigError
from regrun.records import faults

NAME = "lock"
PATIENCE, PAUSE = 200, 0.05  # times, seconds: in 10 s every process has seen that its parent was killed


@contextmanager
def hold(folder: Path, *, key: str) -> Iterator[None]:
    """Hold a folder. Raises ConfigError, with the key that named it, where another process does.

    The kernel drops the lock when its process ends, and those that it started, which have it, too: they follow a holder
    that was killed within moments, for which we wait. It leaves its name in the file: on this host it is taken over
    from, on another never, for nobody here can know whether it still runs. No clock is asked.
    """
    path = folder / NAME
    with faults(path):
        file = _taken(path, key)
    try:
        yield
    finally:
        with faults(path):
            disk.drop(path)
            os.close(file)


def _taken(path: Path, key: str) -> int:
    """The file, locked, with our name in it."""
    for attempt in itertools.count(1):
        with disk.opened(path, disk.SHARED) as opened:
            file = os.dup(opened)
        holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
        where = f"got {str(path.parent)[-80:]}"
        if not _is_locked(file, holder):
            os.close(file)
            if attempt < PATIENCE and _has_ended(holder):
                time.sleep(PAUSE)
                continue
            raise ConfigError(f"{key}: in use by {holder.partition(',')[0] or 'another process'}, {where}")
        if _is_there(file, path):
            break
        os.close(file)  # its holder has just removed it
    host = socket.gethostname()
    if holder and _host(holder) != host:
        os.close(file)
        raise ConfigError(
            f"{key}: was left in use by {holder.partition(',')[0]}, which cannot be looked at from {host}, "
            f"{where}; if it has ended, remove the file {NAME} there"
        )
    disk.cut(file, 0)
    disk.write(file, f"process {os.getpid()} on {host}, boot {boot()}\n".encode())
    return file


def _is_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _is_locked(file: int, holder: str) -> bool:
    """Whether the lock is ours now. Where the file system has no locks, the holder's name must do."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not is_running(holder)
    return True


def is_running(holder: str) -> bool:
    """Whether the process of that name runs on this host, since the same boot."""
    process = _own(holder)
    return process is not None and disk.is_alive(process)


def _has_ended(holder: str) -> bool:
    """Whether that process ran on this host since the same boot, and does no more."""
    process = _own(holder)
    return process is not None and not disk.is_alive(process)


def _own(holder: str) -> int | None:
    """Its number, where it is one of this host since the same boot."""
    found = re.fullmatch(r"process (\d+) on (.*), boot (.*)", holder)
    return int(found[1]) if found and (found[2], found[3]) == (socket.gethostname(), boot()) else None


def _host(holder: str) -> str:
    return holder.partition(" on ")[2].partition(",")[0]


def boot() -> str:
    """What names the time since this host was started; empty where nothing does."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
