"""Verdicts: a check holds where its whole interval is as claimed, fails where none of it is, and is open else."""

import math

import pytest
from scipy import stats

from regrun.studies import words
from regrun.studies.design import Check
from regrun.studies.judge import combined, judge

A, B, C, D = [0.10, 0.12, 0.09, 0.11], [0.20, 0.25, 0.19, 0.24], [0.5, 0.4, 0.6, 0.5], [0.3, 0.1, 0.2, 0.4]
FIGURES = {(arm, "error"): dict(enumerate(values)) for arm, values in zip("abcd", (A, B, C, D), strict=True)}


def row(statistic, of, **bounds):
    event = bounds.pop("event", None)
    _, (found,) = judge("s", [Check("it is so", statistic, "error", tuple(of), event, **bounds)], FIGURES)
    return found


def test_a_difference_is_paired_by_seed_with_scipys_t_interval() -> None:
    found = row("difference", "ab", below=0.0)
    paired = stats.ttest_rel(A, B)
    assert (found.low, found.high) == pytest.approx(paired.confidence_interval())
    differences = [a - b for a, b in zip(A, B, strict=True)]
    assert found.mean == pytest.approx(sum(differences) / 4) and found.n == 4
    assert found.d_z == pytest.approx(paired.statistic / 2)  # t = d_z sqrt n
    assert found.boot_low is not None and min(differences) <= found.boot_low < found.mean
    assert found.result == "holds"


def test_a_ratio_is_a_geometric_mean() -> None:
    found = row("ratio", "ba", above=1.5)
    logs = [math.log(b / a) for a, b in zip(A, B, strict=True)]
    assert found.mean == pytest.approx(math.prod(b / a for a, b in zip(A, B, strict=True)) ** 0.25)
    ends = stats.t.interval(0.95, 3, sum(logs) / 4, stats.sem(logs))
    assert (found.low, found.high) == pytest.approx([math.exp(end) for end in ends])


def test_equal_differences_have_no_effect_size() -> None:
    """It would be infinite, which no table holds."""
    twice = {("a", "error"): {0: 2.0, 1: 4.0}, ("b", "error"): {0: 1.0, 1: 2.0}}
    _, (found,) = judge("s", [Check("it is so", "ratio", "error", ("a", "b"))], twice)
    assert found.d_z is None and found.mean == found.low == found.high == pytest.approx(2)


def test_an_interaction_is_a_difference_of_differences() -> None:
    found = row("interaction", "abcd")
    values = [(a - b) - (c - d) for a, b, c, d in zip(A, B, C, D, strict=True)]
    assert found.mean == pytest.approx(sum(values) / 4) and found.result == "shown"


def test_a_mean_of_several_arms_is_that_of_their_mean_by_seed() -> None:
    found = row("mean", "abc")
    values = [sum(three) / 3 for three in zip(A, B, C, strict=True)]
    assert found.n == 4 and found.mean == pytest.approx(sum(values) / 4)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 3, found.mean, stats.sem(values)))


def test_a_median_is_over_arms_and_seeds_are_averaged() -> None:
    """Of six arms Wilcoxon's interval goes from the smallest to the largest."""
    means = [0.3, 0.1, 0.5, 0.2, 0.9, 0.4]
    arms = {(arm, "gain"): {0: m - 0.05, 1: m + 0.05} for arm, m in zip("abcdef", means, strict=True)}
    verdict, (found,) = judge("s", [Check("it is so", "median", "gain", tuple("abcdef"), above=0.0)], arms)
    assert verdict == "reproduced" and found.n == 6 and found.boot_low is None
    assert (found.low, found.high) == pytest.approx((0.1, 0.9))
    pairs = sorted((a + b) / 2 for i, a in enumerate(means) for b in means[i:])
    assert found.mean == pytest.approx(pairs[10])  # of 21


@pytest.mark.parametrize(
    ("bounds", "claim"),
    [
        ({"above": 0.12, "below": 0.14}, "between 12.00 and 14.00 %"),
        ({"above": 0.1200, "below": 0.12001}, "between 12.000 and 12.001 %"),
        ({"above": 0.1}, "above 10.00 %"),
    ],
)
def test_a_claim_has_the_digits_that_tell_its_bounds_apart(bounds: dict[str, float], claim: str) -> None:
    _, (found,) = judge("s", [Check("it is so", "mean", "error", ("a",), **bounds)], FIGURES)
    assert words.claimed(found) == claim
    assert words.measured(found).startswith("10.500 %" if "12.000" in claim else "10.50 %")


def test_a_share_has_wilsons_interval() -> None:
    found = row("share", "d", event=("<", 0.35), above=0.5)
    wilson = stats.binomtest(3, 4).proportion_ci(method="wilson")
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, wilson.low, wilson.high))
    assert found.result == "open"


def test_nine_of_ten_seeds_are_most_and_eight_are_not() -> None:
    """What `above: 0.5` asks of ten seeds: Wilson's interval of 9 / 10 begins at 0.596, that of 8 / 10 at 0.490."""
    for hits, result in ((10, "holds"), (9, "holds"), (8, "open"), (1, "fails"), (0, "fails")):
        figures = {("a", "error"): {seed: float(seed >= hits) for seed in range(10)}}
        verdict, (found,) = judge("s", [Check("", "share", "error", ("a",), ("<", 0.5), above=0.5)], figures)
        assert found.result == result
        assert verdict == {"holds": "reproduced", "open": "inconclusive", "fails": "not reproduced"}[result]


def test_each_is_about_every_seed() -> None:
    assert row("each", "a", below=0.2).result == "holds"
    assert row("each", "a", below=0.115).result == "fails"  # one of four is above
    found = row("each", "a", below=0.2)
    assert (found.low, found.high, found.boot_low) == (0.09, 0.12, None)


@pytest.mark.parametrize(
    ("above", "below", "result"),
    [
        (None, 0.0, "holds"),
        (-0.2, 0.0, "holds"),
        (0.0, None, "fails"),
        (-0.11, None, "open"),
        (-0.1, -0.05, "open"),
        (-0.05, 0.05, "fails"),
        (None, None, "shown"),
    ],
)
def test_where_the_interval_lies_decides(above: float | None, below: float | None, result: str) -> None:
    found = row("difference", "ab", above=above, below=below)
    assert -0.15 < found.low < -0.11 < found.high < -0.08
    assert found.result == result


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    figures = {("a", "error"): {7: 0.1}, ("b", "error"): {7: 0.9}}
    verdict, (found,) = judge("s", [Check("", "difference", "error", ("a", "b"), below=0.0)], figures)
    assert (found.low, found.high, found.result, verdict) == (None, None, "open", "inconclusive")


def test_all_checks_must_hold() -> None:
    good = Check("", "difference", "error", ("a", "b"), below=0.0)
    unclear = Check("", "difference", "error", ("a", "b"), below=-0.11)
    bad = Check("", "difference", "error", ("a", "b"), above=0.0)
    told = Check("", "mean", "error", ("a",))
    assert judge("s", [good, told], FIGURES)[0] == "reproduced"
    assert judge("s", [good, unclear, told], FIGURES)[0] == "inconclusive"
    assert judge("s", [unclear, bad, good], FIGURES)[0] == "not reproduced"


def test_only_seeds_that_all_arms_have_are_paired() -> None:
    figures = {("a", "error"): {1: 0.1, 2: 0.2}, ("b", "error"): {2: 0.5, 3: 0.9}}
    assert combined(Check("", "difference", "error", ("a", "b")), figures) == pytest.approx([-0.3])
