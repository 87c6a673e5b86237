"""The rows of the tables that are found in a folder's runs, by searching, averaging, comparing or checking them."""

from dataclasses import dataclass

from regrun.rows import column


@dataclass(frozen=True)
class TrialRow:
    """One trial of a search, in the order in which they were asked."""

    number: int = column("0 is the first")
    run_id: str | None = column(
        "its run, which may be another trial's, too; none where its settings contradict each other"
    )
    state: str = column("complete, pruned, fail (it failed or diverged), or running where the search has not ended")
    value: float | None = column("best val figure that early stopping watches; pruned: the last; none if it has none")


@dataclass(frozen=True)
class EnsembleRow:
    """What the mean prediction of some runs comes to on one split, beside the runs themselves (`regrun ensemble`)."""

    split: str = column("val or test; test is what each run predicted in its one look")
    members: int = column("predictions that are averaged: one of each run, or one of each snapshot")
    left_out: int = column("runs of the setting that diverged, failed or have not ended")
    loss_members: float | None = column("mean over members of their losses, as in summary.csv")
    loss_best: float | None = column("loss of the best member, which val accuracy (or R2) and then val loss choose")
    loss_ensemble: float | None = column(
        "loss of the mean prediction: the mean of the probabilities for classes; none where members differ in val"
    )
    accuracy_members: float | None = column("mean over members of their accuracies; none for regression")
    accuracy_best: float | None = column("accuracy of the best member")
    accuracy_ensemble: float | None = column("accuracy of the mean prediction")
    r2_members: float | None = column("mean over members of their R2; none for classes")
    r2_best: float | None = column("R2 of the best member")
    r2_ensemble: float | None = column("R2 of the mean prediction")
    ece_members: float | None = column("mean over members of their expected calibration error, 15 bins")
    ece_ensemble: float | None = column("expected calibration error of the mean of the probabilities")
    disagreement: float | None = column("share of examples that two members class differently, mean over pairs")
    e_av: float | None = column("mean over members of their mean squared error, in units of target_scale; regression")
    e_com: float | None = column("mean squared error of the mean prediction: e_av - ambiguity")
    ambiguity: float | None = column("mean squared distance of members from their mean prediction")
    best_member: str | None = column("run_id of the best member, and @epoch where it is a snapshot")


@dataclass(frozen=True)
class CompareRow:
    """One comparison by one figure, of runs paired by seeds (`regrun compare`)."""

    kind: str = column(
        "pair (a against b), best (a against the best level by val), main (a setting on against off, mean over the "
        "others), interaction (the effect of one setting with the other, minus without) or across (a against b over "
        "data sets)"
    )
    data: str = column("the data set; all for kind across, and where there is only one")
    a: str = column("the level that is looked at; of a main effect its setting, of an interaction both")
    b: str = column("the level that it is compared with, which comes first in the plan; none for effects")
    metric: str = column("the column of summary.csv")
    n: int = column(
        "pairs with a figure on both sides, one for each seed (blocks of other settings are averaged); "
        "data sets for kind across"
    )
    mean_a: float | None = column("mean of a over the pairs; interquartile mean for across; none for effects")
    mean_b: float | None = column("the same of b")
    difference: float | None = column("mean of a minus b; of effects, the contrast")
    low: float | None = column("lower bound of its 95 % t interval; none for one pair")
    high: float | None = column("upper bound")
    boot_low: float | None = column("lower bound of its 95 % bootstrap interval (percentile; across: by data set)")
    boot_high: float | None = column("upper bound")
    sd: float | None = column("standard deviation of the differences")
    d_z: float | None = column("difference / sd; inf where all differences are equal")
    wins: int = column("pairs in which a is better; one that failed loses to one that ended")
    losses: int = column("pairs in which b is better")
    ties: int = column("pairs without a winner")
    p_better: float | None = column(
        "share of pairs in which a is better, a tie counting half; across: mean over data sets of the share of all "
        "pairs of runs"
    )
    p_better_low: float | None = column("lower bound of its 95 % Wilson interval; across: bootstrap")
    p_better_high: float | None = column("upper bound")
    p_t: float | None = column("p of the paired t test, two-sided; none for across")
    p_holm: float | None = column(
        "the same (across: p_sign_flip) by Holm, over all rows of the same kind, data set and metric"
    )
    p_sign_flip: float | None = column(
        "p of the sign-flip test, two-sided; across: of the interquartile means, the runs of a pair swapped"
    )
    p_smallest: float | None = column("the smallest that so many pairs can have")
    p_sign_flip_holm: float | None = column("p_sign_flip by Holm")
    p_wilcoxon: float | None = column(
        "across: p of Wilcoxon's signed-rank test of the data sets' mean differences (Demsar 2006); else none"
    )
    p_wilcoxon_holm: float | None = column("p_wilcoxon by Holm")
    verdict: str = column(
        "equivalent (the 95 % interval is within delta; never for losses), better or worse (it excludes 0, and p_holm "
        "< 0.05), not shown"
    )
    detectable: float | None = column("the difference that n pairs show with 80 % chance, at this sd")
    pairs_for_delta: int | None = column("pairs that would show a difference of delta; none for losses")
    unpaired: int | None = column("runs of a or b whose partner is not in the plan; none for effects")
    a_runs: int | None = column("runs of a that have ended")
    a_ok: int | None = column("runs of a with status ok")
    a_diverged: int | None = column("runs of a that diverged; they enter by their best epoch if they have one")
    a_unfinished: int | None = column("runs of a that have not ended")
    a_success: float | None = column("a_ok / a_runs")
    a_success_low: float | None = column("lower bound of its 95 % Wilson interval")
    a_success_high: float | None = column("upper bound")
    b_runs: int | None = column("runs of b that have ended")
    b_ok: int | None = column("runs of b with status ok")
    b_diverged: int | None = column("runs of b that diverged")
    b_unfinished: int | None = column("runs of b that have not ended")
    b_success: float | None = column("b_ok / b_runs")
    b_success_low: float | None = column("lower bound of its 95 % Wilson interval")
    b_success_high: float | None = column("upper bound")


