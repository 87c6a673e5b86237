"""The effect of one setting at a time: pairs of runs that differ in it alone, with the same seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from regrun import overrides
from regrun.collect import FINISHED
from regrun.report.figures import Cells, Mean, mean, number
from regrun.report.folder import Folder, shortened


@dataclass(frozen=True)
class Effect:
    """What going from one value to another does: the mean over seeds of the differences of val and test figures."""

    before: str
    after: str
    val: Mean
    test: Mean | None
    pairs: int


def effects(found: Folder) -> list[Effect]:
    """Every varied setting, from its first value to each of its others; those that always vary together are one."""
    names = overrides.varying(found.runs)
    return [effect for factor in _together(found) for effect in _of(found, factor, names)]


def _together(found: Folder) -> list[list[str]]:
    """The varied settings, in groups that part the runs in the same way."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in found.varied:
        values = [row[name] for row in found.runs]
        first: dict[str, int] = {}
        groups.setdefault(tuple(first.setdefault(v, len(first)) for v in values), []).append(name)
    return list(groups.values())


def _of(found: Folder, factor: Sequence[str], names: Sequence[str]) -> Iterator[Effect]:
    others = [name for name in names if name not in factor]
    by_value: dict[tuple[str, ...], dict[tuple[str, ...], Cells]] = {}
    for row in found.runs:
        own = by_value.setdefault(tuple(row[name] for name in factor), {})
        own[tuple(row[name] for name in others)] = row
    base, *rest = by_value.values()
    for runs in rest:
        pairs = [(base[key], row) for key, row in runs.items() if key in base]
        val, test = (_differences(pairs, f"{split}_{found.quantity}_best") for split in ("val", "test"))
        if (change := _over_seeds(val)) is not None:
            first, second = (shortened(next(iter(own.values())), factor) or "without" for own in (base, runs))
            yield Effect(first, second, change, _over_seeds(test), len(val))


def _differences(pairs: Sequence[tuple[Cells, Cells]], column: str) -> list[tuple[tuple[str, ...], float]]:
    """The seeds and the difference of each pair of finished runs."""
    finished = [pair for pair in pairs if all(row["status"] in FINISHED for row in pair)]
    cells = [(_seed(after), number(before.get(column)), number(after.get(column))) for before, after in finished]
    return [(seed, b - a) for seed, a, b in cells if a is not None and b is not None]


def _over_seeds(differences: Sequence[tuple[tuple[str, ...], float]]) -> Mean | None:
    """Pairs of one seed are no independent news: their mean is taken first, the interval is over seeds."""
    by_seed: dict[tuple[str, ...], list[float]] = {}
    for seed, difference in differences:
        by_seed.setdefault(seed, []).append(difference)
    return mean([sum(own) / len(own) for own in by_seed.values()])


def _seed(row: Cells) -> tuple[str, ...]:
    return tuple(value for name, value in row.items() if name.split(".")[0] in ("seed", "seeds"))
