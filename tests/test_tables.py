"""CSV files: what each column becomes is told, files that are not right are named with the place."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import train_rows

from regrun import config, display
from regrun import settings as s
from regrun.cli import main
from regrun.data import csv_file
from regrun.data.source import Source
from regrun.data.sources import key, load
from regrun.data.split import split
from regrun.errors import ConfigError, DataError

ROWS = 40


def table(rows: int = ROWS, **columns: list[Any]) -> list[list[str]]:
    """Names and rows: a number, a category, a target of two classes, and whatever else."""
    basic: dict[str, list[Any]] = {
        "size": [f"{0.5 * (i % 7)}" for i in range(rows)],
        "color": [("red", "green", "blue")[i % 3] for i in range(rows)],
    }
    all_columns = basic | columns | {"kind": columns.get("kind", [("cat", "dog")[i % 2] for i in range(rows)])}
    return [list(all_columns), *(list(map(str, row)) for row in zip(*all_columns.values(), strict=True))]


def write(path: Path, lines: list[list[str]], *, separator: str = ",", end: str = "\n") -> Path:
    path.write_bytes("".join(separator.join(line) + end for line in lines).encode())
    return path


def read(path: Path, target: str = "kind", **options: Any) -> Source:
    return load(s.Csv(path=str(path), target=target, **options))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pets.csv"


def test_numbers_stay_and_each_level_of_a_category_gets_a_column(path: Path) -> None:
    source = read(write(path, table()))
    size = torch.tensor([0.5 * (i % 7) for i in range(ROWS)])
    assert torch.equal(source.inputs[:, 0], size)
    colors = {tuple(row) for row in source.inputs[:, 1:].tolist()}
    assert colors == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert source.targets.tolist() == [i % 2 for i in range(ROWS)]
    assert source.num_classes == 2


def test_what_every_column_became_is_said(path: Path) -> None:
    constant, row, text = [7] * ROWS, list(range(ROWS)), [f"{i} words" for i in range(ROWS)]
    many = [f"word {i}" for i in range(60)] * 2
    gap = ["" if i % 4 == 0 else f"{i % 5}.5" for i in range(ROWS)]
    notes = read(write(path, table(constant=constant, row=row, gap=gap, text=text))).notes
    assert notes == (
        "pets.csv: separated by commas; 32 rows, and 8 for test",
        "target kind: 2 classes: cat 20, dog 20",
        "2 numbers: size, gap",
        "2 categories, a 0/1 column for each level: color 3, text 32",
        "missing numbers, filled with train's median beside a 0/1 column: gap 10",
        "left out: constant (always 7), row (numbers the rows)",
    )
    ids = [f"id {i}" for i in range(120)]
    notes = read(write(path, table(120, text=ids, many=many))).notes
    assert notes[-1].startswith("left out: text (an id or free text: 96 levels in 96 rows), many (an id or free text")
    chosen = read(write(path, table(120, row=list(range(120)), text=ids)), columns=["row", "text"])
    assert chosen.inputs.shape == (120, 1 + 50)
    assert "rarer" in chosen.notes[-1]


def test_a_level_that_is_missing_is_a_level(path: Path) -> None:
    color = ["" if i % 4 == 0 else "red" for i in range(ROWS)]
    source = read(write(path, table(color=color)))
    assert source.inputs[:, 1:].tolist() == [[i % 4 != 0, i % 4 == 0] for i in range(ROWS)]


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        ([f"{i % 3}" for i in range(ROWS)], 3),
        ([f"{i % 3}.0" for i in range(ROWS)], 3),
        (["yes", "no"] * 20, 2),
        (["True", "False"] * 20, 2),
        ([f"{i % 3}.5" for i in range(ROWS)], 0),
        ([f"{i}" for i in range(ROWS)], 0),
    ],
)
def test_words_and_few_whole_numbers_are_classes(target: list[str], classes: int, path: Path) -> None:
    source = read(write(path, table(kind=target)))
    assert source.num_classes == classes
    assert source.is_regression == (classes == 0)


def test_the_task_may_be_said(path: Path) -> None:
    write(path, table(kind=[i % 3 for i in range(ROWS)]))
    assert read(path, task="regression").is_regression
    write(path, table(kind=list(range(20)) * 2))
    assert read(path, task="classification").num_classes == 20
    with pytest.raises(ConfigError, match=r"data\.task: "):
        read(write(path, table()), task="regression")


def test_several_targets_are_a_regression_of_as_many_columns(path: Path) -> None:
    write(path, table(height=[i / 3 for i in range(ROWS)]))
    source = load(s.Csv(path=str(path), targets=["size", "height"], columns=["color"]))
    assert source.targets.shape == (ROWS, 2)
    assert source.targets[4].tolist() == [2.0, 4 / 3]  # float64, as the file has it
    assert source.inputs.shape == (ROWS, 3)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_separator_and_line_end_gives_the_same(separator: str, end: str, path: Path, tmp_path: Path) -> None:
    plain = read(write(tmp_path / "plain.csv", table()))
    other = read(write(path, table(), separator=separator, end=end))
    assert torch.equal(other.inputs, plain.inputs)
    assert torch.equal(other.targets, plain.targets)


def test_decimal_commas_quotes_and_a_byte_order_mark(path: Path) -> None:
    lines = ['﻿"size";"the ""color""";kind'] + [f'{i % 7},5;"a; {i % 2}";{"xy"[i % 2]}' for i in range(ROWS)]
    path.write_text("\n".join(lines), encoding="utf-8")
    source = read(path)
    assert source.inputs[:, 0].tolist() == [i % 7 + 0.5 for i in range(ROWS)]
    assert source.inputs.shape == (ROWS, 3)
    assert source.notes[0].startswith("pets.csv: separated by semicolons, with decimal commas; ")


