"""Figures of an arm whose runs have no regularizer, one, or several (cocktails), on one data set."""

from collections.abc import Sequence

from regrun.studies.runs import Run


def tuned_error(runs: Sequence[Run]) -> float:
    """Test error of the run and the epoch that val chooses: by its error, and of equal ones by its loss."""
    return min(runs, key=lambda run: (run.error("val", "best"), run.number("val_loss_best"))).error("test", "best")


def single_gain(runs: Sequence[Run]) -> float:
    """By how much the tuned error of one regularizer is below that of none."""
    none, single, _ = _apart(runs)
    return tuned_error(none) - tuned_error(single)


def cocktail_gain(runs: Sequence[Run]) -> float:
    """By how much the tuned error of several is below that of one."""
    _, single, several = _apart(runs)
    return tuned_error(single) - tuned_error(several)


def _apart(runs: Sequence[Run]) -> tuple[list[Run], list[Run], list[Run]]:
    """Those of no regularizer, of one, of several."""
    none, single, several = ([run for run in runs if min(run.regularizers, 2) == number] for number in range(3))
    return none, single, several


def cocktail_wins(runs: Sequence[Run]) -> float:
    """1 where several have a lower tuned error than one, a half where they have the same, else 0."""
    gain = cocktail_gain(runs)
    return 0.5 if gain == 0 else float(gain > 0)
