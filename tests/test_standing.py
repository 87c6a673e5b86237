"""Where a sweep stands: what is best, how far it is, how long it takes."""

import math

import pytest

from regrun.standing import AtWork, Pace, Tally, duration

Rows = list[dict[str, str]]


def planned(*lrs: float, seeds: int = 1, epochs: int = 100) -> Rows:
    """A plan of one learning rate after the other, each from some seeds; runs are named lr/seed."""
    return [
        {"run_id": f"{lr}/{seed}", "optimizer.lr": str(lr), "seed": str(seed), "trainer.epochs": str(epochs)}
        for lr in lrs
        for seed in range(seeds)
    ]


def ended(run_id: str, accuracy: object = "none", loss: object = "none", **facts: str) -> dict[str, str]:
    """A run's row of summary.csv, as far as it counts here."""
    facts = {"status": "ok", "stop_reason": "max_epochs", "last_epoch": "100", "error": "none"} | facts
    return {"run_id": run_id, "val_accuracy_best": str(accuracy), "val_loss_best": str(loss), **facts}


def ranked(rows: Rows, *, seeds: int = 1) -> list[str]:
    """The settings of a plan of three learning rates, best first, after some of its runs have ended."""
    tally = Tally(planned(0.1, 0.2, 0.3, seeds=seeds))
    for row in rows:
        tally.ended(row)
    return [setting.words.removeprefix("optimizer.lr=") for setting in tally.best(9)]


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ([], []),
        ([ended("0.1/0", 0.7), ended("0.2/0", 0.9), ended("0.3/0", 0.8)], ["0.2", "0.3", "0.1"]),
        ([ended("0.1/0", loss=0.7), ended("0.2/0", loss=0.9), ended("0.3/0", loss=0.8)], ["0.1", "0.3", "0.2"]),
        ([ended("0.3/0", 0.9, 0.5), ended("0.1/0", 0.9, 0.6), ended("0.2/0", 0.9, 0.4)], ["0.2", "0.3", "0.1"]),
        ([ended("0.3/0", 0.9, 0.5), ended("0.1/0", 0.9, 0.5)], ["0.1", "0.3"]),
        ([ended("0.3/0", 0.9, "nan"), ended("0.1/0", 0.9, 0.5)], ["0.1", "0.3"]),
        ([ended("0.1/0", 0.2, "inf", status="diverged"), ended("0.2/0", 0.9)], ["0.2", "0.1"]),
        ([ended("0.1/0", 0.99, status="failed"), ended("0.2/0", 0.5)], ["0.2"]),
        ([ended("0.1/0", status="oom")], []),
        ([ended("0.1/0", "nan", "nan", status="diverged")], []),
    ],
)
def test_best_is_the_highest_accuracy_then_the_lowest_loss_then_the_first(rows: Rows, order: list[str]) -> None:
    assert ranked(rows) == order


def test_settings_are_ranked_by_their_means_over_seeds() -> None:
    rows = [ended("0.1/0", 1.0), ended("0.1/1", 0.4), ended("0.2/0", 0.8), ended("0.2/2", 0.8), ended("0.3/1", 0.75)]
    assert ranked(rows, seeds=3) == ["0.2", "0.3", "0.1"]
    tally = Tally(planned(0.1, 0.2, seeds=3))
    for row in rows[:4]:
        tally.ended(row)
    assert [(s.mean("val accuracy"), len(s.figures["val accuracy"])) for s in tally.best(2)] == [(0.8, 2), (0.7, 2)]


def test_statuses_are_counted_and_pruned_runs_apart() -> None:
    tally = Tally(planned(0.1, 0.2, 0.3, 0.4))
    for run, facts in enumerate([{"status": "oom"}, {"status": "diverged"}, {"stop_reason": "pruned"}, {}], start=1):
        tally.ended(ended(f"{run / 10}/0", **facts))
    assert tally.statuses == {"oom": 1, "diverged": 1, "ok": 2} and tally.pruned == 1


