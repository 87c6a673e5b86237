"""The arrays of numbers in a file of MATLAB 5 (its "Level 5 MAT-File Format"), compressed or not.

SciPy's reader ends the process on some damaged files (1.17: a segmentation fault), so it is not asked.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER, COMPRESSED, MATRIX = 128, 15, 14
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMBERS = range(6, 16)  # classes of arrays: double, single, integers
MOST = 4 << 30  # bytes of an array

Element = tuple[int, memoryview]  # type and content


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays by name. Raises ValueError, struct.error or zlib.error where the file is damaged."""
    raw = memoryview(path.read_bytes())
    if bytes(raw[124:HEADER]) != b"\x00\x01IM":
        raise ValueError("no MATLAB 5 file of a little-endian machine")
    return dict(found for element in _elements(raw[HEADER:], align=False) if (found := _array(_plain(element))))


def _elements(raw: memoryview, *, align: bool = True) -> Iterator[Element]:
    """A sequence of elements: a tag of 8 bytes and a content, which ends at a multiple of 8 inside of an array."""
    while len(raw) >= 8:
        kind, size = struct.unpack_from("<II", raw)
        start = 8
        if kind >> 16:  # both in 4 bytes, and the content in the other 4
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        end = start + size
        if end > len(raw):
            raise ValueError("cut short")
        yield kind, raw[start:end]
        raw = raw[end + (-end % 8 if align else 0) :]


def _plain(element: Element) -> Element:
    """The element, decompressed. How long it becomes is what it says itself."""
    kind, content = element
    if kind != COMPRESSED:
        return element
    stream = zlib.decompressobj()
    tag = stream.decompress(content, 8)
    inner, size = struct.unpack("<II", tag)
    if size > MOST:
        raise ValueError(f"an array of {size:,} bytes")
    whole = stream.decompress(stream.unconsumed_tail, size) if size else b""
    if len(whole) < size:
        raise ValueError("cut short")
    return inner, memoryview(whole)


def _array(element: Element) -> tuple[str, NDArray[Any]] | None:
    """Name and numbers; None for what is no array of numbers."""
    kind, content = element
    if kind != MATRIX:
        return None
    (_, flags), (_, shape), (_, name), *parts = _elements(content)
    if bytes(flags[:1])[0] not in NUMBERS or len(parts) != 1:
        return None
    dtype, numbers = DTYPES[parts[0][0]], parts[0][1]
    sizes = np.frombuffer(shape, "<i4").tolist()
    if min(sizes) < 0 or math.prod(sizes) * np.dtype(dtype).itemsize != len(numbers):
        raise ValueError(f"an array shaped {sizes} of {len(numbers):,} bytes")
    return bytes(name).decode("ascii"), np.frombuffer(numbers, f"<{dtype}").reshape(sizes, order="F")
