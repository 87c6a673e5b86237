"""What an ensemble comes to, from its rows: beside the mean of its members and the best of them."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from regrun import display, gridview, ledger, predictions
from regrun.ensemble import Line
from regrun.findings import EnsembleRow

GROUPS = 10  # of settings that are shown; the table on disk has all
NOTES = (
    "test is what each run predicted in its one look; the best member is chosen by val alone",
    "val: members differ in their val examples, so nothing is averaged there; seeds.split=0 gives them the same",
    "each setting has one member: --all averages all runs, --by KEY those with the same KEY",
)


def tell(found: Sequence[Line], root: Path) -> None:
    """Print the table, and what to know of it."""
    own = [list(lines) for _, lines in groupby(found, key=lambda line: line[0])]
    rows = _without_blanks([row for lines in own[:GROUPS] for line in lines for row in _rows(*line)])
    more = [f"and {len(own) - GROUPS} more settings in ensemble.csv"] if len(own) > GROUPS else []
    closing = [*more, *_notes(found), ledger.line(root), f"table: {root / 'ensemble.csv'}"]
    gridview.show(rows, left=["split", "prediction"], is_strong=lambda row: row["prediction"] == "ensemble")
    for line in closing:
        gridview.say(line)


def _rows(values: dict[str, str], row: EnsembleRow) -> list[dict[str, str]]:
    """Three rows: the mean of the members, the best of them, all as one."""
    head = values | {"split": row.split}
    blank = dict.fromkeys(head, "")
    members = {
        "prediction": f"{row.members} members" if row.members > 1 else "1 member",
        "loss": _number(row.loss_members),
        "accuracy": _percent(row.accuracy_members),
        "R2": _number(row.r2_members),
        "ECE": _number(row.ece_members),
        "disagree": _percent(row.disagreement),
        "squared error": _number(row.e_av),
        "ambiguity": _number(row.ambiguity),
    }
    best = {
        "prediction": f"best {row.best_member}",
        "loss": _number(row.loss_best),
        "accuracy": _percent(row.accuracy_best),
        "R2": _number(row.r2_best),
    }
    together = {
        "prediction": "ensemble",
        "loss": _number(row.loss_ensemble),
        "accuracy": _percent(row.accuracy_ensemble),
        "R2": _number(row.r2_ensemble),
        "ECE": _number(row.ece_ensemble),
        "squared error": _number(row.e_com),
    }
    return [head | members, blank | dict.fromkeys(members, "") | best, blank | dict.fromkeys(members, "") | together]


def _without_blanks(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    return [{name: row[name] for name in names} for row in rows]


def _notes(found: Sequence[Line]) -> list[str]:
    own = [row for _, row in found]
    left_out = sum(row.left_out for row in own if row.split == "test")
    is_apart = len(own) > len(predictions.SPLITS) and all(row.members == 1 for row in own)
    shown = (True, any(row.loss_ensemble is None for row in own), is_apart)
    notes = [note for note, is_so in zip(NOTES, shown, strict=True) if is_so]
    return [*notes, *([f"{left_out} runs that diverged, failed or have not ended are left out"] if left_out else [])]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _percent(share: float | None) -> str:
    return "" if share is None else display.percent(share)