def test_a_compressed_file_is_read(path: Path) -> None:
    write(path, table())
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert torch.equal(read(packed).inputs, read(path).inputs)


def test_chunks_change_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where a column has numbers in one chunk and words in another."""
    code = [f"0{i % 5}" if i < 30 else "x1" for i in range(ROWS)]
    write(path, table(code=code, flag=["true"] * 25 + [""] * 15))
    whole = read(path)
    monkeypatch.setattr(csv_file, "CHUNK", 7)
    parts = read(path)
    assert torch.equal(parts.inputs, whole.inputs)
    assert parts.notes == whole.notes
    assert "code 6" in parts.notes[3]


def test_categories_may_look_like_numbers(path: Path) -> None:
    write(path, table(code=[f"0{i % 5}" for i in range(ROWS)]))
    assert read(path).inputs.shape == (ROWS, 1 + 3 + 1)
    assert read(path, categories=["code"]).inputs.shape == (ROWS, 1 + 3 + 5)


def test_the_test_set_is_a_stratified_share_whatever_the_seed(path: Path) -> None:
    write(path, table(100, kind=["a"] * 80 + ["b"] * 20))
    source = read(path, test_size=0.25)
    assert torch.bincount(source.targets[source.test]).tolist() == [20, 5]
    assert torch.equal(torch.cat([source.train, source.test]).sort().values, torch.arange(100))
    assert torch.equal(read(path, test_size=0.25).test, source.test)


def test_a_test_file_follows_in_its_own_order_of_columns_and_levels(path: Path, tmp_path: Path) -> None:
    names, *rows = table()
    write(path, [names, *rows])
    other = write(tmp_path / "test.csv", [names[::-1], *(row[::-1] for row in rows[5:12])])
    source = read(path, test_path=str(other))
    assert source.test.tolist() == list(range(ROWS, ROWS + 7))
    assert torch.equal(source.inputs[source.test], source.inputs[5:12])
    assert torch.equal(source.targets[source.test], source.targets[5:12])


def test_a_level_that_only_test_has_changes_nothing_and_is_all_zeros(path: Path, tmp_path: Path) -> None:
    names, *rows = table()
    write(path, [names, *rows])
    other = write(tmp_path / "test.csv", [names, ["1", "purple", "cat"], ["2", "red", "dog"]])
    source = read(path, test_path=str(other))
    assert source.inputs.shape == (ROWS + 2, 4)
    assert source.inputs[ROWS].tolist() == [1, 0, 0, 0]


def test_rows_without_a_target_are_left_out_and_counted(path: Path) -> None:
    kind = ["" if i in (3, 9) else ("cat", "dog")[i % 2] for i in range(ROWS)]
    source = read(write(path, table(kind=kind)))
    assert len(source.inputs) == ROWS - 2
    assert source.notes[0].endswith(", 2 rows without a target left out")


def test_how_a_file_is_split_and_scaled_does_not_load_it_anew() -> None:
    data = s.Csv(path="x.csv", target="y", columns=["a"])
    assert key(data) == key(s.Csv(path="x.csv", target="y", columns=["a"], val_size=0.3, normalize="none"))
    assert key(data) != key(s.Csv(path="x.csv", target="y", columns=["b"]))


# A file, and what is said of it

HEAD = "size,color,kind\n"
BODY = "1.5,red,cat\n2.5,blue,dog\n" * 20
BAD = {
    "empty": (b"", "must hold a line of names and rows"),
    "no rows": (HEAD.encode(), "must hold a line of names and rows"),
    "bytes": (b"\x89PNG\r\n\x1a\n\0\0\xff", "is no text in UTF-8"),
    "latin 1": ("size,color,kind\n1,gr\xfcn,cat\n".encode("latin-1"), "is no text in UTF-8"),
    "latin 1 below": ((HEAD + BODY * 2000 + "1,gr\xfcn,cat\n").encode("latin-1"), "is no text in UTF-8"),
    "nulls": ((HEAD + BODY + "1,\0,cat\n").encode(), "must hold a line of names"),
    "one column": (b"kind\n" + b"cat\n" * 9, "at least two columns"),
    "a name twice": (("size,size,kind\n" + BODY).encode(), "two columns have one name, 'size'"),
    "no names": (b"1,2\n" * 9, "first line must name the columns"),
    "a long row": ((HEAD + BODY + "1,red,cat,4\n").encode(), "row"),
    "a long first row": ((HEAD + "1,red,cat,4\n" + BODY).encode(), "fields"),
    "a short row": ((HEAD + BODY + "1,red\n").encode(), "line 42: must have 3 fields, has 2"),
    "an open quote": ((HEAD + BODY + '1,"red,cat\n' + BODY).encode(), "pets.csv"),
    "a word among numbers": ((HEAD + BODY + "1o,red,cat\n").encode(), "row 41 below the names, column size"),
    "infinity": ((HEAD + BODY + "inf,red,cat\n").encode(), "row 41 below the names, column size"),
    "beyond float32": ((HEAD + BODY + "1e39,red,cat\n").encode(), "row 41 below the names, column size"),
    "one class": ((HEAD + "1.5,red,cat\n" * 9).encode(), "at least two classes"),
    "nothing to learn from": (b"kind,a\n" + b"cat,1\ndog,1\n" * 9, "no column is left to learn from"),
    "no target": (b"size,kind\n" + b"1,\n2,\n" * 9, "has no value in any row"),
    "gzip cut short": (gzip.compress((HEAD + BODY).encode())[:-9], "pets.csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_is_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = BAD[name]
    path = Path("pets.csv.gz" if content[:2] == b"\x1f\x8b" else "pets.csv")
    path.write_bytes(content)
    assert main(["data=csv", f"data.path={path}", "data.target=kind"]) == 3
    output, errors = capsys.readouterr()
    assert output == "" and len(errors.splitlines()) == 1 and len(errors) < 300
    assert said in errors
    assert list(Path().iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("data.target=kid", "data.target: no such column, got 'kid'; did you mean kind;"),
        ("data.target=kind data.columns=[sise]", "data.columns: no such column, got 'sise'; did you mean size;"),
        ("data.target=kind data.categories=[colour]", "data.categories: no such column"),
        ("data.target=kind data.columns=[kind,size]", "data.columns: 'kind' is the target"),
        ("data.targets=[kind,size]", "data.targets: several targets are for regression"),
        ("", "data.target: must name the column to predict"),
        ("data.target=kind data.targets=[size]", "data.target: must name the column to predict"),
        ("data.target=kind data.path=nowhere.csv", "data.path: must be a file"),
        ("data.target=kind data.path=", "data.path: must name what data=csv reads"),
        ("data.target=kind data.test_path=nowhere.csv", "data.test_path: must be a file"),
        ("data.target=kind data.task=regression", "data.task: column kind has words"),
        ("data.target=kind model=cnn", "model: a cnn model needs images"),
        ("data.target=kind reg=flip", "reg.flip: needs images"),
        ("data.target=kind reg=crop", "reg.crop: needs images"),
        ("data.target=size data.label_noise=0.1", "data.label_noise: is for classes"),
        ("data.target=kind data.test_size=1", "data.test_size: must be a number in (0, 1)"),
    ],
)
def test_a_mistaken_setting_is_one_line_and_leaves_nothing(
    words: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pets.csv").write_text(HEAD + BODY, encoding="utf-8")
    assert main(["data=csv", "data.path=pets.csv", *words.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"regrun: {where}")
    assert [p.name for p in Path().iterdir()] == ["pets.csv"]


def test_a_test_file_that_does_not_fit_is_named(path: Path, tmp_path: Path) -> None:
    write(path, table())
    other = tmp_path / "test.csv"
    for content, said in {
        "size,kind\n1,cat\n2,dog\n": "has no column 'color'",
        HEAD + "big,red,cat\nhuge,red,dog\n": "column size: must be numbers",
        HEAD + "1,red,cow\n2,red,dog\n": "classes have no example to train on",
    }.items():
        other.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            read(path, test_path=str(other))


def test_a_run_says_what_became_of_the_columns(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(path, table())
    words = ["data=csv", f"data.path={path}", "data.target=kind", "trainer.epochs=1"]
    assert main([*words, "hydra.run.dir=run", "trainer.progress=plain"]) == 0
    notes = read(path).notes
    printed, logged = capsys.readouterr().out.splitlines(), Path("run/run.log").read_text("utf-8").splitlines()
    assert printed[1 : 1 + len(notes)] == logged[1 : 1 + len(notes)] == list(notes)
    assert main(["-m", *words, "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert set(notes) <= set(capsys.readouterr().out.splitlines())


def test_a_network_learns_a_table_that_can_be_learnt(path: Path) -> None:
    draw = np.random.default_rng(0)
    size, color = draw.normal(size=400), draw.choice(["red", "blue"], 400)
    kind = np.where((size > 0) == (color == "red"), "cat", "dog")
    write(path, table(400, size=size.tolist(), color=color.tolist(), kind=kind.tolist()))
    words = ["data=csv", f"data.path={path}", "data.target=kind", "model=shallow", "optimizer.lr=0.01"]
    run = config.jobs(words, multirun=False)[0].settings
    _, (end,) = train_rows([run], load(run.data))
    assert (end.outcome.test_accuracy_best or 0) > 0.9
    own = split(load(run.data), run.data, run.seeds)
    assert len(own.train) == 256


def test_the_live_view_shows_notes_above_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    display.choose("rich").note("target kind: 2 classes")
    assert "target kind: 2 classes" in capsys.readouterr().out
