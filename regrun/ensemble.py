"""Kept predictions -> ensemble.csv: what the mean prediction of runs, or of one run's snapshots, comes to.

Val and test are each run's predictions with its best weights: test was read in its one look. What is chosen (the best
member, the order of the settings) is chosen by val alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from regrun import collect, ensembling, foreign, ledger, overrides, plan, predictions, records, rows
from regrun.ensembling import Array
from regrun.errors import ConfigError, DataError
from regrun.findings import EnsembleRow
from regrun.overrides import Cells
from regrun.predictions import SPLITS, Predictions
from regrun.settings import WITHOUT_EFFECT, Data, columns

NAME = "ensemble.csv"
SAME_DATA = {*WITHOUT_EFFECT, *(f"data.{f.name}" for f in fields(Data))}  # keys of `data` that leave test as it is


@dataclass(frozen=True)
class Member:
    """One prediction: of a run, or of one of its snapshots."""

    name: str
    loss: str  # which error the run minimized: auto, squared, absolute or huber
    own: Predictions
    at: int  # which of its epochs

    def output(self, split: str) -> Array:
        """(N, K) or (N, T)."""
        return np.asarray(self.own.outputs[split][self.at])


@dataclass(frozen=True)
class Group:
    """The members that are averaged: the values that they share, and the runs that gave none."""

    values: dict[str, str]
    members: list[Member]
    left_out: int


@dataclass(frozen=True)
class Figures:
    """What a prediction comes to."""

    loss: float
    accuracy: float | None = None
    r2: float | None = None
    ece: float | None = None
    squared: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: accuracy or R2, then a low loss."""
        figure = self.accuracy if self.r2 is None else self.r2
        return (-np.inf if figure is None else figure, -self.loss)


Line = tuple[dict[str, str], EnsembleRow]  # what a group's runs share, and its row


def write(root: Path, by: Sequence[str] | None) -> list[Line]:
    """Write ensemble.csv of the run or the sweep in `root`, and give its lines, the best by val first.

    by: settings, or groups of them, in which members are equal; None: all that vary, seeds aside.
    """
    planned, ended = _runs(root)
    names = _names(planned, by)
    groups = [
        _group(root, dict(zip(names, key, strict=True)), runs, ended) for key, runs in _grouped(planned, names).items()
    ]
    if not any(group.members for group in groups):
        raise DataError(f"{root}: has no run that ended well, yet; regrun resume trains what is missing")
    lines = sorted((list(_lines(group)) for group in groups if group.members), key=_rank, reverse=True)
    flat = [line for own in lines for line in own]
    table = [[*values.values(), *rows.values(row)] for values, row in flat]
    ledger.look(root, "ensemble")
    records.replace(root / NAME, records.table([[*names, *rows.columns(EnsembleRow)], *table]))
    ledger.write(root)
    return flat


def _rank(lines: list[Line]) -> tuple[float, ...]:
    """By val: the ensemble, or the mean of its members where they differ in val."""
    row = lines[0][1]
    pairs = (row.accuracy_ensemble, row.accuracy_members), (row.r2_ensemble, row.r2_members)
    figures = [own if own is not None else mean for own, mean in pairs]
    loss = row.loss_members if row.loss_ensemble is None else row.loss_ensemble
    return tuple(-np.inf if figure is None else figure for figure in (*figures, None if loss is None else -loss))


def _runs(root: Path) -> tuple[list[Cells], dict[str, str]]:
    """Every run's settings, and the status of each run that has ended."""
    if (root / plan.NAME).is_file():
        return list(plan.rows(root)), {i: status for i, (_, status, _) in collect.summaries(root).items()}
    if not (root / "summary.csv").is_file():
        raise DataError(f"{root}: has neither {plan.NAME} nor summary.csv; name the folder of a sweep or a run")
    found = foreign.rows(root / "summary.csv")
    return list(found), {row["run_id"]: row["status"] for row in found}


def _names(planned: Sequence[Cells], by: Sequence[str] | None) -> list[str]:
    """The settings that make groups."""
    if by is None:
        return overrides.without_seeds(overrides.varying(planned))
    overrides.check_known(by)
    varying = overrides.varying(planned)
    return [n for n in columns() if n in by or (n in varying and overrides.is_covered(n, by))]


