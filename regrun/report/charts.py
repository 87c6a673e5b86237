"""Figures -> drawings: intervals, learning curves, where runs stopped, two numbers as a map, gap, layers.

Pure functions; what they draw is in the unit of the screen already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regrun.report.axes import LEFT, RIGHT, SMALL, Key, begin, legend, named_axis, x_axis, y_axis
from regrun.report.drawing import WIDTH, Area, Dot, Drawing, Label, Line, Scale, clear, scale, wrapped
from regrun.report.figures import Mean, short, with_interval, within

PLOT = 170.0  # height of what axes enclose
FOOT = 38.0  # below it: ticks and the label
SPLITS = {"train": ("c0", ""), "val": ("c1", "6 3"), "test": ("c2", "2 3")}  # the dashes tell them apart in grey
RANKS = (("c0", ""), ("c1", "7 3"), ("c2", "2 3"), ("c3", "8 3 2 3"), ("c4", "12 4"))
TIMES = (("muted", "2 3"), ("c4", "5 3"), ("c1", "9 3"), ("c0", ""))  # from the first epoch to the last
# Cividis (Nunez et al. 2018): from dark blue to yellow, for any kind of colour vision and in grey.
MAP = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")


@dataclass(frozen=True)
class Bar:
    """One line of a forest plot."""

    label: str
    mean: Mean


def forest(
    name: str, title: str, bars: Sequence[Bar], *, quantity: str, unit: str, line: float | None = None
) -> Drawing:
    """A mean and its interval for each setting, one below the other; a line at `line`, or the first one's mean."""
    first = f"{bars[0].label} is first with {_interval(bars[0].mean, quantity)}"
    about = f"{first}; {len(bars)} bars. The table has the figures."
    drawing, top = begin(name, title, about)
    ends = [v for bar in bars for v in (bar.mean.mean, bar.mean.low, bar.mean.high) if v is not None]
    at = bars[0].mean.mean if line is None else line
    x = scale(within([at, *ends], quantity), 12, WIDTH - 14)
    texts = [wrapped(bar.label, WIDTH - 120, size=SMALL, most=4) for bar in bars]
    bottom = top + sum(len(text) * 14 + 20 for text in texts)
    x_axis(drawing, x, top - 6, bottom, unit)
    drawing.add(Line([(x(at), top - 6), (x(at), bottom)], "muted", 1, "3 3"))
    for bar, text in zip(bars, texts, strict=True):
        for row in text:
            drawing.add(*clear(Label(12, top + 8, row, size=SMALL)))
            top += 14
        drawing.add(*clear(Label(WIDTH - 4, top - 6, _interval(bar.mean, quantity), "muted", "end", SMALL)))
        drawing.add(*_whisker(bar.mean, x, top + 4))
        top += 20
    drawing.height = bottom + FOOT
    return drawing


def _whisker(mean: Mean, x: Scale, y: float) -> list[Line | Dot]:
    ends = (mean.low, mean.high)
    bar = [] if ends[0] is None or ends[1] is None else [Line([(x(ends[0]), y), (x(ends[1]), y)], "c0", 2.5)]
    return [*bar, Dot(x(mean.mean), y, "c0", 4.5, "square")]


def _interval(mean: Mean, quantity: str) -> str:
    digits = {"accuracy": 1, "change": 2}.get(quantity, 3)
    return with_interval(mean, digits) + (" (n = 1)" if mean.low is None else "")


@dataclass(frozen=True)
class Band:
    """A setting's curve of one split: its mean over runs by epoch, and the last epoch that all of them reached."""

    split: str
    means: Mapping[int, Mean]
    whole: int


def curves(name: str, title: str, bands: Sequence[Band], *, x: Scale, y: Scale, unit: str) -> Drawing:
    """Train and val of one setting with their intervals; a thin line goes on where some runs have stopped."""
    lasts = ", ".join(f"{b.split} ends at {short(b.means[max(b.means)].mean)}" for b in bands)
    drawing, top = begin(name, title, f"{unit} over epochs of {title}: {lasts}.")
    keys = [Key(band.split, *SPLITS[band.split]) for band in bands]
    has_band = any(m.low is not None for band in bands for m in band.means.values())
    interval = [Key("95 % interval over runs", "muted", shape="band")] if has_band else []
    top = legend(drawing, top, [*keys, *interval]) + 14
    x, y = Scale(x.low, x.high, LEFT, WIDTH - RIGHT), Scale(y.low, y.high, top + PLOT, top, y.is_log)
    y_axis(drawing, y, unit)
    x_axis(drawing, x, top, top + PLOT, "epoch")
    for band in bands:
        color, dash = SPLITS[band.split]
        drawing.add(*_band(band, color, x, y))
        full = [(x(e), y(m.mean)) for e, m in band.means.items() if e <= band.whole]
        rest = [(x(e), y(m.mean)) for e, m in band.means.items() if e >= band.whole]
        drawing.add(Line(rest, color, 1, "1 3"), Line(full, color, 2, dash))
        if len(full) < 3:
            drawing.add(*(Dot(*point, color, 3) for point in full))
    drawing.height = top + PLOT + FOOT
    return drawing


