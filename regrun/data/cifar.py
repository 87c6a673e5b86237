"""CIFAR-10, CIFAR-100 and SVHN from torchvision's files. Nothing in them can run code.

A file with as many images as the published one must be the published one, by the MD5 that torchvision knows; one
with another number of images is taken as it is, and said to be another.
"""

import hashlib
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regrun.data import matlab
from regrun.data.download import fetch
from regrun.data.source import Source, follow
from regrun.errors import DataError, clip
from regrun.settings import Cifar, Svhn

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Published:
    """A file: how many images it has, and its MD5."""

    images: int
    md5: str


@dataclass(frozen=True)
class Layout:
    """Where torchvision, and the authors' binary version, keep a data set."""

    dataset: str
    pickles: str
    binary: str
    labels: str  # the key in the pickles
    classes: int
    train: dict[str, Published]
    test: dict[str, Published]


LAYOUTS = {
    "cifar10": Layout(
        dataset="CIFAR10",
        pickles="cifar-10-batches-py",
        binary="cifar-10-batches-bin",
        labels="labels",
        classes=10,
        train={
            "data_batch_1": Published(10000, "c99cafc152244af753f735de768cd75f"),
            "data_batch_2": Published(10000, "d4bba439e000b95fd0a9bffe97cbabec"),
            "data_batch_3": Published(10000, "54ebc095f3ab1f0389bbae665268c751"),
            "data_batch_4": Published(10000, "634d18415352ddfa80567beed471001a"),
            "data_batch_5": Published(10000, "482c414d41f54cd18b22e5b47cb7c3cb"),
        },
        test={"test_batch": Published(10000, "40351d587109b95175f43aff81a1287e")},
    ),
    "cifar100": Layout(
        dataset="CIFAR100",
        pickles="cifar-100-python",
        binary="cifar-100-binary",
        labels="fine_labels",
        classes=100,
        train={"train": Published(50000, "16019d7e3df5f24257cddd939b257f8d")},
        test={"test": Published(10000, "f0ef6b0ae62326f3e7ffdfab6717acfc")},
    ),
}
SVHN = {
    "train_32x32.mat": Published(73257, "e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test_32x32.mat": Published(26032, "eb5a983be6a315427106f1b164d9cef3"),
}
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (N, 3, 32, 32) and classes (N,)


class PlainUnpickler(pickle._Unpickler):
    """Reads arrays, bytes, words, numbers, lists and dicts, and nothing that could run code.

    The one in C takes as much memory as a number in the file says.
    """

    ALLOWED = (
        *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return super().find_class(module, name)


def load_cifar(data: Cifar) -> Source:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): the pickles that torchvision downloads, or the binary version."""
    layout, root = LAYOUTS[data.kind], Path(data.root)
    names = [*layout.train, *layout.test]
    binary = [root / layout.binary / f"{name}.bin" for name in names]
    if all(path.is_file() for path in binary):
        parts = [_read_binary(path, layout.classes) for path in binary]
        return _source(data.kind, parts, len(layout.train), layout.classes, published=True)
    paths = [root / layout.pickles / name for name in names]
    if not all(path.is_file() for path in paths):
        fetch(data.kind, data.root, root / layout.pickles, dataset=layout.dataset, allowed=data.download)
    published = [*layout.train.values(), *layout.test.values()]
    parts = [_read_pickle(path, layout) for path in paths]
    same = [_check(path, part, p) for path, part, p in zip(paths, parts, published, strict=True)]
    return _source(data.kind, parts, len(layout.train), layout.classes, published=all(same))


def load_svhn(data: Svhn) -> Source:
    """Street View House Numbers (Netzer et al. 2011), cropped digits, without `extra`."""
    root = Path(data.root)
    paths = [root / name for name in SVHN]
    if not all(path.is_file() for path in paths):
        splits = [{"split": "train"}, {"split": "test"}]
        fetch(data.kind, data.root, root, dataset="SVHN", allowed=data.download, parts=splits)
    parts = [_read_mat(path) for path in paths]
    same = [_check(path, part, p) for path, part, p in zip(paths, parts, SVHN.values(), strict=True)]
    return _source(data.kind, parts, 1, 10, published=all(same))


def _source(kind: str, parts: Sequence[Part], train_parts: int, classes: int, *, published: bool) -> Source:
    counts = [len(labels) for _, labels in parts]
    train, test = follow(sum(counts[:train_parts]), sum(counts[train_parts:]))
    note = f"{kind}: not the published files: {len(train)} images, and {len(test)} for test"
    return Source(
        name=kind,
        inputs=torch.from_numpy(np.concatenate([images for images, _ in parts])),
        targets=torch.from_numpy(np.concatenate([labels for _, labels in parts])),
        train=train,
        test=test,
        num_classes=classes,
        top=255.0,
        notes=() if published else (note,),
    )


def _check(path: Path, part: Part, published: Published) -> bool:
    """Whether the file is the published one. Raises DataError for one as long as it that is not."""
    if len(part[1]) != published.images:
        return False
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != published.md5:
        raise DataError(f"{path}: MD5 must be {published.md5}, got {found}; remove the file")
    return True


def _read_pickle(path: Path, layout: Layout) -> Part:
    try:
        found = PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        images, labels = np.asarray(found["data"]), np.asarray(found[layout.labels])
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: is no batch of {layout.dataset} ({clip(str(error))}); remove the file") from None
    return _part(path, images, labels, layout.classes)


def _read_binary(path: Path, classes: int) -> Part:
    """Records of a label (for CIFAR-100 after a coarse one) and 3,072 pixels."""
    raw, length = np.fromfile(path, np.uint8), PIXELS + (1 if classes == 10 else 2)
    if len(raw) % length:
        raise DataError(f"{path}: must be records of {length} bytes, has {len(raw)} bytes; remove the file")
    rows = raw.reshape(-1, length)
    return _part(path, rows[:, -PIXELS:], rows[:, -PIXELS - 1], classes)


def _read_mat(path: Path) -> Part:
    """MATLAB's X (32, 32, 3, N) and y (N, 1) in 1 to 10, where 10 is the digit 0."""
    try:
        found = matlab.read(path)
        images, labels = np.asarray(found["X"]), np.asarray(found["y"])
        flat = images.transpose(3, 2, 0, 1).reshape(images.shape[3], -1)
        digits = labels.astype(np.int64).reshape(-1) % 10
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path}: is no file of SVHN ({clip(str(error))}); remove the file") from None
    return _part(path, flat, digits, 10)


def _part(path: Path, images: NDArray[Any], labels: NDArray[Any], classes: int) -> Part:
    """The two arrays, checked: N rows of 3,072 bytes, N whole numbers below `classes`."""
    is_right = images.dtype == np.uint8 and images.shape == (len(labels), PIXELS) and len(labels) > 0
    if not is_right or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{path}: must hold N x {PIXELS} bytes and N labels, holds {images.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path}: labels must be 0 to {classes - 1}, are {labels.min()} to {labels.max()}")
    return np.ascontiguousarray(images).reshape(-1, 3, 32, 32), labels.astype(np.int64)
