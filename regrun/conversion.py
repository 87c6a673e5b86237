"""Plain containers -> settings. Every unknown, missing or mistaken key becomes a problem, in one line."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from regrun import settings as s
from regrun.errors import DataError, clip


def to_settings(container: Any, problems: list[str]) -> s.Settings | None:
    """The settings, not yet resolved; None if problems were found, which are added to the list."""
    return typing.cast(s.Settings | None, to_group(s.Settings, container, "", problems))


def to_group(cls: type, container: Any, where: str, problems: list[str]) -> Any:
    """One dataclass whose keys are named `where` + key; None if problems were found, which are added to the list."""
    found: list[str] = []
    group = _build(cls, container, where, found)
    problems += found
    return None if found else group


def from_cells(cells: Mapping[str, str], problems: list[str]) -> s.Settings | None:
    """The settings in a table's row, cell by flat name; columns of kinds that were not chosen are left out."""
    kinds = {group: options.get(cells.get(f"{group}.kind", "")) for group, options in s.KINDS.items()}
    unknown = [f"{group}.kind: no such kind, got {clip(cells.get(f'{group}.kind', ''))!r}" for group in kinds]
    bad = [line for line, cls in zip(unknown, kinds.values(), strict=True) if cls is None]
    if bad:
        problems += bad
        return None
    default = s.Settings(**{group: cls() for group, cls in kinds.items() if cls is not None})
    return to_settings(_node(default, cells, ""), problems)


def parsed(cls: type, cells: Mapping[str, str]) -> Any:
    """A row of one of our tables as its dataclass. Raises DataError where a cell is no such thing."""
    hints = typing.get_type_hints(cls)
    values = {f.name: _read(cells[f.name], hints[f.name]) for f in dataclasses.fields(cls)}
    for name, value in values.items():
        allowed = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        plain = tuple(typing.get_origin(hint) or hint for hint in allowed)
        if not isinstance(value, (*plain, int) if float in plain else plain):
            raise DataError(f"{cls.__name__}: {name}: is not what a table of regrun's has, got {clip(cells[name])!r}")
    return cls(**values)


def _node(default: Any, cells: Mapping[str, str], where: str) -> dict[str, Any]:
    """A container shaped like a dataclass, from cells; what is no cell keeps its default."""
    node: dict[str, Any] = {}
    hints = typing.get_type_hints(type(default))
    for f in dataclasses.fields(default):
        value, key = getattr(default, f.name), where + f.name
        if dataclasses.is_dataclass(value):
            node[f.name] = _node(value, cells, f"{key}.")
        else:
            node[f.name] = _read(cells[key], hints[f.name]) if key in cells else value
    return node


def _read(cell: str, hint: Any) -> Any:
    """A cell as what `hint` asks for; as it stands where it is no such thing, so that the checks name it."""
    if cell == "none" and isinstance(hint, types.UnionType):
        return None
    if hint is str or (isinstance(hint, types.UnionType) and typing.get_args(hint)[0] is str):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def nearest(word: str, known: Sequence[str]) -> str:
    """'did you mean X; ', or nothing. A key may also be written without its group."""
    tails = {k.rpartition(".")[2]: k for k in reversed(known)}
    tail = word.rpartition(".")[2]
    close = [tails[tail]] if tail in tails else difflib.get_close_matches(word[:200], known, 1, 0.6)
    if not close:
        close = [tails[t] for t in difflib.get_close_matches(tail[:200], tails, 1, 0.7)]
    return f"did you mean {close[0]}; " if close else ""


def _build(cls: type, node: Any, where: str, problems: list[str]) -> Any:
    """A dataclass from plain containers; every unknown, missing or mistaken key becomes a problem."""
    if not isinstance(node, dict):
        problems.append(
            f"{where.rstrip('.')}: must be a group of settings, got {clip(repr(node))}; name one of its keys"
        )
        return None
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in node:
        if key not in fields:
            near = nearest(where + str(key), [where + name for name in fields]) or f"it has {', '.join(fields)}; "
            problems.append(f"{where}{clip(str(key))}: no such key; {near.removesuffix('; ')}")
    hints = typing.get_type_hints(cls)
    values = {name: _value(f, hints[name], node, where, problems) for name, f in fields.items()}
    return cls(**values)


