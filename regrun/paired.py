"""Levels of paired runs -> one row: the difference with its intervals, tests, wins, and what it comes to in words.

The mean difference is of pairs with a figure on both sides. A run that failed has none: it is counted, and loses to a
partner that has one. A run that diverged enters by its best epoch.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from regrun import stats
from regrun.findings import CompareRow
from regrun.levels import Term
from regrun.pairing import Compared, Run, Values

SEED = 0  # of resamples
COUNTS = ("runs", "ok", "diverged", "unfinished", "success", "success_low", "success_high")
NO_RUNS: dict[str, Any] = {f"{side}_{what}": None for side in "ab" for what in COUNTS}

Key = tuple[Values, Values]  # unit, block
Index = dict[Values, dict[Key, Run]]  # by level


def indexed(compared: Compared, data: Values) -> Index:
    """The runs on a data set."""
    index: Index = defaultdict(dict)
    for run in compared.runs:
        if run.data == data:
            index[run.level].setdefault((run.unit, run.block), run)
    return dict(index)


def contrast(index: Index, terms: Sequence[Term], metric: str) -> dict[Values, float]:
    """unit -> the mean over blocks (and terms) of a signed sum of levels, where all of them have the figure."""
    found: dict[Values, list[float]] = defaultdict(list)
    for term in terms:
        own = [index.get(level, {}) for level, _ in term]
        for key in own[0]:
            values = [runs[key].figure(metric) if key in runs else None for runs in own]
            signed = [sign * v for (_, sign), v in zip(term, values, strict=True) if v is not None]
            if len(signed) == len(term):
                found[key[0]].append(math.fsum(signed))
    return {unit: fmean(values) for unit, values in found.items()}


def pair(
    index: Index, a: Values, b: Values, names: dict[Values, str], *, data: str, metric: str, delta: float
) -> CompareRow:
    both = [key for key in index[a] if key in index[b]]
    whole = [k for k in both if all(index[level][k].figure(metric) is not None for level in (a, b))]
    kept: Index = {level: {key: index[level][key] for key in whole} for level in (a, b)}
    differences = contrast(kept, [((a, 1), (b, -1))], metric)
    means = [contrast(kept, [((level, 1),)], metric).values() for level in (a, b)]
    blank = row(differences, kind="pair", data=data, a=names[a], b=names[b], metric=metric, delta=delta)
    won, lost, tied = _outcomes(index, a, b, both, differences, metric)
    share = stats.wilson(won + tied / 2, won + lost + tied)
    return replace(
        blank,
        mean_a=fmean(means[0]) if differences else None,
        mean_b=fmean(means[1]) if differences else None,
        wins=won,
        losses=lost,
        ties=tied,
        **bounds("p_better", share),
        unpaired=len(index[a]) + len(index[b]) - 2 * len(both),
        **_counts("a", index[a]),
        **_counts("b", index[b]),
    )


def _outcomes(
    index: Index, a: Values, b: Values, both: Sequence[Key], differences: dict[Values, float], metric: str
) -> tuple[int, int, int]:
    """Wins, losses and ties of a. A unit without any difference goes to the level that has more figures in it."""
    sign = -1 if "_loss_" in metric else 1
    outcomes = [float(np.sign(sign * d)) for d in differences.values()]
    for unit in {key[0] for key in both} - set(differences):
        keys = [key for key in both if key[0] == unit and all(index[x][key].has_ended for x in (a, b))]
        have = [sum(index[level][key].figure(metric) is not None for key in keys) for level in (a, b)]
        outcomes += [float(np.sign(have[0] - have[1]))] if keys else []
    return outcomes.count(1), outcomes.count(-1), outcomes.count(0)


def _counts(side: str, runs: dict[Key, Run]) -> dict[str, Any]:
    ended = [run.cells["status"] for run in runs.values() if run.has_ended]
    own = {
        f"{side}_runs": len(ended),
        f"{side}_ok": ended.count("ok"),
        f"{side}_diverged": ended.count("diverged"),
        f"{side}_unfinished": len(runs) - len(ended),
    }
    return own | bounds(f"{side}_success", stats.wilson(ended.count("ok"), len(ended)))


def row(
    differences: dict[Values, float], *, kind: str, data: str, a: str, b: str, metric: str, delta: float
) -> CompareRow:
    """Everything that one number per unit says."""
    values, is_loss = list(differences.values()), "_loss_" in metric
    n, spread, effect = len(values), stats.deviation(values), stats.effect_size(values) if values else math.nan
    own, boot, flip = stats.paired_t_interval(values), _boot(values), stats.sign_flip_p(values, SEED)
    wins, losses = (sum(s * d > 0 for d in values) for s in ((-1, 1) if is_loss else (1, -1)))
    return CompareRow(
        kind=kind,
        data=data,
        a=a,
        b=b,
        metric=metric,
        n=n,
        mean_a=None,
        mean_b=None,
        **bounds("", own, mean="difference"),
        boot_low=known(boot.low),
        boot_high=known(boot.high),
        sd=known(spread),
        d_z=known(effect),
        wins=wins,
        losses=losses,
        ties=n - wins - losses,
        **bounds("p_better", stats.wilson(wins + (n - wins - losses) / 2, n)),
        p_t=known(stats.paired_t_p(values)),
        p_holm=None,
        p_sign_flip=flip.p if n > 1 else None,
        p_smallest=flip.smallest if n > 1 else None,
        p_sign_flip_holm=None,
        p_wilcoxon=None,
        p_wilcoxon_holm=None,
        verdict="",
        detectable=known(stats.detectable(n) * spread) if n > 1 else None,
        pairs_for_delta=stats.pairs_needed(delta / spread) if n > 1 and spread > 0 and delta and not is_loss else None,
        unpaired=None,
        **NO_RUNS,
    )


def _boot(values: Sequence[float]) -> stats.Interval:
    return stats.bootstrap_interval(values, np.mean, SEED)


def bounds(name: str, own: stats.Interval, mean: str = "") -> dict[str, Any]:
    head = f"{name}_" if name else ""
    return {mean or name: known(own.mean), f"{head}low": known(own.low), f"{head}high": known(own.high)}


def known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def verdict(own: CompareRow, delta: float) -> str:
    """In words. What lies within delta is equivalent even if it is not 0."""
    low, high = (own.boot_low, own.boot_high) if own.kind == "across" else (own.low, own.high)
    if low is None or high is None:
        return "not shown"
    is_loss = "_loss_" in own.metric
    if not is_loss and -delta < low and high < delta:
        return "equivalent"
    is_apart = (low > 0 or high < 0) and (own.p_holm is None or own.p_holm < 0.05)
    return ("better" if (low > 0) != is_loss else "worse") if is_apart else "not shown"
