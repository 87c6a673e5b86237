"""Rows of a plan -> what sets its runs apart, written as overrides that one can copy to a command line."""

import functools
import shlex
from collections.abc import Mapping, Sequence

from regrun import records
from regrun.conversion import nearest
from regrun.errors import ConfigError, clip
from regrun.settings import KINDS, Settings, all_fields, columns, flatten, resolve

Cells = Mapping[str, str]
NEUTRAL = {name: records.cell(value) for name, value in flatten(resolve(Settings()).reg, "reg.").items()}
OPTION = {"mlp": "deep"}  # the option that gives a kind's neutral values, where it is not named like the kind


def varying(rows: Sequence[Cells]) -> list[str]:
    """The settings in which runs differ, in order, but for those that other settings alone decide."""
    known = set(rows[0]) if rows else set[str]()
    return [name for name in columns() if name in known and _varies(name, rows)]


def without_seeds(names: Sequence[str]) -> list[str]:
    """What makes settings differ, where those that differ only in their seeds count as the same."""
    return [name for name in names if name.split(".")[0] not in ("seed", "seeds")]


def check_known(words: Sequence[str]) -> None:
    """Raise ConfigError where `--by` names neither a setting nor a group of them."""
    for word in words:
        if not any(is_covered(name, [word]) for name in columns()):
            near = nearest(word, columns()) or "outputs/README.md lists them"
            raise ConfigError(f"--by: no such setting, got {clip(word)!r}; {near.removesuffix('; ')}")


def is_covered(name: str, words: Sequence[str]) -> bool:
    """Whether some word is the setting, or a group that it is in."""
    return any(name == word or name.startswith(f"{word}.") for word in words)


def words(row: Cells, names: Sequence[str]) -> str:
    """`optimizer=adam optimizer.lr=0.1 'model.widths=[75,45]'`: the row's own values of `names`, for a shell."""
    return " ".join(shlex.quote(_word(row, name)) for name in names if _applies(row, name))


def _varies(name: str, rows: Sequence[Cells]) -> bool:
    """Whether a setting differs. One that differs only as its group's kinds do by themselves does not."""
    if len({row[name] for row in rows}) < 2:
        return False
    values: dict[str, set[str]] = {}
    for row in rows:
        if _applies(row, name):
            values.setdefault(_kind(row, name), set()).add(row[name])
    if len(set().union(*values.values())) < 2:
        return False
    if name.startswith("seeds."):
        return any(row[name] != row["seed"] for row in rows)
    is_neutral = [own == {_neutral(name.partition(".")[0], kind).get(name)} for kind, own in values.items()]
    return not all(is_neutral) or name.endswith(".kind")


def _applies(row: Cells, name: str) -> bool:
    """Whether the row's run has such a setting: its model, optimizer, ... is of a kind that knows it."""
    group, kind = name.partition(".")[0], _kind(row, name)
    return not kind or name in _neutral(group, kind)


def _kind(row: Cells, name: str) -> str:
    return row.get(f"{name.partition('.')[0]}.kind", "")


@functools.cache
def _neutral(group: str, kind: str) -> dict[str, str]:
    """The cells that a kind has by itself."""
    own = flatten(KINDS[group][kind](), f"{group}.") if kind else {}
    return {name: records.cell(value) for name, value in own.items()}


def _word(row: Cells, name: str) -> str:
    group, _, rest = name.partition(".")
    value = row[name]
    if rest == "kind" and group in KINDS:
        return f"{group}={OPTION.get(value, value)}"
    is_null = value == "none" and not _may_be_none(name)
    return f"{name}={'null' if is_null else value.replace(', ', ',')}"


@functools.cache
def _may_be_none(name: str) -> bool:
    """Whether `none` is a word that the setting takes, and not the mark of a null."""
    return "none" in all_fields()[name].metadata.get("options", ())
