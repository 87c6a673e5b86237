"""Columns -> a data set: which are inputs, what each becomes, and whether the target is classes or numbers.

Nothing is left out silently: `Source.notes` says what every column became. What a column becomes is told from
the rows that are not test; how it is filled and scaled, from each run's own train (`split`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrun.conversion import nearest
from regrun.data import csv_file
from regrun.data.csv_file import Column, Numbers, Words
from regrun.data.source import Source, draw_test, follow
from regrun.errors import ConfigError, DataError, clip
from regrun.settings import Csv

MAX_CLASSES = 20  # whole numbers with at most so many values are classes, unless data.task says otherwise
MAX_LEVELS = 50  # levels of a category that get a column each; the rarer ones share one

Columns = dict[str, Column]


@dataclass(frozen=True)
class Targets:
    """Classes (N,) int64 or numbers (N, T) float64, and a line that says what they are."""

    values: Tensor
    num_classes: int
    note: str


@dataclass
class Inputs:
    """Input columns as they come, and what became of each."""

    columns: list[NDArray[np.float32]] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """A line for each thing that columns became."""
        if self.numbers:
            yield f"{len(self.numbers)} numbers: {clip(', '.join(self.numbers), 160)}"
        if self.categories:
            yield f"{len(self.categories)} categories, a 0/1 column for each level: {', '.join(self.categories)}"
        if self.missing:
            yield f"missing numbers, filled with train's median beside a 0/1 column: {', '.join(self.missing)}"
        if self.dropped:
            yield f"left out: {', '.join(self.dropped)}"


def load_csv(data: Csv) -> Source:
    """A CSV file, and perhaps another with its test set."""
    path = Path(data.path)
    form = csv_file.sniff(path, "data.path")
    targets, inputs = _names(data, form.columns)
    columns = _read(data, path, form, [*inputs, *targets], data.categories or [])
    rows = _length(columns)
    if data.test_path is not None:
        _append_test(columns, data, Path(data.test_path))
    columns, kept = _with_targets(columns, targets)
    y = _csv_targets(data, {name: columns[name] for name in targets})
    first = int((kept < rows).sum())
    train, test = (
        draw_test(y.values, data.test_size, "csv-test") if data.test_path is None else follow(first, len(kept) - first)
    )
    check_split(y, train, test, where=str(data.test_path or path))
    found = Inputs()
    for name in inputs:
        _add(found, name, columns.pop(name), train.numpy(), keep=data.columns is not None)
    if not found.columns:
        raise DataError(f"{path}: no column is left to learn from; {'; '.join(found.notes())}")
    skipped = f", {kept[-1] + 1 - len(kept)} rows without a target left out" if kept[-1] + 1 > len(kept) else ""
    head = f"{path.name}: {form}; {len(train)} rows, and {len(test)} for test{skipped}"
    return Source(
        name=path.stem,
        inputs=torch.from_numpy(np.stack(found.columns, 1)),
        targets=y.values,
        train=train,
        test=test,
        num_classes=y.num_classes,
        top=None,
        notes=(head, y.note, *found.notes()),
    )


def class_targets(values: NDArray[np.generic], name: str) -> Targets:
    """The distinct values, sorted, as classes 0, 1, ..."""
    levels, codes = np.unique(values, return_inverse=True)
    names = [f"{level:g}" if isinstance(level, np.floating) else str(level) for level in levels]
    counts = [f"{clip(n, 20)} {count}" for n, count in zip(names, np.bincount(codes), strict=True)]
    shown = ", ".join(counts[:MAX_CLASSES]) + (", ..." if len(counts) > MAX_CLASSES else "")
    note = f"target {name}: {len(levels)} classes: {shown}"
    return Targets(torch.from_numpy(codes.astype(np.int64)), len(levels), note)


def number_targets(values: NDArray[np.float64], names: Sequence[str]) -> Targets:
    """values: (N, T), finite."""
    ranges = [f"{n} from {low:g} to {high:g}" for n, low, high in zip(names, values.min(0), values.max(0), strict=True)]
    note = f"target {clip(', '.join(ranges), 160)}: regression, standardized by train"
    return Targets(torch.from_numpy(np.ascontiguousarray(values)), 0, note)


def check_split(y: Targets, train: Tensor, test: Tensor, *, where: str) -> None:
    """Raise DataError where there is nothing to learn or to test."""
    if len(train) < 2 or not len(test):
        raise DataError(f"{where}: leaves {len(train)} examples to train on and {len(test)} for test; give it more")
    if not y.num_classes:
        return
    seen, needed = set(y.values[train].tolist()), set(y.values[test].tolist())
    if len(seen) < 2:
        raise DataError(f"{where}: must have at least two classes, has one; {y.note}")
    if alien := needed - seen:
        raise DataError(f"{where}: {len(alien)} of its classes have no example to train on; {y.note}")


def _names(data: Csv, columns: list[str]) -> tuple[list[str], list[str]]:
    """The target columns and the input columns. Raises ConfigError for names that the file has not."""
    targets = data.targets or [data.target]
    inputs = data.columns or [name for name in columns if name not in targets]
    asked = {
        "data.targets" if data.targets else "data.target": targets,
        "data.columns": data.columns or [],
        "data.categories": data.categories or [],
    }
    problems = [
        f"{key}: no such column, got {clip(name)!r}; {nearest(name, columns)}it has {clip(', '.join(columns), 100)}"
        for key, names in asked.items()
        for name in names
        if name not in columns
    ]
    problems += [f"data.columns: {clip(n)!r} is the target; leave it out" for n in inputs if n in targets]
    if problems:
        raise ConfigError(problems)
    return targets, inputs


def _read(data: Csv, path: Path, form: csv_file.Format, wanted: list[str], words: Sequence[str]) -> Columns:
    targets = data.targets or [data.target]
    columns = csv_file.read(path, form, wanted, words=words, exact=targets, missing=data.missing or [])
    csv_file.check(path, form, columns, words=[*words, *targets])
    return columns


def _append_test(columns: Columns, data: Csv, path: Path) -> None:
    """Put the rows of the test file below the others."""
    form = csv_file.sniff(path, "data.test_path")
    if lacking := [name for name in columns if name not in form.columns]:
        raise DataError(f"{path}: has no column {clip(lacking[0])!r}, which {data.path} has; add it")
    words = [name for name, column in columns.items() if isinstance(column, Words)]
    below = _read(data, path, form, list(columns), words)
    for name, other in below.items():
        column = columns[name]
        if isinstance(column, Words) and isinstance(other, Words):
            columns[name] = _joined(column, other)
        elif isinstance(column, Words) or isinstance(other, Words):
            raise DataError(f"{path}: column {clip(name)}: must be numbers as in {data.path}, has words; correct it")
        else:
            columns[name] = np.concatenate([column, other])


def _joined(a: Words, b: Words) -> Words:
    positions = {level: i for i, level in enumerate(a.levels)}
    moved = [positions.setdefault(level, len(positions)) for level in b.levels]
    codes = np.array([*moved, -1], dtype=np.int32)[b.codes]
    return Words(np.concatenate([a.codes, codes]), list(positions))


def _with_targets(columns: Columns, targets: list[str]) -> tuple[Columns, NDArray[np.int64]]:
    """The rows that have every target, and which they are."""
    lacking = np.zeros(_length(columns), dtype=bool)
    for name in targets:
        lacking |= _is_missing(columns[name])
    kept = np.flatnonzero(~lacking)
    if not len(kept):
        raise DataError(f"column {clip(targets[0])}: has no value in any row; name another data.target")
    return (columns, kept) if len(kept) == len(lacking) else ({n: _take(c, kept) for n, c in columns.items()}, kept)


def _csv_targets(data: Csv, columns: Columns) -> Targets:
    """Classes for words and for few whole numbers, unless `data.task` says otherwise."""
    words = [name for name, column in columns.items() if isinstance(column, Words)]
    if data.task == "regression" and words:
        column = columns[words[0]]
        assert isinstance(column, Words)
        raise ConfigError(
            f"data.task: column {clip(words[0])} has words such as {clip(column.levels[0])!r}, "
            "got regression; use classification"
        )
    if (data.task == "classification" and len(columns) > 1) or (len(columns) > 1 and words):
        raise ConfigError("data.targets: several targets are for regression; name one data.target for classes")
    ((name, first), *_) = columns.items()
    if isinstance(first, Words):
        return class_targets(np.array(first.levels)[first.codes], name)
    if data.task == "classification" or (data.task == "auto" and len(columns) == 1 and _looks_like_classes(first)):
        return class_targets(first, name)
    return number_targets(
        np.stack([c for c in columns.values() if not isinstance(c, Words)], 1).astype(np.float64), list(columns)
    )


def _looks_like_classes(values: Numbers) -> bool:
    return bool((values == np.round(values)).all()) and len(np.unique(values)) <= MAX_CLASSES


def _add(found: Inputs, name: str, column: Column, train: NDArray[np.int64], *, keep: bool) -> None:
    """What an input column becomes. keep: it was asked for by name, so it is no row number or id."""
    if isinstance(column, Words):
        _add_words(found, name, column, train, keep=keep)
        return
    known, missing = column[train][~np.isnan(column[train])], np.isnan(column)
    if not len(known):
        found.dropped.append(f"{name} (empty)")
    elif known.min() == known.max() and not missing.any():
        found.dropped.append(f"{name} (always {known[0]:g})")
    elif not keep and len(column) > 2 and not missing.any() and (np.diff(column) == 1).all():
        found.dropped.append(f"{name} (numbers the rows)")
    else:
        found.numbers.append(name)
        found.columns.append(column.astype(np.float32, copy=False))
        if missing.any():
            found.missing.append(f"{name} {missing.sum()}")
            found.columns.append(missing.astype(np.float32))


def _add_words(found: Inputs, name: str, column: Words, train: NDArray[np.int64], *, keep: bool) -> None:
    codes, is_missing = column.codes, bool((column.codes < 0).any())
    counts = np.bincount(codes[train][codes[train] >= 0], minlength=len(column.levels))
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]  # the most frequent first
    if len(order) == 0 or (len(order) == 1 and not is_missing):
        always = f"always {clip(column.levels[order[0]], 20)}" if len(order) else "empty"
        found.dropped.append(f"{name} ({always})")
        return
    if not keep and len(order) > MAX_LEVELS and 2 * len(order) > counts.sum():
        found.dropped.append(f"{name} (an id or free text: {len(order)} levels in {counts.sum()} rows)")
        return
    own = order if len(order) <= MAX_LEVELS else order[: MAX_LEVELS - 1]
    found.columns += [(codes == level).astype(np.float32) for level in own]
    about = f"{name} {len(own)}"
    if len(own) < len(order):
        found.columns.append((~np.isin(codes, own) & (codes >= 0)).astype(np.float32))
        about += f" and one for {len(order) - len(own)} rarer"
    if is_missing:
        found.columns.append((codes < 0).astype(np.float32))
        about += " and missing"
    found.categories.append(about)


def _length(columns: Columns) -> int:
    column = next(iter(columns.values()))
    return len(column.codes if isinstance(column, Words) else column)


def _is_missing(column: Column) -> NDArray[np.bool_]:
    return column.codes < 0 if isinstance(column, Words) else np.isnan(column)


def _take(column: Column, rows: NDArray[np.int64]) -> Column:
    return Words(column.codes[rows], column.levels) if isinstance(column, Words) else column[rows]
