"""Locks: one holder, who may die; only this host's are taken over."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regrun import locks
from regrun.errors import ConfigError

HOST = socket.gethostname()

HOLDER = """
import os, pathlib, sys, time
from regrun import locks
with locks.hold(pathlib.Path(sys.argv[1]), key="here"):
    if len(sys.argv) > 2 and not os.fork():  # a process that outlives it, by so long
        time.sleep(float(sys.argv[2]))
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_holds_and_others_are_told_who(tmp_path: Path) -> None:
    with locks.hold(tmp_path, key="here"):
        with pytest.raises(ConfigError, match=f"^here: in use by process {os.getpid()} on {HOST}, got "):
            locks.hold(tmp_path, key="here").__enter__()
        assert locks.is_running((tmp_path / "lock").read_text().strip())
    assert list(tmp_path.iterdir()) == []
    with locks.hold(tmp_path, key="here"):
        pass


def test_of_many_that_want_a_folder_one_at_a_time_has_it(tmp_path: Path) -> None:
    """Each of 8 processes wants it until it had it 15 times; nobody else is inside meanwhile."""
    inside, children = tmp_path / "inside", []
    (tmp_path / "held").mkdir()
    for _ in range(8):
        if not (child := os.fork()):
            done = 0
            while done < 15:
                try:
                    with locks.hold(tmp_path / "held", key="here"):
                        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                        inside.unlink()
                        done += 1
                except ConfigError:
                    time.sleep(0.0002)
                except BaseException:
                    os._exit(1)
            os._exit(0)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}


def test_a_killed_holder_is_taken_over_from(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"in use by process {holder.pid} on"):
            locks.hold(tmp_path, key="here").__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "lock").read_text().startswith(f"process {holder.pid} on {HOST}, boot ")
    with locks.hold(tmp_path, key="here"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_processes_of_a_killed_holder_are_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), "1"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"in use by process {holder.pid} on"):
            locks.hold(tmp_path, key="here").__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with (tmp_path / "lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its child has it
        with locks.hold(tmp_path, key="here"):
            assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_those_that_do_not_follow_it_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 3)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), "2"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with pytest.raises(ConfigError, match=f"in use by process {holder.pid} on"):
            locks.hold(tmp_path, key="here").__enter__()


def test_another_hosts_lock_is_never_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 7 on elsewhere.example, boot 1\n")
    with pytest.raises(
        ConfigError, match=r"was left in use by process 7 on elsewhere\.example, which cannot be looked"
    ):
        locks.hold(tmp_path, key="here").__enter__()
    assert (tmp_path / "lock").read_text() == "process 7 on elsewhere.example, boot 1\n"


def test_where_the_file_system_has_no_locks_a_process_of_this_boot_counts() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert locks.is_running(f"process {os.getpid()} on {HOST}, boot {locks.boot()}")
    assert not locks.is_running(f"process {gone.pid} on {HOST}, boot {locks.boot()}")
    assert not locks.is_running(f"process {os.getpid()} on {HOST}, boot of-yesterday")
    assert not locks.is_running("")
