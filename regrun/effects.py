"""summary.csv -> effects.csv: one row per distinct setting, seeds aside, with means and their 95 % t intervals."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from regrun import collect, foreign, ledger, overrides, plan, records, stats
from regrun.collect import FINISHED
from regrun.errors import DataError

MEASURES = (
    "val_accuracy_best",
    "val_loss_best",
    "test_accuracy_best",
    "test_loss_best",
    "val_r2_best",
    "test_r2_best",
    "best_epoch",
    "last_epoch",
    "seconds",
)


def write(root: Path) -> None:
    """Write effects.csv, with a column for every setting that varies in the plan."""
    names = overrides.without_seeds(overrides.varying(plan.rows(root)))
    summary = foreign.rows(root / "summary.csv", ["status", *names, *MEASURES])
    if not summary:
        raise DataError(f"{root}: none of its runs is in plan.csv; repeat the sweep in another folder")
    table = effects(pd.DataFrame(summary), names)
    lines = [list(table.columns), *table.astype(object).where(table.notna(), None).to_numpy().tolist()]
    records.replace(root / "effects.csv", records.table(lines))


def collect_all(root: Path) -> int:
    """Write every table of a sweep anew from what its stacks have written, finished or not; how many runs they have."""
    order = [row["run_id"] for row in plan.rows(root)]
    found = len(collect.summaries(root))
    collect.summary(root, order)
    collect.tables(root, order)
    if found:
        write(root)
        ledger.write(root)
    return found


def effects(summary: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """One row per distinct value of `names`, the highest mean val accuracy or R2 first, then the lowest loss.

    n counts its runs, failures included; the figures are those of the finished.
    """
    groups = summary.groupby(list(names), dropna=False, sort=False) if names else [((), summary)]
    rows = [dict(zip(names, key, strict=True)) | _row(runs) for key, runs in groups]
    order = ["val_accuracy_best_mean", "val_r2_best_mean", "val_loss_best_mean"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, False, True], kind="stable", ignore_index=True)


def _row(runs: pd.DataFrame) -> dict[str, float]:
    finished = runs[runs["status"].isin(FINISHED)]
    diverged = int((finished["status"] == "diverged").sum())
    row: dict[str, float] = {
        "n": len(runs),
        "failed": len(runs) - len(finished),
        "diverged": diverged,
    }
    for name in MEASURES:
        values = pd.to_numeric(finished[name], errors="coerce").dropna()
        values = values[(values.abs() < foreign.LARGEST) | (values == math.inf)]
        row |= {f"{name}_{part}": figure for part, figure in _interval(values.tolist()).items()}
    return row


def _interval(values: list[float]) -> dict[str, float]:
    """Mean, sample standard deviation, and the 95 % t interval of the mean; NaN where n is too small for one."""
    mean, low, high = stats.t_interval(values)
    return {"mean": mean, "sd": stats.deviation(values), "low": low, "high": high}