def pace(*stacks: int, epochs: int = 100) -> tuple[Pace, list[list[str]]]:
    """The pace of stacks with so many runs each."""
    plan = planned(*range(len(stacks)), seeds=max(stacks), epochs=epochs)
    ids = [[f"{stack}/{seed}" for seed in range(size)] for stack, size in enumerate(stacks)]
    known = {run for stack in ids for run in stack}
    return Pace([row for row in plan if row["run_id"] in known], ids), ids


def test_nothing_is_foretold_before_the_first_epoch() -> None:
    new, ids = pace(2, 2)
    assert new.seconds_left() is None
    new.look([AtWork(stack, 0) for stack in ids], 5.0)
    assert new.seconds_left() is None and new.running() == 4 and new.share() == 0


def test_the_time_left_is_that_of_the_longest_stack_at_work() -> None:
    """20 and 60 of 100 epochs in 10 s: the slots do 2 x 20 and 2 x 60 run-epochs, 8 a second each on average."""
    new, (first, second) = pace(2, 2)
    new.look([AtWork(first, 20), AtWork(second, 60)], 10.0)
    assert new.speed() == 16.0 and new.share() == 0.4
    assert new.seconds_left() == pytest.approx(2 * 80 / 8)


@pytest.mark.parametrize(
    ("stacks", "rounds"), [([1, 1], 1), ([1, 1, 1], 2), ([1] * 5, 3), ([1, 1, 3], 4), ([1] * 6, 3)]
)
def test_waiting_stacks_go_where_a_slot_is_free_first(stacks: list[int], rounds: int) -> None:
    """Two slots, each with a run that has done half its epochs in 10 s: a round of one run takes 20 s."""
    new, ids = pace(*stacks)
    new.look([AtWork(stack, 50) for stack in ids[:2]], 10.0)
    assert new.seconds_left() == pytest.approx(20 * rounds - 10)


def test_what_early_stopping_saves_is_off_the_time_left() -> None:
    new, (stack,) = pace(4)
    new.look([AtWork(stack, 10)], 10.0)
    before = new.seconds_left()
    new.ended(ended(stack[0], last_epoch="10"))
    new.look([AtWork(stack, 10)], 10.0)
    assert before == pytest.approx(90) and new.seconds_left() == pytest.approx(90 * 3 / 4)
    assert new.running() == 3 and new.share() == pytest.approx((100 + 3 * 10) / 400)


def test_a_stack_that_is_tried_again_starts_anew() -> None:
    new, (stack,) = pace(4)
    new.look([AtWork(stack, 80)], 10.0)
    new.look([AtWork(stack[:2], 0)], 12.0)
    assert new.share() == 0 and new.running() == 2


def test_a_run_that_goes_on_counts_from_where_it_was() -> None:
    """60 of 100 epochs were there: 20 more in 10 s are 2 a second, and 20 are left."""
    plan, run = planned(0, seeds=1), "0/0"
    new = Pace(plan, [[run]], begun={run: 61})
    new.look([AtWork([run], 80)], 10.0)
    assert new.speed() == 2.0 and new.share() == 0.8 and new.seconds_left() == pytest.approx(10.0)
    new.ended(ended(run, last_epoch="100"))
    assert new.ended_epochs == 40


def test_at_the_end_all_is_done() -> None:
    new, (first, second) = pace(2, 1)
    new.look([AtWork(first, 99), AtWork(second, 99)], 10.0)
    for run in [*first, *second]:
        new.ended(ended(run, last_epoch="none" if run == first[0] else "100"))
    new.look([], 11.0)
    assert new.share() == 1 and new.seconds_left() == 0 and new.running() == 0


def test_runs_without_an_epoch_have_a_share_too() -> None:
    new, (stack,) = pace(2, epochs=0)
    new.ended(ended(stack[0], last_epoch="0"))
    assert new.share() == 0.5 and new.seconds_left() is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500.0, "2 h 5 min"),
        (90000.0, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_mean_without_a_run_is_nan() -> None:
    tally = Tally(planned(0.1))
    assert math.isnan(tally.settings["0.1/0"].mean("val loss")) and tally.measure() == "val loss"