@dataclass(frozen=True)
class ProfileRow:
    """How often a level is above a score, over all runs and data sets (`regrun compare`)."""

    level: str = column("the level")
    metric: str = column("val_accuracy_best or test_accuracy_best, or R2")
    tau: float = column("a score")
    share: float = column("share of runs above it")
    low: float = column("lower bound of its 95 % bootstrap interval, by data set")
    high: float = column("upper bound")


@dataclass(frozen=True)
class LedgerRow:
    """One look at test: a command that trained runs, each of which read test once, or that read kept predictions."""

    look: int = column("1 is the first")
    when: str | None = column("when the command began, UTC; none where nobody noted it")
    by: str = column("run, sweep, resume, search, confirm, variance or ensemble")
    new_runs: int = column("runs whose test figures were read for the first time")
    runs: int = column("runs whose test figures were known then")
    configurations: int = column("distinct settings of these runs, seeds aside")
    test_curves: int = column("new runs for which test was read after each epoch (trainer.test_curve)")


@dataclass(frozen=True)
class VarianceRow:
    """What one seed does to a figure while all others are fixed, or all seeds together (`regrun variance`)."""

    measure: str = column("column of summary.csv")
    source: str = column("the seed that varies (init, order, ...), or together: all of them do")
    groups: int = column("sets of runs that share all settings but this seed; for together, but their seeds")
    runs: int = column("runs in these groups")
    variance: float | None = column("within groups, pooled; none where nothing was drawn or varied")
    variance_low: float | None = column("lower end of its 95 % interval (chi-square)")
    variance_high: float | None = column("upper end")
    sd: float | None = column("square root of the variance, in the measure's unit")
    share: float | None = column(
        "of the variance of all seeds together; shares sum to more than 1 where seeds interact"
    )
    share_low: float | None = column("lower end of its 95 % interval (F)")
    share_high: float | None = column("upper end")


@dataclass(frozen=True)
class StoppingRow:
    """One setting, one rule of early stopping, one figure of what it would have come to (`regrun stopping`)."""

    rule: str = column("patience, generalization_loss or gap")
    limit: float = column("its limit: epochs of patience, alpha in percent, or the gap")
    smoothing: float = column("weight of the past in the average that the rule judges; 0: as measured")
    monitor: str = column("what chooses the best epoch, and what patience watches")
    min_delta: float = column("by how much it must improve")
    figure: str = column(
        "stopped (share of the runs that it ends), stop_epoch, best_epoch, epochs_saved and share_saved of the whole "
        "curve, or val_ and test_ loss_lost, accuracy_lost, r2_lost: by how much the best epoch by then is worse than "
        "the whole curve's, negative where it is better; test only where it was read at both epochs of every run"
    )
    n: int = column("runs")
    mean: float = column("mean over the runs")
    sd: float | None = column("sample standard deviation; none of one run")
    low: float | None = column("lower end of the 95 % t interval of the mean")
    high: float | None = column("upper end")


