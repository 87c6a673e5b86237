"""Images from folders, and the published sets of color images: every pixel is the file's, every bad file is named."""

import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MNIST_ROOT
from numpy.typing import NDArray
from PIL import Image

from regrun import checks, config, records
from regrun import settings as s
from regrun.cli import main
from regrun.data import cifar
from regrun.data.cifar import PlainUnpickler, Published
from regrun.data.source import Source
from regrun.data.sources import load
from regrun.errors import ConfigError, DataError, EnvironmentFault

DRAW = np.random.default_rng(0)
ARCHIVE = MNIST_ROOT / "cifar10-jpg.tar.gz"

Pixels = NDArray[np.uint8]


def pixels(*shape: int) -> Pixels:
    return DRAW.integers(0, 256, shape, dtype=np.uint8)


def fill(root: Path, images: dict[str, Pixels], suffix: str = ".png") -> Path:
    """A folder for each class, with its images (N, H, W, C) or (N, H, W)."""
    for name, own in images.items():
        (root / name).mkdir(parents=True)
        for i, image in enumerate(own):
            Image.fromarray(image).save(root / name / f"{i}{suffix}")
    return root


def read(root: Path, **options: Any) -> Source:
    return load(s.ImageFolder(path=str(root), **({"size": 8} | options)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def test_pixels_of_the_right_size_are_the_files(root: Path) -> None:
    images = {"cat": pixels(5, 8, 8, 3), "dog": pixels(7, 8, 8, 3)}
    source = read(fill(root, images))
    expected = np.concatenate([images["cat"], images["dog"]]).transpose(0, 3, 1, 2)
    assert np.array_equal(source.inputs.numpy(), expected)
    assert source.targets.tolist() == [0] * 5 + [1] * 7
    assert source.notes[:2] == ("pets: images of 3 x 8 x 8; 10 images, and 2 for test", "2 classes: cat 5, dog 7")


def test_gray_images_have_one_channel(root: Path) -> None:
    images = {"cat": pixels(5, 8, 8), "dog": pixels(5, 8, 8)}
    source = read(fill(root, images), channels="gray")
    assert np.array_equal(source.inputs[:5, 0].numpy(), images["cat"])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".png"])
def test_other_sizes_are_resized_and_their_middle_is_kept(suffix: str, root: Path) -> None:
    """The left and the right quarter of a wide image are cut off; what is left is black and white halves."""
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 64:] = 255
    source = read(fill(root, {"a": wide[None].repeat(3, 0), "b": wide[None].repeat(3, 0)}, suffix))
    assert source.inputs.shape == (6, 3, 8, 8)
    assert source.inputs[..., :3].max() < 10
    assert source.inputs[..., 5:].min() > 245


def test_a_photograph_taken_sideways_is_put_upright(root: Path) -> None:
    fill(root, {"a": pixels(3, 8, 8, 3), "b": pixels(3, 8, 8, 3)})
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(image).save(root / "a" / "0.jpg", exif=exif, quality=95)
    (upright,) = read(root).inputs[:1]
    assert upright[:, :3].max() < 30 and upright[:, 5:].min() > 225  # white below


def test_folders_train_and_test_are_what_their_names_say(root: Path) -> None:
    train = {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)}
    fill(root / "train", train)
    fill(root / "test", {"dog": pixels(4, 8, 8, 3)})
    source = read(root)
    assert source.train.tolist() == list(range(10))
    assert source.targets[source.test].tolist() == [1] * 4


def test_a_share_for_test_is_drawn_once_where_there_is_no_test_folder(root: Path) -> None:
    fill(root / "train", {"cat": pixels(20, 8, 8, 3), "dog": pixels(10, 8, 8, 3)})
    source = read(root, test_size=0.3)
    assert torch.bincount(source.targets[source.test]).tolist() == [6, 3]
    assert torch.equal(read(root, test_size=0.3).test, source.test)


def caches(folder: Path) -> list[Path]:
    return sorted(folder.glob(".pets.*.npy"))


