"""The table of techniques names every option, every setting it names exists, and every proof is a column."""

import re
from pathlib import Path

import pytest

from regrun import help, settings
from regrun.rows import ACTED

TEXT = (Path(__file__).parents[1] / "conf" / "TECHNIQUES.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
TECHNIQUES = [row for row in ROWS if row[0] != "technique"]
WORDS = {word for row in TECHNIQUES for cell in row for word in re.findall(r"`([^`]+)`", cell)}
NAMED = {word.split()[0].split("=")[-1] for word in WORDS}


def test_every_row_has_its_five_cells() -> None:
    assert len(TECHNIQUES) > 50
    assert [row[0] for row in TECHNIQUES if len(row) != 5 or not (row[0] and row[1] and row[3] and row[4])] == []


@pytest.mark.parametrize("group", ["model", "reg", "optimizer", "scheduler"])
def test_every_option_is_in_the_table(group: str) -> None:
    assert [option for option in help.options(group) if option not in NAMED | {"none"}] == []


def test_every_proof_is_in_the_table_and_is_a_column() -> None:
    assert {word.removeprefix("acted.") for word in WORDS if word.startswith("acted.")} == set(ACTED)


def test_every_setting_that_the_table_names_exists() -> None:
    fields = settings.all_fields()
    paths = {
        word.split("=")[0] for word in WORDS if re.match(r"(reg|model|optimizer|scheduler|trainer|data)\.\w", word)
    }
    known = {path for path in paths for name in fields if name == path or f"{path}." == f"{name[: len(path)]}."}
    assert paths - known - {"trainer.early_stopping.*"} == set()