@dataclass(frozen=True)
class CheckRow:
    """One setting, one figure: new runs against the spread of a baseline's seeds (`regrun check`)."""

    figure: str = column(
        "a column of summary.csv; failed, diverged: share of the runs; objective, weight_norm: of epochs.csv at the "
        "last epoch that all runs have reached; lr_last@N: of step N; lr_first@epoch_N, lr_last@epoch_N: of epochs.csv"
    )
    rule: str = column("no_lower, no_higher or close than the baseline's spread allows; equal: what no seed changes")
    n: int = column("the baseline's runs")
    baseline: float = column("their mean, of losses and epochs that of the logarithms (epochs: of one more)")
    sd: float = column("their sample standard deviation")
    m: int = column("new runs")
    mean: float | None = column("the same of theirs, or the first that is not equal; none where no run has the figure")
    low: float | None = column("the least that the mean may be; none where it may be any")
    high: float | None = column("the most")
    holds: bool = column("whether it is so")


@dataclass(frozen=True)
class StudyRow:
    """One study (`regrun study=NAME`): what was claimed, what was found, on what."""

    study: str = column("its name: conf/study/NAME.yaml")
    chapter: str = column("where it stands in the course")
    claim: str = column("in one sentence")
    verdict: str = column("reproduced, not reproduced or inconclusive")
    expected: str = column("what the study's file expected before it ran")
    profile: str = column("quick or full")
    seeds: int = column("of each arm")
    runs: int = column("that were trained for it; 0 where it is computed")
    diverged: int = column("of them; their error counts as 1")
    effect: str = column("its first check in words, and what it measured, with the 95 % interval")
    published: str = column("the published figures")
    paper: str = column("whose")
    seconds: float = column("wall seconds, of the longest where several commands came to it")
    device: str = column("the device's name; of a CPU its cores at hand and its kind")
    versions: str = column("Python, torch, regrun")
    date: str = column("the day on which it ended, UTC")
    command: str = column("repeats it")


@dataclass(frozen=True)
class StudyCheckRow:
    """One thing that a study must see."""

    study: str = column("its name")
    says: str = column("in words")
    statistic: str = column(
        "share, mean, each, difference, ratio (geometric mean) or interaction, over seeds; median, over arms"
    )
    figure: str = column("what is measured of a run, or of an arm's runs of one seed")
    arms: list[str] = column("of which arms, as JSON")
    n: int = column("seeds that all of these arms have")
    mean: float = column("the statistic")
    low: float | None = column("lower end of its 95 % interval: t, for shares Wilson's; each: the smallest value")
    high: float | None = column("upper end; each: the largest value")
    boot_low: float | None = column("lower end by bootstrap (percentile, 10,000 resamples); none for share and each")
    boot_high: float | None = column("upper end by bootstrap")
    d_z: float | None = column(
        "mean over standard deviation of the paired differences (of logarithms for ratio); none if all are equal"
    )
    above: float | None = column("claimed: the whole interval is above; none where there is no such bound")
    below: float | None = column("claimed: the whole interval is below")
    result: str = column("holds, fails (none of the interval is as claimed), open, or shown (it decides nothing)")


@dataclass(frozen=True)
class StudyFigureRow:
    """One figure of one arm and seed of a study."""

    study: str = column("its name")
    arm: str = column("a setting that is compared")
    seed: int = column("of its runs")
    figure: str = column("what is measured")
    over: float | None = column("the value of the setting that the arm's runs vary; none for a figure of all of them")
    value: float = column("the figure")


TABLES: dict[str, type] = {
    "trials.csv": TrialRow,
    "ensemble.csv": EnsembleRow,
    "compare.csv": CompareRow,
    "profiles.csv": ProfileRow,
    "ledger.csv": LedgerRow,
    "variance.csv": VarianceRow,
    "stopping.csv": StoppingRow,
    "check.csv": CheckRow,
    "studies.csv": StudyRow,
    "checks.csv": StudyCheckRow,
    "figures.csv": StudyFigureRow,
}
