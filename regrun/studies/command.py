"""`regrun study=NAME`: from the command's words to verdicts on the screen, tables on disk, and the exit code."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from regrun import config, display, ledger, records
from regrun.data.sources import Source
from regrun.errors import ConfigError, RunFailed, clip
from regrun.studies import design, pages
from regrun.studies.conduct import Done, conduct
from regrun.studies.design import PROFILES, Study
from regrun.studies.plan import Planned, plan
from regrun.studies.words import claimed, measured

KEYS = ("study", "profile")
HOW = (
    *("sweep.", "hydra/launcher", "hydra.launcher.", "hydra.sweep.dir"),
    *("trainer.device", "trainer.threads", "trainer.progress", "data.root", "data.download"),
)
DIFFERENT, INCONCLUSIVE, FAILED = 6, 5, 1


def execute(words: Sequence[str], *, own: Path | None = None, dry_run: bool = False) -> int:
    """Conduct the studies; returns the exit code. own: a folder with studies of one's own in `study/`."""
    chosen, profile, how = _parsed(words, own)
    root = _root([word for word in how if word.startswith("hydra")])
    if not (root / pages.RUNS).is_dir() and not records.is_free(root):
        raise ConfigError(records.taken(root, key="hydra.sweep.dir"))
    loaded = dict[str, Source]()
    how = [word for word in how if not word.startswith("hydra.sweep.dir")]
    write = display.writer(sys.stdout)
    if len(chosen) > 1:  # all of them take 45 s
        write(f"{len(chosen)} studies; every run of all of them is checked first")
    planned = [plan(study, profile, how, root / pages.RUNS / study.name, loaded) for study in chosen]
    if not dry_run:
        return _conducted(root, planned, own, write)
    _tell(_plan_lines(planned), write)
    return 0


def _conducted(root: Path, planned: Sequence[Planned], own: Path | None, write: Callable[[str], None]) -> int:
    """Each study after the other; one whose runs fail costs the others nothing."""
    done = list[Done]()
    for number, one in enumerate(planned, start=1):
        _tell(_head(one, number, len(planned)), write)
        try:
            found = conduct(one, f"regrun study={one.study.name} profile={one.profile}")
        except RunFailed as error:
            write(str(error))
            continue
        if isinstance(found, int):
            return found
        done.append(found)
        _tell(_verdict_lines(found), write)
    if done:
        pages.write(root, design.every(own))
        _tell(_end(root, planned, done), write)
    return _exit_code(done) if len(done) == len(planned) else FAILED


def _tell(lines: Iterator[str], write: Callable[[str], None]) -> None:
    for line in lines:
        write(line)


def _parsed(words: Sequence[str], own: Path | None) -> tuple[list[Study], str, list[str]]:
    """The studies, the profile, and how to train. Raises ConfigError with all problems."""
    pairs = [(key, value, word) for word in words for key, _, value in [word.partition("=")]]
    problems = [
        f"study: keeps its design, got {clip(word)!r}; it takes profile and {', '.join(HOW)}"
        for key, _, word in pairs
        if key not in KEYS and not word.startswith(HOW)
    ]
    given = {key: value for key, value, _ in pairs if key in KEYS}
    profile = given.get("profile", "quick")
    if profile not in PROFILES:
        problems.append(f"profile: must be one of {', '.join(PROFILES)}, got {clip(profile)!r}")
    chosen = list[Study]()
    for name in dict.fromkeys(given["study"].strip("[]").split(",")):
        try:
            chosen += design.every(own) if name == "all" else [design.find(name, own)]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return chosen, profile, [word for key, _, word in pairs if key not in KEYS]


def _root(hydra: Sequence[str]) -> Path:
    """hydra.sweep.dir, by default outputs/<date>/<time>."""
    folder = config.command(hydra, multirun=True).jobs[0].sweep
    assert folder is not None
    return folder


def _plan_lines(planned: Sequence[Planned]) -> Iterator[str]:
    for one in planned:
        what = f"{len(one.runs)} runs" if one.trains else "computed"
        yield f"{one.study.name}: {len(one.seeds)} seeds, {what}; expected: {one.study.expected}"


def _head(one: Planned, number: int, total: int) -> Iterator[str]:
    study = one.study
    yield f"{study.name} ({number} of {total}), {one.profile}: {study.claim}"
    yield f"  lectures: {study.lectures}; {study.paper}"
    yield f"  published: {study.published}"


def _verdict_lines(done: Done) -> Iterator[str]:
    for row in done.checks:
        claim = f", claimed {claimed(row)}" if claimed(row) else ""
        yield f"  {row.result:<5}  {row.says}: {measured(row)}{claim}, n = {row.n}"
    yield f"{done.row.study}: {pages.verdict(done.row)}"


def _end(root: Path, planned: Sequence[Planned], done: Sequence[Done]) -> Iterator[str]:
    if len(done) > 1:
        table = [
            {"study": d.row.study, "verdict": d.row.verdict, "expected": d.row.expected, "measured": d.row.effect}
            for d in done
        ]
        yield from display.aligned(table)
    if trained := [one.root for one in planned if one.trains]:
        yield ledger.line(*trained)
    yield f"folder: {root}"


def _exit_code(done: Sequence[Done]) -> int:
    """6 where a verdict is another one than expected, 5 where one is open that was not expected to be."""
    other = [d.row.verdict for d in done if d.row.verdict != d.row.expected]
    return DIFFERENT if set(other) - {"inconclusive"} else INCONCLUSIVE if other else 0
