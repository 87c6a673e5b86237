"""Tables, folders and plans that may be somebody else's: what is written comes back, and nothing else is done."""

import csv
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Refused, Said
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import regrun
from regrun import foreign, records
from regrun.errors import DataError

SMALL = ["experiment=smoke", "trainer.epochs=1", "trainer.progress=none", "model.width=8"]
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
MARKS = ["=", "+", "-", "@", "＝", "＋", "－", "＠", "'", " ="]
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


# Tables


@given(st.lists(st.one_of(WORDS, st.builds(str.__add__, st.sampled_from(MARKS), WORDS))))
@example(["=1+1", "+1", "-x", "@a", "'", "''", "'=1", " =1", "＝1", "-0.5", "none", "", "- 5"])
@settings(deadline=None, max_examples=200, database=None)
def test_words_come_back_and_none_is_a_formula(words: list[str]) -> None:
    text = records.table([["run_id", "word"], *(["a", word] for word in words)])
    cells = [row[1] for row in csv.reader(io.StringIO(text, newline=""))][1:]
    assert not any(cell.lstrip().startswith(FORMULAS) and not _is_number(cell) for cell in cells)
    assert [row["word"] for row in foreign.rows(Path("t"), of=io.StringIO(text))] == words


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) or cell.lstrip("+-") in ("inf", "nan")
    except ValueError:
        return False


def test_numbers_keep_their_signs() -> None:
    """Also where they come as text, as they do from another table."""
    numbers = [-0.5, -3, -1e-05, -math.inf, math.nan, 1e300]
    assert records.table([numbers, list(map(records.cell, numbers))]) == 2 * "-0.5,-3,-1e-05,-inf,nan,1e+300\n"


def test_a_setting_that_looks_like_a_formula_is_the_same_for_everyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "=cmd|calc.csv"
    Path(name).write_text("x,y\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(60)))
    said("-m", *SMALL, "data=csv", f"data.path='{name}'", "data.target=y", "seed=1,2", "hydra.sweep.dir=s")
    assert f",'{name}," in Path("s/summary.csv").read_text()
    assert set(regrun.read("s").summary["data.path"]) == {name}
    before = Path("s/summary.csv").read_bytes()
    said("resume", "s")  # by the plan, in which the name is marked as well
    said("collect", "s")
    assert Path("s/summary.csv").read_bytes() == before
    assert len(list(Path("s/stacks").iterdir())) == len({p.parent for p in Path("s/stacks").glob("*/curves.csv")})


def test_a_table_of_a_spreadsheet_or_of_a_killed_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for content in (
        b"run_id,x\na,1\nb,2\n",
        b"\xef\xbb\xbfrun_id,x\r\na,1\r\nb,2\r\n",
        b"run_id,x\na,1\n\nb,2\n\n",
        b"run_id,x\na,1\nb,2\nc,",
        "run_id,x\na,1\nb,2\nc,größ".encode()[:-1],
    ):
        path.write_bytes(content)
        assert foreign.rows(path, ["x"]) == [{"run_id": "a", "x": "1"}, {"run_id": "b", "x": "2"}]


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1.5", 1.5), ("-0.0", 0.0), ("1e99", 1e99), ("1e100", math.inf), ("-1e308", -math.inf), ("-inf", -math.inf)],
)
def test_a_figure_is_finite_where_sums_of_its_squares_are(cell: str, value: float) -> None:
    assert foreign.figure(cell) == value


def test_a_cell_without_a_figure_is_no_number() -> None:
    assert all(math.isnan(foreign.figure(cell)) for cell in ("none", "", "nan"))


# Folders


def test_links_within_a_folder_are_fine_and_so_are_those_of_wandb(tmp_path: Path) -> None:
    (tmp_path / "run/wandb/latest").mkdir(parents=True)
    (tmp_path / "run/wandb/latest/core.log").symlink_to("/var/log/core.log")
    (tmp_path / "run/summary.csv").touch()
    (tmp_path / "run/newest.csv").symlink_to("summary.csv")
    (tmp_path / "here").symlink_to("run")
    foreign.check_folder(tmp_path / "here")
    (tmp_path / "run/lock").symlink_to("../other")
    with pytest.raises(DataError, match="lock: is a link that leads out of its folder"):
        foreign.check_folder(tmp_path / "here")


# Plans


def test_a_found_plan_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    said("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=s")
    plan = pd.read_csv("s/plan.csv", dtype=str, keep_default_na=False)
    plan = plan.assign(**{"data.kind": "kmnist", "data.root": str(tmp_path / "elsewhere"), "data.download": "true"})
    plan.to_csv("s/plan.csv", index=False)
    assert refused("resume", "s").startswith("data.root: no kmnist in ")
    assert not (tmp_path / "elsewhere").exists()


def test_a_found_plan_keeps_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for i, name in enumerate("ab" * 8):
        path = Path(f"photos/{name}/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    own = ["data=image_folder", "data.path=photos", "data.size=8", "data.cache=cache", "seed=1,2", "hydra.sweep.dir=s"]
    said("-m", *SMALL, *own)
    assert list(Path("cache").iterdir())
    shutil.rmtree("cache")
    shutil.rmtree(next(Path("s/stacks").iterdir()))
    said("resume", "s")
    assert len(regrun.read("s").summary) == 2 and not Path("cache").exists()
