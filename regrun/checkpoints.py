"""Checkpoints: a stack's state and how long its tables were then, so that each row is there once when it goes on.

Two generations take turns in a folder, `checkpoint-1.pt` and `checkpoint-2.pt`. The manifest of each, `.json`, is
written last and has its size and SHA-256, and those of every table; what both say must agree. A damaged generation is
never used: then the one before is, or nothing is. Only tensors and plain values are ever loaded.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch

from regrun import foreign, records, tensors
from regrun.errors import DataError, clip
from regrun.state import VERSION, State

TABLES = ("curves.csv", "epochs.csv", "layers.csv", "label_noise.csv")
NAMES = ("checkpoint-1", "checkpoint-2")

Facts = Mapping[str, str | int | bool]  # what bits depend on beside the settings, by name


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is of. tables: bytes and SHA-256 of each; facts: `Facts`."""

    version: int
    number: int
    run_ids: list[str]
    epoch: int
    step: int
    facts: dict[str, str | int | bool]
    tables: dict[str, list[int | str]]

    @property
    def where(self) -> str:
        """In which epoch, and at which of the run's steps."""
        return f"epoch {self.epoch}, step {self.step}"


@dataclass(frozen=True)
class Found:
    """A whole checkpoint in a folder, and what was wrong with a newer one."""

    folder: Path
    manifest: Manifest
    state: State
    notes: list[str] = field(default_factory=list)


