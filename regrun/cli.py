"""The command. The only place that turns an error into an exit code; it checks everything before anything starts."""

import argparse
import gc
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from regrun import __version__, parallel
from regrun.errors import ConfigError, RegrunError, clip
from regrun.parallel import ALONE, Peers
from regrun.paths import is_folder, is_there

if TYPE_CHECKING:
    from regrun.config import Command, Job
    from regrun.sweep import Result

INTERRUPTED = 130
MOST = 1000  # seeds or contexts


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    peers = ALONE
    try:
        peers = parallel.peers()
        with nullcontext() if peers.is_writer else redirect_stdout(io.StringIO()):
            return _dispatch(arguments, peers)
    except RegrunError as error:
        _complain(str(error).splitlines(), peers)
        return error.exit_code
    except KeyboardInterrupt:
        _complain(["interrupted"], peers)
        return INTERRUPTED


def _complain(lines: list[str], peers: Peers) -> None:
    """Once, however many processes there are."""
    for line in lines if peers.is_writer else []:
        print(f"regrun: {line}", file=sys.stderr)


def _dispatch(arguments: list[str], peers: Peers) -> int:
    options = _parser().parse_intermixed_args(arguments)
    if options.help:
        from regrun import help as help_text

        print(help_text.text(), end="")
        return 0
    if options.version:
        print(f"regrun {__version__}")
        return 0
    if options.shell_completion:
        _check_completion(options.overrides)
    if options.shell_completion or options.hydra_help or options.info:
        return _hydra(arguments)
    if options.cfg and options.multirun:
        raise ConfigError("--cfg: shows the configuration of one run, got -m, too; leave one of them out")
    verb = options.overrides[0] if options.overrides and _is_verb(options.overrides[0]) else None
    if peers.are_several and (options.multirun or verb):
        raise ConfigError(f"torchrun: trains a single run, got {clip(verb or '-m')}; start that without torchrun")
    _check_flags(verb, options)
    if verb == "ensemble":
        return _ensemble(options.overrides[1:], by=options.by, is_all=options.all)
    if verb == "check":
        return _check(options.overrides[1:], options.against, options.level)
    if options.against is not None or options.level is not None:
        given = "--level" if options.against is None else "--against"
        raise ConfigError(f"{given}: is for regrun check DIR; leave it out")
    if verb == "report":
        return _report(options.overrides[1:], pictures=options.pictures, terminal=options.terminal)
    if options.pictures or options.terminal:
        raise ConfigError(
            f"{'--pictures' if options.pictures else '--terminal'}: is for regrun report DIR; leave it out"
        )
    if verb == "compare":
        return _compare(options.overrides[1:], by=options.by, delta=options.delta)
    if verb in ("confirm", "variance"):
        _check_counts(verb, options)
    elif options.seeds is not None or options.contexts is not None:
        flag = "--seeds" if options.seeds is not None else "--contexts"
        raise ConfigError(f"{flag}: is for regrun confirm or regrun variance; leave it out")
    if verb == "confirm":
        return _confirm(options.overrides[1:], options.seeds or 10)
    has_folder = any(map(_is_verb, options.overrides[1:2]))
    if verb == "variance" and has_folder:
        return _variance_of(options.overrides[1:])
    if verb not in (None, "audit", "variance"):
        return _verb(*options.overrides)
    if options.dry_run and not options.multirun:
        raise ConfigError("--dry-run: prints the plan of a sweep, got a single run; add -m")
    from regrun import config

    is_audit, overrides = verb == "audit", options.overrides[verb is not None :]
    if verb is not None and (options.multirun or options.cfg):
        what = "audit: looks at one run" if is_audit else "variance: is of one setting"
        raise ConfigError(f"{what}, got {'-m' if options.multirun else '--cfg'}; leave it out")
    directory = Path(options.config_dir) if options.config_dir else None
    if directory is not None and not is_folder(options.config_dir):
        raise ConfigError(f"--config-dir: must be a folder, got {clip(str(directory))}; create it first")
    command = config.command(
        overrides,
        multirun=options.multirun or verb == "variance",
        config_dir=directory,
        config_name=options.config_name,
    )
    if verb == "variance":
        return _variance(command, contexts=options.contexts or 3, seeds=options.seeds or 5)
    if is_audit:
        return _audit(command.jobs, keep=any(o.startswith("hydra.run.dir=") for o in overrides))
    if options.cfg:
        return _hydra(arguments)
    return _sweep(command, dry_run=options.dry_run) if options.multirun else _run(command.jobs, peers)


def _check_flags(verb: str | None, options: argparse.Namespace) -> None:
    """Flags that belong to some verbs alone."""
    for name, verbs in (("by", ("ensemble", "compare")), ("all", ("ensemble",)), ("delta", ("compare",))):
        if getattr(options, name) and verb not in verbs:
            raise ConfigError(f"--{name}: is for {' and '.join(f'regrun {v} DIR' for v in verbs)}; leave it out")


