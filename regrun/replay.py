"""curves.csv -> stopping.csv: where rules of early stopping would have ended runs that went on to their last epoch.

A rule sees what the loop would have shown it, so it stops where it would have stopped. What it costs is measured
against the best epoch of the whole curve. Test is what the run itself has read: nothing is chosen by it.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regrun import collect, foreign, overrides, records, rows, stats, stopping
from regrun.conversion import from_cells, to_group
from regrun.errors import ConfigError, DataError, clip
from regrun.findings import StoppingRow
from regrun.overrides import Cells
from regrun.rows import CurveRow
from regrun.settings import EarlyStopping, flatten, resolve

NAME = "stopping.csv"
TAKEN = ("patience", "alpha", "gap", "smoothing", "min_delta", "monitor")
KEYS = "trainer.early_stopping."
LIMITS = {"patience": "patience", "generalization_loss": "alpha", "gap": "gap"}  # rule -> the key of its limit
Changes = dict[str, Any]  # of a run's own EarlyStopping
SHOWN: tuple[tuple[str, float, tuple[float, ...]], ...] = (
    ("patience", 0.0, (1, 2, 3, 5, 10, 20)),
    ("patience", 0.5, (1, 2, 3, 5, 10)),
    ("generalization_loss", 0.0, (1.0, 2.0, 5.0, 10.0, 20.0)),
    ("gap", 0.0, (0.01, 0.02, 0.05, 0.1)),
)
RULES: list[Changes] = [
    {"rule": rule, LIMITS[rule]: limit, "smoothing": smoothing} for rule, smoothing, own in SHOWN for limit in own
]
LOSSES = [f"{split}_{measure}_lost" for split in ("val", "test") for measure in ("loss", "accuracy", "r2")]
FIGURES = ["stopped", "stop_epoch", "best_epoch", "epochs_saved", "share_saved", *LOSSES]


@dataclass(frozen=True)
class Curve:
    """A run's rows of curves.csv, by split, epoch 0 first."""

    splits: dict[str, list[CurveRow]]

    @property
    def last(self) -> int:
        """The last epoch that was trained to its end."""
        return len(self.splits["val"]) - 1


@dataclass(frozen=True)
class Replay:
    """What became of a folder's runs: rows by setting and rule, and what was left out."""

    lines: list[tuple[dict[str, str], StoppingRow]]
    notes: list[str]


def write(root: Path, words: Sequence[str] = ()) -> Replay:
    """Write stopping.csv of the run or the sweep in `root`, with the rules that `words` ask for.

    Raises ConfigError where no setting has all its runs to their ends, DataError where a table is not regrun's.
    """
    rules = chosen(words)
    counts = ["last_epoch", "best_epoch", "trainer.epochs"]
    summary = collect.checked_summary(root / "summary.csv", ["run_id", "status", "seed"], counts=counts)
    names = overrides.without_seeds(overrides.varying(summary))
    groups: dict[tuple[str, ...], list[Cells]] = {}
    for row in summary:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    notes = [line for runs in groups.values() for line in _left_out(runs, names)]
    whole = {key: ended for key, runs in groups.items() if not _cut_short(runs) and (ended := _ended(runs))}
    if not whole:
        raise ConfigError(notes or f"stopping: no run has ended, got {clip(str(root))!r}; regrun resume trains it")
    curves = _curves(root / "curves.csv")
    lines = [
        (dict(zip(names, key, strict=True)), row)
        for key, runs in whole.items()
        for row in _rows([_known(run, curves, root) for run in runs], rules)
    ]
    table = [[*values.values(), *rows.values(row)] for values, row in lines]
    records.replace(root / NAME, records.table([[*names, *rows.columns(StoppingRow)], *table]))
    return Replay(lines, notes)


