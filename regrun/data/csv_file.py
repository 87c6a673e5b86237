"""A CSV file -> its columns as numbers or words, a chunk at a time. pandas is imported when a file is read."""

import csv
import gzip
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from regrun.errors import ConfigError, DataError, clip

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 1 << 16  # characters that the format is told from
CHUNK = 1 << 16  # rows that are in memory as pandas sees them
SEPARATORS = ",;\t|"
NUMBERS = 0.9  # a column of words in which so many are numbers is a column of numbers with mistakes in it


@dataclass(frozen=True)
class Format:
    """How a file separates fields, writes decimals and names its columns."""

    separator: str
    decimal: str
    columns: list[str]

    def __str__(self) -> str:
        name = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[self.separator]
        return f"separated by {name}" + (", with decimal commas" if self.decimal == "," else "")


@dataclass(frozen=True)
class Words:
    """A column of words: each row's position in `levels`, -1 where it is missing."""

    codes: NDArray[np.int32]
    levels: list[str]


Numbers = NDArray[np.float64] | NDArray[np.float32]  # NaN where one is missing
Column = Numbers | Words


def sniff(path: Path, key: str) -> Format:
    """The format of a file, told from its beginning. Raises ConfigError where there is none, DataError if it is bad."""
    if not path.is_file():
        raise ConfigError(f"{key}: must be a file, got {str(path)[-80:]!r}; name a CSV file")
    try:
        with _open(path) as file:
            sample = file.read(SAMPLE)
        # The last line may be cut off; a quoted field may go over many lines.
        rows = {s: list(csv.reader(io.StringIO(sample), delimiter=s, skipinitialspace=True))[:-1] for s in SEPARATORS}
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: is no text in UTF-8 ({clip(str(error))}); save it as CSV in UTF-8") from None
    if not rows[","] or not rows[","][0] or "\0" in sample:
        raise DataError(f"{path}: must hold a line of names and rows below it, holds no such thing")
    separator = max(SEPARATORS, key=lambda s: _fit(rows[s]))
    columns = [name.strip() or f"column {i}" for i, name in enumerate(rows[separator][0], start=1)]
    _check_header(path, columns)
    cells = [cell for row in rows[separator][1:] for cell in row]
    return Format(separator, "," if separator != "," and _has_decimal_commas(cells) else ".", columns)


def read(
    path: Path, form: Format, wanted: Sequence[str], *, words: Sequence[str], exact: Sequence[str], missing: list[str]
) -> dict[str, Column]:
    """The wanted columns. words: columns that are words whatever they look like; exact: those kept in float64."""
    seen: dict[str, set[str]] = {name: set() for name in wanted}
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in wanted}
    levels: dict[str, dict[str, int]] = {name: {} for name in wanted}
    short = False
    for chunk in _chunks(path, form, words, missing):
        short |= bool(chunk[form.columns[-1]].isna().any())
        for name in wanted:
            kind = "word" if name in words or not _is_number(chunk[name]) else "number"
            seen[name].add(kind)
            if kind == "word":
                parts[name].append(_codes(chunk[name], levels[name]))
            else:
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told by `check`
                    parts[name].append(chunk[name].to_numpy(np.float64 if name in exact else np.float32))
    if short:
        _check_lengths(path, form)
    if mixed := [name for name, kinds in seen.items() if len(kinds) > 1]:  # numbers in one chunk, words in another
        return read(path, form, wanted, words=[*words, *mixed], exact=exact, missing=missing)
    if not seen or not parts[wanted[0]]:
        raise DataError(f"{path}: has names but no rows; give it some")
    columns: dict[str, Column] = {}
    for name in wanted:
        values = np.concatenate(parts.pop(name))
        is_words = seen[name] == {"word"}
        columns[name] = Words(values.astype(np.int32), list(levels[name])) if is_words else cast(Numbers, values)
    return columns


