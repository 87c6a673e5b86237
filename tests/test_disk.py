"""The disk may fail at any operation: what is there is whole, and the one line says what happened."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from regrun import disk, records
from regrun.disk import Fault
from regrun.errors import EnvironmentFault

OLD, NEW = b"old" * 1000, b"new!" * 2000
ROWS = [[[1, "a"]], [[2, "b"], [3, "c"]], [[4, "d"]]]


def work(folder: Path) -> None:
    """Everything that changes files."""
    records.claim(folder / "deep" / "run")
    for rows in ROWS:
        records.append(folder / "table.csv", ["number", "letter"], rows)
        records.log(folder, "a line")
    records.sync(folder / "table.csv")
    records.replace(folder / "whole", NEW)
    records.cut(folder / "long", 10)
    records.discard(folder / "gone")
    records.prune(folder / "deep" / "empty", below=folder)


def prepared(folder: Path) -> Path:
    records.make(folder / "deep" / "empty")
    records.replace(folder / "whole", OLD)
    records.extend(folder / "long", b"0123456789, and more")
    records.extend(folder / "gone", b"x")
    return folder


def is_struck(folder: Path, fault: Fault) -> bool:
    """Whether the fault befell the work; then it is told in one line, by its path."""
    disk.fault = fault
    try:
        work(folder)
    except EnvironmentFault as told:
        assert str(folder) in str(told) and len(str(told).splitlines()) == 1
    except OSError:  # of an empty folder that stays
        assert (folder / "deep" / "empty").exists()
    finally:
        disk.fault = None
    return fault.left <= 0


def is_killed(folder: Path, fault: Fault) -> bool:
    """The same in a process that the fault kills."""
    if not (child := os.fork()):
        disk.fault = fault
        work(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) != 0


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "short", "kill"])
def test_whatever_operation_fails_what_is_there_is_whole(kind: str, tmp_path: Path) -> None:
    befalls: Callable[[Path, Fault], bool] = is_killed if kind == "kill" else is_struck
    number = 0
    while True:
        number += 1
        folder = prepared(tmp_path / str(number))
        was_befallen = befalls(folder, Fault(kind, number))
        assert (folder / "whole").read_bytes() in (OLD, NEW)
        path = folder / "table.csv"
        text = path.read_text() if path.exists() else ""
        assert "number,letter\n1,a\n2,b\n3,c\n4,d\n".startswith(text)
        if kind != "kill":  # a kill may tear the last line
            assert text in ("", "number,letter\n1,a\n", "number,letter\n1,a\n2,b\n3,c\n") or text.endswith("4,d\n")
            assert not list(folder.glob(".*"))
        records.tidy(folder)
        assert not list(folder.glob(".*"))
        if not was_befallen:
            break
    assert number > 20


def test_a_full_disk_says_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, write in (
        ("whole", lambda p: records.replace(p, b"x" * 12345)),
        ("log", lambda p: records.extend(p, b"x" * 12345)),
    ):
        monkeypatch.setattr(disk, "fault", Fault("short", 2))
        with pytest.raises(EnvironmentFault) as told:
            write(tmp_path / path)
        start = f"{tmp_path / path}: cannot be written (No space left on device: 12,345 bytes needed, "
        assert str(told.value).startswith(start) and " free); free or choose another place" in str(told.value)


def test_what_a_process_at_work_writes_is_not_tidied_away(tmp_path: Path) -> None:
    (tmp_path / f".whole.{os.getpid()}.new").touch()
    records.tidy(tmp_path)
    assert list(tmp_path.iterdir())


def test_faults_are_named_in_the_environment() -> None:
    assert Fault.named("kill@7") == Fault("kill", 7)