def _value(f: dataclasses.Field[Any], hint: Any, node: dict[Any, Any], where: str, problems: list[str]) -> Any:
    key = where + f.name
    if f.name not in node:
        problems.append(f"{key}: is missing; a key cannot be deleted, only given a neutral value")
        return None
    value = node[f.name]
    if f.name in s.KINDS and not where:
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in s.KINDS[f.name]:
            problems.append(
                f"{key}.kind: no such kind, got {clip(repr(kind))}; choose from {', '.join(s.KINDS[f.name])}"
            )
            return None
        cls = s.KINDS[f.name][kind]
        if _is_another_kind(value, cls, f.name):
            problems.append(f"{key}.kind: cannot be changed alone, got {kind!r}; use {key}={kind}")
            return None
        return _build(cls, value, f"{key}.", problems)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{key}.", problems)
    return _leaf(f, hint, value, key, problems)


def _is_another_kind(node: dict[Any, Any], cls: type, group: str) -> bool:
    """Whether the keys are exactly those of another class of the group: only `kind` was overridden."""
    names = {c: {f.name for f in dataclasses.fields(c)} for c in s.KINDS[group].values()}
    return set(node) != names[cls] and set(node) in names.values()


def _leaf(f: dataclasses.Field[Any], hint: Any, value: Any, key: str, problems: list[str]) -> Any:
    """A number, word, flag or list of numbers of the right type, in range."""
    optional = isinstance(hint, types.UnionType)
    if optional and value is None:
        return None
    plain = next(t for t in typing.get_args(hint) if t is not type(None)) if optional else hint
    is_list = typing.get_origin(plain) is list
    item = typing.get_args(plain)[0] if is_list else plain
    parts = value if is_list and isinstance(value, list) else [value]
    converted = [_convert(part, item) for part in parts]
    wanted = _wanted(f, item, is_list, optional)
    length = f.metadata.get("length", len(parts))
    wrong_type = is_list != isinstance(value, list) or None in converted or len(parts) != length
    interval, options = f.metadata.get("interval"), f.metadata.get("options")
    out_of_range = not wrong_type and (
        (interval and not all(s.is_within(part, interval) for part in converted))
        or (options and not set(parts) <= set(options))
    )
    if wrong_type or out_of_range:
        problems.append(f"{key}: must be {wanted}, got {clip(repr(value))}")
        return None
    return converted if is_list else converted[0]


def _convert(value: Any, kind: type) -> Any:
    """`value` as `kind` where no information is lost, else None."""
    if kind is str:  # tables have a row on a line, and terminals obey control characters
        return value if isinstance(value, str) and value.isprintable() else None
    if kind is bool:
        return value if isinstance(value, kind) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind is int:
        return int(value) if isinstance(value, int) or value.is_integer() else None
    return float(value) if abs(value) < s.FLOAT32_MAX or isinstance(value, float) else None


def _wanted(f: dataclasses.Field[Any], item: type, is_list: bool, optional: bool) -> str:
    options = f.metadata.get("options")
    word = {int: "a whole number", float: "a number", bool: "true or false", str: "printable text"}[item]
    if options:
        word = f"{'a list of' if is_list else 'one of'} {', '.join(options)}"
    elif is_list:
        count = f.metadata.get("length")
        word = f"a list of {f'{count} ' if count else ''}{word.split(' ', 1)[1]}s"
    interval = f.metadata.get("interval", "(-inf, inf)")
    return word + (f" in {interval}" if interval != "(-inf, inf)" else "") + (" or null" if optional else "")