def check(path: Path, form: Format, columns: Mapping[str, Column], *, words: Sequence[str]) -> None:
    """Raise DataError for a number that is not finite, or a word in a column that is numbers but for few."""
    for name, column in columns.items():
        if not isinstance(column, Words):
            if np.isinf(column).any():
                raise DataError(_cell(path, int(np.isinf(column).argmax()), name, "a number in the range of float32"))
        elif name not in words:
            is_number = np.array([_is_numeric(level, form.decimal) for level in column.levels] + [True])
            share = is_number[column.codes].sum() - (column.codes < 0).sum(), (column.codes >= 0).sum()
            if share[0] >= NUMBERS * share[1] and not is_number.all():
                row = int((~is_number)[column.codes].argmax())
                wanted = f"a number like the others, got {clip(column.levels[column.codes[row]])!r}"
                raise DataError(
                    _cell(path, row, name, wanted) + ", or say data.missing=[...], or data.categories=[...]"
                )


def _cell(path: Path, row: int, name: str, wanted: str) -> str:
    return f"{path}: row {row + 1} below the names, column {name}: must be {wanted}; correct it"


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _fit(rows: list[list[str]]) -> tuple[bool, float, int]:
    """How well a separator fits: more than one column, rows as long as the header, many columns."""
    if not rows or not rows[0]:
        return False, 0.0, 0
    width = len(rows[0])
    lengths = Counter(len(row) for row in rows[1:] if row)
    return width > 1, lengths[width] / max(1, lengths.total()), width


def _check_header(path: Path, columns: list[str]) -> None:
    if len(columns) < 2:
        raise DataError(f"{path}: must have at least two columns, has {clip(columns[0])!r} alone; check its separator")
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise DataError(f"{path}: two columns have one name, {clip(twice[0])!r}; rename one")
    if all(_is_numeric(name, ".") for name in columns):
        raise DataError(f"{path}: its first line must name the columns, is {clip(', '.join(columns))}; put one above")


def _is_numeric(text: str, decimal: str) -> bool:
    try:
        float(text.replace(decimal, "."))
    except ValueError:
        return False
    return True


def _has_decimal_commas(cells: list[str]) -> bool:
    commas = sum(re.fullmatch(r"[+-]?\d+,\d+", cell.strip()) is not None for cell in cells)
    points = sum(re.fullmatch(r"[+-]?\d+\.\d+", cell.strip()) is not None for cell in cells)
    return commas > points


def _chunks(path: Path, form: Format, words: Sequence[str], missing: list[str]) -> Iterator["pd.DataFrame"]:
    """Every column, wanted or not: told to leave some out, pandas says nothing of rows that are too long."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a first row that is longer than the header
            yield from pd.read_csv(
                path,
                sep=form.separator,
                decimal=form.decimal,
                header=0,
                names=form.columns,
                dtype=dict.fromkeys(words, str),
                na_values=missing,
                encoding="utf-8-sig",
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                chunksize=CHUNK,
            )
    except pd.errors.ParserWarning:
        _check_lengths(path, form)
    except pd.errors.ParserError as error:
        reason = clip(str(error).rpartition("C error: ")[2], 80)
        raise DataError(f"{path}: {reason}; every row must have {len(form.columns)} fields") from None
    except UnicodeError as error:
        raise DataError(f"{path}: is no text in UTF-8 ({clip(str(error))}); save it as CSV in UTF-8") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({clip(str(error))}); copy it anew") from None


def _check_lengths(path: Path, form: Format) -> None:
    """Raise DataError for the first row that has too few or too many fields: pandas fills short ones silently."""
    with _open(path) as file:
        rows = csv.reader(file, delimiter=form.separator, skipinitialspace=True)
        for row in rows:
            if row and len(row) != len(form.columns):
                raise DataError(
                    f"{path}: line {rows.line_num}: must have {len(form.columns)} fields, has {len(row)}; correct it"
                )


def _is_number(column: "pd.Series") -> bool:
    return column.dtype.kind in "iuf"


def _codes(column: "pd.Series", levels: dict[str, int]) -> NDArray[np.int32]:
    """Each row's position in `levels`, which takes up new ones; -1 where it is missing."""
    codes, found = column.astype(str).where(column.notna()).factorize()
    positions = [levels.setdefault(str(level), len(levels)) for level in found]
    own: NDArray[np.int32] = np.array([*positions, -1], dtype=np.int32)[codes]
    return own
