"""Arrays in .npz files and scikit-learn's tables: what is in them is what is trained on."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import train_rows

from regrun import config
from regrun import settings as s
from regrun.cli import main
from regrun.data.source import Source
from regrun.data.sources import load
from regrun.errors import ConfigError, DataError

DRAW = np.random.default_rng(0)
TABLE = {"x": DRAW.normal(size=(50, 4)), "y": np.arange(50) % 3}
IMAGES = DRAW.integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)


def saved(tmp_path: Path, arrays: dict[str, Any], **options: Any) -> Source:
    np.savez(tmp_path / "data.npz", **arrays)
    return load(s.Npz(path=str(tmp_path / "data.npz"), **options))


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "iris", "digits", "diabetes", "linnerud"])
def test_a_table_is_scikit_learns(name: str) -> None:
    from sklearn import datasets

    source, bunch = load(s.Sklearn(name=name)), getattr(datasets, f"load_{name}")()
    assert np.array_equal(source.inputs.numpy(), bunch.data.astype(np.float32))
    assert source.is_regression == (name in ("diabetes", "linnerud"))
    theirs = bunch.target.reshape(len(bunch.target), -1)
    if source.is_regression:
        assert np.array_equal(source.targets.numpy(), theirs)
    else:
        assert source.num_classes == len(bunch.target_names)
        names = np.array([str(n) for n in bunch.target_names])
        assert np.array_equal(np.sort(names)[source.targets], names[bunch.target])
    assert len(source.test) == round(0.2 * len(bunch.data))


@pytest.mark.parametrize(("name", "least"), [("wine", 0.9), ("breast_cancer", 0.9), ("iris", 0.85)])
def test_a_small_network_learns_the_classes(name: str, least: float) -> None:
    words = ["data=sklearn", f"data.name={name}", "model=shallow", "trainer.epochs=50"]
    run = config.jobs(words, multirun=False)[0].settings
    _, (end,) = train_rows([run], load(run.data))
    assert (end.outcome.test_accuracy_best or 0) > least


def test_diabetes_is_a_regression_that_beats_its_mean() -> None:
    words = ["data=sklearn", "data.name=diabetes", "model=linear", "trainer.epochs=100", "optimizer.lr=0.01"]
    run = config.jobs(words, multirun=False)[0].settings
    _, (end,) = train_rows([run], load(run.data))
    assert 0.3 < (end.outcome.test_r2_best or 0) < 0.7  # least squares: about 0.45


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "uint8", "bool"])
def test_a_table_of_any_numbers_becomes_float32(dtype: str, tmp_path: Path) -> None:
    x = (10 * TABLE["x"]).astype(dtype)
    assert torch.equal(saved(tmp_path, TABLE | {"x": x}).inputs, torch.from_numpy(x.astype(np.float32)))


@pytest.mark.parametrize(
    ("layout", "x"),
    [("hwc", IMAGES), ("chw", IMAGES.transpose(0, 3, 1, 2)), ("hw", IMAGES[..., 0])],
)
def test_images_of_each_layout_are_channels_first(layout: str, x: Any, tmp_path: Path) -> None:
    source = saved(tmp_path, {"x": x, "y": TABLE["y"]}, layout=layout)
    expected = IMAGES.transpose(0, 3, 1, 2)[:, : 1 if layout == "hw" else 3]
    assert source.inputs.dtype == torch.uint8 and source.top == 255
    assert np.array_equal(source.inputs.numpy(), expected)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.arange(50) % 3, 3),
        (np.array(["a", "b"] * 25), 2),
        (np.array([True, False] * 25), 2),
        ((np.arange(50) % 3)[:, None], 3),
        (np.arange(50) / 2, 0),
        (DRAW.normal(size=(50, 3)), 0),
    ],
)
def test_float_targets_are_a_regression_and_all_others_classes(y: Any, classes: int, tmp_path: Path) -> None:
    source = saved(tmp_path, TABLE | {"y": y})
    assert source.num_classes == classes
    assert source.is_regression == (classes == 0)


def test_the_task_may_be_said(tmp_path: Path) -> None:
    assert saved(tmp_path, TABLE, task="regression").is_regression
    assert saved(tmp_path, TABLE | {"y": TABLE["y"] / 2}, task="classification").num_classes == 3


def test_train_and_test_may_be_given(tmp_path: Path) -> None:
    arrays = {"x_train": TABLE["x"], "y_train": TABLE["y"], "x_test": TABLE["x"][:7], "y_test": TABLE["y"][:7]}
    source = saved(tmp_path, arrays)
    assert source.train.tolist() == list(range(50))
    assert source.test.tolist() == list(range(50, 57))
    assert torch.equal(source.inputs[50:], source.inputs[:7])


BAD: dict[str, dict[str, Any]] = {
    "other names": {"a": TABLE["x"], "b": TABLE["y"]},
    "no y": {"x": TABLE["x"]},
    "lengths": {"x": TABLE["x"], "y": TABLE["y"][:-1]},
    "a number alone": {"x": np.array(1.0), "y": np.array(1)},
    "empty": {"x": TABLE["x"][:0], "y": TABLE["y"][:0]},
    "missing": {"x": np.where(TABLE["x"] > 2, np.nan, TABLE["x"]), "y": TABLE["y"]},
    "infinite": {"x": TABLE["x"] * 1e39, "y": TABLE["y"]},
    "words": {"x": np.full((50, 4), "a"), "y": TABLE["y"]},
    "complex": {"x": TABLE["x"] * 1j, "y": TABLE["y"]},
    "missing targets": {"x": TABLE["x"], "y": np.full(50, np.nan)},
    "one class": {"x": TABLE["x"], "y": np.zeros(50, int)},
    "dates": {"x": TABLE["x"], "y": np.full(50, np.datetime64("2020-01-01"))},
    "objects": {"x": np.array([object()] * 50), "y": TABLE["y"]},
    "two shapes": {"x_train": TABLE["x"], "y_train": TABLE["y"], "x_test": TABLE["x"][:, :2], "y_test": TABLE["y"]},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.npz: ") as caught:
        saved(tmp_path, BAD[name])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut", b"no archive", pickle.dumps([1, 2])])
def test_a_file_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: "):
        load(s.Npz(path=str(tmp_path / "data.npz")))


def test_one_array_is_not_enough(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, TABLE["x"])
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="one array without a name"):
        load(s.Npz(path=str(tmp_path / "data.npz")))


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no \.npz file of plain arrays"):
        saved(tmp_path, {"x": np.array([Bomb()] * 50, dtype=object), "y": TABLE["y"]})
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("x", "layout", "said"),
    [
        (IMAGES, "table", "use hwc or chw"),
        (IMAGES[..., 0], "hwc", "use hw"),
        (IMAGES, "chw", "data.layout: chw makes 6 channels"),
        (TABLE["x"], "hw", "use table"),
        (TABLE["x"][:, 0], "table", "reshape x"),
    ],
)
def test_a_layout_that_does_not_fit_is_answered_with_one_that_does(
    x: Any, layout: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        saved(tmp_path, {"x": x, "y": TABLE["y"]}, layout=layout)


@pytest.mark.parametrize(
    ("layout", "words", "where"),
    [
        ("hw", "model=cnn model.widths=null model.depth=4", "model.depth: 6 x 5 images"),
        ("hw", "reg=crop reg.crop.padding=5", "reg.crop.padding"),
        ("table", "model=cnn", "model: a cnn model needs images"),
        ("table", "reg=flip", "reg.flip: needs images"),
    ],
)
def test_what_the_shape_rules_out_is_refused(
    layout: str, words: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=IMAGES[..., 0] if layout == "hw" else TABLE["x"], y=TABLE["y"])
    assert main(["data=npz", "data.path=data.npz", f"data.layout={layout}", *words.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"regrun: {where}")
    assert [p.name for p in Path().iterdir()] == ["data.npz"]


def test_a_cnn_trains_on_images_with_colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=IMAGES, y=TABLE["y"])
    reg = ["reg=[crop,flip,jitter,randaugment,mixup,cutmix]", "reg.crop.padding=1", "reg.jitter.saturation=0.5"]
    words = ["data=npz", "data.path=data.npz", "data.layout=hwc", "model=cnn", "model.widths=[4]", *reg]
    assert main([*words, "trainer.epochs=1", "trainer.progress=none"]) == 0
