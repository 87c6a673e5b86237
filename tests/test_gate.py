"""`regrun check`: honest reruns pass, planted faults are caught, and a false alarm is as rare as the level says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Refused
from torch import Tensor

from regrun import gate, limits, measure, optim, schedules
from regrun.cli import main
from regrun.data.batches import Batches
from regrun.measure import Score
from regrun.stack import Stack

FULL = "trainer.early_stopping.patience=null"
SMALL = ["model=shallow", "model.width=32", "trainer.progress=none", "trainer.epochs=5", FULL, "optimizer.lr=0.01"]
REGULARIZED = [*SMALL, "reg=[dropout,weight_decay]", "reg.dropout.rate=0.5", "reg.weight_decay.value=0.3"]
COSINE = [*REGULARIZED, "scheduler=cosine"]
STEP = [*REGULARIZED, "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5"]


def sweep(root: Path, words: list[str], seeds: str) -> Path:
    """A sweep over seeds; its folder."""
    assert main(["-m", *words, f"seed={seeds}", f"hydra.sweep.dir={root}"]) == 0
    return root


@pytest.fixture(scope="module")
def cosine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline: ten seeds."""
    return sweep(tmp_path_factory.mktemp("baseline") / "s", COSINE, "range(10)")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, whose learning rate is halved after every second epoch."""
    return sweep(tmp_path_factory.mktemp("baseline") / "s", STEP, "range(10)")


def checked(root: Path, against: Path, code: int, *options: str) -> pd.DataFrame:
    """check.csv of a check that ends with `code`."""
    assert main(["check", str(root), "--against", str(against), *options]) == code
    return pd.read_csv(gate.table(root).parent / "check.csv", na_values=["none"])


def off(table: pd.DataFrame) -> set[str]:
    """The figures that are off."""
    return set(table[~table.holds].figure)


def with_dropout(stack: Stack, split: str, meter: Any = None) -> list[Score]:
    """Evaluation in training mode."""
    return measure.monte_carlo(stack, split, 1)


def without_decay(weights: Tensor, at: Any, value: Tensor) -> None:
    """No decay, though it was asked for."""


def a_step_late(
    scheduler: Any, lr: float, *, epoch: int, epochs: int, steps: int, _own: Any = schedules.epoch_lrs
) -> Any:
    """The schedule's rates, an epoch early."""
    return _own(scheduler, lr, epoch=epoch + 1, epochs=epochs, steps=steps)


def shuffled(self: Batches, *arguments: Any, _own: Any = Batches.train_batch, **options: Any) -> tuple[Tensor, Tensor]:
    """Each example with its neighbour's label."""
    x, targets = _own(self, *arguments, **options)
    return x, targets.roll(1, dims=1)


def baseline_alone(root: Path, path: Path) -> Path:
    """Its summary.csv by another name, without its epochs.csv."""
    path.write_bytes((root / "summary.csv").read_bytes())
    return path


