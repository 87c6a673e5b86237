"""Figures by arm and seed -> what each check comes to, and the verdict. Pure functions of numbers.

A check holds where its whole interval lies in what is claimed, fails where none of it does, and is open else. The claim
is reproduced where all checks hold, not reproduced where one fails. All must hold together, so their number needs no
correction (an intersection-union test, Berger 1982).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from regrun import stats
from regrun.findings import StudyCheckRow
from regrun.stats import Interval
from regrun.studies.design import Check

Figures = Mapping[tuple[str, str], Mapping[int, float]]  # (arm, figure) -> seed -> value


def judge(study: str, checks: Sequence[Check], figures: Figures) -> tuple[str, list[StudyCheckRow]]:
    """The verdict and every check."""
    judged = [_row(study, check, figures) for check in checks]
    found = {row.result for row in judged}
    if "fails" in found:
        return "not reproduced", judged
    return "inconclusive" if "open" in found else "reproduced", judged


def _row(study: str, check: Check, figures: Figures) -> StudyCheckRow:
    values = combined(check, figures)
    own, boot = interval(check, values), _bootstrap(check, values)
    return StudyCheckRow(
        study=study,
        says=check.says,
        statistic=check.statistic,
        figure=check.figure if check.event is None else f"{check.figure} {check.event[0]} {check.event[1]:g}",
        arms=list(check.of),
        n=len(values),
        mean=own.mean,
        low=_known(own.low),
        high=_known(own.high),
        boot_low=_known(boot.low),
        boot_high=_known(boot.high),
        d_z=_effect(check, values),
        above=check.above,
        below=check.below,
        result=result(check, own),
    )


def combined(check: Check, figures: Figures) -> list[float]:
    """One number for each seed that all arms have: the figure, a difference, a log ratio, or whether it happened.

    Of a median, one for each arm: the mean over seeds.
    """
    own = [figures[arm, check.figure] for arm in check.of]
    if check.statistic == "median":
        return [math.fsum(values.values()) / len(values) for values in own]
    seeds = [seed for seed in own[0] if all(seed in values for values in own)]
    columns = [[values[seed] for values in own] for seed in seeds]
    match check.statistic:
        case "difference":
            return [a - b for a, b in columns]
        case "ratio":
            return [math.log(a / b) for a, b in columns]
        case "interaction":
            return [(a - b) - (c - d) for a, b, c, d in columns]
    if check.event is None:
        return [math.fsum(row) / len(row) for row in columns]
    sign, bound = check.event
    return [float(a < bound if sign == "<" else a > bound) for (a,) in columns]


def interval(check: Check, values: Sequence[float]) -> Interval:
    """The statistic and its 95 % interval, in the unit of the claim."""
    if check.statistic == "share":
        return stats.wilson(sum(values), len(values))
    if check.statistic == "each":
        return Interval(math.fsum(values) / len(values), min(values), max(values))
    if check.statistic == "median":
        return stats.pseudomedian_interval(values)
    return _unlogged(check, stats.t_interval(values))


def result(check: Check, own: Interval) -> str:
    """holds, fails or open; shown where the check decides nothing."""
    if not check.decides:
        return "shown"
    above = -math.inf if check.above is None else check.above
    below = math.inf if check.below is None else check.below
    if own.low > above and own.high < below:
        return "holds"
    if check.statistic == "each":
        return "fails"  # it is about every seed
    return "fails" if own.high <= above or own.low >= below else "open"


def _bootstrap(check: Check, values: Sequence[float]) -> Interval:
    if check.statistic in ("share", "each", "median"):
        return Interval(math.nan, math.nan, math.nan)
    return _unlogged(check, stats.bootstrap_interval(values, np.mean, seed=0))


def _unlogged(check: Check, own: Interval) -> Interval:
    return Interval(*map(math.exp, own)) if check.statistic == "ratio" else own


def _effect(check: Check, values: Sequence[float]) -> float | None:
    if check.statistic not in ("difference", "interaction", "ratio") or len(values) < 2:
        return None
    size = stats.effect_size(values)
    return size if math.isfinite(size) else None  # all are equal


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
