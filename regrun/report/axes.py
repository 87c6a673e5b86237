"""What charts share: a title, a legend, a pair of axes with a grid."""

from collections.abc import Sequence
from dataclasses import dataclass

from regrun.report.drawing import EM, SIZE, WIDTH, Area, Dot, Drawing, Label, Line, Scale, Shape, wrapped

LINE = 16.0  # height of a line of text
SMALL = 11.0
LEFT, RIGHT = 46.0, 12.0  # margins


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a line as it is drawn, or a mark."""

    label: str
    color: str
    dash: str = ""
    width: float = 2.0
    shape: str = ""


def begin(name: str, title: str, description: str, *, lines: int = 3) -> tuple[Drawing, float]:
    """A drawing with its title on top, and where there is room below it."""
    drawing = Drawing(name, title, description)
    rows = wrapped(title, WIDTH - 8, size=SIZE * 1.2, most=lines)  # bold is wider
    for i, row in enumerate(rows):
        drawing.add(Label(4, 14 + i * LINE, row, is_bold=True))
    return drawing, 14 + len(rows) * LINE


def legend(drawing: Drawing, y: float, keys: Sequence[Key]) -> float:
    """Entries in as many lines as they need; returns where there is room below."""
    x = 4.0
    for key in keys:
        (text,) = wrapped(key.label, WIDTH - 40, size=SMALL, most=1)
        width = 26 + len(text) * SMALL * EM + 14
        if x > 4 and x + width > WIDTH + 8:
            x, y = 4.0, y + LINE
        drawing.add(_sample(key, x, y - 4), Label(x + 25, y, text, "muted", size=SMALL))
        x += width
    return y + LINE


def _sample(key: Key, x: float, y: float) -> Shape:
    if key.shape == "band":
        return Area([(x, y - 5), (x + 20, y - 5), (x + 20, y + 5), (x, y + 5)], key.color, 0.25)
    if key.shape:
        return Dot(x + 11, y, key.color, shape=key.shape)
    return Line([(x, y), (x + 20, y)], key.color, key.width, key.dash)


def x_axis(drawing: Drawing, x: Scale, top: float, bottom: float, label: str, most: int = 5) -> None:
    """Ticks and grid lines from top to bottom, and what the axis shows."""
    reached = -1e9
    for value, text in x.ticks(most):
        at, half = x(value), len(text) * SMALL * EM / 2
        drawing.add(Line([(at, top), (at, bottom)], "grid", 1))
        if at - half > reached + 4:
            drawing.add(Label(min(at, WIDTH - half), bottom + 14, text, "muted", "middle", SMALL))
            reached = at + half
    drawing.add(Label((x.start + x.end) / 2, bottom + 30, label, "muted", "middle", SMALL))


def y_axis(drawing: Drawing, y: Scale, label: str, most: int = 5) -> None:
    """Ticks and grid lines, and what the axis shows, above it."""
    drawing.add(*([Label(4, y.end - 6, label, "muted", size=SMALL)] if label else []))
    for value, text in y.ticks(most):
        drawing.add(Line([(LEFT, y(value)), (WIDTH - RIGHT, y(value))], "grid", 1))
        drawing.add(Label(LEFT - 5, y(value) + 4, text, "muted", "end", SMALL))


def named_axis(drawing: Drawing, names: Sequence[str], x: Scale, bottom: float, label: str) -> None:
    """Ticks at 0, 1, 2 ... that have names; where they have no room, numbers from 1, and not all of them."""
    room = (x.end - x.start) / max(1, len(names) - 1)
    fits = max(map(len, names), default=0) * SMALL * EM + 6 < room
    step = 1 if fits else max(1, -(-len(names) * 24 // int(x.end - x.start)))
    for i in range(0, len(names), step):
        drawing.add(Line([(x(i), bottom), (x(i), bottom + 3)], "muted", 1))
        drawing.add(Label(x(i), bottom + 15, names[i] if fits else str(i + 1), "muted", "middle", SMALL))
    drawing.add(Label((x.start + x.end) / 2, bottom + 30, label, "muted", "middle", SMALL))