def test_the_second_time_images_come_from_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)}))
    (cache,) = caches(root.parent)
    assert str(cache) in first.notes[-1]
    monkeypatch.setattr(Image, "open", None)
    second = read(root)
    assert torch.equal(second.inputs, first.inputs)
    assert len(second.notes) == 2


def test_a_changed_file_or_option_is_another_cache(root: Path) -> None:
    read(fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)}))
    new = pixels(8, 8, 3)
    Image.fromarray(new).save(root / "cat" / "0.png")
    os.utime(root / "cat" / "0.png", ns=(1, 1))
    assert np.array_equal(read(root).inputs[0].numpy(), new.transpose(2, 0, 1))
    read(root, channels="gray")
    read(root, size=4)
    assert len(caches(root.parent)) == 4


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"])
def test_a_damaged_cache_is_made_anew(damage: bytes, root: Path) -> None:
    first = read(fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)}))
    (cache,) = caches(root.parent)
    whole = cache.read_bytes()
    cache.write_bytes(damage or whole[:-1])
    assert torch.equal(read(root).inputs, first.inputs)
    assert cache.read_bytes() == whole


def test_a_cache_may_be_elsewhere_or_nowhere(root: Path, tmp_path: Path) -> None:
    fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)})
    assert len(read(root, cache="none").notes) == 2
    read(root, cache=str(tmp_path / "a" / "b"))
    assert caches(tmp_path) == []
    assert len(caches(tmp_path / "a" / "b")) == 1


def test_a_folder_that_cannot_be_written_to_stops_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)})
    (root.parent / "file").touch()
    source = read(root, cache=str(root.parent / "file" / "cache"))
    assert source.notes[-1].startswith("no cache: ")
    assert "\n" not in source.notes[-1]


def spoil_file(root: Path, content: bytes) -> None:
    (root / "cat" / "0.png").write_bytes(content)


def png(image: Image.Image, root: Path) -> bytes:
    image.save(root / "made.png")
    content = (root / "made.png").read_bytes()
    (root / "made.png").unlink()
    return content


@pytest.mark.parametrize("what", ["text", "empty", "cut", "gif", "sixteen bits"])
def test_an_image_that_cannot_be_read_is_named(what: str, root: Path) -> None:
    fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)})
    whole = (root / "cat" / "1.png").read_bytes()
    Image.fromarray(pixels(8, 8)).save(root.parent / "image.gif")
    content = {
        "text": b"no image",
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "gif": (root.parent / "image.gif").read_bytes(),
        "sixteen bits": png(Image.fromarray(pixels(8, 8).astype(np.uint16) * 256), root.parent),
    }[what]
    spoil_file(root, content)
    with pytest.raises(DataError, match=str(root / "cat" / "0.png")):
        read(root)
    assert caches(root.parent) == []


def test_an_empty_class_one_class_and_an_unknown_class_are_named(root: Path) -> None:
    fill(root / "train", {"cat": pixels(5, 8, 8, 3)})
    with pytest.raises(DataError, match="at least two classes, has 1"):
        read(root)
    fill(root / "train", {"dog": pixels(5, 8, 8, 3)})
    fill(root / "test", {"cow": pixels(5, 8, 8, 3)})
    with pytest.raises(DataError, match=r"test/cow: is no class"):
        read(root)
    (root / "train" / "pig").mkdir()
    with pytest.raises(DataError, match=r"train/pig: has no JPEG or PNG"):
        read(root)


def test_what_is_no_image_is_left_out_and_said(root: Path) -> None:
    fill(root, {"cat": pixels(5, 8, 8, 3), "dog": pixels(5, 8, 8, 3)})
    (root / "cat" / "notes.txt").touch()
    (root / "README").touch()
    (root / ".hidden").mkdir()
    source = read(root)
    assert len(source.inputs) == 10
    assert source.notes[2] == "left out of pets: 2 that are no JPEG or PNG, such as README"