FAULTS: dict[str, tuple[Any, str, Any, set[str]]] = {
    "eval forgotten": (measure, "evaluate", with_dropout, {"val_accuracy_best", "test_accuracy_best"}),
    "decay dropped": (optim, "decay", without_decay, {"acted.weight_decay", "weight_norm"}),
    "schedule off by one": (schedules, "epoch_lrs", a_step_late, {"lr_first", "lr_first@epoch_1", "lr_last@epoch_5"}),
    "labels shuffled": (Batches, "train_batch", shuffled, {"val_accuracy_best", "test_accuracy_best", "val_loss_best"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(cosine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """By three runs and by a single one, whose settings say nothing of it."""
    where, name, faulty, signs = FAULTS[fault]
    monkeypatch.setattr(where, name, faulty)
    three = sweep(tmp_path / "three", COSINE, "100,101,102")
    one = tmp_path / "one"
    assert main([*COSINE, "seed=103", f"hydra.run.dir={one}"]) == 0
    monkeypatch.undo()
    for root in (three, one):
        assert signs <= off(checked(root, cosine, 1))
        assert signs & off(checked(root / "summary.csv", baseline_alone(cosine, tmp_path / f"{root.name}.csv"), 1))
        assert set(pd.read_csv(root / "summary.csv")["reg.weight_decay.value"]) == {0.3}


def test_honest_reruns_pass(cosine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = sweep(tmp_path / "three", COSINE, "100,101,102")
    one = tmp_path / "one"
    assert main([*COSINE, "seed=103", f"hydra.run.dir={one}"]) == 0
    for root, m in ((three, 3), (one, 1)):
        capsys.readouterr()
        found = checked(root, cosine / "summary.csv", 0)
        assert set(found[found.rule != "equal"].m) == {m}
        assert "passed: " in capsys.readouterr().out.splitlines()[-1]


def test_both_sides_may_be_tables_by_any_name(cosine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """check.csv stands beside the new one, and its looks at test are told."""
    new, old = (tmp_path / name / "table.csv" for name in ("new", "old"))
    for path in (new, old):
        path.parent.mkdir()
        baseline_alone(cosine, path)
    capsys.readouterr()
    assert main(["check", str(new), "--against", str(old)]) == 0
    assert "test: look 1, 1 configuration tried" in capsys.readouterr().out.splitlines()
    assert pd.read_csv(new.parent / "check.csv").holds.all() and not (old.parent / "check.csv").exists()


def test_a_small_baseline_and_other_data_are_told(
    cosine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three seeds instead of ten, at the t of alpha = 0.01 / tests: about 8 times."""
    few, other = changed(tmp_path / "few", cosine, 3), changed(tmp_path / "other", cosine, 4, data_hash="f" * 16)
    capsys.readouterr()
    main(["check", str(other), "--against", str(few)])
    lines = capsys.readouterr().out.splitlines()
    (wide,) = [line for line in lines if line.startswith("the baseline has 3 runs of a setting: limits are ")]
    assert 5 < float(wide.split("limits are ")[1].split()[0]) < 20
    own = pd.read_csv(cosine / "summary.csv").data_hash[0]
    assert f"the data is not the baseline's: data_hash is {'f' * 16} and was {own}" in lines
    main(["check", str(cosine), "--against", str(cosine)])
    assert not any("the baseline has" in line or "the data is" in line for line in capsys.readouterr().out.splitlines())


def test_the_baselines_own_runs_pass(cosine: Path) -> None:
    found = checked(cosine, cosine, 0)
    assert np.allclose(found["mean"], found.baseline)


def test_a_step_at_the_wrong_epoch_is_seen_by_each_epochs_rates_alone(
    step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates 4 4 2 2 1 (times lr / 4) become 4 2 2 1 1: the first and the last, all that summary.csv has, are right."""
    monkeypatch.setattr(schedules, "epoch_lrs", a_step_late)
    root = sweep(tmp_path / "s", STEP, "100,101,102")
    monkeypatch.undo()
    found = checked(root, step, 1)
    assert off(found) >= {f"{name}@epoch_{epoch}" for name in ("lr_first", "lr_last") for epoch in (2, 4)}
    assert not {f"lr_first@epoch_{epoch}" for epoch in (1, 3, 5)} & off(found)
    alone = tmp_path / "baseline.csv"
    alone.write_bytes((step / "summary.csv").read_bytes())
    capsys.readouterr()
    main(["check", str(root), "--against", str(alone)])
    output = capsys.readouterr().out
    assert (
        "no epochs.csv beside the baseline: not seen are rates that are wrong between the first and the last" in output
    )
    assert "lr_" not in output


def test_a_line_says_by_how_much_and_what_the_limit_was(
    cosine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A summary.csv of which one figure was made worse."""
    root = tmp_path / "s"
    root.mkdir()
    runs = pd.read_csv(cosine / "summary.csv", dtype=str, keep_default_na=False)[:4]
    runs["test_accuracy_best"] = "0.5"
    runs.to_csv(root / "summary.csv", index=False)
    row = checked(root, cosine, 1).set_index("figure").loc["test_accuracy_best"]
    below = row.low - 0.5
    line = (
        f"test_accuracy_best is 0.5, {below:.3g} below the limit {row.low:.5g} "
        f"(mean of 4; the baseline's {row.baseline:.5g}, sd {row.sd:.3g}, n = 10)"
    )
    assert line in capsys.readouterr().out.splitlines()


def changed(root: Path, source: Path, rows: int, **cells: str) -> Path:
    """The first rows of a summary.csv, with other cells (`__` for a dot)."""
    root.mkdir()
    runs = pd.read_csv(source / "summary.csv", dtype=str, keep_default_na=False)[:rows]
    for name, value in cells.items():
        runs[name.replace("__", ".")] = value
    runs.to_csv(root / "summary.csv", index=False)
    return root


@pytest.mark.parametrize(
    ("cells", "figures"),
    [
        ({"status": "failed"}, {"failed"}),
        ({"status": "diverged"}, {"diverged"}),
        ({"val_loss_best": "nan"}, {"val_loss_best"}),
        ({"val_loss_best": "inf"}, {"val_loss_best"}),
        ({"best_epoch": "30"}, {"best_epoch"}),
        ({"num_parameters": "2411"}, {"num_parameters"}),
        ({"acted__dropout": "none"}, {"acted.dropout"}),
        ({"acted__weight_decay": "0.0"}, {"acted.weight_decay"}),
        ({"acted__dropout": "0.45"}, {"acted.dropout"}),
        ({"acted__dropout": "0.55"}, {"acted.dropout"}),
        ({"lr_last": "0.0"}, {"lr_last@90"}),
        ({"last_step": "85"}, {"steps_per_epoch"}),
        ({"train_loss_last": "0.2"}, {"train_loss_last"}),
        ({"val_accuracy_best": "1.0", "test_loss_best": "0.1", "best_epoch": "1"}, set()),  # better is not worse
        ({"seconds": "1e9", "examples_per_second": "1"}, set()),
        ({"trainer__threads": "7", "data__root": "/elsewhere"}, set()),
    ],
)
def test_what_is_off_is_named_and_nothing_else(
    cosine: Path, tmp_path: Path, cells: dict[str, str], figures: set[str]
) -> None:
    found = checked(changed(tmp_path / "s", cosine, 4, **cells), cosine, 1 if figures else 0)
    assert off(found) >= figures
    assert "status" in cells or off(found) == figures


def test_a_spreadsheet_that_wrote_the_numbers_anew_changes_no_setting(cosine: Path, tmp_path: Path) -> None:
    again = changed(tmp_path / "s", cosine, 10, reg__dropout__rate="0.50", reg__l2__value="0", model__bias="TRUE")
    checked(again, cosine, 0)


def test_too_few_seeds_are_refused(cosine: Path, tmp_path: Path, refused: Refused) -> None:
    few = changed(tmp_path / "few", cosine, 2)
    line = "--against: must have 3 finished runs of a setting, 10 are better, got 2 of the only settings"
    assert refused("check", cosine, "--against", few) == line
    assert not (few / "check.csv").exists()


def test_a_changed_setting_is_an_error(cosine: Path, tmp_path: Path, refused: Refused) -> None:
    other = changed(tmp_path / "other", cosine, 3, reg__dropout__rate="0.25", optimizer__lr="0.02")
    line = refused("check", other, "--against", cosine)
    assert line.startswith("check: a setting is not the baseline's: reg.dropout.rate was 0.5 and is 0.25, optimizer.lr")
    assert not (other / "check.csv").exists()


def test_a_seed_that_the_baseline_keeps_must_be_kept(cosine: Path, tmp_path: Path, refused: Refused) -> None:
    """With one split for all the spread is another."""
    fixed = changed(tmp_path / "fixed", cosine, 10, seeds__split="0")
    line = refused("check", cosine, "--against", fixed)
    assert line.startswith("seeds.split: must be 0 as in all of the baseline's runs, got ")


def test_settings_without_a_counterpart_are_told(
    cosine: Path, step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both"
    both.mkdir()
    tables = [pd.read_csv(root / "summary.csv", dtype=str, keep_default_na=False) for root in (cosine, step)]
    pd.concat(tables).to_csv(both / "summary.csv", index=False)
    capsys.readouterr()
    assert main(["check", str(both), "--against", str(cosine)]) == 0
    assert "not in the baseline, and so not checked: scheduler=step" in capsys.readouterr().out
    assert main(["check", str(cosine), "--against", str(both)]) == 0
    assert "only in the baseline: scheduler=step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--against: must be followed by a baseline's summary.csv or its folder, got nothing"),
        (["--against", "nowhere.csv"], "--against: must be followed by a baseline's summary.csv or its folder, got"),
        (["--against", "x" * 300], "--against: must be followed by"),
        (["--against", ".", "--level", "1"], "--level: must be a number in (0, 1), got '1'"),
        (["--against", ".", "--level", "nan"], "--level: must be a number in (0, 1), got 'nan'"),
        (["--against", ".", "--level", "high"], "--level: must be a number in (0, 1), got 'high'"),
        (["seed=1", "--against", "."], "check: takes one folder"),
    ],
)
def test_a_mistake_is_one_line(cosine: Path, refused: Refused, words: list[str], says: str) -> None:
    assert refused("check", cosine, *words).startswith(says)


def test_the_options_of_a_check_are_for_a_check(refused: Refused) -> None:
    assert refused("seed=1", "--level", "0.9") == "--level: is for regrun check; leave it out"
    assert refused("collect", ".", "--against", ".") == "--against: is for regrun check; leave it out"


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "run_id,status\nx\n", "\udcff"])
def test_a_baseline_that_is_not_regruns_is_one_line(
    cosine: Path, tmp_path: Path, refused: Refused, content: str
) -> None:
    path = tmp_path / "baseline.csv"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert refused("check", cosine, "--against", path, code=3).startswith(f"{path}: ")


@pytest.mark.parametrize(("name", "cell"), [("model__kind", "\x1b[2Jmlp"), ("last_epoch", "many")])
def test_a_cell_that_is_not_regruns_is_one_line(
    cosine: Path, tmp_path: Path, refused: Refused, name: str, cell: str
) -> None:
    line = refused("check", cosine, "--against", changed(tmp_path / "s", cosine, 3, **{name: cell}), code=3)
    assert "line 2: " + name.replace("__", ".") in line and "\x1b" not in line


@pytest.mark.parametrize("way", ["val_accuracy_best", "weight_norm", "val_loss_best"])
@pytest.mark.parametrize(("n", "m"), [(3, 1), (10, 1), (10, 5)])
def test_a_false_alarm_is_as_rare_as_the_level_says(way: str, n: int, m: int) -> None:
    """Of 4,000 baselines and new runs from one normal (losses: log-normal), alpha are off, to 4 standard errors."""
    draw, alpha, draws = np.random.default_rng(n + m), 0.05, 4000
    values = draw.normal(2.0, 0.3, (draws, n + m))
    values = np.exp(values) if way == "val_loss_best" else values
    alarms = sum(not limits.within(way, [*own[:n]], [*own[n:]], 0.0, alpha).holds for own in values)
    assert abs(alarms / draws - alpha) < 4 * (alpha * (1 - alpha) / draws) ** 0.5


def test_another_machines_rounding_is_no_difference() -> None:
    """Entropies of smoothed labels are the same for all seeds, but for the last digits of float32."""
    own = [0.50029 + 1e-8 * i for i in range(10)]
    found = [
        limits.within("acted.label_smoothing", own, [0.50029 * (1 + off)], 0.0, 0.001).holds for off in (5e-6, 3e-5)
    ]
    assert found == [True, False]


def test_seeds_that_happen_to_agree_leave_room_for_one_example_and_one_epoch() -> None:
    """The baseline's best epochs are all 5, its accuracies all 0.9 of 100 examples."""
    later = [limits.within("best_epoch", [5.0] * 5, [float(e)], 1.0, 0.01).holds for e in (5, 6, 7, 30)]
    assert later == [True, True, True, False]
    fewer = [limits.within("val_accuracy_best", [0.9] * 5, [a], 0.01, 0.01).holds for a in (0.9, 0.89, 0.88, 0.8)]
    assert fewer == [True, True, True, False]
