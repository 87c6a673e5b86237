"""A picture as plain shapes, in pixels from the top left corner; svg.py and png.py put them on a page.

Colours are roles, so that one picture serves light and dark: ink, muted, grid, paper, c0 to c5; or #rrggbb.
"""

import math
from dataclasses import dataclass, field

from regrun.report.figures import short

SIZE = 12.0  # of letters; pictures are as wide as a phone, so that these stay legible there
WIDTH = 360.0
EM = 0.55  # mean width of a letter, of its size


@dataclass(frozen=True)
class Line:
    """A line through points."""

    points: list[tuple[float, float]]
    color: str = "ink"
    width: float = 1.5
    dash: str = ""  # lengths on and off, as in SVG


@dataclass(frozen=True)
class Area:
    """A filled polygon; `opacity` lets a grid shine through."""

    points: list[tuple[float, float]]
    color: str
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True)
class Dot:
    """A mark: a filled circle, square or diamond."""

    x: float
    y: float
    color: str
    radius: float = 4.0
    shape: str = "circle"
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True)
class Label:
    """Text; `anchor` is start, middle or end."""

    x: float
    y: float
    text: str
    color: str = "ink"
    anchor: str = "start"
    size: float = SIZE
    is_bold: bool = False


Shape = Line | Area | Dot | Label


def clear(label: Label) -> list[Shape]:
    """A label on a patch of paper, so that no grid runs through it."""
    width = len(label.text) * label.size * EM + 4
    left = label.x - 2 - {"start": 0.0, "middle": width / 2, "end": width - 4}[label.anchor]
    top, bottom = label.y - label.size * 0.85, label.y + label.size * 0.25
    patch = [(left, top), (left + width, top), (left + width, bottom), (left, bottom)]
    return [Area(patch, "paper"), label]


@dataclass
class Drawing:
    """A picture: its title is drawn on it, its description is for those who do not see it."""

    name: str  # of its file
    title: str
    description: str
    width: float = WIDTH
    height: float = 0.0
    shapes: list[Shape] = field(default_factory=list)

    def add(self, *shapes: Shape) -> None:
        """Draw over what is there."""
        self.shapes += shapes


@dataclass(frozen=True)
class Scale:
    """Values -> pixels, linear or logarithmic. What lies outside is put at the edge."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, v = (self._of(x) for x in (self.low, self.high, value))
        share = (v - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.is_log else value

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Round values and their labels."""
        found = _log_ticks(self.low, self.high, most) if self.is_log else []
        if len(found) < 2:
            found = _linear_ticks(self.low, self.high, most)
        return [(value, short(value)) for value in found]


def scale(values: list[float], start: float, end: float, *, is_log: bool = False, pad: float = 0.05) -> Scale:
    """A scale that all values fit into, with some room."""
    is_log = is_log and min(values) > 0
    low, high = min(values), max(values)
    if is_log:
        room = (high / low) ** pad if high > low else 1.5
        return Scale(low / room, high * room, start, end, is_log=True)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    span = high - low
    if not 0 < span < math.inf:
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.8)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(tens) < 3:
        return [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high][: 2 * most]
    return tens[:: -(-len(tens) // most)]


def wrapped(text: str, width: float, *, size: float = SIZE, most: int = 2) -> list[str]:
    """Text in lines that fit into `width`, broken at blanks; what is too much ends in an ellipsis."""
    room = max(4, int(width / (EM * size)))
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if len(longer) <= room or not lines[-1] else [*lines, word]
    lines = [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][: room - 1] + "…"]
