"""What a worker does with a stack: train it into its folder. A failure is written there, never raised."""

import json
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from regrun import checkpoints, plan, pruning, records, signals
from regrun.checkpoints import Found
from regrun.due import Pace
from regrun.errors import EnvironmentFault, RegrunError, RunFailed
from regrun.prepare import Prepared, prepare
from regrun.writing import marks, train_into, why_failed

FAILURE, BEFORE = "failure.json", "before.json"


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
        with signals.noted(is_patient=True) as noted:
            runs = load()
            found = _before(folder, runs)
            pace = Pace(runs[0].job.settings.trainer.checkpoint_minutes, noted)
            for _ in train_into(folder, runs, prune=pruning.of(folder), found=found, pace=pace):
                pass
    except (Exception, SystemExit) as error:
        _tell(folder, error)


def _before(folder: Path, runs: Sequence[Prepared]) -> Found | None:
    """The checkpoint of an earlier try that these runs go on from, its rows copied."""
    if not (folder / BEFORE).is_file():
        return None
    told = json.loads((folder / BEFORE).read_text(encoding="utf-8"))
    before = folder.parent / Path(told["folder"]).name
    found = checkpoints.load(before, [p.run_id for p in runs])
    if found is None:
        return None
    others = checkpoints.differences(found.manifest, marks(runs[0]))
    if others and not told["other_machine"]:
        records.log(folder, f"starting over, as going on from {before.name} would give other bits: {'; '.join(others)}")
        return None
    checkpoints.copy_tables(found, folder, [p.run_id for p in runs])
    for line in [*found.notes, f"going on from {before.name}, {found.manifest.where}"]:
        records.log(folder, line)
    return found


def _tell(folder: Path, error: BaseException) -> None:
    """Write down why training has ended early. Where not even that can be written, the exit code says so."""
    try:
        records.log(folder, str(error) if isinstance(error, RegrunError) else traceback.format_exc())
        records.replace(folder / FAILURE, json.dumps(why_failed(error)))
    except EnvironmentFault:
        raise SystemExit(EnvironmentFault.exit_code) from error


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
