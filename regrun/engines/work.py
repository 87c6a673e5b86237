"""What a worker does with a stack: train it into its folder. A failure is written there, never raised."""

import json
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from regrun import plan, pruning, records
from regrun.errors import RunFailed
from regrun.prepare import Prepared, prepare
from regrun.writing import train_into, why_failed

FAILURE = "failure.json"


def train_folder(folder: str) -> None:
    """Train the stack whose plan is in `folder`, <sweep>/stacks/<number>, on whatever machine this is."""
    path = Path(folder)
    train(path, lambda: prepare(plan.read(path, path.parent.parent)))


def train(folder: Path, load: Callable[[], Sequence[Prepared]]) -> None:
    """Train the runs that `load` gives. A folder is trained in once: who comes second leaves it as it is."""
    if has_begun(folder):
        raise RunFailed(f"{folder}: has been trained in before; a stack that is tried again gets a new folder")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f"process {os.getpid()} on {socket.gethostname()}" + (f", GPU {gpus}" if gpus else "")
    records.log(folder, f"begun by {where}")
    try:
        for _ in train_into(folder, load(), prune=pruning.of(folder)):
            pass
    except (Exception, SystemExit) as error:
        records.log(folder, traceback.format_exc())
        records.replace(folder / FAILURE, json.dumps(why_failed(error)))


def has_begun(folder: Path) -> bool:
    """Whether a worker has taken up the stack. In a folder that is gone there is none."""
    try:
        return (folder / records.LOG).stat().st_size > 0
    except FileNotFoundError:
        return False


def failure(folder: Path) -> tuple[str, str] | None:
    """Status and reason of what ended the worker's training, if something did."""
    path = folder / FAILURE
    if not path.is_file():
        return None
    status, reason = json.loads(path.read_text(encoding="utf-8"))
    return status, reason
