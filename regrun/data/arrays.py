"""Data sets that come as arrays: NumPy's .npz files, and the tables that scikit-learn brings."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrun.data.source import Source, draw_test, follow
from regrun.data.tables import Targets, check_split, class_targets, number_targets
from regrun.errors import ConfigError, DataError, clip
from regrun.settings import Npz, Sklearn

SETS = (("x", "y"), ("x_train", "y_train", "x_test", "y_test"))
AXES = {"table": ("N", "D"), "hw": ("N", "H", "W"), "hwc": ("N", "H", "W", "C"), "chw": ("N", "C", "H", "W")}

Array = NDArray[np.generic]


def load_sklearn(data: Sklearn) -> Source:
    """One of scikit-learn's bundled tables; a share drawn once and for all is test. Importing it takes a second."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{data.name}")()
    values = np.asarray(bunch.target)
    is_regression = data.name in ("diabetes", "linnerud")
    names = list(getattr(bunch, "target_names", [])) or ["progression"]
    y = (
        number_targets(values.reshape(len(values), -1).astype(np.float64), names)
        if is_regression
        else class_targets(np.array([str(n) for n in names])[values], "class")
    )
    inputs = torch.from_numpy(np.asarray(bunch.data).astype(np.float32))
    return _source(data.name, inputs, y, draw_test(y.values, data.test_size, "sklearn-test"), top=None, where=data.name)


def load_npz(data: Npz) -> Source:
    """Arrays `x`, `y`, or `x_train`, `y_train`, `x_test`, `y_test`. Nothing in the file can run code."""
    path = Path(data.path)
    if not path.is_file():
        raise ConfigError(f"data.path: must be a file, got {str(path)[-80:]!r}; name an .npz file")
    arrays = _read(path)
    for a, b in zip(list(arrays)[::2], list(arrays)[1::2], strict=True):
        if arrays[a].ndim == 0 or arrays[b].ndim == 0 or len(arrays[a]) != len(arrays[b]):
            raise DataError(f"{path}: {a} is shaped {arrays[a].shape}, {b} {arrays[b].shape}; give both N examples")
    inputs = [_inputs(path, name, arrays[name], data.layout) for name in list(arrays)[::2]]
    if len({tuple(x.shape[1:]) for x in inputs}) > 1:
        raise DataError(f"{path}: x_train and x_test have examples of two shapes; give them one")
    targets = [np.asarray(arrays[name]) for name in list(arrays)[1::2]]
    y = _targets(path, np.concatenate(targets), data.task)
    parts = draw_test(y.values, data.test_size, "npz-test") if len(targets) == 1 else follow(*map(len, targets))
    return _source(
        path.stem, torch.cat(inputs), y, parts, top=None if data.layout == "table" else 255.0, where=str(path)
    )


def _source(
    name: str, inputs: Tensor, y: Targets, parts: tuple[Tensor, Tensor], *, top: float | None, where: str
) -> Source:
    train, test = parts
    check_split(y, train, test, where=where)
    what = f"{inputs.shape[1]} numbers" if top is None else f"images of {' x '.join(map(str, inputs.shape[1:]))}"
    return Source(
        name=name,
        inputs=inputs,
        targets=y.values,
        train=train,
        test=test,
        num_classes=y.num_classes,
        top=top,
        notes=(f"{name}: {what}; {len(train)} examples, and {len(test)} for test", y.note),
    )


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: holds one array without a name; save x and y with numpy.savez")
            names = next((names for names in SETS if set(names) <= set(file.files)), None)
            if names is None:
                raise DataError(
                    f"{path}: must hold x and y, or x_train, y_train, x_test and y_test, has "
                    f"{clip(', '.join(file.files)) or 'nothing'}; rename its arrays"
                )
            return {name: file[name] for name in names}
    except DataError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path}: is no .npz file of plain arrays ({clip(str(error))}); save it anew") from None


def _inputs(path: Path, name: str, x: Array, layout: str) -> Tensor:
    """Images as (N, C, H, W) uint8, tables as (N, D) float32."""
    if x.ndim != len(AXES[layout]):
        fits = [other for other, axes in AXES.items() if len(axes) == x.ndim]
        raise ConfigError(
            f"data.layout: {layout} is for ({', '.join(AXES[layout])}), got {name} shaped {x.shape}; "
            + (f"use {' or '.join(fits)}" if fits else f"reshape {name}")
        )
    if math.prod(x.shape) == 0:
        raise DataError(f"{path}: {name} is shaped {x.shape}, which is empty; give it some examples")
    if layout == "table":
        return _table(path, name, x)
    if x.dtype != np.uint8:
        raise DataError(f"{path}: {name} must be images of uint8, is {x.dtype}; scale them to 0 to 255 and convert")
    channels = {"hw": 1, "hwc": x.shape[-1], "chw": x.shape[1]}
    other = {"hwc": "chw", "chw": "hwc"}.get(layout)
    if other and channels[layout] > 4 >= channels[other]:
        raise ConfigError(f"data.layout: {layout} makes {channels[layout]} channels of {name} {x.shape}; use {other}")
    moved = {"hw": x[:, None], "hwc": np.moveaxis(x, -1, 1), "chw": x}[layout]
    return torch.from_numpy(np.ascontiguousarray(moved))


def _table(path: Path, name: str, x: Array) -> Tensor:
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} must be numbers, is {x.dtype}; convert it")
    with np.errstate(over="ignore"):
        table = x.astype(np.float32)
    _check_finite(path, name, table)
    return torch.from_numpy(table)


def _check_finite(path: Path, name: str, values: Array) -> None:
    bad = ~np.isfinite(np.asarray(values, dtype=np.float64))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(f"{path}: {name}{list(where)} must be a number in the range of float32; correct it")


def _targets(path: Path, y: Array, task: str) -> Targets:
    """Floats are numbers to predict, everything else is classes, unless `data.task` says otherwise."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    is_number = y.dtype.kind in "iuf"
    if y.ndim > 2 or y.dtype.kind not in "biufUS" or (y.ndim == 2 and not is_number):
        raise DataError(f"{path}: y must be classes (N,) or numbers (N,) or (N, T), is {y.dtype} {y.shape}; convert it")
    if is_number:
        _check_finite(path, "y", y)
    wants_numbers = task == "regression" or (task == "auto" and (y.dtype.kind == "f" or y.ndim == 2))
    if wants_numbers and not is_number:
        raise ConfigError(f"data.task: y is {y.dtype}, got regression; use classification")
    if wants_numbers:
        table = y.reshape(len(y), -1).astype(np.float64)
        return number_targets(table, [f"y{i}" if y.ndim == 2 else "y" for i in range(table.shape[1])])
    if y.ndim == 2:
        raise ConfigError(f"data.task: y is shaped {y.shape}, got classification; give one class for each example")
    return class_targets(y, "y")
