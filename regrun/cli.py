"""The command. The only place that turns an error into an exit code; it checks everything before anything starts."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from regrun import __version__
from regrun.errors import ConfigError, RegrunError, clip
from regrun.paths import is_folder

if TYPE_CHECKING:
    from regrun.config import Job

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(arguments)
    except RegrunError as error:
        for line in str(error).splitlines():
            print(f"regrun: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("regrun: interrupted", file=sys.stderr)
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
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
    _refuse_verbs(options.overrides)
    from regrun import config

    directory = Path(options.config_dir) if options.config_dir else None
    if directory is not None and not is_folder(options.config_dir):
        raise ConfigError(f"--config-dir: must be a folder, got {clip(str(directory))}; create it first")
    jobs = config.jobs(
        options.overrides, multirun=options.multirun, config_dir=directory, config_name=options.config_name
    )
    return _hydra(arguments) if options.cfg else _run(jobs, is_sweep=options.multirun)


def _run(jobs: list["Job"], *, is_sweep: bool) -> int:
    """Every run in turn. A single run that diverged fails; in a sweep divergence is a result."""
    from regrun import run  # torch is loaded here, when all settings are known to be right

    outcomes = [run.execute(prepared) for prepared in run.prepare(jobs)]
    statuses = {outcome.status for outcome in outcomes}
    if "interrupted" in statuses:
        return INTERRUPTED
    failed = statuses - {"ok", "diverged"} if is_sweep else statuses - {"ok"}
    return 1 if failed else 0


def _refuse_verbs(words: list[str]) -> None:
    if words and "=" not in words[0] and not words[0].startswith("~"):
        raise ConfigError(f"{clip(words[0])!r}: no such command; regrun --help lists them")


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
