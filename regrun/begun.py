"""The folders of a sweep's stacks: a new one for each try; and which stacks that had begun go on from where.

A folder is trained in once: whoever was lost may still write there. A stack that is tried again has a folder of its
own, whose `before.json` names the one with the checkpoint that it goes on from.
"""

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regrun import checkpoints, collect, ledger, plan, pruning, records
from regrun.checkpoints import Manifest
from regrun.driver import Stack
from regrun.engines.tasks import Task
from regrun.engines.work import BEFORE
from regrun.errors import ConfigError
from regrun.prepare import Prepared
from regrun.writing import marks


@dataclass
class Folders:
    """Of the sweep in `root`. by: the command, as the ledger calls it. other_machine: bits may differ."""

    root: Path
    by: str = "sweep"
    other_machine: bool = False
    prunes: bool = False  # its workers get pruning.json
    tried: dict[str, list[Path]] = field(default_factory=dict)  # the folders that each run has been in, the last last
    epochs: dict[str, int] = field(default_factory=dict)  # in which runs go on

    def __post_init__(self) -> None:
        self.first = self.next = collect.next_stack(self.root)

    def begun(self, missing: Sequence[Prepared], *, is_here: bool) -> list[Stack]:
        """The stacks that go on from a checkpoint: those of its runs that are missing.

        is_here: they will train on this machine. Raises ConfigError where their bits would differ from those of the
        runs that were begun, and DataError where a checkpoint is damaged.
        """
        runs, newest = {p.run_id: p for p in missing}, dict[str, Path]()
        there = [folder for folder in self._with_checkpoint() if _has_one_of(folder, runs)]
        manifests = {folder: m for folder in there if (m := _whole(folder)) is not None}
        for folder, manifest in manifests.items():
            newest |= dict.fromkeys(manifest.run_ids, folder)
        stacks = {f: [runs[i] for i in m.run_ids if i in runs and newest[i] == f] for f, m in manifests.items()}
        stacks = {folder: stack for folder, stack in stacks.items() if stack}
        if is_here and not self.other_machine:
            _check_machine([(manifests[folder], stack[0]) for folder, stack in stacks.items()])
        for folder, stack in stacks.items():
            self.tried |= {p.run_id: [folder] for p in stack}
            self.epochs |= {p.run_id: manifests[folder].epoch for p in stack}
        return list(stacks.values())

    def _with_checkpoint(self) -> list[Path]:
        return [folder for folder in sorted(self.root.glob("stacks/*")) if checkpoints.is_there(folder)]

    def new(self, stack: Stack) -> Task:
        """A task for the stack: a new folder with its plan. The first one is a look at test."""
        if self.next == self.first:
            ledger.look(self.root, self.by)
        folder = self.root / "stacks" / f"{self.next:05d}"
        self.next += 1
        records.claim(folder)
        records.replace(folder / plan.NAME, plan.text(stack))
        if self.prunes:
            records.replace(folder / pruning.FILE, (self.root / pruning.FILE).read_bytes())
        before = [tried for tried in self.tried.get(stack[0].run_id, []) if checkpoints.is_there(tried)]
        if before:
            told = {"folder": before[-1].name, "other_machine": self.other_machine}
            records.replace(folder / BEFORE, json.dumps(told))
        for p in stack:
            self.tried.setdefault(p.run_id, []).append(folder)
        return Task(folder, tuple(stack))

    def tidy(self, missing: Sequence[Prepared]) -> None:
        """Remove the checkpoints that none of the missing runs may go on from."""
        run_ids = {p.run_id for p in missing}
        for folder in self._with_checkpoint():
            if not _has_one_of(folder, run_ids):
                checkpoints.discard(folder)


def _has_one_of(folder: Path, run_ids: Container[str]) -> bool:
    return any(row["run_id"] in run_ids for row in plan.rows(folder))


def _whole(folder: Path) -> Manifest | None:
    found = checkpoints.load(folder, [])
    return None if found is None else found.manifest


def _check_machine(begun: Sequence[tuple[Manifest, Prepared]]) -> None:
    """Raise ConfigError where what bits depend on is not what it was. A GPU's name is for its worker to ask."""
    lines = dict[str, None]()
    for manifest, run in begun:
        gpu = str(manifest.facts.get("device")) if run.device.type == "cuda" else None
        lines |= dict.fromkeys(checkpoints.differences(manifest, marks(run, device=gpu)))
    if lines:
        raise ConfigError(checkpoints.refusal(lines))