@contextmanager
def _loading() -> Iterator[None]:
    """Import without the garbage collector: it would look for garbage among all that stays, again and again (0.2 s)."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # forked workers share what is loaded
        gc.enable()


def _run(jobs: list["Job"], peers: Peers) -> int:
    """One run, alone or by several processes; one that diverged fails."""
    with _loading():  # torch, now that all settings are known to be right
        from regrun import prepare, run

    with parallel.joined(peers):
        (prepared,) = peers.agreed(lambda: prepare.prepare(jobs, peers=peers))
        outcome = run.execute(prepared) if peers.is_writer else run.follow(prepared)
    if outcome.status == "interrupted":
        return INTERRUPTED
    return 0 if outcome.status == "ok" else 1


def _audit(jobs: list["Job"], *, keep: bool) -> int:
    """A look at a run before training; kept where it is told a folder."""
    with _loading():
        from regrun import auditview, prepare

    auditview.execute(*prepare.prepare(jobs), keep=keep)
    return 0


def _sweep(command: "Command", *, dry_run: bool) -> int:
    """Every run of a sweep."""
    with _loading():
        from regrun import sweep

    return sweep.show_plan(command) if dry_run else _code(sweep.execute(command))


def _code(result: "Result") -> int:
    """The exit code of a sweep, in which divergence is a result."""
    if result.signal:
        return 128 + result.signal
    return 1 if result.statuses - {"ok", "diverged"} else 0


def _is_verb(word: str) -> bool:
    return "=" not in word and not word.startswith("~")


def _verb(verb: str, *words: str) -> int:
    """What to do with a folder: collect, stopping, resume DIR [KEY=VALUE ...], track DIR NAME ...; or demo [NAME]."""
    if verb == "demo":
        return _demo(*words)
    if verb == "ledger":
        return _ledger(list(words))
    if verb not in ("collect", "resume", "stopping", "track"):
        raise ConfigError(f"{clip(verb)!r}: no such command; regrun --help lists them")
    root = _folder(verb, words if verb == "collect" else words[:1])
    if verb == "track":
        return _track(root, words[1:])
    if verb == "stopping":
        return _stopping(root, words[1:])
    if verb == "resume":
        with _loading():
            from regrun import sweep

        return _code(sweep.resume(root, words[1:]))
    from regrun import effects

    print(f"{effects.collect_all(root)} runs collected in {root}")
    return 0


def _ensemble(words: list[str], *, by: list[str] | None, is_all: bool) -> int:
    """Average what the runs of a folder have predicted."""
    from regrun import ensemble, ensembleview

    if by and is_all:
        raise ConfigError("--all: averages all runs, got --by, too; leave one of them out")
    root = _folder("ensemble", words)
    ensembleview.tell(ensemble.write(root, [] if is_all else by), root)
    return 0


def _check(words: list[str], against: str | None, level: str | None) -> int:
    """Compare new runs with a baseline; 1 if they are worse than its seeds allow."""
    from regrun import gate, gateview

    root, chance = _folder("check", words), gate.chance(level or "0.99")
    if against is None or not is_there(against):
        got = "nothing" if against is None else repr(clip(against))
        raise ConfigError(f"--against: must be followed by a baseline's summary.csv or its folder, got {got}")
    found = gate.write(root, Path(against), chance)
    gateview.tell(found, root)
    return 0 if found.holds else 1


def _stopping(root: Path, words: Sequence[str]) -> int:
    """Replay rules of early stopping on the curves of a folder."""
    from regrun import replay, replayview

    replayview.tell(replay.write(root, words), root)
    return 0


def _report(words: list[str], *, pictures: bool, terminal: bool) -> int:
    """A folder's report: a page, pictures, or tables in the terminal."""
    from regrun.report import write

    for line in write.execute(_folder("report", words), pictures=pictures, terminal_only=terminal):
        print(line)
    return 0


def _compare(words: list[str], *, by: list[str] | None, delta: str | None) -> int:
    """Compare the runs of a folder, or of several."""
    from regrun import compare, compareview

    if not words or not all(map(is_folder, words)):
        got = next((word for word in words if not is_folder(word)), "nothing")
        raise ConfigError(f"compare: must be followed by folders of runs, got {clip(got)!r}")
    if len({Path(word).resolve() for word in words}) < len(words):
        raise ConfigError(f"compare: takes each folder once, got {clip(' '.join(words))!r}")
    result = compare.write([Path(word) for word in words], by, delta=_delta(delta or "0.005"))
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


def _check_counts(verb: str, options: argparse.Namespace) -> None:
    """`--seeds` and `--contexts` are enough for a variance."""
    if verb == "confirm" and options.contexts is not None:
        raise ConfigError("--contexts: is for regrun variance; leave it out")
    for flag, least in (("seeds", 2), ("contexts", 1)):
        if (value := getattr(options, flag)) is not None and not least <= value <= MOST:
            raise ConfigError(f"--{flag}: must be in [{least}, {MOST}], got {value}")