def _band(band: Band, color: str, x: Scale, y: Scale) -> list[Area]:
    ends = [(x(e), m.low, m.high) for e, m in band.means.items() if e <= band.whole and m.low is not None]
    low = [(at, y(v)) for at, v, _ in ends if v is not None]
    high = [(at, y(v)) for at, _, v in ends if v is not None]
    return [Area([*low, *high[::-1]], color, 0.18)] if len(ends) > 1 else []


def overlay(name: str, title: str, lines: Sequence[tuple[str, Mapping[int, Mean]]], *, y: Scale, unit: str) -> Drawing:
    """The val curves of all settings: the first few by colour and dashes, the others as a grey background."""
    first = lines[: len(RANKS)]
    drawing, top = begin(name, title, f"Mean {unit} over epochs; the best is {first[0][0]}.")
    keys = [Key(label, *RANKS[i]) for i, (label, _) in enumerate(first)]
    others = [Key(f"{len(lines) - len(first)} more", "muted", width=1)] if len(lines) > len(first) else []
    top = legend(drawing, top, [*keys, *others]) + 14
    x = scale([float(e) for _, means in lines for e in means], LEFT, WIDTH - RIGHT, pad=0.0)
    y = Scale(y.low, y.high, top + PLOT, top, y.is_log)
    y_axis(drawing, y, unit)
    x_axis(drawing, x, top, top + PLOT, "epoch")
    for i, (_, means) in reversed(list(enumerate(lines))):
        color, dash = RANKS[i] if i < len(RANKS) else ("muted", "")
        points = [(x(e), y(m.mean)) for e, m in means.items()]
        drawing.add(Line(points, color, 2 if i < len(RANKS) else 0.5, dash))
    drawing.height = top + PLOT + FOOT
    return drawing


@dataclass(frozen=True)
class Stop:
    """Where the runs of a setting stopped."""

    label: str
    epochs: float  # that it was given
    lasts: list[float]
    best: float  # mean best epoch


def stops(name: str, title: str, rows: Sequence[Stop]) -> Drawing:
    """For each setting the epochs it was given, each run's last epoch, and the mean best epoch."""
    drawing, top = begin(name, title, f"Last and best epochs of {len(rows)} settings. The table has the figures.")
    keys = [Key("given", "grid", width=8), Key("last epoch of a run", "c0", shape="circle")]
    top = legend(drawing, top, [*keys, Key("mean best epoch", "c1", shape="diamond")]) + 2
    x = scale([0.0, *(row.epochs for row in rows), *(e for row in rows for e in row.lasts)], 12, WIDTH - 14, pad=0.02)
    texts = [wrapped(row.label, WIDTH - 20, size=SMALL, most=4) for row in rows]
    bottom = top + sum(len(text) * 14 + 20 for text in texts)
    x_axis(drawing, x, bottom - 1, bottom + 3, "epoch")
    for row, text in zip(rows, texts, strict=True):
        for line in text:
            drawing.add(*clear(Label(12, top + 8, line, size=SMALL)))
            top += 14
        drawing.add(Line([(x(0), top + 4), (x(row.epochs), top + 4)], "grid", 8))
        drawing.add(Line([(x(0), top + 4), (x(sum(row.lasts) / len(row.lasts)), top + 4)], "c0", 2.5))
        drawing.add(*(Dot(x(last), top + 4, "c0", 4, opacity=0.7) for last in row.lasts))
        drawing.add(Dot(x(row.best), top + 4, "c1", 4, "diamond"))
        top += 20
    drawing.height = bottom + FOOT
    return drawing


