"""`regrun report DIR`: the page, the pictures as files, the tables in the terminal."""

from pathlib import Path

from regrun import records
from regrun.errors import DataError
from regrun.report import folder
from regrun.report.sections import Section, sections

PAGE, PICTURES = "report.html", "pictures"


def execute(root: Path, *, pictures: bool, terminal_only: bool) -> list[str]:
    """Make the report of a folder; returns what to say about it."""
    found = sections(folder.read(root))
    if terminal_only:
        from regrun.report import terminal

        terminal.tell(found)
    said = [] if terminal_only else [_page(root, found)]
    return said + ([_pictures(root, found)] if pictures else [])


def _page(root: Path, found: list[Section]) -> str:
    from regrun.report import page

    text = page.page(f"regrun report: {root.resolve().name}", found)
    records.replace(root / PAGE, text)
    return f"report: {root / PAGE} ({len(text.encode()) / 1000:,.0f} kB)"


def _pictures(root: Path, found: list[Section]) -> str:
    """Each drawing twice, PNG and SVG, in a folder below."""
    from regrun.report import png, svg

    target = root / PICTURES
    if target.is_symlink():
        raise DataError(f"{target}: must be a folder, got a link; remove it")
    records.make(target)
    drawings = [drawing for section in found for drawing in section.drawings]
    for drawing in drawings:
        records.replace(target / f"{drawing.name}.svg", svg.standalone(drawing) + "\n")
        records.replace(target / f"{drawing.name}.png", png.png(drawing))
    return f"pictures: {len(drawings)} in {target}, each as PNG and SVG"
