"""A folder of studies -> its tables, a page of Markdown and a picture for each, an index, and one HTML page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from regrun import records, rows
from regrun.findings import StudyCheckRow, StudyFigureRow, StudyRow
from regrun.report import page, svg
from regrun.report.drawing import Drawing
from regrun.report.sections import Section
from regrun.report.tables import Table
from regrun.standing import duration
from regrun.studies import errata
from regrun.studies.conduct import VERDICT, Done, read
from regrun.studies.design import Points, Study
from regrun.studies.pictures import picture
from regrun.studies.words import claimed, measured, statistic

RUNS, INDEX, PAGE, ERRATA = "runs", "README.md", "studies.html", "contradictions.md"
TABLES = {"studies.csv": StudyRow, "checks.csv": StudyCheckRow, "figures.csv": StudyFigureRow}


def write(root: Path, studies: Sequence[Study]) -> None:
    """Everything but the runs themselves, of those studies that have a verdict in this folder."""
    folders = [(study, root / RUNS / study.name) for study in studies]
    found = [read(folder, study) for study, folder in folders if (folder / VERDICT).is_file()]
    parts: dict[str, Sequence[StudyRow | StudyCheckRow | StudyFigureRow]] = {
        "studies.csv": [done.row for done in found],
        "checks.csv": [row for done in found for row in done.checks],
        "figures.csv": [row for done in found for row in done.figures],
    }
    for name, cls in TABLES.items():
        records.replace(root / name, records.table([rows.columns(cls), *map(rows.values, parts[name])]))
    drawings = {done.study.name: picture(done.study, done.figures) for done in found}
    for name, drawing in drawings.items():
        if drawing is not None:
            records.replace(root / f"{name}.svg", svg.standalone(drawing) + "\n")
    for done in found:
        records.replace(root / f"{done.study.name}.md", "\n".join(_page(done, drawings[done.study.name])) + "\n")
    pages = {done.study.name for done in found}
    if disputed := list(errata.sections(found, lambda name: f"[{name}]({name}.md)" if name in pages else f"`{name}`")):
        records.replace(root / ERRATA, "\n".join(_errata(disputed)) + "\n")
    records.replace(root / INDEX, "\n".join(_index(found, has_errata=bool(disputed))) + "\n")
    sections = [_overview(found), *(_section(done, drawings[done.study.name]) for done in found)]
    sections += errata.sections(found, str)
    records.replace(root / PAGE, page.page("regrun: claims and verdicts", sections))


def verdict(row: StudyRow) -> str:
    """`REPRODUCED, as expected`."""
    expected = "as expected" if row.verdict == row.expected else f"expected was {row.expected}"
    return f"{row.verdict.upper()}, {expected}"


def sources(done: Done) -> list[str]:
    """Where the claim comes from."""
    return [
        f"Lectures: {done.study.lectures}",
        f"Paper: {done.study.paper}",
        f"Published: {done.study.published}",
    ]


def checks(found: Sequence[StudyCheckRow]) -> Table:
    """A row for each check."""
    head = ["must be seen", "measured [95 % interval]", "claimed", "n", "result"]
    own = [[row.says, measured(row), claimed(row) or "no claim", str(row.n), row.result] for row in found]
    return Table("Checks", head, own)


def _design(done: Done) -> Iterator[str]:
    """What was trained, as overrides."""
    study, quick = done.study, done.row.profile == "quick"
    yield f"All arms: `{' '.join([*study.setup, *(study.quick if quick else ())])}`"
    for arm, points in study.arms.items():
        yield f"- {arm}: {_runs(points)}"
    if any(study.trials):
        yield f"- each of them with every one of: {_runs(study.trials)}"


def _runs(points: Points) -> str:
    return ", ".join(f"`{' '.join(point)}`" if point else "as above" for point in points)


def _page(done: Done, drawing: Drawing | None) -> Iterator[str]:
    row, study = done.row, done.study
    yield from (f"# {study.claim}", "", f"**{verdict(row)}**: {row.effect}.", "")
    yield from (f"- {line}" for line in sources(done))
    if drawing is not None:
        yield from ("", f"![{drawing.description}]({study.name}.svg)")
    yield from ("", "## What must be seen", "", *_markdown(checks(done.checks)), "")
    yield from (f"- {says.says}: {statistic(says)}" for says in done.checks)
    yield from (
        "",
        "The claim is reproduced where every check's whole interval lies in what is claimed, not reproduced",
    )
    yield "where one lies outside of it, and inconclusive else. Of a claim about every seed the lowest and the highest"
    yield "one are in parentheses, in place of an interval. What must be seen and which verdict is expected stood in"
    yield "the study's file before it ran; a note below says so where a bound was changed later."
    yield from ("", "## Design", "", *_design(done), "")
    seeds = [figure.seed for figure in done.figures]
    trained = f"{row.runs} runs, {row.diverged} diverged" if row.runs else "no runs: it is computed"
    yield f"Seeds {min(seeds)} to {max(seeds)} ({row.seeds}), the same for all arms: they are paired; {trained}."
    if study.note:
        yield from ("", study.note)
    yield from ("", f"`{row.command}`: {row.seconds:.0f} s on {row.device}, {row.versions}, {row.date}.", "")
    yield "[All studies](README.md); every figure of every seed is in [figures.csv](figures.csv)."


def _errata(disputed: Sequence[Section]) -> Iterator[str]:
    yield from ("# Where the lectures disagree, and where they err", "")
    yield "What five lectures say in their own words, and what regrun's studies and tests measured."
    for own in disputed:
        yield from ("", f"## {own.title}", "", *(f"{line}\n" for line in own.lines), *_markdown(own.tables[0]))
    yield from ("", f"[All studies]({INDEX})")


def _markdown(table: Table) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [table.head, ["---"] * len(table.head), *table.rows]]
    return [f"| {' | '.join(row)} |" for row in cells]


def _summary(found: Sequence[Done], link: str) -> Table:
    head = ["claim", "verdict", "expected", "measured [95 % interval]", "published"]
    own = [
        [link.format(d.row.claim, d.row.study), d.row.verdict, d.row.expected, d.row.effect, d.row.published]
        for d in found
    ]
    return Table("Verdicts", head, own)


def _index(found: Sequence[Done], *, has_errata: bool) -> Iterator[str]:
    yield from ("# Claims and verdicts", "", *(f"{line}\n" for line in _about(found)))
    for chapter in dict.fromkeys(done.row.chapter for done in found):
        own = [done for done in found if done.row.chapter == chapter]
        yield from (f"## {chapter.capitalize()}", "", *_markdown(_summary(own, "[{}]({}.md)")), "")
    if has_errata:
        yield from (f"[Where the lectures disagree, and where they err]({ERRATA})", "")
    yield "As CSV: [studies.csv](studies.csv), [checks.csv](checks.csv), [figures.csv](figures.csv); as one page:"
    yield f"[{PAGE}]({PAGE})."


def _about(found: Sequence[Done]) -> list[str]:
    counts = [
        f"{sum(d.row.verdict == name for d in found)} {name}" for name in dict.fromkeys(d.row.verdict for d in found)
    ]
    runs, seconds = sum(d.row.runs for d in found), sum(d.row.seconds for d in found)
    return [
        "Each study tries one claim of five lectures on network design and regularization with small networks on a "
        "CPU. What must be seen, and what was expected, stood in its file before it ran; its seeds were not used to "
        "design it. Intervals, in brackets, are 95 %; in parentheses are the lowest and the highest seed. Each verdict "
        "stands for itself, so of many some are wrong.",
        f"Studies: {len(found)} ({', '.join(counts)}). Runs: {runs}, in {duration(seconds)}.",
    ]


def _overview(found: Sequence[Done]) -> Section:
    return Section("verdicts", "Verdicts", _about(found), [], [_summary(found, "{0}")])


def _section(done: Done, drawing: Drawing | None) -> Section:
    row = done.row
    lines = [done.study.claim, f"{verdict(row)}: {row.effect}.", *sources(done)]
    lines += [done.study.note] if done.study.note else []
    lines.append(f"{row.command}: {row.seeds} seeds, {row.runs} runs, {row.seconds:.0f} s on {row.device}, {row.date}.")
    return Section(row.study, row.study.replace("_", " "), lines, [drawing] if drawing else [], [checks(done.checks)])