def pairs(name: str, title: str, rows: Sequence[tuple[str, float, float]], *, quantity: str, unit: str) -> Drawing:
    """What each setting has at its best epoch and at its last, joined by a line."""
    drawing, top = begin(name, title, f"Mean {unit} at the best and at the last epoch of {len(rows)} settings.")
    top = legend(drawing, top, [Key("best epoch", "c1", shape="diamond"), Key("last epoch", "c0", shape="square")]) + 2
    x = scale(within([value for _, *both in rows for value in both], quantity), 12, WIDTH - 14)
    texts = [wrapped(label, WIDTH - 20, size=SMALL, most=4) for label, _, _ in rows]
    bottom = top + sum(len(text) * 14 + 20 for text in texts)
    x_axis(drawing, x, top - 4, bottom, unit)
    for (_, best, last), text in zip(rows, texts, strict=True):
        for line in text:
            drawing.add(*clear(Label(12, top + 8, line, size=SMALL)))
            top += 14
        drawing.add(Line([(x(last), top + 4), (x(best), top + 4)], "muted", 2))
        drawing.add(Dot(x(last), top + 4, "c0", 4, "square"), Dot(x(best), top + 4, "c1", 4, "diamond"))
        top += 20
    drawing.height = bottom + FOOT
    return drawing


@dataclass(frozen=True)
class Grid:
    """A figure for each pair of values of two settings; None where there is none, and how many runs went wrong."""

    x_name: str
    y_name: str
    xs: list[float]
    ys: list[float]
    cells: Mapping[tuple[float, float], tuple[float | None, int]]


