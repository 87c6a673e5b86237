"""A figure of a baseline's runs and of new ones -> check.csv's row: may the new mean be where it is?

The limit is that of a prediction interval: where the mean of m new seeds of unchanged code lies, given n of the
baseline. It knows the baseline's spread alone, so that a fault that scatters results cannot widen its own limit.
"""

import math
from collections.abc import Sequence

from regrun import stats
from regrun.findings import CheckRow

LEAST = 3  # runs of a setting without which a spread says nothing
ROUNDING = 1e-9  # relative: another machine's cosine differs in the last place
SINGLE = 1e-5  # the same for sums in float32, where a spread over seeds may be as small as rounding
HIGHER = ("val_accuracy_best", "val_r2_best", "test_accuracy_best", "test_r2_best")
LOWER = ("failed", "diverged", "val_loss_best", "test_loss_best", "best_epoch")
SHARES = (
    "weight_decay",
    "dropout",
    "attention_dropout",
    "spatial_dropout",
    "l1",
    "l2",
    "label_smoothing",
    "noise",
    "sam",
    "mixup",
    "cutmix",
)
COUNTS = ("batchnorm", "layernorm", "groupnorm", "accumulate")
SAME = ("train_loss_last", "objective", "weight_norm", *(f"acted.{name}" for name in SHARES))
SIZES = ("num_parameters", "train_size", "val_size", "test_size", "skipped_examples", "lr_first")
EXACT = (*SIZES, *(f"acted.{name}" for name in COUNTS))
WAYS = dict.fromkeys(HIGHER, "no_lower") | dict.fromkeys(LOWER, "no_higher") | dict.fromkeys(SAME, "close")
UNITS = {"val_accuracy_best": "val_size", "test_accuracy_best": "test_size"}  # they count in one example of so many
# Compared as logarithms, of one more where 0 is usual: taken as they are, 2 % of honest checks failed at level 0.99.
SKEWED = {"best_epoch": 1.0, "val_loss_best": 0.0, "test_loss_best": 0.0, "train_loss_last": 0.0, "objective": 0.0}
TINY, LARGE = 1e-300, 700.0  # what has a logarithm, and what is one


def may_be_off(name: str, values: Sequence[float], units: dict[str, float]) -> bool:
    """Whether a figure may be beyond its limit by chance, and so is one of the tests that share the level."""
    return name in WAYS and len(values) >= LEAST and (name in units or stats.deviation(values) > 0)


def exact(name: str, old: list[float], new: list[float]) -> CheckRow:
    """A figure that no seed changes. What all new runs lack is not the same, either."""
    value, slack = old[0], ROUNDING * abs(old[0])
    off = [v for v in new if not abs(v - value) <= slack]
    shown = off[0] if off else new[0] if new else None
    return CheckRow(name, "equal", len(old), value, 0.0, len(new), shown, value, value, bool(new) and not off)


def within(name: str, old: list[float], new: list[float], unit: float, alpha: float) -> CheckRow:
    """A figure whose mean may be off by what seeds explain: t (n - 1) at alpha, of both means' standard error.

    unit: what it counts in; a smaller spread, of few runs that happen to agree, is taken for that.
    """
    way, n, m, shift = WAYS[name], len(old), len(new), SKEWED.get(name)
    own, theirs = ([_scaled(value, shift) for value in values] for values in (old, new))
    mean, got = math.fsum(own) / n, math.fsum(theirs) / m if m else math.nan
    least = unit if shift is None else unit / math.exp(mean)
    deviations = width(n, m, alpha / 2 if way == "close" else alpha)
    half = deviations * max(stats.deviation(own), least) + (SINGLE if way == "close" else ROUNDING) * abs(mean)
    low, high = (-math.inf if way == "no_higher" else mean - half), (math.inf if way == "no_lower" else mean + half)
    middle, found, *limits = (_unscaled(value, shift) for value in (mean, got, low, high))
    bottom, top = (None if abs(end) == math.inf else limit for end, limit in zip((low, high), limits, strict=True))
    spread = stats.deviation(old)
    return CheckRow(name, way, n, middle, spread, m, found if m else None, bottom, top, low <= got <= high)


def _scaled(value: float, shift: float | None) -> float:
    return value if shift is None else math.log(max(value + shift, TINY))


def _unscaled(value: float, shift: float | None) -> float:
    return value if shift is None else math.exp(min(value, LARGE)) - shift


def width(n: int, m: int, alpha: float) -> float:
    """Of a prediction interval for the mean of m, half of it, in deviations of n."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - alpha)) * math.sqrt(1 / n + 1 / max(1, m))
