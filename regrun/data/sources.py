"""Settings -> a whole data set in memory. One function for each kind, and a table of them."""

import dataclasses
import gzip
import hashlib
import importlib.util
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regrun import checks
from regrun.data.arrays import load_npz, load_sklearn
from regrun.data.cifar import load_cifar, load_svhn
from regrun.data.download import fetch
from regrun.data.image_folder import load_image_folder
from regrun.data.source import Source, draw_test, follow
from regrun.data.tables import load_csv
from regrun.errors import ConfigError, DataError, clip, printable
from regrun.settings import Cifar, Csv, Data, DataSet, Digits, ImageFolder, Mnist, Npz, Sine, Sklearn, Svhn, Toy

__all__ = ["MNIST_SHA256", "Source", "key", "load"]

# SHA-256 of the four extracted MNIST files (LeCun, Cortes and Burges), checked at every load: 0.05 s.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}  # torchvision's names
UNFETCHED: dict[str, Any] = {"download": False, "cache": "none"}
DIGITS_TEST_SIZE = 360
TOY_TEST_SHARE = 0.2


def load(data: DataSet, *, fetches: bool = True) -> Source:
    """Read the data set that the settings name. Raises ConfigError where they name none, DataError for a bad file.

    fetches: whether it may be downloaded where it is missing, and a cache of it kept.
    """
    if problems := list(checks.file_conflicts(data)):
        raise ConfigError(problems)
    names = [] if fetches else [f.name for f in dataclasses.fields(data) if f.name in UNFETCHED]
    found = SOURCES[type(data)](dataclasses.replace(data, **{name: UNFETCHED[name] for name in names}))
    return dataclasses.replace(found, name=printable(found.name), notes=tuple(map(printable, found.notes)))


def key(data: DataSet) -> str:
    """The same for two settings that load the same data set: how it is split and scaled does not count."""
    shared: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Data)}
    return repr(dataclasses.replace(data, **shared))


def _digits(data: Digits) -> Source:
    """scikit-learn's copy of the UCI digits; 360 stratified examples, drawn once and for all, are test.

    Read from scikit-learn's own file: importing sklearn.datasets costs a second.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ConfigError("data: digits come with scikit-learn, which is not installed; pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path) as file:
            table = np.array([line.split(b",") for line in file.read().split()], dtype=np.uint8)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({clip(str(error))}); reinstall scikit-learn") from None
    if table.shape != (1797, 65) or table[:, 64].max() > 9:
        raise DataError(f"{path}: must hold 1797 rows of 65 numbers, holds {table.shape}; reinstall scikit-learn")
    targets = torch.from_numpy(table[:, 64].astype(np.int64))
    train, test = draw_test(targets, DIGITS_TEST_SIZE / len(targets), "digits-test")
    return Source(
        name=data.kind,
        inputs=torch.from_numpy(table[:, :64].reshape(-1, 1, 8, 8)),
        targets=targets,
        train=train,
        test=test,
        num_classes=10,
        top=16.0,
    )


def _mnist(data: Mnist) -> Source:
    """MNIST, Fashion-MNIST or Kuzushiji-MNIST from torchvision's files; test is the official 10,000."""
    folder = Path(data.root) / MNIST_FOLDERS[data.kind] / "raw"
    names = list(MNIST_SHA256)
    if not all((folder / name).is_file() for name in names):
        fetch(data.kind, data.root, folder, dataset=MNIST_FOLDERS[data.kind], allowed=data.download)
    arrays = [_read_idx(folder / name, check=data.kind == "mnist") for name in names]
    for name, array in zip(names, arrays, strict=True):
        expected = array.shape[:1] if "labels" in name else (*array.shape[:1], 28, 28)
        if array.shape != expected:
            raise DataError(f"{folder / name}: must be shaped {expected}, is {array.shape}; remove the file")
    images = torch.from_numpy(np.concatenate([arrays[0], arrays[2]])).unsqueeze(1)
    targets = torch.from_numpy(np.concatenate([arrays[1], arrays[3]]).astype(np.int64))
    if len(images) != len(targets) or int(targets.max()) > 9:
        raise DataError(f"{folder}: {len(images)} images do not fit {len(targets)} labels in 0 to 9; remove the folder")
    train, test = follow(len(arrays[0]), len(arrays[2]))
    return Source(
        name=data.kind,
        inputs=images,
        targets=targets,
        train=train,
        test=test,
        num_classes=10,
        top=255.0,
    )


