"""A folder -> the report's sections: what to say, what to draw, which tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from regrun.report import charts, factors, tables
from regrun.report.charts import Band, Bar, Grid, Stop
from regrun.report.drawing import Drawing, Scale, scale
from regrun.report.factors import Effect
from regrun.report.figures import Mean, count_of, mean, number, numbers, percent, scaled, shown, within
from regrun.report.folder import LAYER_FIGURES, Folder, Points, Setting
from regrun.report.tables import Table

# How many settings are drawn: the best ones. The tables have all.
BARS, PANELS, LINES, DEPTHS, MAPS = 30, 12, 40, 4, 3
POINTS = 60  # of a curve
LAYER_NAMES = {"weight_norm": "weight norm", "activation_rms": "activation RMS", "grad_norm": "gradient norm"}


@dataclass(frozen=True)
class Section:
    """A heading and what comes below it."""

    name: str
    title: str
    lines: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    is_paired: bool = False  # drawings come in pairs that belong side by side


def sections(found: Folder) -> list[Section]:
    """All that the folder has something to say about."""
    every = [run, effects, curves, stopping, maps, capacity, layers, failures, runs, looks, provenance]
    return [section for make in every for section in [make(found)] if section is not None]


def run(found: Folder) -> Section:
    """What was run."""
    count, first = len(found.runs), found.runs[0]
    kinds = sorted({row["data.kind"] for row in found.runs})
    lines = [f"{count_of(count, 'run')} of {count_of(len(found.settings), 'setting')} on {', '.join(kinds)}."]
    sizes = {len(setting.finished) for setting in found.settings}
    if len(sizes) == 1 and count > 1:
        lines.append(f"{count_of(sizes.pop(), 'run')} for each setting.")
    elif count > 1:
        lines.append(
            f"Settings have from {min(sizes)} to {max(sizes)} finished runs: their means are not of the same seeds. "
            "regrun compare pairs them."
        )
    if left := tables.unfinished(found):
        lines.append(f"{count_of(left, 'run')} of the plan have not ended: this is a report on the others.")
    if all(number(row.get("train_size")) == number(first.get("train_size")) for row in found.runs):
        sizes_of = [f"{first.get(f'{split}_size', 'none')} {split}" for split in ("train", "val", "test")]
        lines.append(f"Examples: {', '.join(sizes_of)}.")
    return Section(
        "run", "What was run", [*lines, *_found(found)], [], _with_rows(tables.varied(found), tables.shared(found))
    )


def _found(found: Folder) -> Iterator[str]:
    """The result in a sentence or two."""
    best, q = found.settings[0], found.quantity
    unit = " %" if q == "accuracy" else ""
    val, test = (best.mean(f"{split}_{q}_best") for split in ("val", "test"))
    if val is not None:
        name = "" if len(found.settings) == 1 else f"Best by val: {best.label}. "
        told = f" and {shown(test, q)}{unit} on test" if test is not None else ""
        yield f"{name}{found.called.capitalize()} {shown(val, q)}{unit} on val{told} ({count_of(val.n, 'run')})."
    bad = {name: sum(row["status"] == name for row in found.runs) for name in ("diverged", "failed", "oom")}
    if told := ", ".join(f"{number} {name}" for name, number in bad.items() if number):
        yield f"{told} of {count_of(len(found.runs), 'run')}."


def _with_rows(*found: Table) -> list[Table]:
    return [table for table in found if table.rows]


def effects(found: Folder) -> Section:
    """Means and intervals by setting."""
    lines = [
        "Mean over runs and its 95 % t interval. Settings are in the order of their val figure; test is what each run "
        "read in its one look, and chooses nothing. What lies outside of a chart's axis is drawn at its edge."
    ]
    if len(found.settings) > 1:
        lines.append(
            f"The best of {len(found.settings)} settings looks better on val than it is: it was chosen by that figure."
        )
    lines.append(_sentence(found.looks))
    if any(len(s.runs) == 1 for s in found.settings):
        lines.append("n = 1 gives no interval: train more seeds to learn how much chance there is in a figure.")
    found_effects = factors.effects(found)
    if found_effects:
        lines.append(
            "One setting at a time: pairs of runs of the same seed that differ in it alone; the interval is over seeds."
        )
    drawings = [*_forests(found), *_effects(found, found_effects)]
    return Section(
        "effects", "Effects", lines, drawings, _with_rows(tables.effects(found), tables.factors(found, found_effects))
    )


def _sentence(line: str) -> str:
    """What stands below tables in a terminal, for a page."""
    return f"{line[:1].upper()}{line[1:]}."


def _effects(found: Folder, effects: Sequence[Effect]) -> Iterator[Drawing]:
    """Differences, in points."""
    unit = " (points)" if found.quantity == "accuracy" else ""
    pairs = [(f"{e.before} → {e.after}", scaled(e.val, found.quantity)) for e in effects]
    bars = [Bar(name, value) for name, value in pairs if value is not None][:BARS]
    if bars:
        title, unit = "One setting at a time, paired by seed", f"change of val {found.called}{unit}"
        quantity = {"accuracy": "change", "r2": "change of r2"}.get(found.quantity, "loss")
        yield charts.forest("effects_paired", title, bars, quantity=quantity, unit=unit, line=0.0)


def _forests(found: Folder) -> Iterator[Drawing]:
    for split in ("val", "test"):
        pairs = [(s.label, scaled(s.mean(f"{split}_{found.quantity}_best"), found.quantity)) for s in found.settings]
        bars = [Bar(name, value) for name, value in pairs if value is not None][:BARS]
        if len(bars) > 1:
            more = f", best {BARS} of {len(pairs)}" if len(pairs) > BARS else ""
            title, q = f"{split} {found.called} by setting{more}", found.quantity
            yield charts.forest(f"effects_{split}", title, bars, quantity=q, unit=f"{split} {found.unit}")


def curves(found: Folder) -> Section | None:
    """Train and val over epochs."""
    if not found.curves:
        line = "curves.csv is not there yet: regrun collect DIR writes it for a sweep that has not ended."
        return Section("curves", "Learning curves", [line])
    lines = [
        "Mean over runs; the band is its 95 % t interval, as far as all runs of a setting have trained. After that, a "
        "thin line is the mean of those that went on. Both splits are measured in eval mode, without augmentation."
    ]
    shown = [s for s in found.settings if _has_curve(found, s)] or found.settings
    if len(shown) < len(found.settings):
        lines.append(f"{count_of(len(found.settings) - len(shown), 'setting')} ended before the first epoch: no curve.")
    if len(shown) > PANELS:
        lines.append(f"The best {PANELS} of {len(shown)} settings; curves.csv has all.")
    quantities = [found.quantity, "loss"] if found.quantity != "loss" else ["loss"]
    own = {q: [(s, bands) for s in shown[:PANELS] if (bands := _bands(found, s, q))] for q in quantities}
    drawn = [drawing for q in quantities for drawing in _overlay(found, q)]
    panels = [list(_panels(own[q], q, _unit(found, q))) for q in quantities]
    drawn += [drawing for pair in zip(*panels, strict=False) for drawing in pair]
    return Section("curves", "Learning curves", lines, drawn, is_paired=len(quantities) == 2)


def _has_curve(found: Folder, setting: Setting) -> bool:
    """Whether a run of it went beyond its first point."""
    return any(len(points) > 1 for row in setting.runs for points in found.curves.get(row["run_id"], {}).values())


def _unit(found: Folder, quantity: str) -> str:
    return found.unit if quantity == found.quantity else "loss"


def _bands(found: Folder, setting: Setting, quantity: str) -> list[Band]:
    bands = []
    for split in charts.SPLITS:
        points = found.over_seeds(setting, split, quantity)
        if points:
            most = max(map(len, points.values()))
            whole = max(epoch for epoch, values in points.items() if len(values) == most)
            bands.append(Band(split, _means(points, quantity), whole))
    return bands


def _means(points: Points, quantity: str) -> dict[int, Mean]:
    """Of at most POINTS epochs, the first and the last among them."""
    epochs = list(points)
    step = -(-len(epochs) // POINTS)
    chosen = dict.fromkeys([*epochs[::step], epochs[-1]])
    found = {epoch: scaled(mean(points[epoch]), quantity) for epoch in chosen}
    return {epoch: value for epoch, value in found.items() if value is not None}


def _panels(own: Sequence[tuple[Setting, list[Band]]], quantity: str, unit: str) -> Iterator[Drawing]:
    """One for each setting, all with the same axes."""
    every = [m for _, bands in own for band in bands for m in band.means.values()]
    if not every:
        return
    y = _y([m.mean for m in every], quantity)
    x = scale([float(e) for _, bands in own for band in bands for e in band.means], 0, 1, pad=0.0)
    for i, (setting, bands) in enumerate(own, start=1):
        yield charts.curves(f"curves_{quantity}_{i}", setting.label, bands, x=x, y=y, unit=unit)


def _y(values: Sequence[float], quantity: str) -> Scale:
    """Loss is on a log scale."""
    return scale(within(values, quantity), 0, 1, is_log=quantity == "loss")


def _overlay(found: Folder, quantity: str) -> Iterator[Drawing]:
    if len(found.settings) < 2:
        return
    points = [(s.label, found.over_seeds(s, "val", quantity)) for s in _spread(found.settings)]
    lines = [(name, _means(own, quantity)) for name, own in points if own]
    if lines:
        y = _y([m.mean for _, means in lines for m in means.values()], quantity)
        unit, called = f"val {_unit(found, quantity)}", found.called if quantity == found.quantity else quantity
        yield charts.overlay(f"curves_all_{quantity}", f"val {called}, all settings", lines, y=y, unit=unit)


def _spread(settings: Sequence[Setting]) -> list[Setting]:
    """The best ones, and of the others as many as a picture takes, evenly by rank."""
    first = len(charts.RANKS)
    step = max(1, math.ceil((len(settings) - first) / (LINES - first)))
    return [*settings[:first], *settings[first::step]]


def stopping(found: Folder) -> Section:
    """Early stopping: where, and what it cost or gained."""
    q, finished = found.quantity, [row for s in found.settings for row in s.finished]
    saved, trained = sum(numbers(finished, "epochs_saved")), sum(numbers(finished, "last_epoch"))
    lines = []
    if saved + trained:
        share = f"{100 * saved / (saved + trained):.0f} %"
        lines.append(f"{saved:.0f} of {saved + trained:.0f} epochs were left out by stopping early ({share}).")
    lines.append(
        "A run's result is that of its best epoch by what early stopping monitors. The last epoch's is what one would "
        "have without going back to it; both are from the run's one look at test."
    )
    return Section("stopping", "Early stopping", lines, list(_stops(found, q)), [tables.stopping(found)])


def _stops(found: Folder, quantity: str) -> Iterator[Drawing]:
    shown = found.settings[:BARS]
    rows = [row for s in shown if (row := _stop(s)) is not None]
    if rows:
        yield charts.stops("stopping_epochs", "Where runs stopped", rows)
    for split in ("val", "test"):
        best, last = ([_at(s, f"{split}_{quantity}_{at}", quantity) for s in shown] for at in ("best", "last"))
        ends = [(s.label, b, e) for s, b, e in zip(shown, best, last, strict=True)]
        pairs = [(name, b, e) for name, b, e in ends if b is not None and e is not None]
        if len(pairs) > 1:
            title, unit = f"{split} {found.called}, best and last epoch", f"{split} {found.unit}"
            yield charts.pairs(f"stopping_{split}", title, pairs, quantity=quantity, unit=unit)


def _at(setting: Setting, column: str, quantity: str) -> float | None:
    found = scaled(setting.mean(column), quantity)
    return None if found is None else found.mean


def _stop(setting: Setting) -> Stop | None:
    given, lasts, best = (numbers(setting.finished, n) for n in ("trainer.epochs", "last_epoch", "best_epoch"))
    if not (given and lasts and best):
        return None
    return Stop(setting.label, max(given), lasts, sum(best) / len(best))


def maps(found: Folder) -> Section | None:
    """The val figure over two numbers."""
    names = [name for name in found.varied if _is_number(found, name)]
    drawings = [drawing for x, y in list(combinations(names, 2))[:MAPS] for drawing in _map(found, x, y)]
    if not drawings:
        return None
    others = len(found.varied) > 2
    lines = [
        "Mean over runs of the val figure."
        + (" Other settings vary, too: a cell is the mean over them." if others else "")
    ]
    return Section("map", "Two numbers", lines, drawings)


def _is_number(found: Folder, name: str) -> bool:
    values = [setting.values[name] for setting in found.settings]
    return len(set(values)) > 1 and all(number(value) is not None for value in values)


def _map(found: Folder, x: str, y: str) -> Iterator[Drawing]:
    cells: dict[tuple[float, float], list[Setting]] = {}
    for setting in found.settings:
        at = (float(setting.values[x]), float(setting.values[y]))
        cells.setdefault(at, []).append(setting)
    xs, ys = (sorted({at[i] for at in cells}) for i in (0, 1))
    if len(xs) < 2 or len(ys) < 2 or not len(cells) > len(xs) * len(ys) / 2:
        return
    figures = {at: _cell(found, own) for at, own in cells.items()}
    if any(value is not None for value, _ in figures.values()):
        digits = 1 if found.quantity == "accuracy" else 3
        grid, unit = Grid(x, y, xs, ys, figures), f"val {found.unit}"
        title, q = f"{unit} by {x} and {y}", found.quantity
        yield charts.heat(f"map_{x}_{y}", title, grid, quantity=q, unit=unit, digits=digits)


def _cell(found: Folder, settings: Sequence[Setting]) -> tuple[float | None, int]:
    rows = [row for s in settings for row in s.finished]
    value = scaled(mean(numbers(rows, f"val_{found.quantity}_best")), found.quantity)
    return (None if value is None else value.mean), sum(row["status"] != "ok" for s in settings for row in s.runs)


def capacity(found: Folder) -> Section | None:
    """Gap over the number of parameters."""
    finished = [row for s in found.settings for row in s.finished]
    cells = [(number(row.get("num_parameters")), number(row.get("gap"))) for row in finished]
    factor, unit = (100.0, "gap (points)") if found.quantity == "accuracy" else (1.0, "gap (R2)")
    points = [(at, factor * gap) for at, gap in cells if at is not None and gap is not None]
    if not points or len({at for at, _ in points}) < 2:
        return None
    means = [
        (s.label, sizes[0], gap)
        for s in found.settings
        if (sizes := numbers(s.finished, "num_parameters"))
        and (gap := scaled(s.mean("gap"), found.quantity)) is not None
    ]
    lines = ["Train minus val at the best epoch, over the number of trained parameters."]
    drawing = charts.scatter("capacity", "Gap against capacity", points, means, unit=unit)
    return Section("capacity", "Gap against capacity", lines, [drawing])


def layers(found: Folder) -> Section | None:
    """Norms and scales over depth and time."""
    if not found.layers:
        return None
    shown = found.settings[:DEPTHS]
    lines = ["Mean over runs, measured in eval mode on the first 256 training examples."]
    if len(found.settings) > DEPTHS:
        lines.append(f"The best {DEPTHS} of {len(found.settings)} settings; layers.csv has all.")
    drawings = [d for i, s in enumerate(shown, start=1) for name in LAYER_FIGURES for d in _depth(found, s, name, i)]
    return Section("layers", "Layers over depth and time", lines, drawings) if drawings else None


def _depth(found: Folder, setting: Setting, figure: str, rank: int) -> Iterator[Drawing]:
    own = [found.layers[row["run_id"]] for row in setting.finished if row["run_id"] in found.layers]
    epochs = sorted(set.intersection(*map(set, own))) if own else []
    if not epochs:
        return
    chosen = dict.fromkeys(epochs[round(i * (len(epochs) - 1) / 3)] for i in range(4))
    names = list(own[0][epochs[0]])
    lines = [(f"epoch {epoch}", [_layer(own, epoch, name, figure) for name in names]) for epoch in chosen]
    if any(value for _, values in lines for value in values):
        title = f"{LAYER_NAMES[figure]}: {setting.label}"
        yield charts.depth(f"layers_{figure}_{rank}", title, names, lines)


def _layer(
    own: Sequence[Mapping[int, Mapping[str, Mapping[str, float]]]], epoch: int, name: str, figure: str
) -> float | None:
    found = mean([v for run in own if (v := run.get(epoch, {}).get(name, {}).get(figure)) is not None])
    return None if found is None else found.mean


def failures(found: Folder) -> Section:
    """Runs that failed or diverged."""
    table = tables.failures(found)
    if not table.rows:
        return Section("failures", "Failures and divergences", ["None: every run ended well."])
    lines = [
        f"{len(table.rows)} of {count_of(len(found.runs), 'run')} did not end well. A run that diverged is a result. "
        "What share of a setting's runs ends well is known as well as so few runs tell: 95 % Wilson intervals."
    ]
    return Section("failures", "Failures and divergences", lines, list(_successes(found)), [table])


def _successes(found: Folder) -> Iterator[Drawing]:
    """Each setting's share of runs that ended well, the lowest first."""
    bars = [Bar(s.label, percent(share)) for s in found.settings if (share := s.success) is not None]
    bars = sorted(bars, key=lambda bar: bar.mean.mean)[:BARS]
    if bars:
        unit = "runs that ended well (%)"
        yield charts.forest("failures", "Success by setting", bars, quantity="accuracy", unit=unit, line=100.0)


def runs(found: Folder) -> Section:
    """Every run."""
    return Section("runs", "Every run", [], [], [tables.runs(found)])


def looks(found: Folder) -> Section:
    """How often test was read."""
    read = sum(number(row.get(f"test_{found.quantity}_best")) is not None for row in found.runs)
    lines = [f"{count_of(read, 'run')} read test at its end, in one look.", _sentence(found.looks)]
    if curves_of := sum(("test", "loss") in own for own in found.curves.values()):
        lines.append(f"{count_of(curves_of, 'run')} read it after each epoch, too (trainer.test_curve).")
    table = tables.ledger(found.root)
    return Section("looks", "Looks at test", lines, [], [] if table is None else [table])


def provenance(found: Folder) -> Section:
    """On what."""
    return Section("provenance", "Provenance", [], [], [tables.provenance(found)])
