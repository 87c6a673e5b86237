"""The command. The only place that turns an error into an exit code; it checks everything before anything starts."""

import argparse
import io
import sys
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from regrun import __version__, parallel, verbs
from regrun.errors import ConfigError, RegrunError, clip, printable
from regrun.parallel import ALONE, Peers
from regrun.paths import is_folder
from regrun.verbs import exit_code, loading, show

if TYPE_CHECKING:
    from regrun.config import Command, Job

INTERRUPTED = 130


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
    except BrokenPipeError:  # nobody reads what is shown; what is written is written
        return 0
    except KeyboardInterrupt:
        _complain(["interrupted"], peers)
        return INTERRUPTED


def _complain(lines: list[str], peers: Peers) -> None:
    """Once, however many processes there are; even if nobody hears it."""
    with suppress(BrokenPipeError):
        for line in lines if peers.is_writer else []:
            print(f"regrun: {printable(line)}", file=sys.stderr)


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
    if options.shell_completion or options.hydra_help:
        return _hydra(arguments)
    if options.cfg and options.multirun:
        raise ConfigError("--cfg: shows the configuration of one run, got -m, too; leave one of them out")
    words = list(options.overrides)
    if any(word.partition("=")[0] == "study" for word in words):
        return _study(words, options, peers)
    verb = words.pop(0) if words and verbs.is_verb(words[0]) else None
    if peers.are_several and (options.multirun or verb not in (None, "resume")):
        raise ConfigError(f"torchrun: trains a single run, got {clip(verb or '-m')}; start that without torchrun")
    verbs.check_flags(verb, options)
    of_overrides = verb == "audit" or (verb == "variance" and not any(map(verbs.is_verb, words[:1])))
    if verb is not None and not of_overrides:
        if verb not in verbs.VERBS:
            raise ConfigError(f"{clip(verb)!r}: no such command; regrun --help lists them")
        return verbs.VERBS[verb](words, options)
    if (options.cfg or options.info) and verb is None:
        _composed(verb, words, options)  # what is wrong is said in our words
        return _hydra(arguments)
    return _train(verb, words, options, peers)


def _study(words: list[str], options: argparse.Namespace, peers: Peers) -> int:
    """Claims and their verdicts."""
    if options.multirun or options.cfg or peers.are_several:
        got = "-m" if options.multirun else "--cfg" if options.cfg else "torchrun"
        raise ConfigError(f"study: is a sweep of its own, got {got}; leave it out")
    verbs.check_flags(None, options)
    with loading():
        from regrun.studies import command

    own = Path(options.config_dir) if options.config_dir else None
    return command.execute(words, own=own, dry_run=options.dry_run)


def _train(verb: str | None, words: list[str], options: argparse.Namespace, peers: Peers) -> int:
    """One run or many, or an audit of one, from overrides."""
    command = _composed(verb, words, options)
    if verb == "variance":
        return _variance(command, contexts=options.contexts or 3, seeds=options.seeds or 5)
    if verb == "audit":
        return _audit(command.jobs, keep=any(word.startswith("hydra.run.dir=") for word in words))
    return _sweep(command, dry_run=options.dry_run) if options.multirun else _run(command.jobs, peers)


def _composed(verb: str | None, words: list[str], options: argparse.Namespace) -> "Command":
    """The runs that overrides ask for, all of them checked."""
    from regrun import config

    if options.dry_run and not options.multirun:
        raise ConfigError("--dry-run: prints the plan of a sweep, got a single run; add -m")
    if verb is not None and (options.multirun or options.cfg):
        what = "audit: looks at one run" if verb == "audit" else "variance: is of one setting"
        raise ConfigError(f"{what}, got {'-m' if options.multirun else '--cfg'}; leave it out")
    directory = Path(options.config_dir) if options.config_dir else None
    if directory is not None and not is_folder(options.config_dir):
        raise ConfigError(f"--config-dir: must be a folder, got {clip(str(directory))}; create it first")
    return config.command(
        words,
        multirun=options.multirun or verb == "variance",
        config_dir=directory,
        config_name=options.config_name,
    )


def _run(jobs: list["Job"], peers: Peers) -> int:
    """One run, alone or by several processes; one that diverged fails."""
    with loading():  # torch, now that all settings are known to be right
        from regrun import prepare, run

    with parallel.joined(peers):
        (prepared,) = peers.agreed(lambda: prepare.prepare(jobs, peers=peers))
        return 0 if run.execute(prepared).status == "ok" else 1


def _audit(jobs: list["Job"], *, keep: bool) -> int:
    """A look at a run before training; kept where it is told a folder."""
    with loading():
        from regrun import auditview, prepare

    auditview.execute(*prepare.prepare(jobs), keep=keep)
    return 0


def _sweep(command: "Command", *, dry_run: bool) -> int:
    """Every run of a sweep."""
    with loading():
        from regrun import sweep

    if dry_run:
        show(sweep.described(command))
        return 0
    return exit_code(sweep.execute(command))


def _variance(command: "Command", *, contexts: int, seeds: int) -> int:
    """Train a setting from seeds that vary one at a time, and tell how much each of them makes."""
    from regrun import config, variance

    if len(command.jobs) > 1 or command.search is not None:
        raise ConfigError(f"variance: is of one setting, got {len(command.jobs)}; give each key one value")
    root = command.jobs[0].sweep
    assert root is not None
    runs = variance.design(command.jobs[0].settings, contexts=contexts, seeds=seeds)
    jobs = [config.Job(run, root / str(i), root) for i, run in enumerate(runs)]
    with loading():
        from regrun import sweep

    result = sweep.execute(config.Command(jobs, command.launcher), by="variance")
    if not result.signal_code and "ok" in result.statuses:
        variance.tell(variance.write(root))
    return exit_code(result)


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
    parser.add_argument("--other-machine", action="store_true")
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
    sys.argv[1:], text = arguments, io.StringIO()
    try:
        with redirect_stdout(text):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=CONFIG_NAME)(lambda _: None)()
    finally:
        print(text.getvalue(), end="")
    return 0
