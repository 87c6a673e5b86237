"""Runs paired by seed -> compare.csv and profiles.csv: every two levels, factors, all data sets together."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from regrun import across, ledger, levels, paired, pairing, records, rows, stats
from regrun.errors import ConfigError, clip
from regrun.findings import CompareRow, ProfileRow
from regrun.pairing import Compared, Values

NAME, PROFILES = "compare.csv", "profiles.csv"
METRICS = (
    "val_accuracy_best",
    "test_accuracy_best",
    "val_r2_best",
    "test_r2_best",
    "val_loss_best",
    "test_loss_best",
)
ALL_PAIRS = 10  # levels; of more, each is compared with the first alone
TAUS = [i / 20 for i in range(21)]


@dataclass(frozen=True)
class Level:
    """What one level's runs came to, on all data sets."""

    name: str
    ended: int
    ok: int
    diverged: int
    unfinished: int
    success: stats.Interval
    means: dict[str, float]  # of accuracy or R2 (else loss) on val and test


@dataclass(frozen=True)
class Result:
    """What a comparison came to."""

    compared: Compared
    levels: list[Level]
    rows: list[CompareRow]
    profiles: list[ProfileRow]
    delta: float
    looks: str  # at test, as far as the folders know


def write(folders: Sequence[Path], by: Sequence[str] | None, *, delta: float) -> Result:
    """Compare, and write the tables into the first folder."""
    compared = pairing.read(folders, by)
    names = levels.names(compared)
    found = list(_rows(compared, names, delta))
    if not any(row.n for row in found):
        raise ConfigError(f"compare: nothing is paired in {clip(str(folders[0]))!r}; {_why(compared)}")
    own = [_level(compared, level, name) for level, name in names.items()]
    profiles = list(_profiles(compared, names))
    result = Result(compared, own, _judged(found, delta), profiles, delta, ledger.line(*folders))
    _table(folders[0] / NAME, CompareRow, result.rows)
    if result.profiles:
        _table(folders[0] / PROFILES, ProfileRow, result.profiles)
    return result


def _table(path: Path, kind: type, found: Sequence[Any]) -> None:
    records.replace(path, records.table([rows.columns(kind), *map(rows.values, found)]))


def _why(compared: Compared) -> str:
    """What keeps runs from being pairs."""
    if not any(run.figure(metric) is not None for run in compared.runs for metric in METRICS):
        return "no run ended with a figure"
    if len(compared.levels) < 2:
        return "there is one level alone"
    first, second = ([run for run in compared.runs if run.level == level] for level in compared.levels[:2])
    if {run.unit for run in first}.isdisjoint(run.unit for run in second):
        return "levels have no seed in common"
    apart = [
        n for i, n in enumerate(compared.others) if {r.block[i] for r in first}.isdisjoint(r.block[i] for r in second)
    ]
    head = "--by folder and them" if pairing.FOLDER in compared.by else "them to --by, too"
    return f"levels differ in other settings ({', '.join((apart or compared.others)[:4])}); give {head}"


def _rows(compared: Compared, names: dict[Values, str], delta: float) -> Iterator[CompareRow]:
    for data in compared.data_sets:
        index = paired.indexed(compared, data)
        label = " ".join(data) if len(compared.data_sets) > 1 else "all"
        for metric in _metrics(compared, data):
            for a, b in _pairs(compared):
                if a in index and b in index:
                    yield paired.pair(index, a, b, names, data=label, metric=metric, delta=delta)
            for kind, name, terms in levels.contrasts(compared):
                found = paired.contrast(index, terms, metric)
                if found:
                    yield paired.row(found, kind=kind, data=label, a=name, b="none", metric=metric, delta=delta)
    if len(compared.data_sets) > 1:
        yield from _across(compared, names)


def _level(compared: Compared, level: Values, name: str) -> Level:
    runs = [run for run in compared.runs if run.level == level]
    ended = [run.cells["status"] for run in runs if run.has_ended]
    ok = ended.count("ok")
    figures = {metric: [v for run in runs if (v := run.figure(metric)) is not None] for metric in METRICS}
    means = {metric: fmean(values) for metric, values in figures.items() if values}
    chosen = {m: v for m, v in means.items() if "_loss_" not in m} or means
    success = stats.wilson(ok, len(ended))
    return Level(name, len(ended), ok, ended.count("diverged"), len(runs) - len(ended), success, chosen)


