"""Levels of what is compared: their short names, and the factors that they switch on and off."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from regrun.errors import clip
from regrun.overrides import NEUTRAL
from regrun.pairing import FOLDER, Compared, Values

Term = tuple[tuple[Values, int], ...]  # levels with their signs: a sum
Factor = dict[Values, bool]  # whether each level has it


def names(compared: Compared) -> dict[Values, str]:
    """`none`, `dropout`, `dropout + batchnorm`, `dropout.rate=0.5 lr=0.1`: no longer than it takes to tell levels."""
    found = {level: _name(level, compared) for level in compared.levels}
    if len(set(found.values())) == len(found):
        return found
    return {
        level: " ".join(f"{n}={clip(v)}" for n, v in zip(compared.by, level, strict=True)) for level in compared.levels
    }


def _name(level: Values, compared: Compared) -> str:
    own = dict(zip(compared.by, level, strict=True))
    words: dict[str, None] = {}  # in order, each once
    for i, (name, value) in enumerate(own.items()):
        values = {other[i] for other in compared.levels}
        words |= dict.fromkeys(_words(name, value, values))
    regs = " + ".join(w for w in words if "=" not in w)
    rest = [w for w in words if "=" in w]
    return " ".join([*([regs] if regs else []), *rest]) or "none"


def _words(name: str, value: str, values: set[str]) -> list[str]:
    """What one setting adds to a level's name: nothing where a regularizer's is neutral."""
    value = clip(value)
    if name == FOLDER:
        return [value.replace("=", "-")]
    group, _, tail = name.partition(".")
    if name in NEUTRAL:
        if value == NEUTRAL[name]:
            return []
        return [tail.partition(".")[0]] if len(values - {NEUTRAL[name]}) == 1 else [f"{tail}={value}"]
    short = group if tail == "kind" else name.rpartition(".")[2]
    return [f"{short}={value}"]


def contrasts(compared: Compared) -> Iterator[tuple[str, str, list[Term]]]:
    """Main effects, and interactions of two: kind, name, and the levels that make them, wherever those are there.

    Two levels that differ in one factor alone give its effect; four, two of whose factors are all combined, give what
    one of them does with the other, minus without. In a full factorial these are the usual contrasts.
    """
    factors = _factors(compared)
    if len(factors) < 2:
        return
    place = {tuple(f[level] for f in factors.values()): level for level in compared.levels}
    if len(place) < len(compared.levels):
        return  # some other setting tells levels apart, too
    order = list(factors)
    for i, name in enumerate(order):
        if terms := _terms(place, [i]):
            yield "main", name, terms
    for i, j in combinations(range(len(order)), 2):
        if terms := _terms(place, [i, j]):
            yield "interaction", f"{order[i]} x {order[j]}", terms


def _terms(place: dict[tuple[bool, ...], Values], switched: Sequence[int]) -> list[Term]:
    """From each level with all of the factors off: the signed levels with them on and off, if all are there."""
    terms = []
    for base in place:
        corners = [
            (_with(base, chosen), (-1) ** (len(switched) - k))
            for k in range(len(switched) + 1)
            for chosen in combinations(switched, k)
        ]
        if not any(base[i] for i in switched) and all(corner in place for corner, _ in corners):
            terms.append(tuple((place[corner], sign) for corner, sign in corners))
    return terms


def _with(base: tuple[bool, ...], chosen: Sequence[int]) -> tuple[bool, ...]:
    return tuple(on or i in chosen for i, on in enumerate(base))


def _factors(compared: Compared) -> dict[str, Factor]:
    """Each setting that has two values; the neutral one, or the first of the plan, is off. Those that go together
    are one."""
    found: dict[str, Factor] = {}
    for i, name in enumerate(compared.by):
        values = list(dict.fromkeys(level[i] for level in compared.levels))
        if len(values) == 2:
            off = NEUTRAL.get(name, values[0])
            own = {level: level[i] != (off if off in values else values[0]) for level in compared.levels}
            if own not in found.values():
                found[_factor_name(name, values)] = own
    return found


def _factor_name(name: str, values: Sequence[str]) -> str:
    if name in NEUTRAL:
        return name.split(".")[1] if NEUTRAL[name] in values else f"{name.removeprefix('reg.')}={clip(values[1])}"
    short = name.removesuffix(".kind") if name.endswith(".kind") else name.rpartition(".")[2]
    return f"{short}={clip(values[1])}"