def test_a_command_trains_a_cnn_on_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, {"cat": pixels(10, 8, 8, 3), "dog": pixels(10, 8, 8, 3)})
    monkeypatch.chdir(root.parent)
    words = ["data=image_folder", "data.path=pets", "data.size=8", "model=cnn", "model.widths=[4]", "reg=[crop,flip]"]
    assert main([*words, "trainer.epochs=1", "trainer.progress=none"]) == 0


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("data.path=nowhere", "data.path: must be a folder"),
        ("", "data.path: must name what data=image_folder reads"),
        ("data.path=x data.size=8 reg=crop reg.crop.padding=8", "reg.crop.padding: must be less"),
        ("data.path=x data.size=4 model=cnn model.widths=[4,4,4]", "model.depth: 4 x 4 images"),
        ("data.path=x data.channels=cmyk", "data.channels: must be one of rgb, gray"),
    ],
)
def test_a_mistaken_setting_is_one_line(
    words: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data=image_folder", *words.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"regrun: {where}")
    assert list(Path().iterdir()) == []


@pytest.mark.long
@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"no {ARCHIVE}")
def test_real_photographs_are_what_pillow_reads(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        members = [m for m in archive.getmembers() if m.name.endswith(("0.jpg", "1.jpg"))]
        archive.extractall(tmp_path / "photos", members=members, filter="data")
    source = load(s.ImageFolder(path=str(tmp_path / "photos")))
    assert source.num_classes == 10
    assert source.inputs.shape[1:] == (3, 32, 32)
    files = [f for part in ("train", "test") for f in sorted((tmp_path / "photos" / part).glob("*/*.jpg"))]
    assert len(files) == len(source.inputs)
    for i in (0, 7, len(files) - 1):
        assert np.array_equal(source.inputs[i].numpy(), np.asarray(Image.open(files[i])).transpose(2, 0, 1))


# CIFAR and SVHN, in tiny files of their formats


def write_cifar10(root: Path, count: int = 12) -> tuple[Pixels, list[int]]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*cifar.LAYOUTS["cifar10"].train, *cifar.LAYOUTS["cifar10"].test]
    images, labels = pixels(len(names), count, 3072), [[i % 10 for i in range(count)] for _ in names]
    for name, own, classes in zip(names, images, labels, strict=True):
        batch = {"data": own, "labels": classes, "batch_label": "tiny", "filenames": ["x.png"] * count}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return images.reshape(-1, 3, 32, 32), [label for batch in labels for label in batch]


def test_cifar10_is_what_its_pickles_hold(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    source = load(s.Cifar(root=str(tmp_path), download=False))
    assert np.array_equal(source.inputs.numpy(), images)
    assert source.targets.tolist() == labels
    assert (len(source.train), source.test.tolist()) == (60, list(range(60, 72)))
    assert source.notes == ("cifar10: not the published files: 60 images, and 12 for test",)


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test"):
        batch = {"data": pixels(20, 3072), "fine_labels": list(range(80, 100)), "coarse_labels": [0] * 20}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    source = load(s.Cifar(kind="cifar100", root=str(tmp_path), download=False))
    assert source.num_classes == 100
    assert source.targets.tolist() == [*range(80, 100)] * 2


@pytest.mark.parametrize(("kind", "labels"), [("cifar10", 1), ("cifar100", 2)])
def test_the_binary_version_is_read_as_well(kind: str, labels: int, tmp_path: Path) -> None:
    layout = cifar.LAYOUTS[kind]
    folder = tmp_path / layout.binary
    folder.mkdir()
    rows = pixels(9, labels + 3072)
    rows[:, :labels] = np.arange(9)[:, None]
    rows[:, 0] = 3 if labels == 2 else rows[:, 0]  # the coarse label
    for name in (*layout.train, *layout.test):
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    source = load(s.Cifar(kind=kind, root=str(tmp_path), download=False))
    assert source.targets[:9].tolist() == list(range(9))
    assert np.array_equal(source.inputs[:9].flatten(1).numpy(), rows[:, labels:])
    (folder / f"{next(iter(layout.test))}.bin").write_bytes(rows.tobytes()[:-1])
    with pytest.raises(DataError, match="must be records of"):
        load(s.Cifar(kind=kind, root=str(tmp_path), download=False))


def test_a_file_as_long_as_the_published_one_must_be_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, count=10000 // 500)
    path, part = tmp_path / "cifar-10-batches-py" / "test_batch", (pixels(20, 3, 32, 32), np.zeros(20, np.int64))
    assert not cifar._check(path, part, Published(21, "0" * 32))
    with pytest.raises(DataError, match=f"{path}: MD5 must be 0000"):
        cifar._check(path, part, Published(20, "0" * 32))


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


BAD_BATCHES: dict[str, Any] = {
    "code": Bomb(),
    "code inside": {"data": Bomb(), "labels": [0]},
    "a list": [1, 2],
    "no labels": {"data": pixels(4, 3072)},
    "too few labels": {"data": pixels(4, 3072), "labels": [0] * 3},
    "small images": {"data": pixels(4, 100), "labels": [0] * 4},
    "floats": {"data": np.zeros((4, 3072)), "labels": [0] * 4},
    "a class too high": {"data": pixels(4, 3072), "labels": [10] * 4},
    "words": {"data": pixels(4, 3072), "labels": ["a"] * 4},
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_is_named_and_runs_no_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(BAD_BATCHES[name], protocol=2))
    with pytest.raises(DataError, match=str(path)):
        load(s.Cifar(root=str(tmp_path), download=False))
    assert not Path("ran").exists()


def test_a_batch_cut_short_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=str(path)):
        load(s.Cifar(root=str(tmp_path), download=False))


