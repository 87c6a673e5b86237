"""The group `data`: which examples, how they are split and scaled."""

from dataclasses import dataclass

from regrun.settings.fields import choice, number, plain


@dataclass(frozen=True, kw_only=True)
class Data:
    """What all data sets share: how val and a training subset are taken, and how inputs are scaled.

    `bootstrap` trains on as many examples drawn from train with replacement (bagging, Breiman 1996). `stream` leaves
    inputs in the host's memory and sends batches to the device (auto: where a GPU has no room for them), gathered by
    `workers` processes (0: by this one).
    """

    val_size: float = number(0.2, "(0, inf)")
    split: str = choice("stratified", ("stratified", "tail"))
    train_size: int | None = number(None, "[1, inf)")
    bootstrap: bool = plain(False, stackable=True)
    label_noise: float = number(0.0, "[0, 1]", stackable=True)
    label_noise_val: float = number(0.0, "[0, 1]", stackable=True)
    normalize: str = choice("unit", ("none", "unit", "standardize"))
    drop_last: bool = plain(False)
    stream: str = choice("auto", ("auto", "always", "never"))
    workers: int = number(0, "[0, 1024]")


@dataclass(frozen=True, kw_only=True)
class Digits(Data):
    """scikit-learn's digits: 1,797 scans of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998); test is 360 of them."""

    kind: str = plain("digits")


@dataclass(frozen=True, kw_only=True)
class Mnist(Data):
    """70,000 images of 28 x 28 pixels in torchvision's files, `kind: mnist`, `fashion_mnist` or `kmnist`."""

    kind: str = plain("mnist")
    root: str = plain("data")
    download: bool = plain(True)


@dataclass(frozen=True, kw_only=True)
class Toy(Data):
    """Points in the plane, `kind: moons` or `spirals`: the same points for every seed."""

    kind: str = plain("moons")
    samples: int = number(1000, "[20, 10000000]")
    noise: float = number(0.2, "[0, inf)")


@dataclass(frozen=True, kw_only=True)
class Sine(Data):
    """y = sin(2 pi x) + noise, x uniform in [0, 1): regression in one dimension, the same points for every seed."""

    kind: str = plain("sine")
    samples: int = number(1000, "[20, 10000000]")
    noise: float = number(0.1, "[0, inf)")


@dataclass(frozen=True, kw_only=True)
class Csv(Data):
    """A table in a CSV file: `target` is the column to predict, or `targets` for a regression of several.

    `test_path` is a file with the test set; without it a share of `test_size` is drawn once and for all. `task: auto`
    takes words and up to 20 whole numbers for classes. `columns` are the inputs (null: all others), `categories` those
    that are categories though they look like numbers, `missing` words that mean no value (beside "", NA, NaN ...).
    """

    kind: str = plain("csv")
    path: str = plain("")
    target: str = plain("")
    targets: list[str] | None = plain(None)
    test_path: str | None = plain(None)
    test_size: float = number(0.2, "(0, 1)")
    task: str = choice("auto", ("auto", "classification", "regression"))
    columns: list[str] | None = plain(None)
    categories: list[str] | None = plain(None)
    missing: list[str] | None = plain(None)


@dataclass(frozen=True, kw_only=True)
class Sklearn(Data):
    """A table that scikit-learn brings, by `name`; diabetes and linnerud are regressions. Test is drawn once."""

    kind: str = plain("sklearn")
    name: str = choice("wine", ("wine", "breast_cancer", "iris", "digits", "diabetes", "linnerud"))
    test_size: float = number(0.2, "(0, 1)")


@dataclass(frozen=True, kw_only=True)
class Npz(Data):
    """Arrays in a file of numpy.savez: x and y, or x_train, y_train, x_test and y_test; float y is a regression.

    `layout: table` is x (N, D); images are uint8, `hw` (N, H, W), `hwc` (N, H, W, C) or `chw` (N, C, H, W).
    """

    kind: str = plain("npz")
    path: str = plain("")
    layout: str = choice("table", ("table", "hw", "hwc", "chw"))
    task: str = choice("auto", ("auto", "classification", "regression"))
    test_size: float = number(0.2, "(0, 1)")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Data):
    """JPEG and PNG files in `path`, one folder for each class, or in its folders train and test.

    Each image's shorter side is resized to `size` and its middle cut out, once: the result is kept in `cache`,
    a folder, beside the data (auto), or not (none).
    """

    kind: str = plain("image_folder")
    path: str = plain("")
    size: int = number(32, "[2, 1024]")
    channels: str = choice("rgb", ("rgb", "gray"))
    test_size: float = number(0.2, "(0, 1)")
    cache: str = plain("auto")


@dataclass(frozen=True, kw_only=True)
class Cifar(Data):
    """60,000 images of 32 x 32 pixels in color, `kind: cifar10` or `cifar100`: torchvision's files or binary ones."""

    kind: str = plain("cifar10")
    root: str = plain("data")
    download: bool = plain(True)


@dataclass(frozen=True, kw_only=True)
class Svhn(Data):
    """99,289 house numbers of 32 x 32 pixels in color, in torchvision's files."""

    kind: str = plain("svhn")
    root: str = plain("data")
    download: bool = plain(True)


DataSet = Digits | Mnist | Toy | Sine | Csv | Sklearn | Npz | ImageFolder | Cifar | Svhn
DATA: dict[str, type] = {
    "digits": Digits,
    "mnist": Mnist,
    "fashion_mnist": Mnist,
    "kmnist": Mnist,
    "moons": Toy,
    "spirals": Toy,
    "sine": Sine,
    "csv": Csv,
    "sklearn": Sklearn,
    "npz": Npz,
    "image_folder": ImageFolder,
    "cifar10": Cifar,
    "cifar100": Cifar,
    "svhn": Svhn,
}


def example_shape(data: DataSet) -> tuple[int, ...] | None:
    """What is known of an example before loading: (C, H, W), or () for a table; None where only the file knows."""
    match data:
        case Digits():
            return (1, 8, 8)
        case Mnist():
            return (1, 28, 28)
        case Cifar() | Svhn():
            return (3, 32, 32)
        case ImageFolder():
            return (3 if data.channels == "rgb" else 1, data.size, data.size)
        case Npz():
            return () if data.layout == "table" else None
    return ()
