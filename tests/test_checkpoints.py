"""Checkpoints on disk: whole or not used, the one before in its place, never the start without a word."""

import ast
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Refused, Said

from regrun import checkpoints, config, prepare, run
from regrun.due import Due, Pace
from regrun.errors import DataError, Interrupted
from regrun.signals import Noted
from regrun.writing import marks, train_into

RUN = [
    *("model=shallow", "model.width=8", "reg=dropout", "data.train_size=100", "trainer.batch_size=50"),
    *("trainer.epochs=4", "trainer.progress=none", "hydra.run.dir=r"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has been interrupted with two generations of checkpoints."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("begun"))
    try:
        run_until(prepared(), [*NO * 2, Due.CHECKPOINT, *NO * 4, *[Due.END] * 2])
        return Path("r").absolute()
    finally:
        os.chdir(before)


@pytest.fixture
def folder(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, called r."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(begun, tmp_path / "r")
    return Path("r")


def prepared() -> prepare.Prepared:
    (one,) = prepare.prepare(config.jobs(RUN, multirun=False))
    return one


NO = [Due.NOTHING]


class Told(Pace):
    """What is due is told in advance: two evaluations and an end for each epoch, and a step before that."""

    def __init__(self, told: list[Due]) -> None:
        super().__init__(None, Noted(15))
        self.left = iter(told)

    def __call__(self) -> Due:
        return next(self.left)


def run_until(one: prepare.Prepared, told: list[Due]) -> None:
    """Train into the run's own folder."""
    with ExitStack() as held:
        run._begin(one, held)
    with pytest.raises(Interrupted, match="interrupted by SIGTERM in epoch 2, step 3"):
        list(train_into(one.job.folder, [one], pace=Told(told)))


def newest(folder: Path) -> Path:
    return folder / "checkpoint-2.pt"


def test_a_run_goes_on_from_the_newest_and_leaves_none(folder: Path, said: Said) -> None:
    assert checkpoints.load(folder, []).manifest.where == "epoch 2, step 3"
    assert said("resume", folder) == []
    assert "going on in epoch 2, step 3\n" in (folder / "run.log").read_text()
    assert list(folder.glob("checkpoint*")) == []
    assert said("resume", folder) == ["r: has ended, ok (max_epochs); nothing to go on with"]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_no_flipped_byte_and_no_missing_end_goes_unnoticed(folder: Path) -> None:
    """300 bytes and 100 lengths of the newest generation: each time the one before is used, and a line says so."""
    whole = {kind: newest(folder).with_suffix(kind).read_bytes() for kind in (".pt", ".json")}
    for kind, content in whole.items():
        path = newest(folder).with_suffix(kind)
        spots = range(0, len(content), max(1, len(content) // 150))
        spoiled = [flipped(content, at) for at in spots]
        spoiled += [content[:size] for size in range(0, len(content), max(1, len(content) // 50))]
        for bad in spoiled:
            path.write_bytes(bad)
            found = checkpoints.load(folder, [])
            if found.manifest.number == 2:  # a number that is written in another way, a blank that is another blank
                assert kind == ".json" and json.loads(bad) == json.loads(content)
                continue
            (note,) = found.notes
            assert note.startswith("r/checkpoint-2.pt ") and note.endswith(
                "; going on from checkpoint-1.pt, epoch 1, step 0"
            )
        path.write_bytes(content)


def test_where_both_are_damaged_nothing_is_trained(folder: Path, refused: Refused) -> None:
    for number in (1, 2):
        path = folder / f"checkpoint-{number}.pt"
        path.write_bytes(flipped(path.read_bytes(), 1000))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    line = refused("resume", folder, code=3)
    assert line.startswith("r/checkpoint-2.pt has other bytes than were written; r/checkpoint-1.pt has other bytes")
    assert line.endswith(": nothing to go on from; remove checkpoint-1.* and checkpoint-2.* there to start over")
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_run_whose_newest_is_damaged_ends_with_the_same_rows(folder: Path, said: Said) -> None:
    shutil.copytree(folder, "other")
    newest(folder).write_bytes(b"")
    said("resume", folder)
    said("resume", "other")
    assert (folder / "curves.csv").read_bytes() == Path("other/curves.csv").read_bytes()
    assert (
        "checkpoint-2.pt has other bytes than were written; going on from checkpoint-1.pt"
        in (folder / "run.log").read_text()
    )


def test_tables_that_are_not_those_of_the_checkpoint_are_told(folder: Path, refused: Refused) -> None:
    path = folder / "curves.csv"
    path.write_bytes(flipped(path.read_bytes(), 40))
    assert "knows other rows than curves.csv begins with" in refused("resume", folder, code=3)
    path.unlink()
    assert "knows other rows than curves.csv begins with" in refused("resume", folder, code=3)


def test_rows_that_came_after_the_checkpoint_are_cut_off(folder: Path, said: Said) -> None:
    shutil.copytree(folder, "other")
    for name in ("curves.csv", "epochs.csv", "layers.csv"):
        with (folder / name).open("a") as file:
            file.write("a row of which a part is")
    said("resume", folder)
    said("resume", "other")
    assert (folder / "layers.csv").read_bytes() == Path("other/layers.csv").read_bytes()


def test_another_runs_checkpoint_is_refused(folder: Path, refused: Refused) -> None:
    text = (folder / "settings.yaml").read_text()
    (folder / "settings.yaml").write_text(text.replace("width: 8", "width: 9"))
    assert "is of other runs than" in refused("resume", folder, code=3)


def test_an_older_form_of_checkpoint_is_refused(folder: Path) -> None:
    for number in (1, 2):
        path = folder / f"checkpoint-{number}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))
    with pytest.raises(DataError, match=r"checkpoint-1\.pt is of another version of regrun \(0, not 1\)"):
        checkpoints.load(folder, [])


@pytest.mark.parametrize(
    "told",
    [
        *("", "null", "[]", "7", '"x"', "{", "{}", "\0", "[" * 100_000),
        *('{"version": 1}', '{"version": 1, "number": "x"}', '{"version": 1, "x": 2}'),
    ],
)
def test_a_manifest_may_hold_anything(told: str, folder: Path) -> None:
    (folder / "checkpoint-1.json").write_text(told)
    (folder / "checkpoint-2.json").write_text(told)
    with pytest.raises(DataError, match=r"has no manifest that can be read|another version of regrun"):
        checkpoints.load(folder, [])


@pytest.mark.parametrize(
    "change",
    [{"tables": {"../../secret": [1, ""]}}, {"run_ids": [1]}, {"number": 1.5}, {"tables": {"curves.csv": ["x", ""]}}],
)
def test_a_manifest_names_nothing_but_tables(change: dict[str, Any], folder: Path) -> None:
    for number in (1, 2):
        path = folder / f"checkpoint-{number}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="has no manifest that can be read"):
        checkpoints.load(folder, [])


class Payload:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("payload",)


def test_a_pickle_that_runs_code_is_refused_whatever_its_manifest_says(folder: Path, refused: Refused) -> None:
    for number in (1, 2):
        path, buffer = folder / f"checkpoint-{number}.pt", io.BytesIO()
        told = json.loads(path.with_suffix(".json").read_text())
        manifest = {k: v for k, v in told.items() if k not in ("bytes", "sha256")}
        torch.save({"manifest": manifest, "state": {"runs": Payload()}}, buffer)
        path.write_bytes(buffer.getvalue())
        of_file = {"bytes": len(buffer.getvalue()), "sha256": checkpoints._digest(path)}
        path.with_suffix(".json").write_text(json.dumps(manifest | of_file))
    assert "holds no state of a stack (UnpicklingError)" in refused("resume", folder, code=3)
    assert not Path("payload").exists()


def test_nothing_but_tensors_and_plain_values_is_ever_loaded() -> None:
    """In no place of the package, and no other way is tried where that fails."""
    needed = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
    found = [
        (callee, {ast.unparse(keyword) for keyword in node.keywords})
        for path in Path(checkpoints.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and (callee := ast.unparse(node.func)) in needed
    ]
    assert len(found) >= 4
    assert all(needed[callee] in keywords for callee, keywords in found)


def test_what_bits_depend_on_must_be_the_same_unless_told_otherwise(folder: Path, refused: Refused, said: Said) -> None:
    """Two threads round differently."""
    text = (folder / "settings.yaml").read_text()
    (folder / "settings.yaml").write_text(text.replace("threads: 1", "threads: 2"))
    line = refused("resume", folder)
    assert line == (
        "resume: would not give the bits of what was begun: threads was 1, is 2; "
        "go on where it began, or by regrun resume DIR --other-machine"
    )
    assert said("resume", folder, "--other-machine") == []


def test_other_data_under_the_same_name_is_noticed(folder: Path) -> None:
    one, manifest = prepared_in(folder), checkpoints.load(folder, []).manifest
    targets = one.source.targets.clone()
    targets[0] += 1
    other = replace(one, data_hash=replace(one.source, targets=targets).data_hash)
    assert checkpoints.differences(manifest, marks(one)) == []
    (line,) = checkpoints.differences(manifest, marks(other))
    assert line.startswith("data was ")


def prepared_in(folder: Path) -> prepare.Prepared:
    job = config.Job(config.read_settings(folder / "settings.yaml"), folder, None)
    (one,) = prepare.prepare([job], own=folder)
    return one


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resume", "r", "seed=1"], 2, "resume: a run keeps its settings, got 'seed=1'; leave it out"),
        (["seed=1", "--other-machine"], 2, "--other-machine: is for regrun resume; leave it out"),
        (["resume", "."], 3, ".: has no plan.csv of a sweep, nor the settings.yaml of a run; nothing has begun there"),
    ],
)
def test_mistakes_are_one_line(words: list[str], code: int, message: str, folder: Path, refused: Refused) -> None:
    assert refused(*words, code=code) == message


def test_a_summary_of_something_else_is_refused(folder: Path, refused: Refused) -> None:
    (folder / "summary.csv").write_text("status\nasleep\n")
    assert refused("resume", folder, code=3) == "r/summary.csv: is none of regrun's, got status 'asleep'; remove it"


def test_without_a_checkpoint_a_run_starts_over_and_says_so(folder: Path, said: Said) -> None:
    checkpoints.discard(folder)
    said("resume", folder)
    assert "starting over: there was no checkpoint yet\n" in (folder / "run.log").read_text()
    said(*RUN, "hydra.run.dir=whole")
    for name in ("curves.csv", "layers.csv", "best.pt"):
        assert (folder / name).read_bytes() == Path("whole", name).read_bytes()


def test_damaged_settings_are_refused(folder: Path, refused: Refused) -> None:
    (folder / "settings.yaml").write_text("model: {")
    assert refused("resume", folder, code=3).startswith("r/settings.yaml: holds no settings of regrun's")
