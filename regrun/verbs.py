"""What a first word without `=` does: something with a folder of runs or a sweep, or a demonstration."""

import argparse
import gc
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from regrun import foreign, parallel
from regrun.errors import ConfigError, clip
from regrun.paths import is_folder, is_there

if TYPE_CHECKING:
    from regrun.sweep import Result

FLAGS = {  # and the verbs that take them
    "by": ("ensemble", "compare"),
    "all": ("ensemble",),
    "delta": ("compare",),
    "pictures": ("report",),
    "terminal": ("report",),
    "against": ("check",),
    "level": ("check",),
    "seeds": ("confirm", "variance"),
    "contexts": ("variance",),
    "other_machine": ("resume",),
}
MOST = 1000  # seeds or contexts


def check_flags(verb: str | None, options: argparse.Namespace) -> None:
    """Flags that belong to some verbs alone, and numbers that are enough for a variance."""
    for name, verbs in FLAGS.items():
        if getattr(options, name) not in (None, False) and verb not in verbs:
            raise ConfigError(
                f"--{name.replace('_', '-')}: is for {' or '.join(f'regrun {v}' for v in verbs)}; leave it out"
            )
    for name, least in (("seeds", 2), ("contexts", 1)):
        if (value := getattr(options, name)) is not None and not least <= value <= MOST:
            raise ConfigError(f"--{name}: must be in [{least}, {MOST}], got {value}")


def is_verb(word: str) -> bool:
    """Whether a word is none of Hydra's overrides."""
    return "=" not in word and not word.startswith("~")


@contextmanager
def loading() -> Iterator[None]:
    """Import without the garbage collector: it would look for garbage among all that stays, again and again (0.2 s)."""
    gc.disable()
    try:
        yield
    finally:
        _freeze()
        gc.enable()


@cache
def _freeze() -> None:
    """Let forked workers share what is loaded. Once: garbage that a command leaves would never be collected."""
    gc.freeze()


def exit_code(result: "Result") -> int:
    """The exit code of a sweep, in which divergence is a result."""
    if result.signal_code:
        return result.signal_code
    return 1 if result.statuses - {"ok", "diverged"} else 0


def _collect(words: list[str], options: argparse.Namespace) -> int:
    """Write a sweep's tables anew."""
    from regrun import effects

    root = _folder("collect", words)
    show([f"{effects.collect_all(root)} runs collected in {root}"])
    return 0


def _resume(words: list[str], options: argparse.Namespace) -> int:
    """Go on with a run, or train what a sweep lacks."""
    root = _folder("resume", words[:1])
    from regrun import plan

    if plan.is_there(root):
        with loading():
            from regrun import sweep

        return exit_code(sweep.resume(root, words[1:], other_machine=options.other_machine))
    if words[1:]:
        raise ConfigError(f"resume: a run keeps its settings, got {clip(words[1])!r}; leave it out")
    with loading():
        from regrun import run

    peers = parallel.peers()
    with parallel.joined(peers):
        return 0 if run.resume(root, peers, other_machine=options.other_machine) == "ok" else 1


def _ensemble(words: list[str], options: argparse.Namespace) -> int:
    """Average what the runs of a folder have predicted."""
    from regrun import ensemble, ensembleview

    if options.by and options.all:
        raise ConfigError("--all: averages all runs, got --by, too; leave one of them out")
    root = _folder("ensemble", words)
    ensembleview.tell(ensemble.write(root, [] if options.all else options.by), root)
    return 0


def _check(words: list[str], options: argparse.Namespace) -> int:
    """Compare new runs with a baseline; 1 if they are worse than its seeds allow."""
    from regrun import gate, gateview

    is_one = len(words) == 1 and is_there(words[0])
    new, chance = Path(words[0]) if is_one else _folder("check", words), gate.chance(options.level or "0.99")
    against = options.against
    if against is None or not is_there(against):
        got = "nothing" if against is None else repr(clip(against))
        raise ConfigError(f"--against: must be followed by a baseline's summary.csv or its folder, got {got}")
    found = gate.write(new, Path(against), chance)
    gateview.tell(found, new)
    return 0 if found.holds else 1


def _stopping(words: list[str], options: argparse.Namespace) -> int:
    """Replay rules of early stopping on the curves of a folder."""
    from regrun import replay, replayview

    root = _folder("stopping", words[:1])
    replayview.tell(replay.write(root, words[1:]), root)
    return 0


def _report(words: list[str], options: argparse.Namespace) -> int:
    """A folder's report: a page, pictures, or tables in the terminal."""
    from regrun.report import write

    root = _folder("report", words)
    show(write.execute(root, pictures=options.pictures, terminal_only=options.terminal))
    return 0