def _grouped(planned: Sequence[Cells], names: Sequence[str]) -> dict[tuple[str, ...], list[Cells]]:
    """The runs by their values of `names`, in the order of the plan."""
    found: dict[tuple[str, ...], list[Cells]] = {}
    for row in planned:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def _group(root: Path, values: dict[str, str], runs: Sequence[Cells], ended: dict[str, str]) -> Group:
    """Read the predictions of the runs that ended well. Raises what keeps them from being averaged."""
    good = [row for row in runs if ended.get(row["run_id"]) == "ok"]
    files = {row["run_id"]: predictions.path(root, row["run_id"]) for row in good}
    if missing := [run_id for run_id, file in files.items() if not file.is_file()]:
        raise DataError(
            f"{root}: {len(missing)} of {len(good)} runs have kept no predictions, {missing[0]} first; "
            "repeat the command with trainer.save=predictions"
        )
    members = [
        Member(row["run_id"] + (f"@{epoch}" if len(own.epochs) > 1 else ""), row["trainer.loss"], own, at)
        for row in good
        for own in [predictions.read(files[row["run_id"]])]
        for at, epoch in enumerate(own.epochs.tolist())
    ]
    differing = [n for n in overrides.varying(good) if n.startswith("data.") and n not in SAME_DATA] if good else []
    if differing or not _share(members, "test"):
        why = f"{', '.join(differing)} varies" if differing else "theirs differ"
        raise ConfigError(
            f"ensemble: members must have the same test examples, but {why}; give --by what sets them apart"
        )
    return Group(values, members, len(runs) - len(good))


def _share(members: Sequence[Member], split: str) -> bool:
    """Whether the members predict the same examples, with the same targets, in the same order."""
    first = members[0].own if members else None
    return first is None or all(
        np.array_equal(m.own.examples[split], first.examples[split])
        and np.array_equal(m.own.targets[split], first.targets[split])
        for m in members
    )


def _lines(group: Group) -> Iterator[Line]:
    """The rows of val and test."""
    unit = np.mean([m.own.target_scale for m in group.members], axis=0)
    kinds = {m.loss.replace("auto", "squared") for m in group.members}
    kind = kinds.pop() if len(kinds) == 1 else "squared"
    figures = {split: [_figures(m, split, kind, unit) for m in group.members] for split in SPLITS}
    best = max(range(len(group.members)), key=lambda i: figures["val"][i].rank)
    for split in SPLITS:
        yield group.values, _row(group, split, figures[split], best, kind, unit)


def _figures(member: Member, split: str, kind: str, unit: Array) -> Figures:
    return _of(member.output(split), member.own.targets[split], kind, unit)


def _of(output: Array, targets: Array, kind: str, unit: Array) -> Figures:
    """Of one prediction: (N, K) log-probabilities, or (N, T) where there are units."""
    if not len(unit):
        return Figures(
            loss=ensembling.cross_entropy(output, targets),
            accuracy=ensembling.accuracy(output, targets),
            ece=ensembling.calibration_error(output, targets),
        )
    return Figures(
        loss=ensembling.error(output, targets, kind=kind, unit=unit),
        r2=ensembling.r2(output, targets),
        squared=ensembling.error(output, targets, kind="squared", unit=unit),
    )


def _row(group: Group, split: str, own: Sequence[Figures], best: int, kind: str, unit: Array) -> EnsembleRow:
    mean, (together, spread) = _mean(own), _together(group, split, kind, unit)
    figures: dict[str, Any] = {}
    for name in ("loss", "accuracy", "r2"):
        figures |= {f"{name}_members": mean[name], f"{name}_best": getattr(own[best], name)}
        figures[f"{name}_ensemble"] = getattr(together, name, None)
    return EnsembleRow(
        split=split,
        members=len(own),
        left_out=group.left_out,
        **figures,
        ece_members=mean["ece"],
        ece_ensemble=getattr(together, "ece", None),
        disagreement=None if len(unit) else spread,
        e_av=mean["squared"],
        e_com=getattr(together, "squared", None),
        ambiguity=spread if len(unit) else None,
        best_member=group.members[best].name,
    )


def _together(group: Group, split: str, kind: str, unit: Array) -> tuple[Figures | None, float | None]:
    """The figures of the mean prediction, and how far the members are apart: disagreement, or ambiguity."""
    if not _share(group.members, split):
        return None, None
    outputs, targets = np.stack([m.output(split) for m in group.members]), group.members[0].own.targets[split]
    if len(unit):
        return _of(outputs.mean(0), targets, kind, unit), ensembling.ambiguity(outputs, unit=unit)
    return _of(ensembling.mean_log_p(outputs), targets, kind, unit), ensembling.disagreement(outputs)


def _mean(own: Sequence[Figures]) -> dict[str, float | None]:
    """The mean over members of each figure that applies."""
    found: dict[str, list[float]] = {
        f.name: [value for each in own if (value := getattr(each, f.name)) is not None] for f in fields(Figures)
    }
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}