def heat(name: str, title: str, grid: Grid, *, quantity: str, unit: str, digits: int) -> Drawing:
    """A map of two numbers, a cell for each pair; the figure in it where there is room."""
    found = {at: value for at, (value, _) in grid.cells.items() if value is not None}
    best = max(found, key=lambda at: found[at])
    about = f"Highest is {found[best]:.{digits}f} at {grid.x_name} {short(best[0])}, {grid.y_name} {short(best[1])}."
    drawing, top = begin(name, title, f"{unit} by {grid.x_name} and {grid.y_name}. {about}")
    inside = within(list(found.values()), quantity)
    low, high = min(inside), max(inside)
    drawing.add(Label(4, top, grid.y_name, "muted", size=SMALL))
    top += 8
    left = 16 + max(len(short(v)) for v in grid.ys) * SMALL * 0.6
    width, height = (WIDTH - left - 4) / len(grid.xs), min(40.0, max(12.0, 280 / len(grid.ys)))
    for row, b in enumerate(sorted(grid.ys, reverse=True)):
        y = top + row * height
        drawing.add(Label(left - 6, y + height / 2 + 4, short(b), "muted", "end", SMALL))
        for column, a in enumerate(grid.xs):
            box = (left + column * width, y, width, height)
            drawing.add(*_cell(box, *grid.cells.get((a, b), (None, 0)), low=low, high=high, digits=digits))
    bottom, step = top + height * len(grid.ys), -(-len(grid.xs) * 34 // int(WIDTH - left))
    for column, a in enumerate(grid.xs):
        if column % step == 0:
            drawing.add(Label(left + (column + 0.5) * width, bottom + 14, short(a), "muted", "middle", SMALL))
    drawing.add(Label((left + WIDTH) / 2, bottom + 30, grid.x_name, "muted", "middle", SMALL))
    drawing.height = _bar(drawing, bottom + 40, low, high, digits)
    return drawing


def _cell(
    box: tuple[float, float, float, float], value: float | None, bad: int, *, low: float, high: float, digits: int
) -> list[Area | Label]:
    x, y, w, h = box
    corners = [(x + 0.5, y + 0.5), (x + w - 0.5, y + 0.5), (x + w - 0.5, y + h - 0.5), (x + 0.5, y + h - 0.5)]
    text = "none" if value is None else f"{value:.{digits}f}"
    level = 0.0 if value is None else min(1.0, max(0.0, (value - low) / (high - low or 1.0)))
    ink = "ink" if value is None else "#ffffff" if level < 0.55 else "#000000"
    note = f"{bad} not ok" if bad else ""
    shapes: list[Area | Label] = [
        Area(corners, "grid" if value is None else shade(level), title=f"{text} {note}".strip())
    ]
    if w >= 30 and h >= 14:
        up = 6 if note and h >= 30 else 0
        shapes.append(Label(x + w / 2, y + h / 2 + 4 - up, text, ink, "middle", SMALL))
        shapes += [Label(x + w / 2, y + h / 2 + 13, note, ink, "middle", 9.5)] if up else []
    return shapes


def shade(level: float) -> str:
    """A colour of the map: 0 is dark, 1 is light."""
    at = min(1.0, max(0.0, level)) * (len(MAP) - 1)
    i = min(int(at), len(MAP) - 2)
    parts = [(int(MAP[i][k : k + 2], 16), int(MAP[i + 1][k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in parts)


def _bar(drawing: Drawing, y: float, low: float, high: float, digits: int) -> float:
    """The scale of a map's colours; returns where the drawing ends."""
    steps, left, width = 24, 60.0, (WIDTH - 120) / 24
    for i in range(steps):
        x = left + i * width
        drawing.add(Area([(x, y), (x + width, y), (x + width, y + 10), (x, y + 10)], shade(i / (steps - 1))))
    drawing.add(Label(left - 6, y + 9, f"{low:.{digits}f}", "muted", "end", SMALL))
    drawing.add(Label(WIDTH - 54, y + 9, f"{high:.{digits}f}", "muted", "start", SMALL))
    return y + 20


def scatter(
    name: str, title: str, runs: Sequence[tuple[float, float]], means: Sequence[tuple[str, float, Mean]], *, unit: str
) -> Drawing:
    """Gap over the number of parameters: a faint dot for each run, a square with its interval for each setting."""
    drawing, top = begin(name, title, f"{unit} of {len(runs)} runs of {len(means)} settings over their parameters.")
    keys = [Key("a run", "muted", shape="circle"), Key("a setting, 95 % interval", "c0", shape="square")]
    top = legend(drawing, top, keys) + 14
    x = scale([at for at, _ in runs], LEFT + 18, WIDTH - RIGHT - 18, is_log=True)
    ends = [v for *_, mean in means for v in (mean.low, mean.high) if v is not None]
    y = scale([0.0, *(gap for _, gap in runs), *ends], top + PLOT, top)
    y_axis(drawing, y, unit)
    x_axis(drawing, x, top, top + PLOT, "parameters", most=4)
    drawing.add(Line([(LEFT, y(0)), (WIDTH - RIGHT, y(0))], "muted", 1))
    drawing.add(*(Dot(x(at), y(gap), "muted", 2.5, opacity=0.45) for at, gap in runs))
    beside = _side_by_side([at for _, at, _ in means])
    for (label, at, mean), aside in zip(means, beside, strict=True):
        if mean.low is not None and mean.high is not None:
            drawing.add(Line([(x(at) + aside, y(mean.low)), (x(at) + aside, y(mean.high))], "c0", 1.5))
        drawing.add(Dot(x(at) + aside, y(mean.mean), "c0", 4, "square", title=f"{label}: {short(at)} parameters"))
    drawing.height = top + PLOT + FOOT
    return drawing


def _side_by_side(places: Sequence[float]) -> list[float]:
    """Pixels by which marks at the same place are moved apart, within 16 to either side."""
    at = {place: [i for i, other in enumerate(places) if other == place] for place in places}
    aside = dict[int, float]()
    for same in at.values():
        step = min(7.0, 32 / len(same))
        aside |= {i: step * (k - (len(same) - 1) / 2) for k, i in enumerate(same)}
    return [aside[i] for i in range(len(places))]


def depth(name: str, title: str, names: Sequence[str], lines: Sequence[tuple[str, Sequence[float | None]]]) -> Drawing:
    """A figure over depth, a line for each of a few epochs, on a log scale."""
    drawing, top = begin(name, title, f"{title}, from {names[0]} to {names[-1]}, at {len(lines)} epochs; log scale.")
    styles = TIMES[-len(lines) :]
    top = legend(drawing, top, [Key(label, *style) for (label, _), style in zip(lines, styles, strict=True)])
    x = Scale(0, max(1, len(names) - 1), LEFT + 14, WIDTH - RIGHT - 14)
    y = scale([v for _, values in lines for v in values if v], top + PLOT * 0.8, top, is_log=True, pad=0.1)
    y_axis(drawing, y, "")
    named_axis(drawing, names, x, top + PLOT * 0.8, "layer, from input to output")
    for (_, values), (color, dash) in zip(lines, styles, strict=True):
        points = [(x(i), y(v)) for i, v in enumerate(values) if v]
        drawing.add(Line(points, color, 2, dash), *(Dot(*point, color, 2.5) for point in points))
    drawing.height = top + PLOT * 0.8 + FOOT
    return drawing
