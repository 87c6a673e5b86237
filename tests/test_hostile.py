"""A file of somebody else's is data: it is refused in a line or told as it stands, and nothing else happens."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

Results = list[SimpleNamespace]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What came of each hostile file, in one process that heard every event of the interpreter."""
    folder = tmp_path_factory.mktemp("hostile")
    subprocess.run([sys.executable, Path(__file__).parent / "hostile.py", folder], check=True, capture_output=True)
    return [SimpleNamespace(**own) for own in json.loads((folder / "results.json").read_text())]


def test_the_corpus_is_large(results: Results) -> None:
    assert len(results) >= 250
    assert sum(own.codes == [3] for own in results) >= 200


def test_nothing_ran_and_nothing_outside_of_the_folder_was_touched(results: Results) -> None:
    assert [(own.name, own.heard) for own in results if own.heard or own.ran] == []


def test_each_is_refused_or_told(results: Results) -> None:
    assert [(own.name, own.code, own.errors) for own in results if own.code not in own.codes] == []


def test_what_is_refused_is_one_short_line_and_leaves_every_file_as_it_was(results: Results) -> None:
    refused = [own for own in results if own.code]
    late = ("tensors of another shape", "no tensors", "steps", "a step back")  # a state that the run alone can judge
    early = [own for own in refused if not any(word in own.name for word in late)]
    assert [own.name for own in early if own.changed or own.output] == []
    assert [own.errors for own in refused if own.errors.count("\n") != 1 or len(own.errors) > 260] == []
    assert all(own.errors.startswith("regrun: ") for own in refused)


def test_no_text_steers_the_terminal_and_no_secret_is_said(results: Results) -> None:
    said = {own.name: own.output + own.errors for own in results}
    assert [name for name, text in said.items() if not all(line.isprintable() for line in text.split("\n"))] == []
    assert [name for name, text in said.items() if "value-of-a-secret" in text] == []


def test_none_takes_long(results: Results) -> None:
    """An alias stands for 9^9 words, a memo for 32 GB: they are refused before anything is made of them."""
    bombs = ("aliases", "deep", "large", "memo", "compressed", "without end", "10 MB")
    assert [(own.name, own.seconds) for own in results if own.seconds > 10] == []
    assert [own.seconds for own in results if any(word in own.name for word in bombs) and own.seconds > 1] == []
