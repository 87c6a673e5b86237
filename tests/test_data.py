"""Data: every source is what its makers publish, and a run takes from it what its settings say and nothing else."""

import gzip
import importlib.util
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MNIST_ROOT, make, needs_mnist
from torch import Tensor
from torch.nn.functional import one_hot

from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.order import stratified_order
from regrun.data.sources import MNIST_SHA256, Source, load
from regrun.data.split import Split, split
from regrun.errors import DataError
from regrun.meter import Meter
from regrun.streams import generator

TABLE = s.Toy(kind="moons", samples=500)
OTHER_PURPOSES = dict.fromkeys(s.PURPOSES, 99)


def split_of(source: Source, **data: Any) -> Split:
    return split(source, s.Digits(**data), make().seeds)


def batches_of(source: Source, *runs: s.Settings) -> Batches:
    return Batches(source, [split(source, run.data, run.seeds) for run in runs], runs, torch.device("cpu"))


def scaled(batches: Batches, name: str) -> Tensor:
    """The first replica's inputs of train, val or test."""
    return torch.cat([x[0].clone() for x, _ in batches.eval_batches(name)])


def chi_square(counts: Tensor) -> float:
    """Pearson's statistic against equal counts."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def assert_stratified(labels: Tensor, of: Tensor) -> None:
    """Each class has its share of `of` within one example."""
    share = torch.bincount(of, minlength=10).double() / len(of)
    assert (torch.bincount(labels, minlength=10) - share * len(labels)).abs().max() <= 1


# Sources


def test_digits_are_scikit_learns(digits: Source) -> None:
    from sklearn.datasets import load_digits

    published = load_digits()
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert np.array_equal(digits.inputs.flatten(1).numpy(), published.data)
    assert np.array_equal(digits.targets.numpy(), published.target)


def test_the_test_set_of_digits_is_360_stratified_examples_whatever_the_seed(digits: Source) -> None:
    assert len(digits.test) == 360
    assert_stratified(digits.targets[digits.test], digits.targets)
    assert torch.equal(load(s.Digits()).test, digits.test)
    assert all(torch.equal(split(digits, s.Digits(), make(seed=seed).seeds).test, digits.test) for seed in (0, 1))


@needs_mnist
def test_mnist_is_torchvisions() -> None:
    from torchvision.datasets import MNIST

    source = load(s.Mnist(root=str(MNIST_ROOT), download=False))
    for indices, is_train in ((source.train, True), (source.test, False)):
        published = MNIST(MNIST_ROOT, train=is_train)
        assert torch.equal(source.inputs[indices].squeeze(1), published.data)
        assert torch.equal(source.targets[indices], published.targets)


@needs_mnist
@pytest.mark.parametrize("name", [n for n in MNIST_SHA256 if "labels" in n])
def test_one_changed_byte_of_mnist_is_found(name: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for other in MNIST_SHA256:
        (raw / other).symlink_to(MNIST_ROOT / "MNIST" / "raw" / other)
    content = bytearray((raw / name).read_bytes())
    content[-1] ^= 1
    (raw / name).unlink()
    (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{raw / name}: SHA-256"):
        load(s.Mnist(root=str(tmp_path), download=False))


@pytest.mark.parametrize("samples", [200, 301])
def test_moons_without_noise_are_scikit_learns(samples: int) -> None:
    from sklearn.datasets import make_moons

    source = load(s.Toy(kind="moons", samples=samples, noise=0.0))
    ours = np.column_stack([source.targets, source.inputs])
    points, labels = make_moons(samples, shuffle=False)
    theirs = np.column_stack([labels, points.astype(np.float32)])
    # Sorted by class and place along the half circle: rounding cannot change this order.
    order = [np.lexsort((np.round(rows[:, 1], 5), rows[:, 0])) for rows in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-7)


@pytest.mark.parametrize("kind", ["moons", "spirals"])
@pytest.mark.parametrize("samples", [20, 500, 501])
def test_toys_have_two_balanced_classes_and_a_stratified_fifth_for_test(kind: str, samples: int) -> None:
    source = load(s.Toy(kind=kind, samples=samples))
    counts = torch.bincount(source.targets)
    assert len(counts) == source.num_classes == 2
    assert counts.sum() == samples
    assert (counts[0] - counts[1]).abs() <= 1
    assert len(source.test) == round(samples / 5)
    assert_stratified(source.targets[source.test], source.targets)


def test_spirals_without_noise_wind_one_and_a_half_turns_around_one_another() -> None:
    source = load(s.Toy(kind="spirals", samples=1000, noise=0.0))
    points = source.inputs.double()
    radius = points.norm(dim=1)
    angle = torch.pi * (radius + source.targets)
    expected = radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-5)
    assert radius.max() == pytest.approx(3, abs=1e-6)  # 3 pi: one and a half turns


@pytest.mark.parametrize("kind", ["moons", "spirals"])
def test_the_noise_of_a_toy_has_the_standard_deviation_that_was_asked_for(kind: str) -> None:
    clean, noisy = (load(s.Toy(kind=kind, samples=20_000, noise=std)) for std in (0.0, 0.3))
    difference = (noisy.inputs - clean.inputs).double()
    n = difference.numel()
    assert abs(difference.std().item() - 0.3) < 4 * 0.3 / (2 * n) ** 0.5  # 4 standard errors of a deviation
    assert abs(difference.mean().item()) < 4 * 0.3 / n**0.5


# Files that are not what they should be


def rows_of_digits(rows: int = 1797, columns: int = 65, cell: str = "1") -> bytes:
    return "\n".join([",".join([cell] * columns)] * rows).encode()


BAD_DIGITS = {
    "no gzip file": b"not compressed",
    "cut short": gzip.compress(rows_of_digits())[:-20],
    "a row too few": gzip.compress(rows_of_digits(rows=1796)),
    "a column too few": gzip.compress(rows_of_digits(columns=64)),
    "a ragged row": gzip.compress(rows_of_digits(rows=1796) + b"\n1,2,3"),
    "no numbers": gzip.compress(rows_of_digits(cell="x")),
    "more than a byte": gzip.compress(rows_of_digits(cell="300")),
    "a label above 9": gzip.compress(rows_of_digits(cell="12")),
}


@pytest.mark.parametrize("content", BAD_DIGITS.values(), ids=BAD_DIGITS)
def test_a_corrupt_file_of_digits_is_named(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    installed = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: installed)
    with pytest.raises(DataError, match=str(path)):
        load(s.Digits())


def idx(*shape: int, magic: bytes = b"\0\0\x08") -> bytes:
    """An idx file of zeros."""
    return magic + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(int(np.prod(shape)))


BAD_IDX = {
    "empty": b"",
    "a header cut short": idx(8, 28, 28)[:7],
    "values cut short": idx(8, 28, 28)[:-1],
    "a value too many": idx(8, 28, 28) + b"\0",
    "of floats": idx(8, 28, 28, magic=b"\0\0\x0d"),
    "no idx file": b"<html>not found</html>",
    "labels for images": idx(8),
    "images of another size": idx(8, 32, 32),
    "fewer images than labels": idx(7, 28, 28),
    "no images": idx(0, 28, 28),
}


@pytest.mark.parametrize("content", BAD_IDX.values(), ids=BAD_IDX)
def test_a_corrupt_idx_file_is_named(content: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    good = [idx(8, 28, 28), idx(8), idx(8, 28, 28), idx(8)]
    data = s.Mnist(kind="kmnist", root=str(tmp_path), download=False)
    for name, published in zip(MNIST_SHA256, good, strict=True):
        (raw / name).write_bytes(published)
    assert load(data).inputs.shape == (16, 1, 28, 28)
    (raw / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=str(raw)):
        load(data)


# Splits


@pytest.mark.parametrize("seed", range(20))
def test_every_beginning_of_a_stratified_order_holds_each_class_its_share(seed: int) -> None:
    source = np.random.default_rng(seed)
    classes = source.integers(2, 11)
    labels = torch.from_numpy(source.choice(classes, source.integers(20, 400), p=source.dirichlet(np.ones(classes))))
    order = stratified_order(labels, generator(seed, "test"))
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    hits = one_hot(labels[order]).double()
    expected = torch.arange(1, len(labels) + 1).unsqueeze(1) * hits.mean(0)
    bound = 0.5 + hits.mean(0) * (hits.shape[1] - 2) / 2
    assert ((hits.cumsum(0) - expected).abs() <= bound + 1e-9).all()


def test_a_stratified_order_is_random_within_a_class() -> None:
    """The first example of either class is each of its ten about equally often."""
    labels = torch.arange(10).repeat_interleave(10)
    firsts = torch.stack([stratified_order(labels, generator(seed, "test"))[:10].sort().values for seed in range(1000)])
    counts = torch.bincount((firsts % 10).flatten(), minlength=10)
    assert chi_square(counts) < 27.9  # 99.9 % of a chi-square of 9 degrees of freedom


@pytest.mark.parametrize("data", [s.Digits(), TABLE], ids=["digits", "moons"])
@pytest.mark.parametrize("how", ["stratified", "tail"])
@pytest.mark.parametrize("val_size", [0.2, 0.333, 57.0])
def test_train_val_and_test_are_disjoint_and_cover_everything(data: s.DataSet, how: str, val_size: float) -> None:
    source = load(data)
    parts = split(source, replace(data, split=how, val_size=val_size), make().seeds)
    everything = torch.cat([parts.train, parts.val, parts.test])
    assert torch.equal(everything.sort().values, torch.arange(len(source.inputs)))


@pytest.mark.parametrize(("val_size", "count"), [(0.2, 287), (0.1, 144), (0.5, 718), (1.0, 1), (57.0, 57)])
def test_val_size_is_a_fraction_below_1_and_a_count_from_there(val_size: float, count: int, digits: Source) -> None:
    parts = split_of(digits, val_size=val_size)
    assert (len(parts.val), len(parts.train)) == (count, 1437 - count)


def test_val_is_stratified(digits: Source) -> None:
    for seed in range(5):
        parts = split(digits, s.Digits(), make(seed=seed).seeds)
        assert_stratified(digits.targets[parts.val], digits.targets[digits.train])


def test_tail_takes_the_last_examples_for_val(digits: Source) -> None:
    parts = split_of(digits, split="tail", val_size=100)
    assert torch.equal(parts.val, digits.train[-100:])
    assert torch.equal(parts.train, digits.train[:-100])


@pytest.mark.parametrize("how", ["stratified", "tail"])
def test_training_subsets_are_nested_and_stratified_and_leave_val_as_it_is(how: str, digits: Source) -> None:
    whole = split_of(digits, split=how)
    larger = set(whole.train.tolist())
    for size in (1000, 300, 50, 10):
        parts = split_of(digits, split=how, train_size=size)
        subset = set(parts.train.tolist())
        assert len(subset) == size
        assert subset < larger
        assert torch.equal(parts.val, whole.val)
        if how == "stratified":
            assert_stratified(digits.targets[parts.train], digits.targets[digits.train])
        larger = subset


def test_the_split_follows_its_own_seed_alone(digits: Source) -> None:
    first = split(digits, s.Digits(), s.Seeds(split=3))
    same = split(digits, s.Digits(), s.Seeds(**(OTHER_PURPOSES | {"split": 3})))
    other = split(digits, s.Digits(), s.Seeds(split=4))
    assert torch.equal(first.train, same.train)
    assert torch.equal(first.val, same.val)
    assert not torch.equal(first.val, other.val)


# Bootstrap


def test_a_bootstrap_draws_as_many_with_replacement_from_train_alone(digits: Source) -> None:
    plain = split(digits, s.Digits(), s.Seeds())
    shares = []
    for seed in range(50):
        own = split(digits, s.Digits(bootstrap=True), s.Seeds(bootstrap=seed))
        assert len(own.train) == len(plain.train)
        assert set(own.train.tolist()) < set(plain.train.tolist())
        assert torch.equal(own.val, plain.val)
        assert torch.equal(own.offset, plain.offset)
        shares.append(len(own.train.unique()) / len(own.train))
    n = len(plain.train)
    expected = 1 - (1 - 1 / n) ** n
    assert expected == pytest.approx(0.632, abs=1e-3)
    deviation = ((1 / torch.e - 2 / torch.e**2) / n) ** 0.5  # of one share
    assert abs(np.mean(shares) - expected) < 4 * deviation / 50**0.5
    assert np.std(shares) == pytest.approx(deviation, rel=0.5)


def test_a_bootstrap_follows_its_own_seed_alone(digits: Source) -> None:
    data = s.Digits(bootstrap=True, label_noise=0.2)
    first = split(digits, data, s.Seeds(bootstrap=3))
    same = split(digits, data, s.Seeds(**(OTHER_PURPOSES | {"bootstrap": 3, "split": None, "noise": None})))
    other = split(digits, data, s.Seeds(bootstrap=4))
    assert torch.equal(first.train, same.train)
    assert torch.equal(first.targets, other.targets)
    assert not torch.equal(first.train, other.train)


# Label noise


@pytest.mark.parametrize("where", ["train", "val"])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 1.0])
def test_label_noise_hits_its_share_of_its_own_split_and_nothing_else(where: str, share: float, digits: Source) -> None:
    option = {"train": "label_noise", "val": "label_noise_val"}[where]
    parts = split_of(digits, **{option: share})
    members = getattr(parts, where)
    assert parts.noisy[members].sum() == parts.noisy.sum() == round(share * len(members))
    changed = parts.targets != digits.targets
    assert not changed[~parts.noisy].any()
    assert changed.any() == (share > 0)
    assert torch.equal(parts.targets[digits.test], digits.targets[digits.test])


def test_noisy_labels_are_uniform_over_all_classes_whatever_the_label_was(digits: Source) -> None:
    drawn, kept = torch.zeros(10), 0
    for seed in range(20):
        parts = split(digits, s.Digits(label_noise=1.0), s.Seeds(noise=seed))
        drawn += torch.bincount(parts.targets[parts.train], minlength=10)
        kept += int((parts.targets == digits.targets)[parts.train].sum())
    n = int(drawn.sum())
    assert n == 20 * 1150
    assert chi_square(drawn) < 27.9  # 99.9 % of a chi-square of 9 degrees of freedom
    assert abs(kept / n - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5  # 4 standard errors


def test_label_noise_follows_its_own_seed_alone(digits: Source) -> None:
    data = s.Digits(label_noise=0.3, label_noise_val=0.3)
    first = split(digits, data, s.Seeds(noise=3))
    same = split(digits, data, s.Seeds(**(OTHER_PURPOSES | {"noise": 3, "split": None})))
    other = split(digits, data, s.Seeds(noise=4))
    assert torch.equal(first.targets, same.targets)
    assert torch.equal(first.noisy, same.noisy)
    assert not torch.equal(first.noisy, other.noisy)


# Scaling


@pytest.mark.parametrize("data", [s.Digits(), TABLE], ids=["digits", "moons"])
def test_normalize_none_leaves_inputs_as_they_are(data: s.DataSet) -> None:
    source, run = load(data), make(data=replace(data, normalize="none"))
    batches = batches_of(source, run)
    assert torch.equal(scaled(batches, "val"), source.inputs[batches.indices["val"][0]].flatten(1).float())


def test_normalize_unit_puts_pixels_between_0_and_1(digits: Source) -> None:
    batches = batches_of(digits, make(data=s.Digits(normalize="unit")))
    for name in ("train", "val", "test"):
        x = scaled(batches, name)
        assert (x.min(), x.max()) == (0, 1)
        assert torch.equal(x * 16, digits.inputs[batches.indices[name][0]].flatten(1).float())


def test_normalize_unit_puts_the_columns_of_a_table_between_0_and_1_on_train() -> None:
    x = scaled(batches_of(load(TABLE), make(data=replace(TABLE, normalize="unit"))), "train")
    assert x.amin(0).tolist() == [0, 0]
    assert x.amax(0).tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("data", [s.Digits(), TABLE], ids=["digits", "moons"])
def test_normalize_standardize_gives_train_mean_0_and_deviation_1(data: s.DataSet) -> None:
    """Images have one mean and deviation for all pixels of a channel, tables one for each column."""
    source = load(data)
    x = scaled(batches_of(source, make(data=replace(data, normalize="standardize"))), "train").double()
    x = x.view(-1, 1) if source.top else x
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0, correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("normalize", ["unit", "standardize"])
@pytest.mark.parametrize("data", [s.Digits(), TABLE], ids=["digits", "moons"])
def test_scaling_knows_train_alone(data: s.DataSet, normalize: str) -> None:
    source, data = load(data), replace(data, normalize=normalize)
    own = split(source, data, make().seeds)

    def scaling_after_changing(part: Tensor) -> tuple[Tensor, Tensor]:
        inputs = source.inputs.clone()
        inputs[part] = 100 if source.top is None else int(source.top)
        changed = split(replace(source, inputs=inputs), data, make().seeds)
        return changed.offset, changed.scale

    for part in (own.val, own.test):
        offset, scale = scaling_after_changing(part)
        assert torch.equal(offset, own.offset)
        assert torch.equal(scale, own.scale)
    _, scale = scaling_after_changing(own.train[:50])
    assert torch.equal(scale, own.scale) == (normalize == "unit" and source.top is not None)  # pixels: a fixed top


@pytest.mark.parametrize("normalize", ["unit", "standardize"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
def test_a_constant_column_becomes_zeros(constant: float, normalize: str) -> None:
    table = load(TABLE)
    inputs = table.inputs.clone()
    inputs[:, 0] = constant
    batches = batches_of(replace(table, inputs=inputs), make(data=replace(TABLE, normalize=normalize)))
    for name in ("train", "val", "test"):
        x = scaled(batches, name)
        assert x.isfinite().all()
        assert not x[:, 0].any()
        assert x[:, 1].any()


@pytest.mark.parametrize("normalize", ["unit", "standardize"])
def test_images_of_one_grey_stay_finite(normalize: str, digits: Source) -> None:
    grey = replace(digits, inputs=torch.full_like(digits.inputs, 7))
    assert scaled(batches_of(grey, make(data=s.Digits(normalize=normalize))), "train").isfinite().all()


# Batches


def test_an_epoch_visits_every_training_example_of_each_replica_once(digits: Source) -> None:
    batches = batches_of(digits, *(make(seed=seed) for seed in range(3)))
    for epoch in (1, 2):
        assert torch.equal(batches.order(epoch).sort().values, batches.indices["train"])


def test_the_order_is_a_function_of_its_own_seed_and_the_epoch(digits: Source) -> None:
    runs = [
        make(seeds=s.Seeds(order=3, split=0)),
        make(seeds=s.Seeds(**(OTHER_PURPOSES | {"order": 3, "split": 0})), trainer={"epochs": 9}),
        make(seeds=s.Seeds(order=4, split=0)),
    ]
    together = batches_of(digits, *runs)
    first, same, other = together.order(1)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, together.order(2)[0])
    alone = batches_of(digits, runs[2])
    alone.order(7)
    assert torch.equal(alone.order(1)[0], other)  # whatever was asked for before, and in whatever company


AUGMENTED = s.Reg(
    noise=s.Noise(std=0.3),
    crop=s.Crop(padding=2),
    flip=s.Flip(rate=0.5),
    rotation=s.Rotation(20),
    randaugment=s.RandAugment(2),
    trivialaugment=s.TrivialAugment(True),
    jitter=s.Jitter(0.3, 0.3),
    cutout=s.Cutout(3),
    erasing=s.Erasing(0.5),
    mixup=s.Mixup(0.4),
    cutmix=s.Cutmix(1.0),
)


def test_only_training_batches_are_augmented(digits: Source) -> None:
    plain, augmented = (batches_of(digits, make(reg=reg)) for reg in (s.Reg(), AUGMENTED))
    for name in ("train", "val", "test"):
        assert torch.equal(scaled(plain, name), scaled(augmented, name))
    indices = plain.order(1)[:, :64]
    x, y = (batches.train_batch(indices, batches.augmenters(1))[0] for batches in (plain, augmented))
    assert not torch.equal(x, y)


@pytest.mark.parametrize("normalize", ["none", "unit", "standardize"])
def test_an_unaugmented_batch_is_pixels_minus_offset_times_scale(normalize: str, digits: Source) -> None:
    batches = batches_of(digits, *(make(seed=seed, data=s.Digits(normalize=normalize)) for seed in (0, 1)))
    indices = batches.order(1)[:, 64:128]
    meter = Meter()
    x, targets = batches.train_batch(indices, batches.augmenters(1), meter)
    for r in range(2):
        pixels = digits.inputs[indices[r]].flatten(1)
        assert torch.equal(x[r], (pixels - batches.offset[r]) * batches.scale[r])
        assert torch.equal(targets[r], digits.targets[indices[r]])
    assert not meter.sums


def test_batches_hold_the_noisy_labels_of_their_own_replica(digits: Source) -> None:
    batches = batches_of(digits, make(), make(data=s.Digits(label_noise=1.0)))
    indices = batches.order(1)
    _, targets = batches.train_batch(indices, batches.augmenters(1))
    assert torch.equal(targets[0], digits.targets[indices[0]])
    assert torch.equal(targets[1], batches.splits[1].targets[indices[1]])
    assert not torch.equal(targets[1], digits.targets[indices[1]])
