"""A folder -> the report's tables: text cells only; page.py and terminal.py show them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from regrun import collect, overrides
from regrun.collect import FINISHED
from regrun.report.factors import Effect
from regrun.report.figures import (
    Cells,
    Mean,
    change,
    counted,
    fixed,
    number,
    numbers,
    percent,
    plain,
    shown,
    with_interval,
)
from regrun.report.folder import Folder, Setting
from regrun.settings import columns

LEDGER = "ledger.csv"
PROVENANCE = ("device", "world_size", "versions", "git", "code", "data_hash", "fingerprint")
COMMIT = 12  # digits of a commit that are shown
CHOSEN = 200  # letters of a cell that is somebody's text


@dataclass(frozen=True)
class Table:
    """Named columns; `is_long` ones are folded on the page and left out of the terminal."""

    title: str
    head: list[str]
    rows: list[list[str]]
    is_long: bool = False


def varied(found: Folder) -> Table:
    """What sets runs apart."""
    names = overrides.varying(found.runs)
    rows = [[name, _values(found.runs, name)] for name in names]
    return Table("Varied", ["setting", "values"], rows)


def shared(found: Folder) -> Table:
    """What all runs have in common."""
    known, apart = set(found.runs[0]), set(overrides.varying(found.runs))
    rows = [
        [name, _values(found.runs, name)]
        for name in columns()
        if name in known and name not in apart and any(row[name] != "none" for row in found.runs)
    ]
    return Table("Shared by all runs", ["setting", "value"], rows, is_long=True)


def _values(runs: Sequence[Cells], name: str, most: int = 12) -> str:
    values = list(dict.fromkeys(row[name] for row in runs))
    more = f", and {len(values) - most} more" if len(values) > most else ""
    return _clip(", ".join(values[:most]) + more)


def effects(found: Folder) -> Table:
    """A row for each setting, the best by val first: mean [95 % interval]."""
    q = found.quantity
    unit = _unit(found)
    head = ["setting", "runs", f"val {unit}", f"test {unit}", "val loss", "gap"]
    counts: dict[str, Callable[[Setting], int | str]] = {"failed": _failed, "diverged": _diverged}
    bad = {name: count for name, count in counts.items() if any(map(count, found.settings))}
    bad |= {"ended well": _success} if bad else {}
    rows = [
        [
            s.label,
            str(len(s.runs)),
            shown(s.mean(f"val_{q}_best"), q),
            shown(s.mean(f"test_{q}_best"), q),
            shown(s.mean("val_loss_best"), "loss"),
            shown(s.mean("gap"), q),
            *(str(count(s)) for count in bad.values()),
        ]
        for s in found.settings
    ]
    return Table("Settings, the best by val first", [*head, *bad], rows)


def factors(found: Folder, effects: Sequence[Effect]) -> Table:
    """A row for each change of one setting."""
    q = found.quantity
    unit = "points" if q == "accuracy" else found.called
    head = ["from", "to", "pairs", "seeds", f"val, {unit}", f"test, {unit}"]
    rows = [[e.before, e.after, str(e.pairs), str(e.val.n), change(e.val, q), change(e.test, q)] for e in effects]
    return Table("One setting at a time, paired by seed", head, rows)


def _unit(found: Folder) -> str:
    return "accuracy %" if found.quantity == "accuracy" else found.called


def _failed(setting: Setting) -> int:
    return len(setting.runs) - len(setting.finished)


def _diverged(setting: Setting) -> int:
    return sum(row["status"] == "diverged" for row in setting.runs)


def _success(setting: Setting) -> str:
    """`3 of 4, 75 % [30, 95]`, by Wilson."""
    share = setting.success
    if share is None:
        return "none"
    return f"{round(share.n * share.mean)} of {share.n}, {with_interval(percent(share), 0)} %"


def stopping(found: Folder) -> Table:
    """Where each setting stopped, and what its last epoch would have given."""
    q = found.quantity
    unit = _unit(found)
    head = ["setting", "stopped by", "best epoch", "last epoch", "epochs saved"]
    head += [f"test {unit}, best epoch", "last epoch's", "best minus last"]
    rows = [
        [
            s.label,
            counted(row["stop_reason"] for row in s.runs),
            plain(s.mean("best_epoch")),
            plain(s.mean("last_epoch")),
            plain(s.mean("epochs_saved")),
            plain_of(s.mean(f"test_{q}_best"), q),
            plain_of(s.mean(f"test_{q}_last"), q),
            shown(s.differences(f"test_{q}_best", f"test_{q}_last"), q),
        ]
        for s in found.settings
    ]
    return Table("Stopping", head, rows)


def plain_of(value: Mean | None, quantity: str) -> str:
    """The mean without its interval."""
    return shown(value, quantity).partition(" ")[0]


def failures(found: Folder) -> Table:
    """Every run that did not end well."""
    bad = [row for row in found.runs if row["status"] != "ok"]
    names = {row["run_id"]: s.label for s in found.settings for row in s.runs}
    rows = [
        [
            names[row["run_id"]],
            row["seed"],
            row["status"],
            row.get("diverged_step", "none"),
            _clip(row.get("error", "none")),
            row["run_id"],
        ]
        for row in bad
    ]
    return Table("Runs that did not end well", ["setting", "seed", "status", "diverged at step", "error", "run"], rows)


def runs(found: Folder) -> Table:
    """Every run."""
    q = found.quantity
    names = [
        *found.varied,
        *[n for n in overrides.varying(found.runs) if n not in found.varied and n != "seed"],
        "seed",
    ]
    figures = [f"{split}_{q}_best" for split in ("train", "val", "test")] + ["gap"]
    rows = [
        [
            *(_clip(row[name]) for name in names),
            row["status"],
            row["stop_reason"],
            *(row.get(name, "none") for name in ("best_epoch", "last_epoch")),
            *(_figure(row.get(name), q) for name in figures),
            _clip(row.get("diagnosis", "none")),
            row["run_id"],
        ]
        for row in found.runs
    ]
    unit = _unit(found)
    head = [
        *names,
        "status",
        "stopped by",
        "best epoch",
        "last epoch",
        *(f"{n} {unit}" for n in ("train", "val", "test")),
    ]
    return Table("Every run", [*head, "gap", "diagnosis", "run"], rows, is_long=True)


def _figure(cell: str | None, quantity: str) -> str:
    value = number(cell)
    if value is None:
        return "none"
    return fixed(100 * value, 1) if quantity == "accuracy" else fixed(value, 3)


def ledger(root: Path) -> Table | None:
    """The looks at test that are written down in the folder, as they stand; None where nobody wrote them down."""
    if not (root / LEDGER).is_file():
        return None
    found = collect.checked(root / LEDGER, ["look"])
    head = list(found[0]) if found else ["look"]
    return Table("Looks at test", head, [[_clip(row[name]) for name in head] for row in found])


def provenance(found: Folder) -> Table:
    """On what the runs were trained, by which code, how long it took; tables of older versions lack some of it."""
    recorded = [name for name in PROVENANCE if name in found.runs[0]]
    cells = {name: [row[name][: COMMIT if name == "git" else None] for row in found.runs] for name in recorded}
    facts = [[name, _clip(counted(own))] for name, own in cells.items()]
    seconds, peak = numbers(found.runs, "seconds"), numbers(found.runs, "peak_memory_bytes")
    facts.append(["run seconds", f"{sum(seconds):.1f} in total; a stack's runs share theirs"])
    facts += [["peak memory", f"{max(peak) / 2**20:,.0f} MiB"]] if peak else []
    return Table("Provenance", ["what", "value (runs)"], [row for row in facts if row[1]])


def unfinished(found: Folder) -> int:
    """Runs of the plan that have no row yet, or one that is not final."""
    return found.planned - sum(row["status"] in (*FINISHED, "failed", "oom") for row in found.runs)


def _clip(text: str) -> str:
    return text if len(text) <= CHOSEN else text[: CHOSEN - 1] + "…"
