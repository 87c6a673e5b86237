"""Rules of early stopping on whole curves: they stop where a run that was trained with them stops."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Refused, make, train_rows

from regrun import replay, stats
from regrun import settings as s
from regrun.cli import main
from regrun.data.sources import Source
from regrun.replay import Curve
from regrun.rows import CurveRow

FULL = "trainer.early_stopping.patience=null"
KEYS = "trainer.early_stopping."
OVERFITTING = ["model=shallow", "model.width=32", "data.train_size=120", "data.label_noise=0.4", "optimizer.lr=0.02"]
SWEEP = ["-m", *OVERFITTING, "trainer.progress=none", "trainer.epochs=25", "seed=range(3)"]

RULES = [
    *({"patience": n, "smoothing": smoothing} for n in (1, 2, 3, 7) for smoothing in (0.0, 0.5, 0.9)),
    {"patience": 2, "min_delta": 0.05},
    {"patience": 3, "monitor": "val_accuracy"},
    {"patience": 3, "monitor": "val_accuracy", "mode": "min"},
    *({"rule": "generalization_loss", "alpha": a, "smoothing": w} for a in (1.0, 10.0, 1e9) for w in (0.0, 0.5)),
    *({"rule": "gap", "gap": gap, "smoothing": w} for gap in (0.0, 0.05, 0.3, 0.99) for w in (0.0, 0.5)),
]


def curve(rows: list[Any]) -> Curve:
    """The curve in a run's rows."""
    own = [row for row in rows if isinstance(row, CurveRow)]
    return Curve({split: [row for row in own if row.split == split] for split in ("train", "val")})