def _confirm(words: list[str], seeds: int) -> int:
    """Train the best setting of a sweep from fresh seeds, and tell what is left of it."""
    from regrun import confirm

    root = _folder("confirm", words[:1])
    with _loading():
        from regrun import sweep

    how = sweep.launched(root, words[1:], verb="confirm")
    best = confirm.winner(root)
    command = sweep.with_jobs(how, confirm.jobs(best, root, seeds=seeds))
    result = sweep.execute(command, by="confirm")
    if not result.signal and "ok" in result.statuses:
        _print(confirm.lines(best, root / confirm.FOLDER))
    return _code(result)


def _variance(command: "Command", *, contexts: int, seeds: int) -> int:
    """Train a setting from seeds that vary one at a time, and tell how much each of them makes."""
    from regrun import config, variance

    if len(command.jobs) > 1 or command.search is not None:
        raise ConfigError(f"variance: is of one setting, got {len(command.jobs)}; give each key one value")
    root = command.jobs[0].sweep
    assert root is not None
    runs = variance.design(command.jobs[0].settings, contexts=contexts, seeds=seeds)
    jobs = [config.Job(run, root / str(i), root) for i, run in enumerate(runs)]
    with _loading():
        from regrun import sweep

    result = sweep.execute(config.Command(jobs, command.launcher), by="variance")
    if not result.signal and "ok" in result.statuses:
        _print(variance.lines(variance.write(root)))
    return _code(result)


def _variance_of(words: list[str]) -> int:
    """The same of a sweep that has been trained."""
    from regrun import ledger, variance

    root = _folder("variance", words)
    _print([*variance.lines(variance.write(root)), ledger.line(root)])
    return 0


def _ledger(words: list[str]) -> int:
    """Every look at test in one folder, or what several come to together."""
    from regrun import ledger

    roots = list(dict.fromkeys([_folder("ledger", words[:1]), *(_folder("ledger", [word]) for word in words[1:])]))
    for root in roots:
        if not any((root / name).is_file() for name in ("plan.csv", "summary.csv")):
            raise ConfigError(f"ledger: must be followed by folders of runs or sweeps, got {clip(str(root))!r}")
    for root in roots:
        _print([str(root), *ledger.lines(ledger.write(root))])
    _print([ledger.line(*roots)])
    return 0


def _print(lines: Sequence[str]) -> None:
    """Until nobody reads them any more."""
    from regrun import display

    write = display.writer(sys.stdout)
    for line in lines:
        write(line)


def _folder(verb: str, words: Sequence[str]) -> Path:
    """The one folder that follows a verb."""
    if not words or not is_folder(words[0]):
        got = f"got {clip(words[0])!r}" if words else "got nothing"
        what = "a sweep" if verb in ("collect", "resume", "confirm", "variance") else "a run or a sweep"
        raise ConfigError(f"{verb}: must be followed by the folder of {what}, {got}")
    if words[1:]:
        raise ConfigError(f"{verb}: takes one folder, got {clip(' '.join(words[1:]))!r}, too")
    return Path(words[0])


def _track(folder: Path, names: Sequence[str]) -> int:
    """Give trackers the runs that are in a folder's tables."""
    from regrun import checks, tracking

    unknown = [name for name in names if name not in tracking.TRACKERS]
    if unknown or not names:
        got = f"got {clip(unknown[0])!r}" if unknown else "got nothing"
        raise ConfigError(f"track: a folder is followed by some of {', '.join(tracking.TRACKERS)}, {got}")
    if not (folder / "summary.csv").is_file():
        raise ConfigError(f"track: must be followed by a folder with a summary.csv, got {clip(str(folder))!r}")
    if problems := list(checks.tracker_conflicts(names)):
        raise ConfigError(problems)
    tracking.publish(folder, names, print)
    return 0


def _demo(*names: str) -> int:
    """One demonstration, or what there is."""
    from regrun import display
    from regrun.demos import catalogue

    if len(names) > 1:
        raise ConfigError(f"demo: takes one name, got {clip(' '.join(names[1:]))!r}, too")
    width = shutil.get_terminal_size((120, 24)).columns
    view = display.choose("plain")
    assert isinstance(view, display.Plain)
    for line in catalogue.lines(*names) if names else catalogue.listed(width):
        view.write(line)
    return 0


def _check_completion(words: list[str]) -> None:
    """`-sc` takes install, uninstall or query for a shell that Hydra knows."""
    verb, _, shell = "".join(words).partition("=")
    if verb not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        got = clip(" ".join(words)) or "nothing"
        raise ConfigError(f"-sc: must be followed by install=bash, install=zsh or install=fish, got {got}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{clip(message, 120)}; regrun --help lists what there is")


def _parser() -> argparse.ArgumentParser:
    """Hydra's own flags, so that its users find theirs."""
    parser = _Parser(prog="regrun", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--by", nargs="+", action="extend")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--delta")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--contexts", type=int)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--terminal", action="store_true")
    parser.add_argument("--against")
    parser.add_argument("--level")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    return parser


def _hydra(arguments: list[str]) -> int:
    """What Hydra itself shows: configuration, completion, its help."""
    import hydra

    from regrun.config import CONFIG_NAME, register
    from regrun.paths import conf_dir

    register()
    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=CONFIG_NAME)(lambda _: None)()
    return 0
