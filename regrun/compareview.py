"""What a comparison came to: success by level, differences with intervals and verdicts, and how to read them."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from regrun import display
from regrun.compare import NAME, PROFILES, Result
from regrun.errors import clip
from regrun.findings import CompareRow
from regrun.pairing import ALL_PAIRS, METRICS

LISTED = 8  # names in a line
SHOWN = 24  # rows of a table; compare.csv has all
LEFT = ("setting", "comparison", "split", "verdict")
OPTIONAL = ("boot", "sign flip (smallest)", "d_z")  # columns that go first where there is no room, from the last
TITLES = {
    "pair": "pairs: a vs b is a minus b, of runs with the same seeds",
    "main": "main effects: on minus off, mean over the other factors",
    "interaction": "interactions: the effect of one with the other, minus without",
    "across": "over data sets: interquartile means, a minus b",
}

Lines = list[dict[str, str]]


def tell(result: Result, root: Path) -> None:
    """Print the tables, and what to know of them."""
    tables = list(_tables(result))
    closing = [*_notes(result), result.looks, f"table: {root / NAME}" + (f", {PROFILES}" if result.profiles else "")]
    if display.way("auto", sys.stdout) == "rich":
        console = display.console(sys.stdout)
        for title, rows in tables:
            console.print(Text(title, style="bold"))
            _show(rows, console)
        for line in closing:
            console.print(Text(line))
        return
    write = display.writer(sys.stdout)
    for title, rows in tables:
        for line in [title, *_aligned(rows), ""]:
            write(line)
    for line in closing:
        write(line)


def _tables(result: Result) -> Iterator[tuple[str, Lines]]:
    more = f" ({len(result.levels) - SHOWN} more)" if len(result.levels) > SHOWN else ""
    yield f"settings{more}", _without_blanks(list(_settings(result))[:SHOWN])
    for (kind, data), own in groupby(_figures(result), key=lambda row: (row.kind, row.data)):
        rows = list(own)
        more = f" ({len(rows) - SHOWN} more in {NAME})" if len(rows) > SHOWN else ""
        where = f", {clip(data)}" if data != "all" else ""
        yield f"{TITLES[kind]}{where}{more}", _without_blanks([_line(row) for row in rows[:SHOWN]])


def _settings(result: Result) -> Iterator[dict[str, str]]:
    """Each level with its runs: how many succeeded, and what they came to."""
    for level in result.levels:
        success = f"{level.ok}/{level.ended} {_share(level.success)}" if level.ended else "none ended"
        figures = {f"{split} {name}": _value(metric, value) for (split, name, metric), value in _named(level.means)}
        yield {"setting": clip(level.name), "ok": success} | figures


def _named(means: dict[str, float]) -> Iterator[tuple[tuple[str, str, str], float]]:
    for metric, value in means.items():
        split, name, _ = metric.split("_")
        yield (split, name.replace("r2", "R2"), metric), value


def _figures(result: Result) -> list[CompareRow]:
    """The rows that are shown: accuracy or R2, or loss where there is neither; comparison by comparison."""
    has = {row.data: {r.metric for r in result.rows if r.data == row.data} for row in result.rows}
    order = list(dict.fromkeys((row.kind, row.data) for row in result.rows if row.kind in TITLES))
    order.sort(key=lambda key: (key[0] == "across", list(has).index(key[1]), list(TITLES).index(key[0])))
    shown = [row for row in result.rows if row.kind in TITLES]
    chosen = [row for row in shown if "_loss_" not in row.metric or not has[row.data] & set(METRICS[:4])]
    found = []
    for key in order:
        own = [row for row in chosen if (row.kind, row.data) == key]
        names = list(dict.fromkeys((row.a, row.b) for row in own))
        found += sorted(own, key=lambda row: (names.index((row.a, row.b)), METRICS.index(row.metric)))
    return found


def _line(row: CompareRow) -> dict[str, str]:
    name = row.a if row.b == "none" and row.kind in ("main", "interaction") else f"{row.a} vs {row.b}"
    low, high = (row.boot_low, row.boot_high) if row.kind == "across" else (row.low, row.high)
    smallest = f"{_p(row.p_sign_flip)} ({_p(row.p_smallest)})" if row.p_sign_flip is not None else ""
    is_twice = row.kind != "across" and row.boot_low is not None
    return {
        "comparison": clip(name) if len(name) < 60 else name[:57] + "...",
        "split": row.metric.split("_")[0],
        "n": str(row.n),
        _unit(row.metric): _difference(row, row.difference) + _bracket(row, low, high),
        "boot": _bracket(row, row.boot_low, row.boot_high).strip() if is_twice else "",
        "d_z": "" if row.d_z is None else f"{row.d_z:.2f}",
        "w/l/t": f"{row.wins}/{row.losses}/{row.ties}",
        "P(a better)": _share((row.p_better, row.p_better_low, row.p_better_high)),
        "sign flip (smallest)": smallest,
        "Wilcoxon": _p(row.p_wilcoxon),
        "Holm": _p(row.p_holm),
        "verdict": row.verdict,
    }


def _unit(metric: str) -> str:
    return "points" if "accuracy" in metric else metric.split("_")[1].replace("r2", "R2")


def _value(metric: str, value: float) -> str:
    return display.percent(value) if "accuracy" in metric else f"{value:.3f}"


def _difference(row: CompareRow, value: float | None) -> str:
    """+0.45 points of accuracy, or +0.0123."""
    if value is None:
        return "none"
    return f"{100 * value:+.2f}" if "accuracy" in row.metric else f"{value:+.4f}"


def _bracket(row: CompareRow, low: float | None, high: float | None) -> str:
    return "" if low is None else f" [{_difference(row, low)}, {_difference(row, high)}]"


def _share(share: Sequence[float | None]) -> str:
    mean, low, high = share
    return "" if mean is None else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _p(p: float | None) -> str:
    return "" if p is None else "<.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _notes(result: Result) -> Iterator[str]:
    compared, pairs = result.compared, [row for row in result.rows if row.kind == "pair"]
    yield "intervals: 95 %, t (boot: percentile bootstrap), over seeds; P and ok: Wilson; Holm: p of the paired t test"
    yield (
        f"verdict: equivalent within {100 * result.delta:g} points (--delta {result.delta:g}), else better or worse "
        "where the interval excludes 0 and Holm < 0.05; losses are in compare.csv"
    )
    yield from _best(result)
    yield from result.warnings
    if compared.others:
        words = ", ".join(compared.others[:4]) + (" ..." if len(compared.others) > 4 else "")
        yield f"within each seed, differences are means over {words}; --by sets them apart"
    if len(result.levels) > ALL_PAIRS:
        yield f"more than {ALL_PAIRS} settings: each is compared with the first alone"
    yield from _ends(result)
    if any(row.n == 0 for row in pairs):
        yield "n = 0: no pair; other settings differ, too (give them to --by), or none of the runs has a figure"
    if any(row.n == 1 for row in pairs):
        yield "n = 1: no interval and no p; more seeds give them, e.g. 'seed=range(10)'"
    yield from _power(result)


def _best(result: Result) -> Iterator[str]:
    """All that may be as good as the best by val: not the winner alone."""
    own = [row for row in result.rows if row.kind == "best"]
    for data in dict.fromkeys(row.data for row in own):
        rows = [row for row in own if row.data == data]
        where = f" on {clip(data)}" if data != "all" else ""
        within, worse = ([clip(r.a) for r in rows if (r.verdict == "worse") == bad] for bad in (False, True))
        yield (
            f"best by val{where}: {clip(rows[0].b)}; within its bounds (not shown to be worse, Holm over {len(rows)}): "
            f"{_listed(within)}; worse: {_listed(worse)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - LISTED} more"] if len(names) > LISTED else []
    return ", ".join([*names[:LISTED], *more]) or "none of the others"


def _ends(result: Result) -> Iterator[str]:
    """Failures, divergences, runs that have not ended or have no partner: how many, and how they count."""
    failed = sum(level.ended - level.ok - level.diverged for level in result.levels)
    diverged, open_ = (sum(getattr(level, name) for level in result.levels) for name in ("diverged", "unfinished"))
    if failed:
        yield f"{failed} runs failed: they are in no mean; in w/l/t and P they lose to a partner that ended"
    if diverged:
        yield f"{diverged} runs diverged: no success; they enter by their best epoch, and without one as failures do"
    if open_:
        yield f"{open_} runs have not ended and are in no pair"
    if len({level.ended for level in result.levels}) > 1 or failed:
        seeds = max(level.seeds for level in result.levels)
        yield f"settings have unequal numbers of runs with figures: their means are of the {seeds} seeds that all have"
    if unpaired := max((row.unpaired or 0 for row in result.rows), default=0):
        yield f"up to {unpaired} runs of a comparison have no partner with the same seeds and settings: left out"


def _power(result: Result) -> Iterator[str]:
    """What so many pairs can find, by the widest of the comparisons."""
    shown = [row for row in _figures(result) if row.kind == "pair" and row.sd and row.detectable is not None]
    if not shown:
        return
    row = max(shown, key=lambda r: r.detectable or 0)
    found = f"{_difference(row, row.detectable).lstrip('+')} {_unit(row.metric)}"
    line = f"power: you can detect about {found} ({row.metric}, the widest) with n = {row.n}, 80 % chance, paired t"
    if "_loss_" not in row.metric and result.delta:
        needed = f"n = {row.pairs_for_delta:,}" if row.pairs_for_delta else "more than a million pairs"
        line += f"; {needed} would be needed for {_difference(row, result.delta).lstrip('+')}"
    yield line


def _without_blanks(rows: Lines) -> Lines:
    names = dict.fromkeys(name for row in rows for name in row)
    used = [name for name in names if any(row.get(name) for row in rows)]
    return [{name: row.get(name, "") for name in used} for row in rows]


def _show(rows: Lines, console: Console) -> None:
    """A table with as many columns as there is room for, or an entry of some lines for each row."""
    for left_out in range(len(OPTIONAL) + 1):
        table = _table([{k: v for k, v in row.items() if k not in OPTIONAL[:left_out]} for row in rows])
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
            console.print(table)
            return
    for row in rows:
        heads = [row[name] for name in LEFT if row.get(name)]
        figures = ", ".join(f"{key} {value}" for key, value in row.items() if value and key not in LEFT)
        console.print(Text(", ".join(heads)), Padding(Text(figures), (0, 0, 0, 4), expand=False))


def _table(rows: Lines) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in rows[0]:
        table.add_column(Text(name), justify="left" if name in LEFT else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row.values()), style="bold" if row.get("verdict") in ("better", "worse") else "")
    return table


def _aligned(rows: Lines) -> list[str]:
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
