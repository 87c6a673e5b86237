"""Were levels tuned alike? The best of more tries is better by luck, and a best value at the edge of what was tried is
no optimum: it tells that the search was too narrow."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from regrun import collect, overrides
from regrun.errors import clip
from regrun.pairing import FOLDER, METRICS, Compared, Run, Values

LEAST = 3  # values of a setting, of which one may lie at the edge
WINNER = "confirm"  # the folder of a sweep's best setting on fresh seeds
SHOWN = 5  # edges that are told


def warnings(compared: Compared, names: dict[Values, str]) -> Iterator[str]:
    """A line for unequal numbers of tries, and for each best value at an edge."""
    tries = {level: _tries(compared, level) for level in compared.levels}
    few, many = min(tries, key=lambda level: tries[level]), max(tries, key=lambda level: tries[level])
    if tries[few] < tries[many]:
        yield (
            f"tuning budgets differ: {clip(names[few])} had {tries[few]} tries, {clip(names[many])} {tries[many]} "
            f"({', '.join(compared.others[:3]) or 'settings'}): the best of more tries is better by luck alone"
        )
    metric = next(
        (m for m in METRICS if m.startswith("val_") and any(r.figure(m) is not None for r in compared.runs)), ""
    )
    edges = list(_edges(compared, names, metric)) if metric else []
    yield from edges[:SHOWN]
    if len(edges) > SHOWN:
        yield f"and {len(edges) - SHOWN} more best values at an edge"


def _tries(compared: Compared, level: Values) -> int:
    """Settings beside a level's own; of the winner of a sweep (`regrun confirm`), those that it was chosen from."""
    sweep = Path(level[0]).parent if compared.by[0] == FOLDER and Path(level[0]).name == WINNER else None
    if sweep is not None and (sweep / "effects.csv").is_file():
        return len(collect.rows(sweep / "effects.csv"))
    return len({(run.data, run.block) for run in compared.runs if run.level == level})


def _edges(compared: Compared, names: dict[Values, str], metric: str) -> Iterator[str]:
    """Of the level that is best, and of the best settings within each level."""
    levels, blocks = defaultdict[Values, list[Run]](list), defaultdict[Values, dict[Values, list[Run]]](dict)
    for run in compared.runs:
        levels[run.level].append(run)
        blocks[run.level].setdefault(run.block, []).append(run)
    yield from _at_edge(compared.by, levels, metric)
    for level, own in blocks.items():
        yield from (f"{clip(names[level])}: {line}" for line in _at_edge(compared.others, own, metric))


def _at_edge(names: Sequence[str], groups: Mapping[Values, list[Run]], metric: str) -> Iterator[str]:
    """Which numbers of the best group are the smallest or the largest that were tried."""
    figures = [
        (values, [v for run in runs if (v := run.figure(metric)) is not None]) for values, runs in groups.items()
    ]
    means = {values: fmean(own) for values, own in figures if own}
    if not means:
        return
    sign = -1 if "_loss_" in metric else 1
    best = max(means, key=lambda values: sign * means[values])
    for i, name in enumerate(names):
        tried = sorted({_number(values[i]) for values in groups})
        at = _number(best[i])
        if len(tried) < LEAST or not all(map(math.isfinite, tried)) or at not in (tried[0], tried[-1]):
            continue
        if best[i] != overrides.NEUTRAL.get(name) and at != 0:  # where a regularizer is off there is nothing below
            end = "smallest" if at == tried[0] else "largest"
            yield f"{name}: the best value {at:g} is the {end} of {len(tried)} that were tried; widen the range"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
