"""A drawing as SVG text. Every text is escaped."""

import html
from collections.abc import Mapping

from regrun.report.drawing import Area, Dot, Drawing, Line, Shape

# Okabe and Ito's colours, told apart with any kind of colour vision; darkened for white, lightened for dark paper.
LIGHT = {
    "ink": "#1c1e21",
    "muted": "#5b6066",
    "grid": "#d9dce0",
    "paper": "#ffffff",
    "c0": "#0067a5",
    "c1": "#c84e00",
    "c2": "#007a59",
    "c3": "#a8407f",
    "c4": "#876300",
    "c5": "#2b8cbf",
}
DARK = {
    "ink": "#e8eaed",
    "muted": "#a9afb6",
    "grid": "#3c4147",
    "paper": "#16181b",
    "c0": "#56b4e9",
    "c1": "#ff8a4c",
    "c2": "#2fc79a",
    "c3": "#e394c3",
    "c4": "#e8c547",
    "c5": "#8fd3ff",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def escape(text: str) -> str:
    """For HTML and XML; characters that XML has none of are shown as a replacement."""
    return html.escape("".join(c if c.isprintable() or c == " " else "\ufffd" for c in text), quote=True)


def inline(drawing: Drawing, number: int) -> str:
    """For a page, whose style gives the colours. `number` sets it apart from its neighbours."""
    return _svg(drawing, None, number)


def standalone(drawing: Drawing) -> str:
    """A file of its own, on white."""
    return _svg(drawing, LIGHT, 0)


def _svg(drawing: Drawing, palette: Mapping[str, str] | None, number: int) -> str:
    w, h = _n(drawing.width), _n(drawing.height)
    paper = "" if palette is None else f'<rect width="{w}" height="{h}" fill="{palette["paper"]}"/>'
    space = "" if palette is None else f' xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}"'
    return (
        f'<svg{space} viewBox="0 0 {w} {h}" role="img" aria-labelledby="t{number} d{number}" '
        f'font-family="{escape(FONT)}">'
        f'<title id="t{number}">{escape(drawing.title)}</title>'
        f'<desc id="d{number}">{escape(drawing.description)}</desc>'
        f"{paper}{''.join(_shape(shape, palette) for shape in drawing.shapes)}</svg>"
    )


def _shape(shape: Shape, palette: Mapping[str, str] | None) -> str:
    color = shape.color if shape.color.startswith("#") else palette[shape.color] if palette else f"var(--{shape.color})"
    match shape:
        case Line():
            dash = f' stroke-dasharray="{shape.dash}"' if shape.dash else ""
            return (
                f'<polyline points="{_points(shape.points)}" fill="none" stroke="{color}" '
                f'stroke-width="{_n(shape.width)}"{dash}/>'
            )
        case Area():
            return (
                f'<polygon points="{_points(shape.points)}" fill="{color}"{_opacity(shape)}>{_title(shape)}</polygon>'
            )
        case Dot():
            return _dot(shape, color)
    weight = ' font-weight="600"' if shape.is_bold else ""
    anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
    place = f'x="{_n(shape.x)}" y="{_n(shape.y)}" font-size="{_n(shape.size)}"'
    return f'<text {place} fill="{color}"{anchor}{weight}>{escape(shape.text)}</text>'


def _dot(dot: Dot, color: str) -> str:
    style = f'fill="{color}"{_opacity(dot)}'
    if dot.shape == "circle":
        return f'<circle cx="{_n(dot.x)}" cy="{_n(dot.y)}" r="{_n(dot.radius)}" {style}>{_title(dot)}</circle>'
    return f'<polygon points="{_points(corners(dot))}" {style}>{_title(dot)}</polygon>'


def corners(dot: Dot) -> list[tuple[float, float]]:
    """Of a square or a diamond of about the area of the circle."""
    r = dot.radius * (0.9 if dot.shape == "square" else 1.25)
    steps = ((-r, -r), (r, -r), (r, r), (-r, r)) if dot.shape == "square" else ((0, -r), (r, 0), (0, r), (-r, 0))
    return [(dot.x + dx, dot.y + dy) for dx, dy in steps]


def _title(shape: Area | Dot) -> str:
    return f"<title>{escape(shape.title)}</title>" if shape.title else ""


def _opacity(shape: Area | Dot) -> str:
    return "" if shape.opacity == 1 else f' fill-opacity="{_n(shape.opacity)}"'


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 1 else f"{value:.2g}"
