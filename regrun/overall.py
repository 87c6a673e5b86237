"""Levels on several data sets -> one row for each two of them, and how often each is above a score."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from regrun import across, paired, stats
from regrun.findings import CompareRow, ProfileRow
from regrun.pairing import METRICS, Compared, Values

TAUS = [i / 20 for i in range(21)]


def rows(compared: Compared, names: dict[Values, str]) -> Iterator[CompareRow]:
    """a against b over all data sets on which they have pairs, by accuracy or R2."""
    indices = [paired.indexed(compared, data) for data in compared.data_sets]
    for metric in METRICS[:4]:
        for a, b in compared.pairs:
            scores = [_scores(index, a, b, metric) for index in indices]
            own = [pair for pair in scores if len(pair[0])]
            if len(own) > 1:
                yield _row([p[0] for p in own], [p[1] for p in own], names[a], names[b], metric)


def _scores(index: paired.Index, a: Values, b: Values, metric: str) -> tuple[Any, Any]:
    """(units,) of each level, paired."""
    keys = [k for k in index.get(a, {}) if k in index.get(b, {})]
    pairs = [(index[a][k].figure(metric), index[b][k].figure(metric)) for k in keys]
    whole = np.asarray([p for p in pairs if None not in p], float).reshape(-1, 2)
    return whole[:, 0], whole[:, 1]


def _row(x: across.Scores, y: across.Scores, a: str, b: str, metric: str) -> CompareRow:
    gain = across.interval(lambda p, q: across.iqm(p) - across.iqm(q), x, y, seed=paired.SEED)
    chance = across.interval(across.probability_of_improvement, x, y, seed=paired.SEED)
    blank = paired.row({}, kind="across", data="all", a=a, b=b, metric=metric, delta=0)
    differences = [float(np.mean(p) - np.mean(q)) for p, q in zip(x, y, strict=True)]
    flip = across.swap_p(x, y, paired.SEED)
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
        p_sign_flip=flip.p,
        p_smallest=flip.smallest,
        p_wilcoxon=paired.known(stats.wilcoxon_p(differences)),
    )


def profiles(compared: Compared, names: dict[Values, str]) -> Iterator[ProfileRow]:
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
