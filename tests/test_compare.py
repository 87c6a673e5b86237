"""`regrun compare`, on real sweeps and on their tables with known figures written into them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Said
from scipy import stats as reference

from regrun.cli import main

SMALL = ["model=shallow", "model.width=8", "trainer.progress=none", "trainer.epochs=1"]
FACTORIAL = ["-m", *SMALL, "reg=none,dropout,batchnorm,[dropout,batchnorm]", "seed=range(5)"]
WORDS = ("kind", "data", "a", "b", "metric", "verdict")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dropout and batch norm, each on and off, from five seeds."""
    root = tmp_path_factory.mktemp("swept") / "s"
    assert main([*FACTORIAL, f"hydra.sweep.dir={root}"]) == 0
    return root


@pytest.fixture
def summary(swept: Path) -> pd.DataFrame:
    """Its runs: reg.dropout.rate 0 or 0.2, reg.batchnorm.active, seed 0 to 4."""
    return pd.read_csv(swept / "summary.csv", dtype=str, keep_default_na=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(table: pd.DataFrame, name: str = "t") -> Path:
    """A folder with such a summary.csv."""
    Path(name).mkdir()
    table.to_csv(Path(name) / "summary.csv", index=False)
    return Path(name)


def rows(root: Path | str) -> pd.DataFrame:
    """The table; in columns of numbers, none is NaN."""
    table = pd.read_csv(Path(root) / "compare.csv", dtype=str, keep_default_na=False)
    return table.apply(lambda c: c if c.name in WORDS else c.replace("none", "nan").map(float))


def one(root: Path | str, metric: str = "val_accuracy_best", **cells: Any) -> dict[str, Any]:
    table = rows(root)
    for name, value in {"metric": metric, **cells}.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def with_figures(summary: pd.DataFrame, figure: Callable[[int, int, int], float]) -> pd.DataFrame:
    """val_accuracy_best as a function of dropout (0, 1), batch norm (0, 1) and seed."""
    table = summary.copy()
    on = zip(table["reg.dropout.rate"] != "0.0", table["reg.batchnorm.active"] == "true", table["seed"], strict=True)
    table["val_accuracy_best"] = [repr(figure(int(d), int(b), int(seed))) for d, b, seed in on]
    return table


NOISE = [0.010, -0.004, 0.003, -0.011, 0.002]


def test_a_pair_is_what_scipy_says_of_the_same_seeds(swept: Path, summary: pd.DataFrame, said: Said) -> None:
    said("compare", swept, "--by", "reg")
    table = summary[summary["reg.batchnorm.active"] == "false"].astype({"val_accuracy_best": float, "seed": int})
    by_rate = table.pivot(index="seed", columns="reg.dropout.rate", values="val_accuracy_best")
    a, b = by_rate["0.2"], by_rate["0.0"]
    row, expected = one(swept, kind="pair", a="dropout", b="none"), reference.ttest_rel(a, b)
    interval = expected.confidence_interval()
    figures = {
        "n": 5,
        "mean_a": a.mean(),
        "mean_b": b.mean(),
        "difference": (a - b).mean(),
        "low": interval.low,
        "high": interval.high,
        "sd": (a - b).std(),
        "d_z": (a - b).mean() / (a - b).std(),
        "wins": (a > b).sum(),
        "losses": (a < b).sum(),
        "ties": (a == b).sum(),
        "p_t": expected.pvalue,
    }
    assert {name: row[name] for name in figures} == pytest.approx(figures)
    assert row["boot_low"] < row["difference"] < row["boot_high"]


def test_every_two_levels_are_compared_the_later_with_the_earlier(swept: Path, said: Said) -> None:
    lines = said("compare", swept)
    pairs = rows(swept).query("kind == 'pair' and metric == 'test_loss_best'")
    both = "dropout + batchnorm"
    order = ["none", "dropout", "batchnorm", both]
    assert {(a, b) for a, b in zip(pairs.a, pairs.b, strict=True)} == {
        (a, b) for i, a in enumerate(order) for b in order[:i]
    }
    assert lines[0] == "settings" and [line.split()[0] for line in lines[2:5]] == order[:3]
    assert any("power: you can detect about" in line for line in lines)
    assert lines[-1] == f"table: {swept / 'compare.csv'}"


def test_a_factorial_comes_apart_into_effects_and_interactions(summary: pd.DataFrame, said: Said) -> None:
    """Dropout gives 1 point, batch norm 3, both together half a point less than their sum."""
    figures = with_figures(
        summary, lambda d, b, seed: 0.9 + 0.01 * d + 0.03 * b - 0.005 * d * b + NOISE[seed] * (1 + d)
    )
    root = written(figures)
    said("compare", root, "--by", "reg")
    mean = float(np.mean(NOISE))
    assert one(root, kind="main", a="dropout")["difference"] == pytest.approx(0.01 - 0.005 / 2 + mean)
    assert one(root, kind="main", a="batchnorm")["difference"] == pytest.approx(0.03 - 0.005 / 2)
    row = one(root, kind="interaction")
    assert row["a"] == "dropout x batchnorm"
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((-0.005,) * 3)


def test_where_a_combination_is_missing_effects_are_those_of_the_rest(summary: pd.DataFrame, said: Said) -> None:
    """none, dropout, both: dropout from the first two, batch norm from the last two, no interaction."""
    figures = with_figures(summary, lambda d, b, seed: 0.9 + 0.01 * d + 0.03 * b - 0.005 * d * b + NOISE[seed] * d)
    alone = (figures["reg.batchnorm.active"] == "true") & (figures["reg.dropout.rate"] == "0.0")
    root = written(figures[~alone])
    said("compare", root, "--by", "reg")
    assert one(root, kind="main", a="dropout")["difference"] == pytest.approx(0.01 + np.mean(NOISE))
    assert one(root, kind="main", a="batchnorm")["difference"] == pytest.approx(0.025)
    assert "interaction" not in set(rows(root).kind)


def test_other_settings_are_averaged_within_a_seed(swept: Path, summary: pd.DataFrame, said: Said) -> None:
    lines = said("compare", swept, "--by", "reg.dropout")
    table = summary.astype({"val_accuracy_best": float})
    means = table.groupby(["reg.dropout.rate", "seed"]).val_accuracy_best.mean()
    expected = reference.ttest_rel(means["0.2"], means["0.0"])
    row = one(swept, kind="pair")
    assert (row["n"], row["p_t"]) == (5, pytest.approx(expected.pvalue))
    assert any("within each seed, differences are means over reg.batchnorm.active" in line for line in lines)


@pytest.mark.parametrize(
    ("gain", "spread", "delta", "verdict"),
    [
        (0.05, 1, "0.005", "better"),
        (-0.05, 1, "0.005", "worse"),
        (0.001, 0.01, "0.005", "equivalent"),
        (0.001, 0.01, "0", "better"),
        (0.001, 1, "0.005", "not shown"),
        (0, 0, "0.005", "equivalent"),
    ],
)
def test_verdicts(gain: float, spread: float, delta: str, verdict: str, summary: pd.DataFrame, said: Said) -> None:
    table = with_figures(summary, lambda d, b, seed: 0.8 + d * (gain + spread * NOISE[seed]))
    root = written(table[table["reg.batchnorm.active"] == "false"])
    lines = said("compare", root, "--delta", delta)
    assert one(root, kind="pair")["verdict"] == verdict
    assert any(line.rstrip().endswith(verdict) for line in lines)


def test_a_lower_loss_is_better_and_never_equivalent(summary: pd.DataFrame, said: Said) -> None:
    table = with_figures(summary, lambda d, b, seed: 0.5 - d * 0.001 * (1 + NOISE[seed]))
    table["val_loss_best"] = table["val_accuracy_best"]
    root = written(table[table["reg.batchnorm.active"] == "false"])
    said("compare", root)
    row = one(root, "val_loss_best", kind="pair")
    assert (row["verdict"], row["wins"], row["losses"]) == ("better", 5, 0)
    assert one(root, kind="pair")["verdict"] == "equivalent"
    assert math.isnan(row["pairs_for_delta"])


def test_sign_flips_tell_the_smallest_p_and_holm_counts_comparisons(swept: Path, said: Said) -> None:
    said("compare", swept)
    own = rows(swept).query("kind == 'pair' and metric == 'val_loss_best'")
    assert (own.p_sign_flip >= own.p_smallest).all() and (own.p_smallest >= 2**-4).all()
    assert own.p_holm.min() == pytest.approx(min(1, 6 * own.p_t.min()))
    assert own.p_sign_flip_holm.min() == pytest.approx(min(1, 6 * own.p_sign_flip.min()))


def test_not_the_winner_alone_is_told_but_all_within_its_bounds(summary: pd.DataFrame, said: Said) -> None:
    """Both is best by 5 points; batch norm is as good within the noise; the other two are worse."""
    gains = {(1, 1): 0.05, (0, 1): 0.049, (1, 0): 0.0, (0, 0): -0.01}
    noise = {key: np.random.default_rng(i).normal(0, 0.004, 5) for i, key in enumerate(gains)}
    root = written(with_figures(summary, lambda d, b, seed: 0.8 + gains[d, b] + float(noise[d, b][seed])))
    lines = said("compare", root, "--delta", "0")
    own = rows(root).query("kind == 'best'")
    assert set(own.b) == {"dropout + batchnorm"} and set(own.a) == {"none", "dropout", "batchnorm"}
    assert dict(zip(own.a, own.verdict, strict=True)) == {"none": "worse", "dropout": "worse", "batchnorm": "not shown"}
    assert own.p_holm.min() == pytest.approx(3 * own.p_t.min())
    assert (
        "best by val: dropout + batchnorm; within its bounds (not shown to be worse, Holm over 3): batchnorm; "
        "worse: none, dropout"
    ) in lines


def test_settings_are_ranked_by_the_seeds_that_all_of_them_have(summary: pd.DataFrame, said: Said) -> None:
    """Dropout has lost the seeds in which all are bad: by its own three it would look best."""
    luck = [-0.2, -0.2, 0.1, 0.1, 0.1]
    table = with_figures(summary, lambda d, b, seed: 0.7 + luck[seed] + 0.01 * b - 0.02 * d)
    lost = (table["reg.dropout.rate"] != "0.0") & (table["reg.batchnorm.active"] == "false") & (table["seed"] < "2")
    table.loc[lost, ["status", "val_accuracy_best"]] = ["failed", "none"]
    lines = said("compare", written(table))
    shown = {line.split()[0]: line for line in lines[2:5]}
    assert "80.0 %" in shown["none"] and "78.0 %" in shown["dropout"] and "81.0 %" in shown["batchnorm"]
    assert any("means are of the 3 seeds that all have" in line for line in lines)
    assert any(line.startswith("best by val: batchnorm; ") for line in lines)
    assert not any("means are of the" in line for line in said("compare", written(summary, "u")))


def with_lrs(summary: pd.DataFrame, lrs: list[list[str]], best: list[int]) -> pd.DataFrame:
    """No regularizer and dropout, tuned over some learning rates each; the best is at a place of its list."""
    plain = summary[(summary["reg.batchnorm.active"] == "false")]
    parts = []
    for rate, own, top in zip(["0.0", "0.2"], lrs, best, strict=True):
        level = plain[plain["reg.dropout.rate"] == rate]
        for i, lr in enumerate(own):
            figures = {"val_accuracy_best": str(0.9 - 0.01 * abs(i - top)), "optimizer.lr": lr}
            parts.append(level.assign(**figures, run_id=level.run_id + str(i)))
    return pd.concat(parts)


@pytest.mark.parametrize(
    ("lrs", "best", "says"),
    [
        ([["0.1", "0.2", "0.3"]] * 2, [1, 1], []),
        (
            [["0.1", "0.2", "0.3"], ["0.1", "0.2"]],
            [1, 1],
            ["tuning budgets differ: dropout had 2 tries, none 3 (optimizer.lr): the best of more tries is "],
        ),
        (
            [["0.1", "0.2", "0.3"]] * 2,
            [2, 0],
            [
                "none: optimizer.lr: the best value 0.3 is the largest of 3 that were tried; widen the range",
                "dropout: optimizer.lr: the best value 0.1 is the smallest of 3 that were tried; widen the range",
            ],
        ),
        ([["0.0", "0.1", "0.2"]] * 2, [0, 0], []),  # nothing lies below 0
        ([["0.1", "0.2"]] * 2, [0, 0], []),  # of two, one is at the edge
    ],
)
def test_levels_that_were_not_tuned_alike_are_told(
    lrs: list[list[str]], best: list[int], says: list[str], summary: pd.DataFrame, said: Said
) -> None:
    lines = said("compare", written(with_lrs(summary, lrs, best)), "--by", "reg")
    told = [line for line in lines if "tuning budgets" in line or "that were tried" in line]
    assert len(told) == len(says) and all(any(line.startswith(s) for line in told) for s in says)


def test_winners_of_sweeps_have_the_tries_of_their_sweeps(summary: pd.DataFrame, said: Said) -> None:
    """As `regrun confirm` leaves them: one was chosen from 12 settings, the other from 3."""
    for name, settings in (("x", 12), ("y", 3)):
        Path(name).mkdir()
        (Path(name) / "effects.csv").write_text("n\n" + "1\n" * settings, encoding="utf-8")
        on = (summary["reg.dropout.rate"] != "0.0") == (name == "x")
        written(summary[on & (summary["reg.batchnorm.active"] == "false")], f"{name}/confirm")
    lines = said("compare", "x/confirm", "y/confirm")
    assert any(
        line.startswith("tuning budgets differ: y/confirm had 3 tries, x/confirm 12 (settings): ") for line in lines
    )


def test_data_that_was_changed_between_runs_is_told(summary: pd.DataFrame, said: Said) -> None:
    line = "the data set is not the same for all runs (data_hash in summary.csv): it was changed between them"
    assert line not in said("compare", written(summary))
    table = summary.assign(data_hash=["0" * 16, *summary.data_hash[1:]])
    assert line in said("compare", written(table, "u"))


def test_a_best_level_at_the_edge_is_told(summary: pd.DataFrame, said: Said) -> None:
    table = with_lrs(summary, [["0.1", "0.2", "0.4"], []], [2, 0])
    lines = said("compare", written(table), "--by", "optimizer.lr")
    assert "optimizer.lr: the best value 0.4 is the largest of 3 that were tried; widen the range" in lines


@pytest.mark.long
def test_over_data_sets_there_is_holm_and_wilcoxon(summary: pd.DataFrame, said: Said) -> None:
    """Six data sets, three levels: each pair's swaps by Holm over the three, and the signed ranks of six means."""
    draw, parts = np.random.default_rng(3), []
    base = summary[~((summary["reg.dropout.rate"] != "0.0") & (summary["reg.batchnorm.active"] == "true"))]
    for i in range(6):
        gain = {("0.2", "false"): 0.03, ("0.0", "true"): 0.001}
        keys = zip(base["reg.dropout.rate"], base["reg.batchnorm.active"], strict=True)
        figures = [str(0.6 + 0.04 * i + gain.get(key, 0.0) + draw.normal(0, 0.004)) for key in keys]
        kind = {"data.kind": "sklearn", "data.name": ["wine", "iris", "digits", "breast_cancer", "a", "b"][i]}
        parts.append(
            base.assign(val_accuracy_best=figures, test_accuracy_best=figures, **kind, run_id=base.run_id + str(i))
        )
    root = written(pd.concat(parts))
    lines = said("compare", root, "--by", "reg")
    own = rows(root).query("kind == 'across' and metric == 'val_accuracy_best'").set_index(["a", "b"])
    assert len(own) == 3 and own.p_holm.min() == pytest.approx(3 * own.p_sign_flip.min())
    assert own.loc[("dropout", "none"), "verdict"] == "better"
    assert own.loc[("batchnorm", "none"), "verdict"] == "equivalent"
    assert own.loc[("dropout", "none"), "p_wilcoxon"] == 2**-5 and own.p_wilcoxon_holm.min() == 3 * 2**-5
    head = next(line for line in lines[lines.index(next(x for x in lines if x.startswith("over data sets"))) :][1:])
    assert "Wilcoxon" in head and "Holm" in head and "sign flip (smallest)" in head


def test_failures_are_counted_and_lose(summary: pd.DataFrame, said: Said) -> None:
    """Dropout is better by a point wherever it ends; its first two runs fail."""
    table = with_figures(summary, lambda d, b, seed: 0.8 + 0.01 * d + NOISE[seed])
    table = table[table["reg.batchnorm.active"] == "false"]
    failed = (table["reg.dropout.rate"] != "0.0") & table["seed"].isin(["0", "1"])
    table.loc[failed, ["status", "val_accuracy_best"]] = ["failed", "none"]
    root = written(table)
    lines = said("compare", root)
    row = one(root, kind="pair")
    assert (row["n"], row["wins"], row["losses"], row["ties"]) == (3, 3, 2, 0)
    assert row["difference"] == pytest.approx(0.01) and row["p_better"] == 0.6
    expected = reference.binomtest(3, 5).proportion_ci(method="wilson")
    figures = [row[f"a_{name}"] for name in ("runs", "ok", "success", "success_low", "success_high")]
    assert figures == pytest.approx([5, 3, 0.6, expected.low, expected.high])
    assert row["b_success"] == 1
    assert any("2 runs failed" in line and "lose" in line for line in lines)
    assert any(line.strip().startswith("dropout  3/5 0.60 [0.23, 0.88]") for line in lines)


def test_a_diverged_run_is_no_success_and_enters_by_its_best_epoch(summary: pd.DataFrame, said: Said) -> None:
    table = with_figures(summary, lambda d, b, seed: 0.8 - 0.1 * d + NOISE[seed])
    table = table[table["reg.batchnorm.active"] == "false"]
    table.loc[table["reg.dropout.rate"] != "0.0", "status"] = "diverged"
    root = written(table)
    lines = said("compare", root)
    row = one(root, kind="pair")
    assert (row["n"], row["a_ok"], row["a_diverged"], row["verdict"]) == (5, 0, 5, "worse")
    assert any("5 runs diverged" in line for line in lines)


def test_runs_that_have_not_ended_or_have_no_partner_are_told(swept: Path, summary: pd.DataFrame, said: Said) -> None:
    root = written(summary[:-2])
    (root / "plan.csv").write_bytes((swept / "plan.csv").read_bytes())
    lines = said("compare", root)
    row = one(root, kind="pair", a="dropout + batchnorm", b="none")
    assert (row["n"], row["a_runs"], row["a_unfinished"], row["wins"] + row["losses"] + row["ties"]) == (3, 3, 2, 3)
    assert any("2 runs have not ended" in line for line in lines)
    lines = said("compare", written(summary[:-1], "u"))
    assert one("u", kind="pair", a="dropout + batchnorm", b="none")["unpaired"] == 1
    assert any("no partner" in line for line in lines)


def test_one_seed_gives_no_interval_and_says_so(summary: pd.DataFrame, said: Said) -> None:
    root = written(summary[summary["seed"] == "0"])
    lines = said("compare", root)
    row = one(root, kind="pair", a="dropout", b="none")
    assert row["n"] == 1 and row["verdict"] == "not shown"
    assert all(math.isnan(row[name]) for name in ("low", "high", "boot_low", "sd", "d_z", "p_t", "p_sign_flip"))
    assert any("n = 1: no interval" in line for line in lines)
    assert not any("power" in line for line in lines)


def test_two_folders_are_compared_by_what_sets_them_apart(summary: pd.DataFrame, said: Said) -> None:
    """The first is the one that the second is compared with; the table goes into the first."""
    plain = (summary["reg.dropout.rate"] == "0.0") & (summary["reg.batchnorm.active"] == "false")
    norm = (summary["reg.dropout.rate"] == "0.0") & (summary["reg.batchnorm.active"] == "true")
    said("compare", written(summary[plain], "base"), written(summary[norm], "new"))
    row = one("base", kind="pair")
    assert (row["a"], row["b"], row["n"]) == ("new", "base", 5)
    assert not (Path("new") / "compare.csv").exists()
    expected = (
        summary[norm].val_accuracy_best.astype(float).mean() - summary[plain].val_accuracy_best.astype(float).mean()
    )
    assert row["difference"] == pytest.approx(expected)


def test_folders_with_a_setting_named_are_one_and_a_run_in_both_counts_once(
    swept: Path, summary: pd.DataFrame, said: Said
) -> None:
    said("compare", swept)
    said("compare", written(summary[:12], "x"), written(summary[8:], "y"), "--by", "reg")
    pd.testing.assert_frame_equal(rows(swept).iloc[:, :12], rows("x").iloc[:, :12])


@pytest.mark.long
def test_several_data_sets_are_told_apart_and_together(said: Said) -> None:
    sets = ["data=moons,digits", "reg=none,batchnorm", "seed=range(3)"]
    assert main(["-m", *SMALL, *sets, "hydra.sweep.dir=s"]) == 0
    lines = said("compare", "s")
    table = rows("s")
    assert set(table.data) == {"moons", "digits", "all"}
    row, summary = one("s", kind="across"), pd.read_csv("s/summary.csv")
    scores = summary.groupby("reg.batchnorm.active").val_accuracy_best
    iqm = {on: reference.trim_mean(values, 0.25) for on, values in scores}
    assert row["n"] == 2 and row["a"] == "batchnorm"
    assert (row["mean_a"], row["mean_b"], row["difference"]) == pytest.approx(
        (iqm[True], iqm[False], iqm[True] - iqm[False])
    )
    assert row["boot_low"] <= row["difference"] <= row["boot_high"]
    assert row["p_better_low"] <= row["p_better"] <= row["p_better_high"]
    profiles = pd.read_csv("s/profiles.csv")
    own = profiles.query("level == 'none' and metric == 'val_accuracy_best'").share
    assert own.iloc[0] == 1 and own.iloc[-1] == 0 and own.is_monotonic_decreasing
    assert any(line.startswith("over data sets") for line in lines)
    assert not any("within each seed" in line for line in lines)


def test_regressions_are_compared_by_r2(said: Said) -> None:
    line = ["-m", *SMALL, "data=sine", "data.samples=200", "reg=none,dropout", "seed=range(2)"]
    assert main([*line, "hydra.sweep.dir=s"]) == 0
    lines = said("compare", "s")
    assert set(rows("s").metric) == {"val_r2_best", "test_r2_best", "val_loss_best", "test_loss_best"}
    assert " R2 " in next(line for line in lines if "verdict" in line and "comparison" in line)


def test_the_same_command_gives_the_same_bytes(swept: Path, said: Said) -> None:
    first = said("compare", swept), (swept / "compare.csv").read_bytes()
    assert (said("compare", swept), (swept / "compare.csv").read_bytes()) == first


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare"], "compare: must be followed by folders of runs, got 'nothing'"),
        (["compare", "nowhere"], "compare: must be followed by folders of runs, got 'nowhere'"),
        (["compare", "."], "compare: must be followed by folders with a summary.csv, got '.'"),
        (["compare", "t", "t/../t"], "compare: takes each folder once"),
        (["compare", "t", "--by", "reg.dropuot"], "--by: no such setting, got 'reg.dropuot'; did you mean reg.dropout"),
        (["compare", "t", "--by", "optimizer.lr"], "--by: must vary here, got 'optimizer.lr'; these do: reg.dropout"),
        (["compare", "t", "--by", "folder"], "--by: must vary here, got 'folder'"),
        (["compare", "t", "--by", "seed"], "compare: nothing is paired in 't'; levels have no seed in common"),
        (["compare", "t", "--delta", "x"], "--delta: must be a share in [0, 1), got 'x'"),
        (["compare", "t", "--all"], "--all: is for regrun ensemble"),
        (["ensemble", "t", "--delta", "1"], "--delta: is for regrun compare"),
    ],
)
def test_mistakes_are_a_line(words: list[str], says: str, summary: pd.DataFrame, refused: Callable[..., str]) -> None:
    root = written(summary)
    assert refused(*words).startswith(says)
    assert sorted(path.name for path in root.iterdir()) == ["summary.csv"]