def chosen(words: Sequence[str]) -> list[Changes]:
    """The rules, by words such as trainer.early_stopping.patience=3,7: limits replace the usual ones. ConfigError."""
    given: dict[str, list[Any]] = {}
    for word in words:
        key, _, text = word.partition("=")
        name = key.removeprefix(KEYS)
        if not key.startswith(KEYS) or name not in TAKEN:
            taken = ", ".join(TAKEN)
            raise ConfigError(f"stopping: a folder is followed by {KEYS}KEY=VALUE,... ({taken}), got {clip(word)!r}")
        given[name] = [_value(part) for part in text.split(",")]
    limits = [(rule, key) for rule, key in LIMITS.items() if key in given]
    own = [{"rule": rule, key: limit} for rule, key in limits for limit in given.pop(key)] or RULES
    others = [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]
    rules = [changes | other for changes in own for other in others]
    if any(None in changes.values() for changes in rules):
        raise ConfigError(
            f"{KEYS}patience: must be a number here, got null; rules are measured against the whole curve"
        )
    problems: list[str] = []
    for changes in rules:
        to_group(EarlyStopping, flatten(EarlyStopping()) | changes, KEYS, problems)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return [changes for i, changes in enumerate(rules) if changes not in rules[:i]]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _cut_short(runs: Sequence[Cells]) -> list[Cells]:
    """The runs that ended well before their last epoch. Those beside them that did not are a selection."""
    return [r for r in runs if r["status"] == "ok" and int(r["last_epoch"]) < int(r["trainer.epochs"])]


def _ended(runs: Sequence[Cells]) -> list[Cells]:
    return [r for r in runs if r["status"] in collect.FINISHED]


def _left_out(runs: Sequence[Cells], names: Sequence[str]) -> Iterator[str]:
    """What is not replayed, and why."""
    words = clip(overrides.words(runs[0], names), 100) or "stopping"
    if cut := _cut_short(runs):
        how = f"{len(cut)} of {len(runs)} runs were stopped before their last epoch"
        yield f"{words}: left out, {how}; train with {KEYS}patience=null {KEYS}rule=patience"
    elif failed := len(runs) - len(_ended(runs)):
        yield f"{words}: {failed} of {len(runs)} runs failed and are left out"


def _curves(path: Path) -> dict[str, Curve]:
    """run_id -> its curve."""
    found: dict[str, Curve] = {}
    for number, row in enumerate(foreign.rows(path, rows.columns(CurveRow)), start=2):
        try:
            figures = [foreign.figure(row[name]) if row[name] else None for name in ("loss", "accuracy", "r2")]
            if figures[0] is None:
                raise ValueError("no loss")
            own = CurveRow(row["run_id"], int(row["epoch"]), int(row["step"]), row["split"], *figures)  # type: ignore[arg-type]
        except ValueError:
            raise DataError(f"{path}: line {number} has no figures of regrun's; repeat the run") from None
        found.setdefault(own.run_id, Curve({})).splits.setdefault(own.split, []).append(own)
    return found


def _known(run: Cells, curves: dict[str, Curve], root: Path) -> tuple[Cells, Curve, EarlyStopping]:
    """A run, its curve and its own early stopping. Raises DataError where its tables contradict each other."""
    problems: list[str] = []
    curve, settings = curves.get(run["run_id"]), from_cells(run, problems)
    if problems or settings is None:
        raise DataError(f"{root / 'summary.csv'}: {(problems or ['has no settings'])[0]}; repeat the run")
    own = replace(resolve(settings).trainer.early_stopping, rule="patience", patience=None)
    is_whole = curve is not None and {"train", "val"} <= set(curve.splits) and _is_whole(curve)
    if curve is None or not is_whole or [curve.last, replay(curve, own)[1]] != _epochs(run):
        who = f"{root / 'curves.csv'}: is not the curve of run {clip(run['run_id'])} in summary.csv"
        raise DataError(f"{who}; regrun collect writes a sweep's tables anew")
    return run, curve, own


