"""What a search may try: the options of `hydra/sweeper=optuna`, and its space as plain, checked data.

Hydra composes the space once, a key at a time. From then on a run's settings are the settings of the base with those
of the trial's values put over them, so a space can be stored, and resumed where nothing is left of the command line.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from itertools import combinations, combinations_with_replacement
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from regrun import settings
from regrun.conversion import to_group, to_settings
from regrun.errors import clip
from regrun.settings import choice, number, plain

Point = dict[str, Any]  # key of the space -> a number of its range, or the text of one of its options
Tree = dict[str, Any]  # settings as Hydra composes them, nested
EDGE = 0.05  # of a range's length


@dataclass(frozen=True)
class Optuna:
    """How a search goes: `hydra.sweeper.*`."""

    kind: str = plain("optuna")
    sampler: str = choice("tpe", ("random", "sobol", "tpe", "gp"))
    n_trials: int = number(20, "[1, 1000000]")
    batch_size: int | None = number(None, "[1, 100000]")
    seed: int = number(0, "[0, inf)")
    pruner: str = choice("none", ("none", "median", "hyperband"))
    n_startup_trials: int = number(10, "[0, inf)")
    study_name: str = plain("regrun")
    storage: str | None = plain(None)


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`: all of them, or (`step`) those in equal steps; evenly, or on a log scale."""

    name: str
    low: float
    high: float
    step: float | None
    log: bool
    whole: bool

    def ends(self) -> list[Any]:
        """The lowest and the highest number."""
        return [int(end) if self.whole else end for end in (self.low, self.high)]

    def changes(self, value: Any) -> Tree:
        """The settings that a value changes, by flat name."""
        return {self.name: value}

    def edge(self, value: float) -> str | None:
        """Which end of the range the value lies at, if at one that the setting could go beyond."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        if low == high:
            return None
        interval = settings.all_fields()[self.name].metadata.get("interval", "(-inf, inf)")
        share = (at - low) / (high - low)
        is_low = share <= EDGE and settings.is_within(math.nextafter(self.low, -math.inf), interval)
        is_high = share >= 1 - EDGE and settings.is_within(math.nextafter(self.high, math.inf), interval)
        return "lower" if is_low else "upper" if is_high else None

    def __str__(self) -> str:
        low, high = self.ends()
        steps = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.name}: {low} to {high}{steps}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Options:
    """Some values or choices of a group, by their text, and the settings that each of them changes."""

    name: str
    options: dict[str, Tree]

    def ends(self) -> list[Any]:
        """Every option: they have no order."""
        return list(self.options)

    def changes(self, value: Any) -> Tree:
        """The settings that an option changes, by flat name; a whole group where its keys are others."""
        return self.options[value]

    def edge(self, value: Any) -> None:
        """An option lies at no edge."""

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.options)}"


Axis = Range | Options


@dataclass(frozen=True)
class Search:
    """A search: its options, the settings where each key has its first value, and its space."""

    options: Optuna
    base: Tree
    space: tuple[Axis, ...]

    def tree(self, point: Point) -> Tree:
        """The settings of a point. Groups come before their keys, so that a key's value holds in any of its groups."""
        changes = [item for axis in self.space for item in axis.changes(point[axis.name]).items()]
        return changed(self.base, dict(sorted(changes, key=lambda item: item[0].count("."))))

    def corners(self) -> list[Point]:
        """Each end of each key with each end of every other, the rest at their first: not the whole product."""
        first = {axis.name: axis.ends()[0] for axis in self.space}
        found = {tuple(first.items()): first}
        for a, b in combinations_with_replacement(self.space, 2):
            for point in (first | {a.name: x} | {b.name: y} for x in a.ends() for y in b.ends()):
                found[tuple(point.items())] = point
        return list(found.values())

    def text(self) -> str:
        """As JSON, but for where the study is kept, which may hold a password: only whether elsewhere."""
        options = asdict(self.options) | {"storage": "elsewhere" if self.options.storage else None}
        return json.dumps({"options": options, "base": self.base, "space": [asdict(axis) for axis in self.space]})


def read(data: Any) -> Search:
    """The search that `Search.text` wrote as JSON. Raises ValueError, KeyError, TypeError, IndexError."""
    problems: list[str] = []
    options = to_group(Optuna, data["options"], "options.", problems)
    space = tuple(_options(a) if "options" in a else to_group(Range, a, "space.", problems) for a in data["space"])
    to_settings(data["base"], problems)
    if problems:
        raise ValueError(problems)
    search = Search(options, data["base"], space)
    for axis in space:
        if isinstance(axis, Range) and not (0 if axis.log else -math.inf) < axis.low <= axis.high < math.inf:
            raise ValueError(axis)
        for end in axis.ends():
            changed(search.base, axis.changes(end))
    return search


def _options(data: Tree) -> Options:
    options = {text: dict(changes) for text, changes in data["options"].items()}
    return Options(str(data["name"]), options)


def changed(tree: Tree, changes: Tree) -> Tree:
    """A copy of a tree with other values at some flat names."""
    result = dict(tree)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        result[head] = changed(result[head], {rest: value}) if rest else value
    return result


def flat(tree: Tree, where: str = "") -> Tree:
    """A tree's leaves by flat name."""
    leaves: Tree = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{where}{key}.") if isinstance(value, dict) else {where + key: value}
    return leaves


