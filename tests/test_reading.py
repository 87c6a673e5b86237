"""What a run leaves can be read back: its tables by pandas, its network as an ordinary torch module."""

import dataclasses
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from pandas.api.types import is_float_dtype, is_integer_dtype, is_string_dtype
from torch import nn

import regrun
from regrun import rows, settings
from regrun.cli import main
from regrun.data.sources import Source
from regrun.errors import DataError
from regrun.records import cell

TIMES = ["seconds", "examples_per_second", "peak_memory_bytes"]
MODELS = {
    "mlp": ["model=shallow", "model.width=32"],
    "residual": ["model=residual", "model.depth=2", "model.width=24"],
    "cnn": ["model=cnn", "model.widths=[6,10]"],
    "resnet": ["model=resnet", "model.depth=8", "model.width=8"],
    "moe": ["model=moe"],
}
BUSY = ["reg=[dropout,batchnorm,noise,weight_decay]", "data.label_noise=0.1", "trainer.save=both"]


def train(folder: Path, *overrides: str) -> Path:
    """The smoke experiment, but for `overrides`, in `folder`."""
    quiet = ["trainer.device=cpu", "trainer.progress=none"]
    assert main(["experiment=smoke", *quiet, f"hydra.run.dir={folder}", *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that uses every stream of random numbers and keeps both weights, the best of an early epoch."""
    return train(tmp_path_factory.mktemp("busy") / "run", *BUSY)


def accuracy(network: nn.Module, digits: Source) -> float:
    """On the test set, from the scans as they are in the file."""
    images = digits.inputs[digits.test]
    assert (images.dtype, images.shape) == (torch.uint8, (360, 1, 8, 8))
    with torch.no_grad():
        return (network(images).argmax(1) == digits.targets[digits.test]).double().mean().item()


# Tables


def test_the_tables_have_the_documented_columns(plain: Path, busy: Path) -> None:
    tables = regrun.read(busy)
    assert list(tables.curves) == rows.columns(rows.CurveRow)
    assert list(tables.epochs) == rows.columns(rows.EpochRow)
    assert list(tables.layers) == rows.columns(rows.LayerRow)
    assert tables.label_noise is not None
    assert list(tables.label_noise) == rows.columns(rows.LabelRow)
    assert regrun.read(plain).label_noise is None
    outcome = [name for name in rows.columns(rows.Outcome) if name not in ("run_id", "status", "acted")]
    acted = [f"acted.{name}" for name in rows.ACTED]
    documented = ["run_id", "status", *settings.columns(), *outcome, *acted, *rows.columns(rows.Provenance)]
    assert list(tables.summary) == documented


def test_the_tables_have_a_row_for_each_observation(busy: Path) -> None:
    tables = regrun.read(busy)
    assert len(tables.summary) == 1
    assert tables.epochs["epoch"].tolist() == [1, 2, 3]
    assert tables.curves.groupby("epoch")["split"].agg(list).tolist() == [["train", "val"]] * 4
    assert tables.layers.groupby("epoch")["layer"].agg(list).tolist() == [["hidden1", "output"]] * 4
    assert tables.label_noise is not None
    assert len(tables.label_noise) == 115  # a tenth of 1,150


def test_the_run_id_joins_the_tables(busy: Path) -> None:
    tables = regrun.read(busy)
    for table in (tables.curves, tables.epochs, tables.layers, tables.label_noise):
        assert table is not None
        joined = table.merge(tables.summary[["run_id", "seed"]], on="run_id", validate="many_to_one")
        assert joined["seed"].tolist() == [0] * len(table)


@pytest.mark.parametrize("run_id", ["0012345678", "12345e6789", "1234567890"])
def test_a_run_id_stays_a_word_where_it_looks_like_a_number(run_id: str, busy: Path, tmp_path: Path) -> None:
    own = regrun.read(busy).summary["run_id"].item()
    shutil.copytree(busy, tmp_path / "run")
    for path in (tmp_path / "run").glob("*.csv"):
        path.write_text(path.read_text().replace(own, run_id))
    tables = regrun.read(tmp_path / "run")
    for table in (tables.curves, tables.epochs, tables.layers, tables.summary, tables.label_noise):
        assert table is not None
        assert set(table["run_id"]) == {run_id}


def test_numbers_are_read_as_numbers(busy: Path) -> None:
    check = {int: is_integer_dtype, float: is_float_dtype, float | None: is_float_dtype, str: is_string_dtype}
    tables = regrun.read(busy)
    for name, row in (("curves", rows.CurveRow), ("epochs", rows.EpochRow), ("layers", rows.LayerRow)):
        for field in dataclasses.fields(row):
            column = getattr(tables, name)[field.name]
            is_off = field.type == float | None and set(column) == {"none"}
            assert check[field.type](column.dtype) or is_off, f"{name}.{field.name}: {column.dtype}"
    for field in dataclasses.fields(rows.Outcome):
        if field.name != "acted" and field.type not in (str, str | None):
            column = tables.summary[field.name]
            assert pd.api.types.is_numeric_dtype(column) or column.item() == "none", field.name


def test_only_the_figure_that_does_not_apply_is_blank(busy: Path) -> None:
    for name in dataclasses.asdict(regrun.read(busy)):
        table = getattr(regrun.read(busy), name)
        assert table.columns[table.isna().any()].tolist() == (["r2"] if name == "curves" else [])


def test_the_summary_says_every_setting_and_none_stays_a_word(busy: Path) -> None:
    from regrun.config import from_yaml

    row = pd.read_csv(busy / "summary.csv", dtype=str).iloc[0]
    flat = settings.flatten(from_yaml((busy / "settings.yaml").read_text()))
    assert {name: row[name] for name in settings.columns()} == {
        name: cell(flat.get(name)) for name in settings.columns()
    }
    assert regrun.read(busy).summary["trainer.grad_clip"].item() == "none"


def test_the_summary_agrees_with_the_curves(busy: Path) -> None:
    tables = regrun.read(busy)
    summary = tables.summary.iloc[0]
    curves = tables.curves.set_index(["epoch", "split"])
    for when in ("best", "last"):
        for part in ("train", "val"):
            for figure in ("loss", "accuracy"):
                assert summary[f"{part}_{figure}_{when}"] == curves.loc[(summary[f"{when}_epoch"], part), figure]


def test_two_models_have_the_same_columns(plain: Path, tmp_path: Path) -> None:
    other = train(
        tmp_path / "run",
        *MODELS["cnn"],
        "optimizer=momentum",
        "scheduler=cosine",
        "reg=[layernorm,l1]",
        "trainer.epochs=0",
    )
    headers = [(folder / "summary.csv").read_text().splitlines()[0] for folder in (plain, other)]
    assert headers[0] == headers[1]


def test_a_sweeps_folder_gives_the_tables_of_all_its_runs(tmp_path: Path) -> None:
    quiet = ["trainer.device=cpu", "trainer.progress=none", "trainer.epochs=1"]
    sweep = [f"hydra.sweep.dir={tmp_path}", "data.label_noise=0,0.1"]
    assert main(["-m", "experiment=smoke", *quiet, *sweep]) == 0
    tables = regrun.read(tmp_path)
    assert tables.summary["data.label_noise"].tolist() == [0, 0.1]
    assert tables.curves["run_id"].value_counts().to_dict() == dict.fromkeys(tables.summary["run_id"], 4)
    assert tables.label_noise is not None
    assert set(tables.label_noise["run_id"]) == {tables.summary["run_id"][1]}


def test_a_run_of_no_epochs_can_be_read(tmp_path: Path, digits: Source) -> None:
    folder = train(tmp_path / "run", "trainer.epochs=0")
    tables = regrun.read(folder)
    assert list(tables.epochs) == rows.columns(rows.EpochRow)
    assert tables.epochs.empty
    assert tables.curves["epoch"].tolist() == [0, 0]
    assert accuracy(regrun.load(folder), digits) == tables.summary["test_accuracy_best"].item()


# Pictures


def test_the_curves_are_drawn_at_a_sensible_size(busy: Path) -> None:
    assert (busy / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(busy / "curves.png")
    height, width = pixels.shape[:2]
    assert 800 <= width <= 2000
    assert 300 <= height <= 1200
    colours = {tuple(c) for c in (pixels[..., :3] * 255).round().astype(int).reshape(-1, 3).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # a line for train and one for val


# Networks


@pytest.mark.parametrize("norm", ["none", "batchnorm", "layernorm"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_loaded_network_predicts_test_exactly_as_the_summary_says(
    model: list[str], norm: str, tmp_path: Path, digits: Source
) -> None:
    folder = train(tmp_path / "run", *model, f"reg=[{norm},dropout]", "data.normalize=standardize", "trainer.epochs=1")
    network = regrun.load(folder)
    assert isinstance(network, nn.Module)
    assert not any(module.training for module in network.modules())
    assert accuracy(network, digits) == regrun.read(folder).summary["test_accuracy_best"].item()


def test_the_last_weights_are_those_of_the_last_epoch(tmp_path: Path, digits: Source) -> None:
    """Where all labels of val are random, training makes its loss worse: the first weights are the best."""
    folder = train(tmp_path / "run", "data.label_noise_val=1", "trainer.save=both")
    summary = regrun.read(folder).summary.iloc[0]
    assert summary["best_epoch"] < summary["last_epoch"]
    figures = {weights: accuracy(regrun.load(folder, weights=weights), digits) for weights in ("best", "last")}
    assert figures == {weights: summary[f"test_accuracy_{weights}"] for weights in ("best", "last")}
    assert figures["best"] != figures["last"]


def test_a_network_can_be_loaded_by_a_path_in_words(busy: Path) -> None:
    weights = [regrun.load(path).state_dict() for path in (busy, str(busy))]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


def test_weights_are_tensors_that_load_without_running_code(busy: Path) -> None:
    for name in ("best.pt", "last.pt"):
        tensors = torch.load(busy / name, weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in tensors.values())


@pytest.mark.parametrize("save", ["none", "last"])
def test_missing_weights_are_named_in_one_line(save: str, tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "trainer.epochs=0", f"trainer.save={save}")
    with pytest.raises(DataError, match=r"best\.pt: .*trainer\.save") as caught:
        regrun.load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_named_in_one_line(busy: Path, tmp_path: Path) -> None:
    (tmp_path / "weights alone").mkdir()
    shutil.copy(busy / "best.pt", tmp_path / "weights alone")
    for use in (regrun.read, regrun.load):
        for folder in (tmp_path, tmp_path / "missing", tmp_path / "weights alone"):
            with pytest.raises(DataError, match=str(folder)) as caught:
                use(folder)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["best.pt", "settings.yaml", "summary.csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff: ["], ids=["empty", "rubbish"])
def test_a_corrupt_file_of_a_run_is_named_in_one_line(name: str, content: bytes, busy: Path, tmp_path: Path) -> None:
    shutil.copytree(busy, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        (regrun.read if name.endswith(".csv") else regrun.load)(tmp_path / "run")
    assert "\n" not in str(caught.value)


# The same command twice


def timeless(path: Path) -> list[list[str]]:
    """A table's cells as they are written, but for the columns that a clock fills."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [list(table), *table.drop(columns=TIMES, errors="ignore").values.tolist()]


def test_the_same_command_leaves_the_same_bytes(busy: Path, tmp_path: Path) -> None:
    again = train(tmp_path / "run", *BUSY)
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in busy.iterdir())
    for name in ("curves.csv", "layers.csv", "label_noise.csv", "settings.yaml", "curves.png"):
        assert (again / name).read_bytes() == (busy / name).read_bytes(), name
    for name in ("epochs.csv", "summary.csv"):
        assert timeless(again / name) == timeless(busy / name), name
    for name in ("best.pt", "last.pt"):
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (again, busy))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_another_seed_leaves_other_bytes(plain: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "run", "seed=1")
    assert (other / "curves.csv").read_bytes() != (plain / "curves.csv").read_bytes()


def test_a_run_that_memory_is_refused_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Layers of a million units ask for terabytes."""
    folder = tmp_path / "run"
    assert main(["model.width=1000000", "model.depth=3", f"hydra.run.dir={folder}"]) == 1
    (row,) = regrun.read(folder).summary.itertuples()
    assert row.status == "oom" and "memory" in row.error
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err and "status: oom" in captured.out
    assert "Traceback" in (folder / "run.log").read_text(encoding="utf-8")
