"""Runs paired by seed -> compare.csv and profiles.csv: every two levels, factors, all data sets together."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from regrun import best, budget, ledger, levels, overall, paired, pairing, records, rows, stats
from regrun.errors import ConfigError, clip
from regrun.findings import CompareRow, ProfileRow
from regrun.pairing import METRICS, Compared, Values

NAME, PROFILES = "compare.csv", "profiles.csv"


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
    seeds: int  # that the means are of: all levels have them, or none is shared by all


@dataclass(frozen=True)
class Result:
    """What a comparison came to."""

    compared: Compared
    levels: list[Level]
    rows: list[CompareRow]
    profiles: list[ProfileRow]
    delta: float
    warnings: list[str]  # where levels were not tuned alike, or had other data
    looks: str  # at test, as far as the folders know


def write(folders: Sequence[Path], by: Sequence[str] | None, *, delta: float) -> Result:
    """Compare, and write the tables into the first folder."""
    compared = pairing.read(folders, by)
    names = levels.names(compared)
    found = list(_rows(compared, names, delta))
    if not any(row.n for row in found):
        raise ConfigError(f"compare: nothing is paired in {clip(str(folders[0]))!r}; {_why(compared)}")
    own = list(_levels(compared, names))
    profiles = list(overall.profiles(compared, names))
    warned = [*budget.warnings(compared, names), *_changed(compared)]
    result = Result(compared, own, _judged(found, delta), profiles, delta, warned, ledger.line(*folders))
    _table(folders[0] / NAME, CompareRow, result.rows)
    if result.profiles:
        _table(folders[0] / PROFILES, ProfileRow, result.profiles)
    return result


def _table(path: Path, kind: type, found: Sequence[Any]) -> None:
    records.replace(path, records.table([rows.columns(kind), *map(rows.values, found)]))


def _changed(compared: Compared) -> Iterator[str]:
    """Data sets that are called the same and are not."""
    for data in compared.data_sets:
        own = {run.cells.get("data_hash", "none") for run in compared.runs if run.data == data and run.has_ended}
        if len(own - {"none"}) > 1:
            where = clip(" ".join(data)) or "the data set"
            yield f"{where} is not the same for all runs (data_hash in summary.csv): it was changed between them"


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
        for metric in compared.metrics(data):
            for a, b in compared.pairs:
                if a in index and b in index:
                    yield paired.pair(index, a, b, names, data=label, metric=metric, delta=delta)
        yield from best.rows(index, names, compared.metrics(data), data=label, delta=delta)
        for metric in compared.metrics(data):
            for kind, name, terms in levels.contrasts(compared):
                found = paired.contrast(index, terms, metric)
                if found:
                    yield paired.row(found, kind=kind, data=label, a=name, b="none", metric=metric, delta=delta)
    if len(compared.data_sets) > 1:
        yield from overall.rows(compared, names)


def _levels(compared: Compared, names: dict[Values, str]) -> Iterator[Level]:
    figures = {metric: best.complete(_figures(compared, metric)) for metric in METRICS}
    for level, name in names.items():
        runs = [run for run in compared.runs if run.level == level]
        ended = [run.cells["status"] for run in runs if run.has_ended]
        ok, diverged = ended.count("ok"), ended.count("diverged")
        means = {metric: fmean(own[level].values()) for metric, own in figures.items() if own[level]}
        chosen = {m: v for m, v in means.items() if "_loss_" not in m} or means
        seeds = {unit for metric in chosen for _, unit, _ in figures[metric][level]}
        success = stats.wilson(ok, len(ended))
        yield Level(name, len(ended), ok, diverged, len(runs) - len(ended), success, chosen, len(seeds))


def _figures(compared: Compared, metric: str) -> dict[Values, dict[tuple[Values, Values, Values], float]]:
    """Of each level, by data set, seeds and other settings."""
    found: dict[Values, dict[tuple[Values, Values, Values], float]] = {level: {} for level in compared.levels}
    for run in compared.runs:
        if (value := run.figure(metric)) is not None:
            found[run.level][run.data, run.unit, run.block] = value
    return found


def _judged(found: Sequence[CompareRow], delta: float) -> list[CompareRow]:
    """The rows with p adjusted for the others of their family, and their verdicts."""
    families: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(found):
        families[row.kind, row.data, row.metric].append(i)
    judged = list(found)
    for places in families.values():
        own = [found[i] for i in places]
        flips, ranks = _holm([row.p_sign_flip for row in own]), _holm([row.p_wilcoxon for row in own])
        main = flips if own[0].kind == "across" else _holm([row.p_t for row in own])
        for i, p, flip, rank in zip(places, main, flips, ranks, strict=True):
            row = replace(found[i], p_holm=p, p_sign_flip_holm=flip, p_wilcoxon_holm=rank)
            judged[i] = replace(row, verdict=paired.verdict(row, delta))
    return judged


def _holm(values: Sequence[float | None]) -> list[float | None]:
    return [paired.known(p) for p in stats.holm([math.nan if p is None else p for p in values])]
