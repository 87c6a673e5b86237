"""One setting, its seeds varied one at a time and all together -> variance.csv: how much each seed makes.

The runs: `contexts` draws of all seeds; around each of them, for each seed that draws anything, `seeds` values of that
seed with the others fixed; and contexts times seeds runs of which each draws all seeds anew.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from regrun import collect, components, foreign, gridview, plan, records, rows, settings
from regrun.components import Component
from regrun.errors import ConfigError, DataError, clip
from regrun.findings import VarianceRow
from regrun.overrides import Cells
from regrun.settings import PURPOSES, WITHOUT_EFFECT, Seeds, Settings, drawn, resolve

NAME, TOGETHER = "variance.csv", "together"
MEASURES = ("val_accuracy_best", "test_accuracy_best", "val_r2_best", "test_r2_best")
NOTE = "variance within contexts of one seed, others fixed (Bouthillier et al. 2021); 95 % intervals of normal figures"

Runs = Sequence[tuple[Cells, float]]  # a run's settings and its figure


def reseeded(run: Settings, seed: int) -> Settings:
    """The run with all its seeds derived from this one."""
    return resolve(replace(run, seed=seed, seeds=Seeds()))


def design(run: Settings, *, contexts: int, seeds: int) -> list[Settings]:
    """The runs, from the run's own seed on. Raises ConfigError where it has fixed one of them."""
    fixed = [p for p in PURPOSES if getattr(run.seeds, p) != run.seed]
    if fixed:
        lines = [f"seeds.{p}: is what variance varies, got {getattr(run.seeds, p)}; leave it out" for p in fixed]
        raise ConfigError(lines)
    numbers = count(run.seed)
    own = [reseeded(run, next(numbers)) for _ in range(contexts)]
    together = [reseeded(run, next(numbers)) for _ in range(contexts * seeds)]
    apart = [
        replace(context, seeds=replace(context.seeds, **{purpose: next(numbers)}))
        for context in own
        for purpose in drawn(run)
        for _ in range(seeds - 1)
    ]
    return [*own, *together, *apart]


def write(root: Path) -> list[VarianceRow]:
    """Write variance.csv of a sweep that varies seeds, and give its rows. Raises DataError where none varies alone."""
    planned = plan.rows(root)
    found = {row["run_id"]: row for row in collect.finished(root)}
    ended = [row for row in planned if row["run_id"] in found]
    table = list[VarianceRow]()
    for measure in MEASURES:
        figures = [(row, _number(found[row["run_id"]].get(measure, "none"))) for row in ended]
        table += _rows(measure, [(row, figure) for row, figure in figures if math.isfinite(figure)])
    if not any(row.groups for row in table if row.source != TOGETHER):
        raise DataError(
            f"{root}: has no finished runs that differ in one of seeds.* alone; regrun variance KEY=VALUE trains such"
        )
    records.replace(root / NAME, records.table([rows.columns(VarianceRow), *map(rows.values, table)]))
    return table


def _number(cell: str) -> float:
    try:
        return foreign.figure(cell)
    except ValueError:
        raise DataError(f"summary.csv: figures must be numbers, got {clip(cell)!r}; repeat the run") from None


def _rows(measure: str, runs: Runs) -> Iterator[VarianceRow]:
    """One for each seed, and one for all together; none of a measure that no run has."""
    if not runs:
        return
    groups = {purpose: alone(purpose, runs) for purpose in PURPOSES}
    used = {id(row) for own in groups.values() for group in own for row, _ in group}
    together = apart([(row, figure) for row, figure in runs if id(row) not in used]) or apart(runs)
    whole = _component(together)
    for name, own in (groups | {TOGETHER: together}).items():
        yield _row(measure, name, own, whole)


def alone(purpose: str, runs: Runs) -> list[Runs]:
    """Sets of runs that differ in this seed alone. A seed that no run varies makes none."""
    name = f"seeds.{purpose}"
    groups: dict[tuple[str, ...], dict[str, tuple[Cells, float]]] = {}
    for row, figure in runs:
        groups.setdefault(_shared(row, {name}), {}).setdefault(row[name], (row, figure))
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def apart(runs: Runs) -> list[Runs]:
    """Sets of runs that share all settings, no two of which share a seed that varies: each is drawn anew."""
    names = [f"seeds.{p}" for p in PURPOSES if len({row[f"seeds.{p}"] for row, _ in runs}) > 1]
    groups: dict[tuple[str, ...], list[tuple[Cells, float]]] = {}
    for row, figure in runs:
        own = groups.setdefault(_shared(row, {f"seeds.{p}" for p in PURPOSES}), [])
        if not any(row[name] == other[name] for other, _ in own for name in names):
            own.append((row, figure))
    return [group for group in groups.values() if len(group) > 1]


def _shared(row: Cells, apart_from: set[str]) -> tuple[str, ...]:
    """What runs have in common; `seed` itself is in each of the seeds."""
    return tuple(row.get(name, "") for name in _names() if name not in apart_from)


@functools.cache
def _names() -> list[str]:
    return [name for name in settings.columns() if name not in {"seed", *WITHOUT_EFFECT}]


def _component(groups: Sequence[Runs]) -> Component:
    return components.within([[figure for _, figure in group] for group in groups])


def _row(measure: str, source: str, groups: Sequence[Runs], whole: Component) -> VarianceRow:
    own = _component(groups)
    variance, part = components.interval(own), components.share(own, whole)
    if source == TOGETHER:  # the whole, by definition
        part = part._replace(low=math.nan, high=math.nan)
    figures: Mapping[str, float] = {
        "variance": variance.mean,
        "variance_low": variance.low,
        "variance_high": variance.high,
        "sd": math.sqrt(variance.mean),
        "share": part.mean,
        "share_low": part.low,
        "share_high": part.high,
    }
    known = {name: None if math.isnan(value) else float(value) for name, value in figures.items()}
    return VarianceRow(measure, source, len(groups), sum(map(len, groups)), **known)


def tell(table: Sequence[VarianceRow]) -> None:
    """Print the table, and what to know of it."""
    gridview.show([_line(row) for row in table], left=["measure", "seed"])
    for line in [*_sums(table), NOTE]:
        gridview.say(line)


def _line(row: VarianceRow) -> dict[str, str]:
    scale, form, unit = (100, ".2f", " points") if "accuracy" in row.measure else (1, ".4f", "")
    sd = "none" if row.sd is None else f"{scale * row.sd:{form}}{unit}"
    part = "none" if row.share is None else f"{100 * row.share:.0f} %"
    if row.share_low is not None and row.share_high is not None:
        part += f" [{100 * row.share_low:.0f}, {100 * row.share_high:.0f}]"
    own = {"measure": row.measure.removesuffix("_best"), "seed": row.source, "contexts": str(row.groups)}
    return own | {"runs": str(row.runs), "sd": sd, "share of variance": part}


def _sums(table: Sequence[VarianceRow]) -> Iterator[str]:
    """Where shares exceed the whole, seeds interact, or there are few runs."""
    for measure in dict.fromkeys(row.measure for row in table):
        shares = [row.share for row in table if row.measure == measure and row.source != TOGETHER]
        if known := [share for share in shares if share is not None]:
            name = measure.removesuffix("_best")
            yield f"{name}: the shares sum to {100 * sum(known):.0f} %; above 100 where seeds interact, or by chance"
