"""A study's figures -> its picture: every seed by arm, or means over the setting that the arms' runs vary."""

from collections import defaultdict
from collections.abc import Sequence

from regrun.findings import StudyFigureRow
from regrun.report.axes import LEFT, RIGHT, SMALL, Key, begin, legend, x_axis, y_axis
from regrun.report.charts import FOOT, RANKS
from regrun.report.drawing import WIDTH, Area, Dot, Drawing, Label, Line, Scale, clear, scale, wrapped
from regrun.report.figures import Mean, mean, with_interval
from regrun.studies.design import Study
from regrun.studies.words import is_share, unit_of

PLOT = 190.0
WIDE = 20.0  # from the smallest to the largest value by this factor, an axis is logarithmic


def picture(study: Study, found: Sequence[StudyFigureRow]) -> Drawing | None:
    """The study's picture; None where it has none."""
    own = study.picture
    if own is None:
        return None
    rows = [row for row in found if row.figure == own.figure and (row.over is not None) == (own.over is not None)]
    share = is_share(own.figure)
    unit = own.figure.replace("_", " ") + (f" ({unit_of(own.figure)})" if share else "")
    values = [(row, 100 * row.value if share else row.value) for row in rows]
    title = own.title or study.claim
    if own.over is None:
        drawn = dict.fromkeys(row.arm for row in rows)
        by_arm: dict[str, list[float]] = {arm: [] for arm in [*(arm for arm in study.arms if arm in drawn), *drawn]}
        for row, value in values:
            by_arm[row.arm].append(value)
        return seeds(study.name, title, by_arm, unit=unit)
    lines: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, value in values:
        assert row.over is not None
        lines[row.arm][row.over].append(value)
    longer = {arm: points for arm, points in lines.items() if len(points) > 1}
    return over(study.name, title, longer or lines, x=own.over, unit=unit)


def seeds(name: str, title: str, arms: dict[str, list[float]], *, unit: str) -> Drawing:
    """A mark for every seed of every arm, their mean and its 95 % interval."""
    means = {arm: found for arm, values in arms.items() if (found := mean(values)) is not None}
    about = "; ".join(f"{arm}: {_interval(own)}" for arm, own in means.items())
    drawing, top = begin(name, title, f"{unit} by arm: {about}.")
    keys = [Key("one seed", "muted", shape="circle"), Key("mean, 95 % interval", "c0", shape="square")]
    top = legend(drawing, top, keys) + 4
    every = [v for values in arms.values() for v in values]
    x = scale([*every, *([0.0] if min(every) >= 0 and max(every) > 0 else [])], 12, WIDTH - 14, is_log=False)
    texts = {arm: wrapped(arm, WIDTH - 120, size=SMALL, most=3) for arm in means}
    bottom = top + sum(len(text) * 14 + 22 for text in texts.values())
    x_axis(drawing, x, top - 6, bottom, unit)
    for arm, own in means.items():
        for line in texts[arm]:
            drawing.add(*clear(Label(12, top + 8, line, size=SMALL)))
            top += 14
        drawing.add(*clear(Label(WIDTH - 4, top - 6, _interval(own), "muted", "end", SMALL)))
        drawing.add(*(Dot(x(value), top + 5, "muted", 3, opacity=0.5) for value in arms[arm]))
        if own.low is not None and own.high is not None:
            drawing.add(Line([(x(own.low), top + 5), (x(own.high), top + 5)], "c0", 2.5))
        drawing.add(Dot(x(own.mean), top + 5, "c0", 4.5, "square"))
        top += 22
    drawing.height = bottom + FOOT
    return drawing


def over(name: str, title: str, arms: dict[str, dict[float, list[float]]], *, x: str, unit: str) -> Drawing:
    """Means over a setting, a line for each arm with a band of 95 % intervals."""
    found = {arm: {at: own for at in sorted(by) if (own := mean(by[at])) is not None} for arm, by in arms.items()}
    about = "; ".join(f"{arm} from {_interval(_first(own))} to {_interval(_last(own))}" for arm, own in found.items())
    drawing, top = begin(name, title, f"{unit} over {x}: {about}.")
    keys = [Key(arm, *RANKS[i % len(RANKS)]) for i, arm in enumerate(found)]
    top = legend(drawing, top, [*keys, Key("95 % interval over seeds", "muted", shape="band")]) + 14
    places = [at for own in found.values() for at in own]
    xs = scale(places, LEFT, WIDTH - RIGHT, is_log=min(places) > 0 and max(places) >= WIDE * min(places), pad=0.02)
    ends = [v for own in found.values() for m in own.values() for v in (m.mean, m.low, m.high) if v is not None]
    limit = [min(100.0, max(0.0, v)) if "(%)" in unit else v for v in ends]
    ys = scale([*limit, 0.0] if min(limit) >= 0 else limit, top + PLOT, top, pad=0.03)
    y_axis(drawing, ys, unit)
    x_axis(drawing, xs, top, top + PLOT, x)
    for i, line in enumerate(found.values()):
        color, dash = RANKS[i % len(RANKS)]
        drawing.add(*_band(line, color, xs, ys))
        points = [(xs(at), ys(m.mean)) for at, m in line.items()]
        drawing.add(Line(points, color, 2, dash), *(Dot(*point, color, 2.5) for point in points))
    drawing.height = top + PLOT + FOOT
    return drawing


def _band(means: dict[float, Mean], color: str, x: Scale, y: Scale) -> list[Area]:
    ends = [(x(at), m.low, m.high) for at, m in means.items()]
    low = [(at, y(v)) for at, v, _ in ends if v is not None]
    high = [(at, y(v)) for at, _, v in ends if v is not None]
    return [Area([*low, *high[::-1]], color, 0.18)] if len(low) > 1 else []


def _first(means: dict[float, Mean]) -> Mean:
    return means[min(means)]


def _last(means: dict[float, Mean]) -> Mean:
    return means[max(means)]


def _interval(own: Mean) -> str:
    return with_interval(own, 1 if abs(own.mean) >= 2 else 3)