def test_a_rule_stops_a_whole_curve_where_it_stopped_the_run_that_was_trained_with_it(digits: Source) -> None:
    """Every rule, three seeds, and each seed once to its end: one stack."""
    own = [s.EarlyStopping(patience=None), *(s.EarlyStopping(**rule) for rule in RULES)]
    noisy = s.Digits(train_size=120, label_noise=0.4)
    adam = s.Adam(lr=0.02)
    for seed in range(3):
        runs = [
            make(data=noisy, optimizer=adam, seed=seed, trainer={"epochs": 25, "early_stopping": stopping})
            for stopping in own
        ]
        rows, ends = train_rows(runs, digits)
        whole, stops = curve(rows[0]), set[int]()
        assert whole.last == 25
        for stopping, end in zip(own, ends, strict=True):
            stop, best = replay.replay(whole, stopping)
            by_rule = end.outcome.stop_reason == stopping.rule
            assert (stop, best) == (end.outcome.last_epoch if by_rule else None, end.outcome.best_epoch), stopping
            stops.add(25 if stop is None else stop)
        assert len(stops) > 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings of three seeds each that overfit, to their ends."""
    root = tmp_path_factory.mktemp("whole") / "s"
    assert main([*SWEEP, FULL, "reg=none,dropout", f"hydra.sweep.dir={root}"]) == 0
    return root


def replayed(root: Path, *words: str) -> pd.DataFrame:
    """stopping.csv."""
    assert main(["stopping", str(root), *words]) == 0
    return pd.read_csv(root / "stopping.csv", na_values=["none"])


@pytest.mark.parametrize(
    ("word", "rule"),
    [("patience=4", "patience"), ("alpha=3.0", "generalization_loss"), ("gap=0.2", "gap")],
)
def test_the_table_has_what_a_sweep_with_that_rule_comes_to(whole: Path, tmp_path: Path, word: str, rule: str) -> None:
    """Means and intervals of its stop and best epochs; and what that saved, as its own summary.csv has it."""
    stopped = tmp_path / "stopped"
    assert main([*SWEEP, "reg=none,dropout", f"{KEYS}rule={rule}", KEYS + word, f"hydra.sweep.dir={stopped}"]) == 0
    runs = pd.read_csv(stopped / "summary.csv", na_values=["none"])
    ends = pd.read_csv(whole / "summary.csv", na_values=["none"])
    table = replayed(whole, KEYS + word)
    for rate, own in runs.groupby("reg.dropout.rate"):
        found = table[table["reg.dropout.rate"] == rate].set_index("figure")
        last = ends[ends["reg.dropout.rate"] == rate]
        lost = {
            "stop_epoch": own.last_epoch,
            "best_epoch": own.best_epoch,
            "epochs_saved": own.epochs_saved,
            "share_saved": own.epochs_saved / 25,
            "val_loss_lost": own.val_loss_best.to_numpy() - last.val_loss_best.to_numpy(),
            "val_accuracy_lost": last.val_accuracy_best.to_numpy() - own.val_accuracy_best.to_numpy(),
        }
        for figure, values in lost.items():
            row, interval = found.loc[figure], stats.t_interval(list(values))
            assert row[["mean", "low", "high"]].tolist() == pytest.approx(list(interval), abs=1e-12), figure
            assert row["n"] == 3 and row["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert (found["mean"]["stopped"] == 1) == (own.stop_reason == rule).all()
        assert found.index.isin(["test_loss_lost"]).any() == (own.best_epoch.tolist() == last.best_epoch.tolist())


def test_nothing_is_lost_of_val_loss_but_what_a_better_epoch_later_had(whole: Path) -> None:
    lost = replayed(whole)
    lost = lost[lost.figure == "val_loss_lost"]
    assert len(lost) == 2 * len(replay.RULES)
    assert (lost["mean"] >= 0).all() and (lost["mean"] > 0).any() and (lost["mean"] == 0).any()


def test_a_longer_patience_saves_less_and_loses_less(whole: Path) -> None:
    table = replayed(whole, KEYS + "patience=1,2,3,5,8,13")
    for _, own in table.groupby("reg.dropout.rate"):
        by = own.pivot(index="limit", columns="figure", values="mean").sort_index()
        assert by.epochs_saved.is_monotonic_decreasing and by.val_loss_lost.is_monotonic_decreasing


def test_a_test_curve_gives_what_test_lost(whole: Path, tmp_path: Path) -> None:
    """Rows of a split `test`, here a copy of val's, are read by the same rules as val."""
    root = tmp_path / "s"
    root.mkdir()
    for name in ("summary.csv", "curves.csv"):
        (root / name).write_bytes((whole / name).read_bytes())
    with (whole / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with (root / "curves.csv").open("a", encoding="utf-8", newline="") as file:
        copies = [[*row[:3], "test", *row[4:]] for row in rows if row[3] == "val"]
        csv.writer(file, lineterminator="\n").writerows(copies)
    keys = ["reg.dropout.rate", "rule", "limit", "smoothing"]
    table = replayed(root).pivot(index=keys, columns="figure", values="mean")
    assert table.test_loss_lost.notna().all()
    assert (table.test_loss_lost == table.val_loss_lost).all()
    assert (table.test_accuracy_lost == table.val_accuracy_lost).all()


def test_a_single_run_has_no_interval(tmp_path: Path) -> None:
    root = tmp_path / "r"
    assert main([*OVERFITTING, "trainer.progress=none", "trainer.epochs=6", FULL, f"hydra.run.dir={root}"]) == 0
    table = replayed(root, KEYS + "patience=1")
    assert set(table.n) == {1} and table["low"].isna().all() and table["mean"].notna().all()


def test_runs_that_were_stopped_are_refused(tmp_path: Path, refused: Refused) -> None:
    root = tmp_path / "s"
    assert main([*SWEEP, KEYS + "patience=2", f"hydra.sweep.dir={root}"]) == 0
    line = refused("stopping", root)
    assert line.startswith("stopping: left out, 3 of 3 runs were stopped before their last epoch; train with ")
    assert not (root / "stopping.csv").exists()


def test_a_setting_whose_runs_were_stopped_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is slow is not stopped; what it would have come to is told."""
    root = tmp_path / "s"
    sweep = [word for word in SWEEP if not word.startswith("optimizer")]
    assert main([*sweep, KEYS + "patience=4", "optimizer.lr=0.0001,0.02", f"hydra.sweep.dir={root}"]) == 0
    runs = pd.read_csv(root / "summary.csv", na_values=["none"])
    cut = runs[runs.last_epoch < 25].groupby("optimizer.lr").size()
    assert list(cut.index) == [0.02]
    capsys.readouterr()
    table = replayed(root)
    assert set(table["optimizer.lr"]) == {0.0001}
    assert f"optimizer.lr=0.02: left out, {cut[0.02]} of 3 runs were stopped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("patience=3", "stopping: a folder is followed by trainer.early_stopping.KEY=VALUE"),
        (KEYS + "rule=gap", "stopping: a folder is followed by"),
        (KEYS + "patience=0", "trainer.early_stopping.patience: must be"),
        (KEYS + "patience=null", "trainer.early_stopping.patience: must be a number here, got null"),
        (KEYS + "patience=three", "trainer.early_stopping.patience: must be"),
        (KEYS + "gap=1", "trainer.early_stopping.gap: must be"),
        (KEYS + "monitor=train_loss", "trainer.early_stopping.monitor: must be"),
    ],
)
def test_a_mistaken_rule_is_one_line(whole: Path, refused: Refused, word: str, says: str) -> None:
    assert refused("stopping", whole, word).startswith(says)


@pytest.mark.parametrize("name", ["summary.csv", "curves.csv"])
@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "a,b\n1\n", "\udcff"])
def test_a_table_that_is_not_regruns_is_one_line(
    whole: Path, tmp_path: Path, refused: Refused, name: str, content: str
) -> None:
    root = tmp_path / "s"
    root.mkdir()
    for other in {"summary.csv", "curves.csv"} - {name}:
        (root / other).write_bytes((whole / other).read_bytes())
    (root / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    assert refused("stopping", root, code=3).startswith(f"{root / name}: ")


def test_a_curve_of_other_runs_is_refused(whole: Path, tmp_path: Path, refused: Refused) -> None:
    """A figure that was changed so that another epoch is the best; a row that is missing; text for a number."""
    root = tmp_path / "s"
    root.mkdir()
    (root / "summary.csv").write_bytes((whole / "summary.csv").read_bytes())
    lines = (whole / "curves.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if ",25,450,val," in line or ",25,50,val," in line)
    cells = lines[first].split(",")
    better = ",".join([*cells[:4], "0.001", *cells[5:]])
    worse = ",".join([*cells[:4], "x", *cells[5:]])
    for changed in ([better], [], [worse]):
        (root / "curves.csv").write_text("".join([*lines[:first], *changed, *lines[first + 1 :]]), encoding="utf-8")
        assert refused("stopping", root, code=3).startswith(f"{root / 'curves.csv'}: ")


def test_a_run_that_diverged_is_replayed_to_its_end(tmp_path: Path) -> None:
    root = tmp_path / "s"
    diverging = ["-m", "model=shallow", "optimizer=sgd", "optimizer.lr=1e30", "seed=0,1", "trainer.progress=none"]
    assert main([*diverging, "trainer.epochs=5", FULL, f"hydra.sweep.dir={root}"]) == 0
    assert set(pd.read_csv(root / "summary.csv").status) == {"diverged"}
    found = replayed(root, KEYS + "patience=1").set_index("figure")["mean"]
    assert found.epochs_saved == 0


def test_settings_keep_what_the_rule_leaves(whole: Path) -> None:
    """A run's own monitor and min_delta are those of its rules, unless words say otherwise."""
    own = s.EarlyStopping(monitor="val_accuracy", min_delta=0.25)
    assert replace(own, **replay.RULES[0]).monitor == "val_accuracy"
    assert set(replayed(whole, KEYS + "monitor=val_accuracy", KEYS + "patience=2").monitor) == {"val_accuracy"}
