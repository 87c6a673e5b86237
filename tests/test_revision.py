"""Which code and which data a run stems from: git's own answer, and hashes that change with what they are of."""

import dataclasses
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MNIST_ROOT, needs_mnist

import regrun
from regrun import revision
from regrun import settings as s
from regrun.cli import main
from regrun.data.source import Source
from regrun.data.sources import load

SMALL = ["model=shallow", "model.width=8", "trainer.progress=none", "trainer.epochs=1"]
WHO = ["-c", "user.name=a", "-c", "user.email=a@b"]


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", folder, *WHO, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with two commits."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    for number in range(2):
        git(root, "commit", "-q", "--allow-empty", "-m", str(number))
    return root


def test_the_commit_is_gits(checkout: Path) -> None:
    """On a branch, on a branch whose name is packed, in a linked worktree, and on no branch."""
    head = git(checkout, "rev-parse", "HEAD")
    assert len(head) == 40 and revision.commit.__wrapped__(checkout) == head
    git(checkout, "pack-refs", "--all")
    assert not list((checkout / ".git" / "refs" / "heads").iterdir()) and revision.commit.__wrapped__(checkout) == head
    git(checkout, "worktree", "add", "-q", "-b", "other/name", "../linked", "HEAD~1")
    linked = checkout.parent / "linked"
    assert revision.commit.__wrapped__(linked) == git(linked, "rev-parse", "HEAD") != head
    git(checkout, "checkout", "-q", "--detach", "HEAD~1")
    assert revision.commit.__wrapped__(checkout) == git(checkout, "rev-parse", "HEAD") != head


def test_where_there_is_no_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert revision.commit.__wrapped__(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert revision.commit.__wrapped__(tmp_path) is None  # and before the first one


def test_the_hash_of_the_code_changes_with_a_file_and_with_its_name(tmp_path: Path) -> None:
    hashes = []
    for name, text in (("a.py", "x = 1\n"), ("a.py", "x = 2\n"), ("b.py", "x = 2\n")):
        folder = tmp_path / str(len(hashes))
        (folder / "p").mkdir(parents=True)
        (folder / "p" / name).write_text(text)
        (folder / "notes.txt").write_text(name)
        hashes.append(revision.code.__wrapped__(folder))
    assert len(set(hashes)) == 3 and all(len(h) == 10 for h in hashes)
    (tmp_path / "0" / "notes.txt").write_text("no code")
    assert revision.code.__wrapped__(tmp_path / "0") == hashes[0]


def test_the_hash_of_the_data_is_that_of_what_was_read(digits: Source) -> None:
    """How it is split and scaled does not count; an example, a label, or what is test does."""
    assert digits.data_hash == load(s.Digits(val_size=0.3, normalize="none", label_noise=0.2)).data_hash
    inputs, targets = digits.inputs.clone(), digits.targets.clone()
    inputs[5, 0, 3, 3] += 1
    targets[7] = (targets[7] + 1) % 10
    others = [{"inputs": inputs}, {"targets": targets}, {"test": digits.test[1:]}, {"train": digits.train.flip(0)}]
    hashes = {dataclasses.replace(digits, **other).data_hash for other in others}
    assert len(hashes | {digits.data_hash}) == 5


@needs_mnist
def test_mnists_hash_costs_little() -> None:
    source = load(s.Mnist(root=str(MNIST_ROOT)))
    begun = time.process_time()
    assert len(source.data_hash) == 16
    assert time.process_time() - begun < 0.5  # 0.04 s on a quiet core


def test_a_run_and_a_sweep_record_them_and_the_run_id_does_not_know(tmp_path: Path, digits: Source) -> None:
    assert main([*SMALL, f"hydra.run.dir={tmp_path / 'r'}"]) == 0
    assert main(["-m", *SMALL, "seed=0,1", f"hydra.sweep.dir={tmp_path / 's'}"]) == 0
    tables = [pd.read_csv(tmp_path / name / "summary.csv", dtype=str, keep_default_na=False) for name in "rs"]
    for table in tables:
        assert set(table.data_hash) == {digits.data_hash}
        assert set(table.git) == {revision.commit() or "none"} and set(table.code) == {revision.code()}
    assert tables[0].run_id[0] == tables[1].run_id[0]


def test_a_sweep_of_an_older_version_is_gone_on_with(tmp_path: Path) -> None:
    """Its stacks lack the new columns: they are none, and every cell stands below its name."""
    root = tmp_path / "s"
    command = ["-m", *SMALL, "seed=0,1", "sweep.stack_size=1", f"hydra.sweep.dir={root}"]
    assert main(command) == 0
    whole = pd.read_csv(root / "summary.csv", dtype=str, keep_default_na=False)
    old, new = (root / "stacks" / name / "summary.csv" for name in ("00000", "00001"))
    new.unlink()
    table = pd.read_csv(old, dtype=str, keep_default_na=False)
    table.drop(columns=["data_hash", "git", "code"]).to_csv(old, index=False, lineterminator="\n")
    assert main(command) == 0
    found = pd.read_csv(root / "summary.csv", dtype=str, keep_default_na=False)
    assert list(found) == list(whole) and list(found.run_id) == list(whole.run_id)
    assert found.loc[0, ["data_hash", "git", "code"]].tolist() == ["none"] * 3
    timed = ["data_hash", "git", "code", "seconds", "peak_memory_bytes"]
    np.testing.assert_array_equal(found.drop(columns=timed), whole.drop(columns=timed))
    assert found.data_hash[1] == whole.data_hash[1]


def test_columns_of_hashes_stay_words(tmp_path: Path) -> None:
    assert main([*SMALL, f"hydra.run.dir={tmp_path / 'r'}"]) == 0
    path = tmp_path / "r" / "summary.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.assign(data_hash="0012345678901234", git="1" * 40, code="00123e4567").to_csv(path, index=False)
    (row,) = regrun.read(tmp_path / "r").summary[["data_hash", "git", "code"]].to_numpy().tolist()
    assert row == ["0012345678901234", "1" * 40, "00123e4567"]


def test_the_same_data_has_the_same_hash_each_time() -> None:
    """Floats and several columns of targets, too."""
    for data in (s.Toy(), s.Sine(), s.Sklearn(name="linnerud")):
        assert load(data).data_hash == load(data).data_hash