def differences(old: Tree, new: Tree, where: str = "") -> Tree:
    """By flat name, what is new; a whole group where its keys are others."""
    found: Tree = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and value.keys() == before.keys():
            found |= differences(before, value, f"{where}{key}.")
        elif (type(value), value) != (type(before), before):
            found[where + key] = value
    return found


def explore(
    overrides: Sequence[Override], compose: Callable[[list[str]], Tree | None], problems: list[str]
) -> tuple[Tree, tuple[Axis, ...]]:
    """The base and the space of a command line. `compose` gives the settings of lines that sweep over nothing."""
    last = {override.get_key_element(): override for override in overrides}
    axes = {key: axis for key, o in last.items() if o.is_sweep_override() and (axis := _axis(o, problems)) is not None}
    fixed = {key: o.input_line or "" for key, o in last.items() if not o.is_sweep_override()}

    def composed(other: str = "", end: Any = None) -> Tree:
        """The settings where each key has its first value, but for one."""
        at = {key: axis.ends()[0] for key, axis in axes.items()} | {other: end}
        lines = {key: f"{key}={at[key]}" for key in axes} | fixed
        return compose([lines[key] for key in last if key in lines]) or {}

    base = composed()
    space = [_filled(axis, base, partial(composed, key), problems) for key, axis in axes.items()]
    problems += [] if problems else _overlaps([axis for axis in space if isinstance(axis, Options)])
    return base, tuple(space)


def _axis(override: Override, problems: list[str]) -> Axis | None:
    """What an override sweeps over; None, and a problem, if that cannot be searched."""
    name, value, line = override.get_key_element().removeprefix("+"), override.value(), clip(override.input_line or "")
    if not isinstance(value, IntervalSweep | RangeSweep):
        return Options(name, {text: {} for text in override.sweep_string_iterator()})
    is_log = "log" in value.tags
    low, high, step = _ends(value)
    if value.tags - {"log"}:
        problems.append(f"{name}: the only tag of a search is log, got {line!r}; leave the others out")
    elif not -settings.FLOAT32_MAX < low <= high < settings.FLOAT32_MAX:
        problems.append(f"{name}: must go from a lower to a higher number, got {line!r}; change its ends")
    elif is_log and low <= 0:
        problems.append(f"{name}: a log scale begins above 0, got {line!r}; raise its lower end")
    elif is_log and (isinstance(step, float) or step not in (None, 1)):
        problems.append(f"{name}: a log scale has no steps, got {line!r}; use an interval")
    else:
        return _range(name, low, high, step, is_log=is_log)
    return None


def _ends(value: IntervalSweep | RangeSweep) -> tuple[Any, Any, Any]:
    """The lowest and the highest number, and the step, None in an interval; NaN where there is no number."""
    if isinstance(value, IntervalSweep):
        return value.start, value.end, None
    start, stop, step = (Decimal(str(part)) for part in (value.start, value.stop, value.step))
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        return math.nan, math.nan, None
    ends = sorted([start, start + (count - 1) * step])
    kind = int if all(isinstance(part, int) for part in (value.start, value.stop, value.step)) else float
    return kind(ends[0]), kind(ends[1]), kind(abs(step))


def _range(name: str, low: float, high: float, step: float | None, *, is_log: bool) -> Range:
    """A range. One of a setting that takes whole numbers has whole numbers."""
    known, numbers = settings.all_fields().get(name), (low, high, step or 1)
    is_count = known is not None and known.type in (int, int | None) and all(float(n).is_integer() for n in numbers)
    whole = is_count or all(isinstance(n, int) for n in numbers)
    return Range(name, float(low), float(high), None if whole and step == 1 else step, is_log, whole)


def _filled(axis: Axis, base: Tree, composed: Callable[[Any], Tree], problems: list[str]) -> Axis:
    """The axis with what its options change. What a number changes must be its key alone."""
    trees = {end: composed(end) for end in axis.ends()}
    if problems:
        return axis
    if isinstance(axis, Options):
        return Options(axis.name, {text: _changes(axis.name, base, tree) for text, tree in trees.items()})
    if others := [name for end, tree in trees.items() for name in differences(changed(base, {axis.name: end}), tree)]:
        problems.append(f"{axis.name}: others follow it, got {clip(', '.join(others))}; search over keys of their own")
    return axis


def _changes(name: str, base: Tree, tree: Tree) -> Tree:
    """What sets a tree apart: one key, also where the base has the same value there, or what a choice brings along."""
    value = tree
    for part in name.split("."):
        value = value[part] if isinstance(value, dict) and part in value else {}
    if not isinstance(value, dict) and not differences(changed(base, {name: value}), tree):
        return {name: value}
    return differences(base, tree)


def _overlaps(space: Sequence[Options]) -> Iterator[str]:
    """Choices that change the same settings: composed a key at a time, they would not say which one holds."""
    for a, b in combinations(space, 2):
        both = [x for x in _names(a) for y in _names(b) if f"{x}.".startswith(f"{y}.") or f"{y}.".startswith(f"{x}.")]
        if both:
            yield f"{a.name}: changes {clip(both[0])} as {b.name} does, got both; search over one of them"


def _names(axis: Options) -> set[str]:
    """What a choice changes; nothing where it gives one key a value, which holds whatever else is chosen."""
    changes = list(axis.options.values())
    if all(list(own) == [axis.name] and not isinstance(own[axis.name], dict) for own in changes):
        return set()
    return {name for own in changes for name in own}
