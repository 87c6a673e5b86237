"""Sections -> one HTML page that needs nothing else: no network, no files. Every text is escaped.

A policy in the page lets its own script run and no other, should a text ever slip through.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from regrun import __version__
from regrun.report.figures import count_of, is_figure
from regrun.report.sections import Section
from regrun.report.svg import DARK, LIGHT, escape, inline
from regrun.report.tables import Table

HERE = Path(__file__).parent
NUMERIC = ' class="n"'


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    style, script = _style(), (HERE / "page.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"
    numbers = count(1)
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">',
            f"<style>\n{style}</style>\n</head>\n<body>",
            f'<header><h1>{escape(title)}</h1><nav aria-label="sections">{links}</nav></header>\n<main>',
            *(part for section in sections for part in _section(section, numbers)),
            f"</main>\n<footer>Made by regrun {escape(__version__)} from the tables in this folder.</footer>",
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _style() -> str:
    """Light, and dark on screens that ask for it; paper is light."""
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
    return f":root {{ {_variables(LIGHT)} }}\n{dark}" + (HERE / "page.css").read_text(encoding="utf-8")


def _variables(palette: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in palette.items())


def _section(section: Section, numbers: Iterator[int]) -> Iterator[str]:
    yield f'<section id="{section.name}"><h2>{escape(section.title)}</h2>'
    yield from (f"<p>{escape(line)}</p>" for line in section.lines)
    if section.drawings:
        yield f'<div class="charts{" two" if section.is_paired else ""}">'
        yield from (f"<figure>{inline(drawing, next(numbers))}</figure>" for drawing in section.drawings)
        yield "</div>"
    for table in section.tables:
        yield from _table(table, is_only=table.title == section.title)
    yield "</section>"


def _table(table: Table, *, is_only: bool) -> Iterator[str]:
    title = escape(table.title)
    if table.is_long:
        yield f"<details><summary>{title} ({count_of(len(table.rows), 'row')})</summary>"
    elif not is_only:
        yield f"<h3>{title}</h3>"
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table aria-label="{title}">'
    yield (
        "<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head) + "</tr></thead><tbody>"
    )
    for row in table.rows:
        yield "<tr>" + "".join(map(_cell, row)) + "</tr>"
    yield "</tbody></table></div>" + ("</details>" if table.is_long else "")


def _cell(text: str) -> str:
    return f"<td{NUMERIC if is_figure(text) else ''}>{escape(text)}</td>"