def _compare(words: list[str], options: argparse.Namespace) -> int:
    """Compare the runs of a folder, or of several."""
    from regrun import compare, compareview

    if not words or not all(map(is_folder, words)):
        got = next((word for word in words if not is_folder(word)), "nothing")
        raise ConfigError(f"compare: must be followed by folders of runs, got {clip(got)!r}")
    if len({Path(word).resolve() for word in words}) < len(words):
        raise ConfigError(f"compare: takes each folder once, got {clip(' '.join(words))!r}")
    result = compare.write([_looked_at(word) for word in words], options.by, delta=_delta(options.delta or "0.005"))
    compareview.tell(result, Path(words[0]))
    return 0


def _delta(text: str) -> float:
    """A share: how far apart two accuracies may be that count as the same."""
    try:
        delta = float(text)
    except ValueError:
        delta = -1.0
    if not 0 <= delta < 1:
        raise ConfigError(f"--delta: must be a share in [0, 1), got {clip(text)!r}; 0.005 is half a point of accuracy")
    return delta


def _confirm(words: list[str], options: argparse.Namespace) -> int:
    """Train the best setting of a sweep from fresh seeds, and tell what is left of it."""
    from regrun import confirm

    root = _folder("confirm", words[:1])
    with loading():
        from regrun import sweep

    how = sweep.launched(root, words[1:], verb="confirm")
    best = confirm.winner(root)
    command = sweep.with_jobs(how, confirm.jobs(best, root, seeds=options.seeds or 10))
    result = sweep.execute(command, by="confirm")
    if not result.signal_code and "ok" in result.statuses:
        confirm.tell(best, root)
    return exit_code(result)


def _variance(words: list[str], options: argparse.Namespace) -> int:
    """How much each seed makes of the variance in a sweep that has been trained."""
    from regrun import ledger, variance

    root = _folder("variance", words)
    variance.tell(variance.write(root))
    show([ledger.line(root)])
    return 0


def _ledger(words: list[str], options: argparse.Namespace) -> int:
    """Every look at test in one folder, or what several come to together."""
    from regrun import ledger

    roots = list(dict.fromkeys([_folder("ledger", words[:1]), *(_folder("ledger", [word]) for word in words[1:])]))
    for root in roots:
        if not any((root / name).is_file() for name in ("plan.csv", "summary.csv")):
            raise ConfigError(f"ledger: must be followed by folders of runs or sweeps, got {clip(str(root))!r}")
    for root in roots:
        ledger.write(root)
        ledger.tell(root)
    show([ledger.line(*roots)])
    return 0


def _track(words: list[str], options: argparse.Namespace) -> int:
    """Give trackers the runs that are in a folder's tables."""
    from regrun import checks, tracking

    folder, names = _folder("track", words[:1]), words[1:]
    unknown = [name for name in names if name not in tracking.TRACKERS]
    if unknown or not names:
        got = f"got {clip(unknown[0])!r}" if unknown else "got nothing"
        raise ConfigError(f"track: a folder is followed by some of {', '.join(tracking.TRACKERS)}, {got}")
    if not (folder / "summary.csv").is_file():
        raise ConfigError(f"track: must be followed by a folder with a summary.csv, got {clip(str(folder))!r}")
    if problems := list(checks.tracker_conflicts(names)):
        raise ConfigError(problems)
    tracking.publish(folder, names, lambda line: show([line]))
    return 0


def _demo(names: list[str], options: argparse.Namespace) -> int:
    """One demonstration, or what there is."""
    from regrun.demos import catalogue

    if len(names) > 1:
        raise ConfigError(f"demo: takes one name, got {clip(' '.join(names[1:]))!r}, too")
    width = shutil.get_terminal_size((120, 24)).columns
    show(catalogue.lines(*names) if names else catalogue.listed(width))
    return 0


def show(lines: Iterable[str]) -> None:
    """Until nobody reads them any more."""
    from regrun import display

    view = display.choose("plain")
    for line in lines:
        view.note(line)


def _folder(verb: str, words: Sequence[str]) -> Path:
    """The one folder that follows a verb."""
    if not words or not is_folder(words[0]):
        got = f"got {clip(words[0])!r}" if words else "got nothing"
        what = "a sweep" if verb in ("collect", "confirm", "variance") else "a run or a sweep"
        raise ConfigError(f"{verb}: must be followed by the folder of {what}, {got}")
    if words[1:]:
        raise ConfigError(f"{verb}: takes one folder, got {clip(' '.join(words[1:]))!r}, too")
    return _looked_at(words[0])


def _looked_at(word: str) -> Path:
    """A folder, which may be somebody else's."""
    foreign.check_folder(Path(word))
    return Path(word)


VERBS: dict[str, Callable[[list[str], argparse.Namespace], int]] = {
    "check": _check,
    "collect": _collect,
    "compare": _compare,
    "confirm": _confirm,
    "demo": _demo,
    "ensemble": _ensemble,
    "ledger": _ledger,
    "report": _report,
    "resume": _resume,
    "stopping": _stopping,
    "track": _track,
    "variance": _variance,
}
