"""Weights & Biases: a run for each run, offline in the folder's `wandb/` unless WANDB_MODE says otherwise.

`wandb sync` sends them later. Figures are float64. W&B does not tell of what it could not write, so its file is read
back.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrun import foreign, records
from regrun.errors import RunFailed
from regrun.trackers import Tracked

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

ENVIRONMENT = {"WANDB_MODE": "offline", "WANDB_PROJECT": "regrun", "WANDB_ERROR_REPORTING": "false"}  # unless it is set
OWN_FIGURES_ONLY = {  # no console, no code, nothing about the machine and its packages
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
START, BLOCK, HEADER, ENDS = 7, 32768, struct.Struct("<IHB"), (1, 4)  # the file is a log as LevelDB's


def done(folder: Path) -> set[str]:
    found = [list(read(path)) for path in folder.glob("wandb/*run-*/run-*.wandb")]
    whole = [held for held in found if held and held[-1].HasField("exit") and not held[-1].exit.exit_code]
    return {record.run.display_name for held in whole for record in held if record.HasField("run")}


def log(folder: Path, runs: Iterable[Tracked]) -> str:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import wandb

    records.make(folder / "wandb")  # W&B would take another place without a word
    try:
        given = {run.run_id: _log(folder, run) for run in runs}
    finally:
        wandb.teardown()  # only then has it written everything
    for run_id, epochs in given.items():
        _check(folder, run_id, epochs)
    return f"wandb sync {folder / 'wandb'}/offline-run-*"


def _log(folder: Path, run: Tracked) -> int:
    """Give W&B a run; the number of its epochs."""
    import wandb

    for old in _folders(folder, run.run_id):
        records.discard(old)
    made = wandb.init(
        group=str(folder.absolute())[-128:],
        id=_id(folder, run.run_id),
        name=run.run_id,
        config={key: _value(cell) for key, cell in run.settings.items()},
        dir=folder,
        settings=wandb.Settings(**OWN_FIGURES_ONLY),
    )
    epochs = list(run.epochs())
    for epoch, figures in epochs:
        made.log(figures, step=epoch)
    made.summary.update(run.figures | run.words)
    made.finish(exit_code=0 if run.status in ("ok", "diverged") else 1)
    return len(epochs)


def _check(folder: Path, run_id: str, epochs: int) -> None:
    """Raise RunFailed, and remove what was written, if not all of a run was."""
    folders = _folders(folder, run_id)
    paths = [path for own in folders for path in own.glob("run-*.wandb")]
    kinds = [record.WhichOneof("record_type") for path in paths for record in read(path)]
    if kinds.count("history") == epochs and kinds[-1:] == ["exit"]:
        return
    for own in folders:
        records.discard(own)
    raise RunFailed(f"W&B wrote {kinds.count('history')} of {epochs} epochs of {run_id}; is the disk full?")


def _folders(folder: Path, run_id: str) -> list[Path]:
    return list(folder.glob(f"wandb/*run-*-{_id(folder, run_id)}"))


def _id(folder: Path, run_id: str) -> str:
    """The same run in another folder is another run to W&B."""
    return hashlib.sha256(f"{folder.absolute()} {run_id}".encode()).hexdigest()[:12]


def read(path: Path) -> "Iterator[Record]":
    """The records of W&B's file, as far as it was written."""
    from wandb.proto.wandb_internal_pb2 import Record

    foreign.check_size(path, foreign.MOST_TABLE)
    content, place, parts = path.read_bytes(), START, list[bytes]()
    while place + HEADER.size <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER.size:
            place += left
            continue
        _, size, part = HEADER.unpack_from(content, place)
        place += HEADER.size
        parts.append(content[place : place + size])
        place += size
        if part in ENDS and place <= len(content):
            yield Record.FromString(b"".join(parts))
            parts.clear()


def _value(cell: str) -> Any:
    """A setting as what it was: a number, a flag, a list, nothing, or a word."""
    try:
        return None if cell == "none" else json.loads(cell)
    except ValueError:
        return cell
