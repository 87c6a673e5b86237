"""Where the lectures disagree, with each other or with what is measured, and where they err: `conf/errata.yaml`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from regrun.paths import conf_dir
from regrun.report.sections import Section
from regrun.report.tables import Table
from regrun.studies.conduct import Done
from regrun.studies.words import claimed, measured

Link = Callable[[str], str]  # a study or a test -> how a page names it


@dataclass(frozen=True)
class Disagreement:
    """Sentences of the lectures, the checks of studies (their places, from 0) that speak to them, and what they say."""

    question: str
    sentences: Sequence[tuple[int, str]]  # lecture, its words
    checks: Mapping[str, Sequence[int]]
    answer: str


@dataclass(frozen=True)
class Slip:
    """What a lecture says, what holds, and the tests (`test_file.py::test_name`) and studies that show it."""

    lecture: int
    says: str
    holds: str
    shown: Sequence[str]


def read() -> tuple[list[Disagreement], list[Slip]]:
    """Both lists of the file."""
    node = yaml.safe_load((conf_dir() / "errata.yaml").read_text(encoding="utf-8"))
    return [Disagreement(**own) for own in node["disagreements"]], [Slip(**own) for own in node["slips"]]


def sections(found: Sequence[Done], link: Link) -> Iterator[Section]:
    """Each disagreement whose studies are among those found, then every slip; nothing where there is none."""
    done = {own.study.name: own for own in found}
    disagreements, slips = read()
    told = [own for own in disagreements if own.checks.keys() <= done.keys()]
    for number, own in enumerate(told, start=1):
        lines = [f"Lecture {lecture}: “{words}”" for lecture, words in own.sentences]
        yield Section(f"disagreement-{number}", own.question, [*lines, own.answer], [], [_seen(own, done, link)])
    if told:
        rows = [[f"lecture {own.lecture}", own.says, own.holds, ", ".join(map(link, own.shown))] for own in slips]
        yield Section(
            "slips", "Slips of the lectures", [], [], [Table("Slips", ["where", "says", "holds", "shown"], rows)]
        )


def _seen(own: Disagreement, done: Mapping[str, Done], link: Link) -> Table:
    """The checks that speak to it."""
    rows = [
        [link(name), row.says, measured(row), claimed(row) or "no claim", row.result]
        for name, places in own.checks.items()
        for row in [done[name].checks[place] for place in places]
    ]
    return Table("Measured", ["study", "must be seen", "measured [95 % interval]", "claimed", "result"], rows)