def save(folder: Path, state: State, facts: Facts) -> Manifest:
    """Write the next generation. The tables are on the disk itself before it says how long they are."""
    tables: dict[str, list[int | str]] = {}
    for path in (folder / name for name in TABLES):
        if path.is_file():
            records.sync(path)
            tables[path.name] = [path.stat().st_size, _digest(path)]
    before = [(name, m) for name, m in _generations(folder) if isinstance(m, Manifest)]
    last, number = (before[0][0], before[0][1].number) if before else (NAMES[1], 0)
    manifest = Manifest(
        version=VERSION,
        number=number + 1,
        run_ids=[run["run_id"] for run in state["runs"]],
        epoch=state["epoch"],
        step=state["runs"][0]["step"] + state["taken"],
        facts=dict(facts),
        tables=tables,
    )
    buffer = io.BytesIO()
    torch.save({"manifest": asdict(manifest), "state": state}, buffer)
    content, name = buffer.getbuffer(), NAMES[NAMES.index(last) - 1]
    records.replace(folder / f"{name}.pt", content)
    told = asdict(manifest) | {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    records.replace(folder / f"{name}.json", json.dumps(told, indent=1) + "\n")
    return manifest


def is_there(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or damaged; one without a manifest was never finished."""
    return any((folder / f"{name}.json").exists() for name in NAMES)


def load(folder: Path, run_ids: Sequence[str]) -> Found | None:
    """The newest whole checkpoint of (at least) these runs; None where there is none at all. Raises DataError."""
    damaged: list[str] = []
    for name, manifest in _generations(folder):
        try:
            if isinstance(manifest, DataError):
                raise manifest
            state = _read(folder, name, manifest)
            if missing := set(run_ids) - set(manifest.run_ids):
                raise DataError(f"is of other runs than {min(missing)}")
        except DataError as error:
            damaged.append(f"{folder / name}.pt {error}")
            continue
        notes = [f"{line}; going on from {name}.pt, {manifest.where}" for line in damaged]
        return Found(folder, manifest, state, notes)
    if damaged:
        how = f"remove {' and '.join(f'{n}.*' for n in NAMES)} there to start over"
        raise DataError(f"{'; '.join(damaged)}: nothing to go on from; {how}")
    return None


def differences(manifest: Manifest, facts: Facts) -> list[str]:
    """What bits depend on that is another now."""
    names = dict.fromkeys([*manifest.facts, *facts])
    before, now = ({name: of.get(name, "unknown") for name in names} for of in (manifest.facts, facts))
    return [f"{name} was {before[name]}, is {now[name]}" for name in names if before[name] != now[name]]


def refusal(differences: Iterable[str]) -> str:
    """What is said where something differs, and nobody has asked to go on all the same."""
    return (
        f"resume: would not give the bits of what was begun: {'; '.join(differences)}; "
        "go on where it began, or by regrun resume DIR --other-machine"
    )


def shorten_tables(found: Found | None, folder: Path) -> None:
    """Leave what a checkpoint in this folder knows of its tables; without one, nothing: its runs start over."""
    for name in TABLES:
        if found is None or name not in found.manifest.tables:
            records.discard(folder / name)
        elif (folder / name).stat().st_size > (size := int(found.manifest.tables[name][0])):
            records.cut(folder / name, size)


def copy_tables(found: Found, folder: Path, run_ids: Sequence[str]) -> None:
    """Begin a new folder's tables with what the checkpoint's own knew of them, of some of its runs."""
    own = {run_id.encode() for run_id in run_ids}
    for name, (size, _) in found.manifest.tables.items():
        with (found.folder / name).open("rb") as file:
            header, *lines = file.read(int(size)).splitlines(keepends=True)
        records.replace(folder / name, header + b"".join(line for line in lines if line.split(b",", 1)[0] in own))


def discard(folder: Path) -> None:
    """Remove what is no longer needed. The manifests go first: a checkpoint without one is none."""
    for path in [folder / f"{name}.{kind}" for kind in ("json", "pt") for name in NAMES]:
        if path.exists():
            records.discard(path)


def _generations(folder: Path) -> list[tuple[str, Manifest | DataError]]:
    """Those that have a manifest, the newest first; one that cannot be read may be that."""
    found = [(name, _manifest(folder / f"{name}.json")) for name in NAMES if (folder / f"{name}.json").exists()]
    return sorted(found, key=lambda each: -each[1].number if isinstance(each[1], Manifest) else -math.inf)


def _manifest(path: Path) -> Manifest | DataError:
    """What the file says, or what is wrong with it."""
    try:
        told = {key: value for key, value in _told(path).items() if key not in ("bytes", "sha256")}
        if told.get("version") != VERSION:
            return DataError(f"is of another version of regrun ({clip(str(told.get('version')), 20)}, not {VERSION})")
        manifest = Manifest(**told)
        numbers, words = (manifest.number, manifest.epoch, manifest.step), manifest.run_ids
        sizes = [size for size, digest in manifest.tables.values() if isinstance(digest, str)]
        is_known = set(manifest.tables) <= set(TABLES) and isinstance(manifest.facts, dict)
        if is_known and all(isinstance(n, int) for n in [*numbers, *sizes]) and all(isinstance(w, str) for w in words):
            return manifest
    except (DataError, ValueError, TypeError, AttributeError):
        pass
    return DataError("has no manifest that can be read")


def _told(path: Path) -> dict[str, Any]:
    told = foreign.tree(path)
    return {str(name): value for name, value in told.items()} if isinstance(told, dict) else {}


def _read(folder: Path, name: str, manifest: Manifest) -> State:
    """A generation whose every byte is as it was written, and that of every table that it knows. Raises DataError."""
    told, path = _told(folder / f"{name}.json"), folder / f"{name}.pt"
    try:
        if path.stat().st_size != told.get("bytes") or _digest(path) != told.get("sha256"):
            raise DataError("has other bytes than were written")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from None
    try:
        held = tensors.load(path)
        same, state = held["manifest"] == asdict(manifest), held["state"]
    except Exception as error:  # whatever a file may hold: nothing of it has been run
        raise DataError(f"holds no state of a stack ({clip(type(error).__name__)})") from None
    if not (same and _is_state(state, manifest)):
        raise DataError("has another's manifest")
    for table, (size, digest) in manifest.tables.items():
        there = folder / table
        if not there.is_file() or _digest(there, int(size)) != digest:
            raise DataError(f"knows other rows than {table} begins with")
    return state


def _is_state(state: Any, manifest: Manifest) -> TypeGuard[State]:
    """Whether a file holds what can be a state of these runs; `state` finds out whether it fits them."""
    match state:
        case {"epoch": int(epoch), "taken": int(), "seconds": float(), "runs": list(runs), "tensors": dict(named)}:
            ids = [run.get("run_id") for run in runs if isinstance(run, dict)]
            return ids == manifest.run_ids and epoch == manifest.epoch and all(map(torch.is_tensor, named.values()))
    return False


def _digest(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first bytes."""
    digest, left = hashlib.sha256(), size if size is not None else path.stat().st_size
    with path.open("rb") as file:
        while left and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()
