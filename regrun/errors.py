"""What can go wrong, and the exit code that says so. `cli` is the only place that turns one into the other."""

from collections.abc import Iterable


class RegrunError(Exception):
    """An error whose message is one clear line (or one per problem) for the person who typed the command."""

    exit_code = 1


class RunFailed(RegrunError):
    """A run could not be finished, or finished without doing what was asked of it."""


class ConfigError(RegrunError):
    """The command or its configuration is mistaken; `problems` has one line for each mistake."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(RegrunError):
    """An input file is corrupt, or is not what its name says."""

    exit_code = 3


class EnvironmentFault(RegrunError):
    """The machine does not let us: a full disk, a missing permission."""

    exit_code = 4


class Interrupted(RegrunError):
    """A signal has ended training; what has been done is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def printable(text: str) -> str:
    """Lines of text, where what a terminal might obey, or what turns the direction of writing, is a question mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def clip(text: str, length: int = 60) -> str:
    """What somebody typed, short enough for a line."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 3] + "..."
