"""Whatever is in a file that regrun reads, it is read, or refused in a line; it takes no time and no memory."""

from pathlib import Path

import fuzzing
import pytest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files of every kind."""
    root = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        fuzzing.prepare(root)
    return root


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_a_changed_file_is_read_or_refused(name: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base)
    assert fuzzing.fuzz(name) >= 10
