"""A folder of JPEG or PNG files for each class -> images of one size, read once and then from a cache."""

import hashlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regrun import records
from regrun.data.source import Source, draw_test, follow
from regrun.errors import ConfigError, DataError, EnvironmentFault, clip
from regrun.settings import ImageFolder

SUFFIXES = (".jpg", ".jpeg", ".png")
READING = 1  # counts how images are read and resized: another number, another cache

Images = NDArray[np.uint8]
Listing = dict[str, list[Path]]  # each class's files


def load_image_folder(data: ImageFolder) -> Source:
    """Classes below `path`, or below its folders train and test; without a test folder a share is test."""
    root = Path(data.path)
    if not root.is_dir():
        raise ConfigError(f"data.path: must be a folder, got {str(root)[-80:]!r}; name one")
    is_parted = (root / "train").is_dir()
    listing, notes = _listing(root / "train" if is_parted else root)
    test_listing: Listing = {}
    if is_parted and (root / "test").is_dir():
        test_listing, more = _listing(root / "test")
        notes += more
    classes = sorted(listing)
    if len(classes) < 2:
        raise DataError(f"{root}: must have a folder for each of at least two classes, has {len(classes)}")
    if alien := sorted(set(test_listing) - set(classes)):
        raise DataError(f"{root / 'test' / alien[0]}: is no class of {root / 'train'}; rename or remove it")
    files = [file for part in (listing, test_listing) for name in sorted(part) for file in part[name]]
    labels = [classes.index(name) for part in (listing, test_listing) for name in sorted(part) for _ in part[name]]
    images, cached = _cached(data, root, files)
    targets, count = torch.tensor(labels), sum(map(len, listing.values()))
    train, test = (
        follow(count, len(files) - count) if test_listing else draw_test(targets, data.test_size, "folder-test")
    )
    if not len(test) or len(train) < 2:
        raise DataError(f"{root}: leaves {len(train)} images to train on and {len(test)} for test; give it more")
    shape = " x ".join(map(str, images.shape[1:]))
    head = f"{root.name}: images of {shape}; {len(train)} images, and {len(test)} for test"
    shown = ", ".join(f"{clip(name, 20)} {len(listing[name])}" for name in classes[:20])
    return Source(
        name=root.resolve().name,
        inputs=torch.from_numpy(images),
        targets=targets,
        train=train,
        test=test,
        num_classes=len(classes),
        top=255.0,
        notes=(head, f"{len(classes)} classes: {shown}" + (", ..." if len(classes) > 20 else ""), *notes, *cached),
    )


def _listing(root: Path) -> tuple[Listing, list[str]]:
    """Each class's files, by name; what else is there is noted. Hidden files count for nothing."""
    entries = sorted(e for e in root.iterdir() if not e.name.startswith("."))
    listing, others = {}, [e for e in entries if not e.is_dir()]
    for folder in (e for e in entries if e.is_dir()):
        inside = sorted(f for f in folder.iterdir() if not f.name.startswith("."))
        is_image = [f.suffix.lower() in SUFFIXES and f.is_file() for f in inside]
        listing[folder.name] = [f for f, right in zip(inside, is_image, strict=True) if right]
        others += [f for f, right in zip(inside, is_image, strict=True) if not right]
        if not listing[folder.name]:
            raise DataError(f"{folder}: has no JPEG or PNG file; fill or remove it")
    left_out = [f"left out of {root.name}: {len(others)} that are no JPEG or PNG, such as {f.name}" for f in others[:1]]
    return listing, left_out


def _cached(data: ImageFolder, root: Path, files: list[Path]) -> tuple[Images, list[str]]:
    """The images (N, C, H, W), from the cache if it is of these files; a line where it could not be kept."""
    shape = (len(files), 3 if data.channels == "rgb" else 1, data.size, data.size)
    if data.cache == "none":
        return _read_all(files, shape), []
    facts = [(str(f.relative_to(root)), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps([READING, shape, facts]).encode()).hexdigest()[:16]
    folder = root.resolve().parent if data.cache == "auto" else Path(data.cache)
    path = folder / f".{root.resolve().name}.{key}.npy"
    images = _load(path, shape)
    if images is not None:
        return images, []
    images = _read_all(files, shape)
    try:
        records.make(folder)
        records.replace_with(path, [_header(images), images.reshape(-1).data])
    except EnvironmentFault as error:
        return images, [f"no cache: {error}"]
    return images, [f"cached in {path}"]


def _load(path: Path, shape: tuple[int, ...]) -> Images | None:
    """A cache that is whole, or None: it is read anew from the images."""
    try:
        images: Images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _header(images: Images) -> bytes:
    """What NumPy's format has before the values."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(images))
    return buffer.getvalue()


def _read_all(files: list[Path], shape: tuple[int, ...]) -> Images:
    images = np.empty(shape, np.uint8)
    for image, file in zip(images, files, strict=True):
        image[:] = _read(file, shape[-1], "RGB" if shape[1] == 3 else "L")
    return images


def _read(file: Path, size: int, mode: str) -> Images:
    """(C, size, size): the upright image, its shorter side resized to `size`, its middle cut out."""
    from PIL import Image, ImageOps

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of twice as many pixels it is an error
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{file}: has more than 8 bits a channel; convert it")
            upright = ImageOps.exif_transpose(image).convert(mode)
            pixels = np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as an image ({clip(str(error))}); repair or remove it") from None
    return pixels.reshape(size, size, -1).transpose(2, 0, 1)