def _metrics(compared: Compared, data: Values) -> list[str]:
    """Those that some run on the data set has."""
    own = [run for run in compared.runs if run.data == data]
    return [metric for metric in METRICS if any(run.figure(metric) is not None for run in own)]


def _pairs(compared: Compared) -> list[tuple[Values, Values]]:
    """A level and one that comes before it in the plan: all pairs, or of many levels those with the first."""
    order = compared.levels
    found = list(combinations(order, 2)) if len(order) <= ALL_PAIRS else [(order[0], a) for a in order[1:]]
    return [(a, b) for b, a in found]


def _judged(found: Sequence[CompareRow], delta: float) -> list[CompareRow]:
    """The rows with p adjusted for the others of their family, and their verdicts."""
    families: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(found):
        families[row.kind, row.data, row.metric].append(i)
    judged = list(found)
    for places in families.values():
        holm, flips = (
            stats.holm([math.nan if p is None else p for p in ps])
            for ps in ([found[i].p_t for i in places], [found[i].p_sign_flip for i in places])
        )
        for i, p, flip in zip(places, holm, flips, strict=True):
            row = replace(found[i], p_holm=paired.known(p), p_sign_flip_holm=paired.known(flip))
            judged[i] = replace(row, verdict=paired.verdict(row, delta))
    return judged


def _across(compared: Compared, names: dict[Values, str]) -> Iterator[CompareRow]:
    """a against b over all data sets on which they have pairs, by accuracy or R2."""
    indices = [paired.indexed(compared, data) for data in compared.data_sets]
    for metric in METRICS[:4]:
        for a, b in _pairs(compared):
            scores = [_scores(index, a, b, metric) for index in indices]
            own = [pair for pair in scores if len(pair[0])]
            if len(own) > 1:
                yield _across_row([p[0] for p in own], [p[1] for p in own], names[a], names[b], metric)


def _scores(index: paired.Index, a: Values, b: Values, metric: str) -> tuple[Any, Any]:
    """(units,) of each level, paired."""
    keys = [k for k in index.get(a, {}) if k in index.get(b, {})]
    pairs = [(index[a][k].figure(metric), index[b][k].figure(metric)) for k in keys]
    whole = np.asarray([p for p in pairs if None not in p], float).reshape(-1, 2)
    return whole[:, 0], whole[:, 1]


def _across_row(x: across.Scores, y: across.Scores, a: str, b: str, metric: str) -> CompareRow:
    gain = across.interval(lambda p, q: across.iqm(p) - across.iqm(q), x, y, seed=paired.SEED)
    chance = across.interval(across.probability_of_improvement, x, y, seed=paired.SEED)
    blank = paired.row({}, kind="across", data="all", a=a, b=b, metric=metric, delta=0)
    differences = [float(np.mean(p) - np.mean(q)) for p, q in zip(x, y, strict=True)]
    return replace(
        blank,
        n=len(x),
        mean_a=across.iqm(x),
        mean_b=across.iqm(y),
        difference=gain.mean,
        boot_low=gain.low,
        boot_high=gain.high,
        wins=sum(d > 0 for d in differences),
        losses=sum(d < 0 for d in differences),
        ties=sum(d == 0 for d in differences),
        **paired.bounds("p_better", chance),
        p_sign_flip=None,
        p_smallest=None,
    )


def _profiles(compared: Compared, names: dict[Values, str]) -> Iterator[ProfileRow]:
    """How often each level is above a score, where there are several data sets."""
    for metric in METRICS[:4] if len(compared.data_sets) > 1 else ():
        for level in compared.levels:
            runs = [[r for r in compared.runs if (r.level, r.data) == (level, data)] for data in compared.data_sets]
            values = [np.asarray([v for r in own if (v := r.figure(metric)) is not None]) for own in runs]
            scores = [v for v in values if len(v)]
            if scores:
                shares = across.profile(scores, TAUS)
                low, high = across.bootstrap(lambda s: across.profile(s, TAUS), scores, seed=paired.SEED)
                for figures in zip(TAUS, shares.tolist(), low.tolist(), high.tolist(), strict=True):
                    yield ProfileRow(names[level], metric, *figures)