def test_levels_without_a_pair_are_told(summary: pd.DataFrame, said: Said) -> None:
    table = summary.copy()
    table.loc[table["reg.dropout.rate"] != "0.0", "optimizer.lr"] = "0.5"
    lines = said("compare", written(table), "--by", "reg")
    row = one("t", kind="pair", a="dropout", b="none")
    assert (row["n"], row["verdict"], row["unpaired"]) == (0, "not shown", 10)
    assert any(line.startswith("n = 0: no pair") for line in lines)


def test_what_keeps_runs_from_being_pairs_is_said(summary: pd.DataFrame, refused: Callable[..., str]) -> None:
    dropout = summary["reg.dropout.rate"] != "0.0"
    table = summary.copy()
    table.loc[dropout, "optimizer.lr"] = "0.5"
    assert "(optimizer.lr); give them to --by, too" in refused("compare", written(table, "t"), "--by", "reg.dropout")
    one_level = summary[~dropout & (summary["reg.batchnorm.active"] == "true")]
    assert "needs runs whose settings vary" in refused("compare", written(one_level, "u"))
    assert "no run ended with a figure" in refused("compare", written(summary.assign(status="failed"), "v"))


def test_a_damaged_table_is_refused(summary: pd.DataFrame, refused: Callable[..., str]) -> None:
    assert "is no such table of regrun's" in refused("compare", written(summary[["seed"]]), code=3)
    assert "must be a number" in refused("compare", written(summary.assign(val_accuracy_best="x"), "u"), code=3)