def _is_whole(curve: Curve) -> bool:
    """Whether every split has every epoch, once, in order."""
    return all([row.epoch for row in own] == list(range(curve.last + 1)) for own in curve.splits.values())


def _epochs(run: Cells) -> list[int]:
    return [int(run["last_epoch"]), int(run["best_epoch"])]


def replay(curve: Curve, rule: EarlyStopping) -> tuple[int | None, int]:
    """The epoch with which the rule would have ended the run, None if never, and the best epoch by then."""
    state = stopping.stopping(rule)
    for epoch, (train, val) in enumerate(zip(curve.splits["train"], curve.splits["val"], strict=True)):
        monitored = val.loss if rule.monitor == "val_loss" else _figure(val)
        state = state.seen(monitored, epoch, gap=_figure(train) - _figure(val), val_loss=val.loss)
        if state.rule.is_over:
            return epoch, max(state.best.best_epoch, 0)
    return None, max(state.best.best_epoch, 0)


def _figure(row: CurveRow) -> float:
    """Accuracy or R2, the one that applies."""
    found = row.accuracy if row.r2 is None else row.r2
    return math.nan if found is None else found


def _rows(runs: Sequence[tuple[Cells, Curve, EarlyStopping]], rules: Sequence[Changes]) -> Iterator[StoppingRow]:
    """A setting's rows: a rule after another, a figure after another; those that do not apply are none."""
    for changes in rules:
        rule = replace(runs[0][2], **changes)
        found = [_figures(run, curve, rule) for run, curve, _ in runs]
        limit = getattr(rule, LIMITS[rule.rule])
        for name in FIGURES:
            values = [f for figures in found if (f := figures.get(name)) is not None]
            if len(values) == len(runs):  # of some runs alone it would be a selection
                sd, (mean, *bounds) = stats.deviation(values), stats.t_interval(values)
                spread = (None if math.isnan(v) else v for v in (sd, *bounds))
                yield StoppingRow(
                    rule.rule, limit, rule.smoothing, rule.monitor, rule.min_delta, name, len(runs), mean, *spread
                )


def _figures(run: Cells, curve: Curve, rule: EarlyStopping) -> dict[str, float | None]:
    """What a rule comes to on one run; the whole curve's best epoch is that of the same monitored figure."""
    stop, best = replay(curve, rule)
    _, whole = replay(curve, replace(rule, rule="patience", patience=None))
    end = curve.last if stop is None else stop
    found: dict[str, float | None] = {
        "stopped": float(stop is not None),
        "stop_epoch": float(end),
        "best_epoch": float(best),
        "epochs_saved": float(curve.last - end),
        "share_saved": (curve.last - end) / max(1, curve.last),
    }
    for split in ("val", "test"):
        before, after = _at(run, curve, split, whole), _at(run, curve, split, best)
        pairs = {name: (before[name], after[name]) for name in before if name in after}
        found |= {f"{split}_{name}_lost": _lost(name, *pair) for name, pair in pairs.items()}
    return found


def _at(run: Cells, curve: Curve, split: str, epoch: int) -> dict[str, float | None]:
    """Loss, accuracy and R2 at an epoch: by the curve; of test without one, as far as the run has read it."""
    if split in curve.splits:
        row = curve.splits[split][epoch]
        return {"loss": row.loss, "accuracy": row.accuracy, "r2": row.r2}
    when = {curve.last: "last", int(run["best_epoch"]): "best"}.get(epoch)
    cells = {name: run.get(f"{split}_{name}_{when}", "none") for name in ("loss", "accuracy", "r2")}
    return {name: None if cell in ("none", "") else foreign.figure(cell) for name, cell in cells.items()}


def _lost(name: str, before: float | None, after: float | None) -> float | None:
    """By how much the figure is worse than the whole curve's; negative where it is better."""
    if before is None or after is None:
        return None
    return after - before if name == "loss" else before - after
