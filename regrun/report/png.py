"""A drawing as PNG bytes, by matplotlib, which is imported when something is drawn."""

import io
from typing import TYPE_CHECKING

from regrun import plots
from regrun.report.drawing import Area, Dot, Drawing, Label, Line, Shape
from regrun.report.svg import LIGHT, corners

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200
POINTS = 0.72  # of a pixel, where 100 of them are an inch
NARROWER = 0.93  # the letters of matplotlib's own font are wider than a browser's
ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def png(drawing: Drawing) -> bytes:
    """On white."""
    figure = plots.blank(drawing.width / 100, drawing.height / 100, dpi=DPI)
    figure.set_facecolor(LIGHT["paper"])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.axis("off")
    for shape in drawing.shapes:
        _draw(axes, shape)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: "Axes", shape: Shape) -> None:
    color = LIGHT.get(shape.color, shape.color)
    match shape:
        case Line():
            lengths = [float(part) for part in shape.dash.split()]
            style = (0, [length / shape.width for length in lengths]) if lengths else "-"
            xs, ys = zip(*shape.points, strict=True)
            axes.plot(xs, ys, color=color, linewidth=shape.width * POINTS, linestyle=style, solid_joinstyle="round")
        case Area():
            axes.fill(*zip(*shape.points, strict=True), color=color, alpha=shape.opacity, linewidth=0, zorder=2)
        case Dot(shape="circle"):
            from matplotlib.patches import Circle

            circle = Circle((shape.x, shape.y), shape.radius, color=color, alpha=shape.opacity, linewidth=0, zorder=3)
            axes.add_patch(circle)
        case Dot():
            axes.fill(*zip(*corners(shape), strict=True), color=color, alpha=shape.opacity, linewidth=0, zorder=3)
        case Label():
            axes.text(
                shape.x,
                shape.y,
                shape.text,
                color=color,
                fontsize=shape.size * POINTS * NARROWER,
                ha=ANCHORS[shape.anchor],
                va="baseline",
                weight="bold" if shape.is_bold else "normal",
                parse_math=False,
                zorder=4,
            )