def _read_idx(path: Path, *, check: bool) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes (the format of MNIST's authors): magic, sizes, values."""
    raw = path.read_bytes()
    if check and (found := hashlib.sha256(raw).hexdigest()) != MNIST_SHA256[path.name]:
        expected = MNIST_SHA256[path.name]
        raise DataError(f"{path}: SHA-256 must be {expected[:16]}..., got {found[:16]}...; remove the file")
    dimensions = raw[3] if len(raw) > 4 else 0
    header = 4 + 4 * dimensions
    shape = np.frombuffer(raw[4:header].ljust(4 * dimensions, b"\0"), ">u4").tolist()
    if raw[:3] != b"\x00\x00\x08" or len(raw) != header + math.prod(shape):
        raise DataError(f"{path}: not an idx file of bytes, or cut short ({len(raw)} bytes); remove the file")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()


def _toy(data: Toy) -> Source:
    """Two classes in the plane; a stratified fifth, drawn once and for all, is test."""
    points, labels = TOYS[data.kind](data.samples, data.noise)
    targets = torch.from_numpy(labels)
    train, test = draw_test(targets, TOY_TEST_SHARE, "toy-test")
    return Source(
        name=data.kind,
        inputs=torch.from_numpy(points.astype(np.float32)),
        targets=targets,
        train=train,
        test=test,
        num_classes=2,
        top=None,
    )


def _moons(samples: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two interleaving half circles, as in scikit-learn's make_moons."""
    upper = samples // 2
    t = [np.linspace(0, np.pi, n) for n in (upper, samples - upper)]
    points = np.concatenate(
        [np.stack([np.cos(t[0]), np.sin(t[0])], 1), np.stack([1 - np.cos(t[1]), 0.5 - np.sin(t[1])], 1)]
    )
    labels = np.repeat([0, 1], [upper, samples - upper])
    return points + np.random.default_rng(0).normal(0, noise, points.shape), labels


def _spirals(samples: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two intertwined spirals of one and a half turns (after Lang and Witbrock 1988)."""
    labels = np.arange(samples) % 2
    t = np.sqrt(np.linspace(0.05, 1, samples))
    angle = 3 * np.pi * t + np.pi * labels
    points = 3 * t[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points + np.random.default_rng(0).normal(0, noise, points.shape), labels


def _sine(data: Sine) -> Source:
    """One period of a sine and Gaussian noise: regression that can be drawn; a fifth is test."""
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 1, (data.samples, 1))
    targets = torch.from_numpy(np.sin(2 * np.pi * x) + draw.normal(0, data.noise, x.shape))
    train, test = draw_test(targets, TOY_TEST_SHARE, "toy-test")
    return Source(
        name=data.kind,
        inputs=torch.from_numpy(x.astype(np.float32)),
        targets=targets,
        train=train,
        test=test,
        num_classes=0,
        top=None,
    )


TOYS = {"moons": _moons, "spirals": _spirals}
SOURCES: dict[type, Callable[..., Source]] = {
    Digits: _digits,
    Mnist: _mnist,
    Toy: _toy,
    Sine: _sine,
    Csv: load_csv,
    Sklearn: load_sklearn,
    Npz: load_npz,
    ImageFolder: load_image_folder,
    Cifar: load_cifar,
    Svhn: load_svhn,
}