@pytest.mark.parametrize("global_", ["os system", "builtins eval", "numpy load", "numpy.core.multiarray fromfile"])
def test_the_unpickler_knows_nothing_but_arrays(global_: str) -> None:
    import io

    module, name = global_.split()
    with pytest.raises(pickle.UnpicklingError, match=f"asks for {module}.{name}"):
        PlainUnpickler(io.BytesIO(f"c{module}\n{name}\n.".encode())).load()


def write_svhn(root: Path, count: int = 20) -> Pixels:
    from scipy.io import savemat

    images = pixels(32, 32, 3, count)
    for name in cifar.SVHN:
        savemat(root / name, {"X": images, "y": np.arange(1, count + 1)[:, None] % 10 + 1})
    return images


def test_svhn_is_what_its_files_hold_and_10_is_the_digit_0(tmp_path: Path) -> None:
    images = write_svhn(tmp_path)
    source = load(s.Svhn(root=str(tmp_path), download=False))
    assert np.array_equal(source.inputs[:20].numpy(), images.transpose(3, 2, 0, 1))
    assert source.targets[:20].tolist() == [(i % 10 + 1) % 10 for i in range(1, 21)]
    assert len(source.test) == 20


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 cut", b"\0" * 200])
def test_a_bad_file_of_svhn_is_named(content: bytes, tmp_path: Path) -> None:
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        load(s.Svhn(root=str(tmp_path), download=False))


@pytest.mark.parametrize("data", [s.Cifar(), s.Cifar(kind="cifar100"), s.Svhn()])
def test_data_that_is_not_there_is_a_mistake_or_the_environments_fault(data: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match=f"data.root: no {data.kind} in"):
        load(replace(data, root=str(tmp_path / "data"), download=False))
    assert list(tmp_path.iterdir()) == []


def test_flipping_house_numbers_is_a_warning_and_flipping_photographs_is_none() -> None:
    warned = {
        kind: list(checks.warnings(config.jobs([f"data={kind}", "reg=flip"], multirun=False)[0].settings, 100))
        for kind in ("svhn", "cifar10", "cifar100")
    }
    assert len(warned["svhn"]) == 1 and "mirror" in warned["svhn"][0]
    assert warned["cifar10"] == warned["cifar100"] == []


def test_parts_of_a_file_may_be_memory(tmp_path: Path) -> None:
    records.replace_with(tmp_path / "x", [b"a", memoryview(b"bc")])
    assert (tmp_path / "x").read_bytes() == b"abc"
    with pytest.raises(EnvironmentFault):
        records.replace_with(tmp_path / "no" / "x", [b"a"])
