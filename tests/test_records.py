"""Files: one claims a folder, a replaced file is whole, tables are RFC 4180."""

import csv
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pandas as pd
import pytest

from regrun import records
from regrun.errors import ConfigError, EnvironmentFault

AWKWARD = [
    "a,b",
    'say "hi"',
    "two\nlines",
    "two\r\nlines",
    "a\rb",
    ",\"\n'",
    " padded ",
    "",
    "größe, 深い",
    "none",
    "1e5",
]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk (Python ignores the signal, so the write fails)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("exists", [False, True])
def test_of_many_that_claim_a_folder_one_succeeds(exists: bool, tmp_path: Path) -> None:
    barrier = Barrier(8)

    def claims(folder: Path) -> bool:
        barrier.wait()
        try:
            records.claim(folder)
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for number in range(30):
            folder = tmp_path / str(number)
            if exists:
                folder.mkdir()
            assert sum(pool.map(claims, [folder] * 8)) == 1


def test_a_folder_with_anything_in_it_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(ConfigError, match=r"^hydra\.run\.dir: "):
        records.claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


@pytest.mark.parametrize("content", ["größe\n", b"\0\xff\r\n", "", b""])
def test_replace_writes_exactly_the_content(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        records.replace(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_replacement_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    records.replace(path, b"old")
    with full_disk(100), pytest.raises(EnvironmentFault, match="file: cannot be written") as fault:
        records.replace(path, b"x" * 101)
    assert len(str(fault.value).splitlines()) == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part_of_a_replaced_file(tmp_path: Path) -> None:
    path, size, done = tmp_path / "file", 1_000_000, Event()
    records.replace(path, b"a" * size)

    def look() -> list[bytes]:
        seen = []
        while not done.is_set():
            seen.append(path.read_bytes())
            del seen[:-20]
        return seen

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for letter in b"bcdefghij" * 3:
            records.replace(path, bytes([letter]) * size)
        done.set()
    assert all(len(content) == size and len(set(content)) == 1 for content in looking.result())


@pytest.mark.parametrize("write", [lambda p: records.append(p, ["a"], [[1]]), lambda p: records.replace(p, "x")])
def test_a_folder_that_is_not_there_is_the_environments_fault(write: Any, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"gone/file: cannot be written \(No such file"):
        write(tmp_path / "gone" / "file")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (10**20, "100000000000000000000"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e-5, "1e-05"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ([], "[]"),
        ([75, 45], "[75, 45]"),
        ([0.5, 1e-7], "[0.5, 1e-07]"),
        ("word", "word"),
        ("", ""),
    ],
)
def test_a_cell_is_unformatted(value: Any, text: str) -> None:
    assert records.cell(value) == text


@pytest.mark.parametrize("x", [1 / 3, 5e-324, 1.7976931348623157e308, 2.0**-1074 * 3, 123456789.123456789])
def test_a_number_in_a_cell_is_exact(x: float) -> None:
    assert float(records.cell(x)) == x


def test_what_is_missing_can_be_left_blank() -> None:
    assert records.cell(None, missing="") == ""


def test_a_table_has_one_header_and_its_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    batches: list[list[list[Any]]] = [[], [[1, None]], [], [[2, 0.5], [3, True]]]
    for rows in batches:
        records.append(path, ["epoch", "größe"], rows)
    assert path.read_bytes() == "epoch,größe\n1,none\n2,0.5\n3,true\n".encode()


@pytest.mark.parametrize("text", AWKWARD)
def test_text_survives_a_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for _ in range(2):
        records.append(path, ["first", text], [[text, 1]])
    assert read(path) == [["first", text], [text, "1"], [text, "1"]]
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert frame.to_numpy().tolist() == [[text, "1"], [text, "1"]]


def test_none_is_not_missing_for_pandas(tmp_path: Path) -> None:
    records.append(tmp_path / "table.csv", ["a", "b"], [[None, "x"]])
    assert pd.read_csv(tmp_path / "table.csv").iloc[0].to_list() == ["none", "x"]


def test_the_log_keeps_every_line(tmp_path: Path) -> None:
    for line in ("first", "größe"):
        records.log(tmp_path, line)
    assert (tmp_path / records.LOG).read_bytes() == "first\ngröße\n".encode()


def test_what_a_process_and_its_libraries_print_can_be_diverted_into_the_log(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, sys
from regrun import records
records.divert(pathlib.Path({str(tmp_path)!r}))
print("python", flush=True)
print("error", file=sys.stderr)
os.write(1, b"library\\n")
os.system("echo child")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""
    assert sorted((tmp_path / records.LOG).read_text().splitlines()) == ["child", "error", "library", "python"]
