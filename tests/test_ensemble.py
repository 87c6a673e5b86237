"""Kept predictions and what their mean comes to, by real sweeps."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Said, make, train_rows

import regrun
from regrun import checks, collect, config, keeping, predictions, prepare, schedules
from regrun import settings as s
from regrun.cli import main
from regrun.data.sources import load
from regrun.data.split import split
from regrun.errors import DataError

SMALL = ["model=shallow", "model.width=24", "trainer.progress=none", "trainer.epochs=3"]
KEEP = [*SMALL, "trainer.save=predictions"]
SHARED = ["-m", *KEEP, "seeds.split=0", "reg=none,dropout", "seed=range(3)"]
CYCLES = ["scheduler=cosine_restarts", "scheduler.t_0=2", "trainer.early_stopping.patience=null", "optimizer.lr=0.01"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings from three seeds each, with the same val."""
    root = tmp_path_factory.mktemp("shared") / "s"
    assert main([*SHARED, f"hydra.sweep.dir={root}"]) == 0
    return root


def rows(root: Path | str, where: str = "test") -> pd.DataFrame:
    """The rows of one split."""
    table = pd.read_csv(Path(root) / "ensemble.csv", na_values=["none"])
    return table[table.split == where].reset_index(drop=True)


def kept(root: Path | str) -> dict[str, predictions.Predictions]:
    return {path.stem: predictions.read(path) for path in sorted(Path(root).glob("predictions/*.npz"))}


def test_each_run_keeps_the_predictions_that_its_figures_are_of(shared: Path) -> None:
    summary = regrun.read(shared).summary.set_index("run_id")
    files = kept(shared)
    assert set(files) == set(summary.index)
    for run_id, own in files.items():
        assert own.epochs.tolist() == [summary.best_epoch[run_id]]
        for name in ("val", "test"):
            (log_p,), targets = own.outputs[name], own.targets[name]
            assert log_p.dtype == np.float32
            np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-5)
            loss = -log_p[np.arange(len(targets)), targets].mean(dtype=np.float64)
            assert loss == pytest.approx(summary[f"{name}_loss_best"][run_id], rel=1e-6)
            assert (log_p.argmax(1) == targets).mean() == pytest.approx(summary[f"{name}_accuracy_best"][run_id])


def test_files_are_plain_arrays_of_the_splits_own_examples(shared: Path) -> None:
    run = config.jobs([*KEEP, "seeds.split=0"], multirun=False)[0].settings
    own = split(load(run.data), run.data, run.seeds)
    for path in shared.glob("predictions/*"):
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["val_examples"].tolist() == own.val.tolist()
            assert arrays["test_examples"].tolist() == own.test.tolist()
            assert not arrays["target_scale"].size


def test_the_ensemble_is_the_mean_of_its_members_networks(shared: Path, said: Said) -> None:
    """As torch computes it from kept weights, which the same runs leave with trainer.save=best."""
    assert main([*SHARED, "trainer.save=best", "hydra.sweep.dir=weights"]) == 0
    said("ensemble", shared)
    source = load(s.Digits())
    table, summary = rows(shared), regrun.read(shared).summary
    assert sorted(table["reg.dropout.rate"]) == [0.0, 0.2] and set(table.members) == {3}
    for _, row in table.iterrows():
        runs = summary[summary["reg.dropout.rate"] == row["reg.dropout.rate"]]
        networks = [regrun.load(f"weights/{i}") for i in runs.index]
        with torch.no_grad():
            p = torch.stack([network(source.inputs[source.test]).softmax(1) for network in networks])
        targets = source.targets[source.test]
        assert (p.mean(0).argmax(1) == targets).float().mean().item() == pytest.approx(row.accuracy_ensemble)
        loss = torch.nn.functional.nll_loss(p.mean(0).log(), targets).item()
        assert loss == pytest.approx(row.loss_ensemble, rel=1e-4)
        assert row.loss_members == pytest.approx(runs.test_loss_best.mean(), rel=1e-6)
        assert row.accuracy_members == pytest.approx(runs.test_accuracy_best.mean())
        assert row.loss_ensemble < row.loss_members


def test_the_best_member_is_the_best_on_val_whatever_test_says(shared: Path, said: Said) -> None:
    said("ensemble", shared)
    summary = regrun.read(shared).summary
    for _, row in rows(shared).iterrows():
        runs = summary[summary["reg.dropout.rate"] == row["reg.dropout.rate"]]
        best = runs.sort_values(["val_accuracy_best", "val_loss_best"], ascending=[False, True]).iloc[0]
        assert row.best_member == best.run_id
        assert row.accuracy_best == pytest.approx(best.test_accuracy_best)
    order = rows(shared, "val").accuracy_ensemble
    assert order.is_monotonic_decreasing


@pytest.mark.parametrize(
    ("words", "names", "members"),
    [
        ([], ["reg.dropout.rate"], [3, 3]),
        (["--all"], [], [6]),
        (["--by", "seed"], ["seed"], [2, 2, 2]),
        (["--by", "reg"], ["reg.dropout.rate"], [3, 3]),
        (["--by", "reg", "seed"], ["reg.dropout.rate", "seed"], [1] * 6),
        (["--by", "optimizer.lr"], ["optimizer.lr"], [6]),
    ],
)
def test_groups_are_settings_seeds_aside_or_what_is_named(
    words: list[str], names: list[str], members: list[int], shared: Path, said: Said
) -> None:
    lines = said("ensemble", shared, *words)
    table = rows(shared)
    assert list(table.columns[: len(names) + 1]) == [*names, "split"]
    assert table.members.tolist() == members
    assert any("chosen by val alone" in line for line in lines)
    assert any("--all averages all runs" in line for line in lines) == (members == [1] * 6)


def test_the_table_shows_members_best_and_ensemble(shared: Path, said: Said) -> None:
    lines = said("ensemble", shared, "--all")
    assert lines[0].split() == ["split", "prediction", "loss", "accuracy", "ECE", "disagree"]
    assert [line.split()[0] for line in lines[1:7]] == ["val", "best", "ensemble", "test", "best", "ensemble"]
    (row,) = rows(shared).to_dict("records")
    assert f"{row['loss_ensemble']:.4f}" in lines[6] and f"{100 * row['disagreement']:.1f} %" in lines[4]


def test_a_member_that_is_there_three_times_is_its_own_ensemble(said: Said) -> None:
    """Seeds of a dropout that is off make runs that are equal but for their names."""
    assert main(["-m", *KEEP, "seeds.dropout=0,1,2", "hydra.sweep.dir=s"]) == 0
    said("ensemble", "s")
    for where in ("val", "test"):
        (row,) = rows("s", where).to_dict("records")
        assert row["members"] == 3 and row["disagreement"] == 0
        for name in ("loss", "accuracy", "ece"):
            assert row[f"{name}_ensemble"] == pytest.approx(row[f"{name}_members"], rel=1e-9)


def test_bagging_draws_63_percent_and_is_averaged(said: Said) -> None:
    line = ["-m", *KEEP, "data.bootstrap=true", "seeds.split=0", "seeds.init=0", "seed=range(10)"]
    assert main([*line, "hydra.sweep.dir=s"]) == 0
    said("ensemble", "s")
    unique = regrun.read("s").summary.train_unique
    assert unique.mean() == pytest.approx(1 - (1 - 1 / 1150) ** 1150, abs=0.012)  # 4 standard errors of 10 runs
    (row,) = rows("s").to_dict("records")
    assert row["members"] == 10 and row["loss_ensemble"] < row["loss_members"]


@pytest.mark.parametrize("loss", ["auto", "absolute", "huber"])
def test_a_regressions_error_is_its_members_less_their_ambiguity(loss: str, said: Said) -> None:
    data = ["data=sine", "data.samples=300", "data.normalize=standardize", f"trainer.loss={loss}", "seeds.split=0"]
    assert main(["-m", *KEEP, *data, "data.bootstrap=true", "seed=range(4)", "hydra.sweep.dir=s"]) == 0
    said("ensemble", "s")
    summary = regrun.read("s").summary
    for where in ("val", "test"):
        (row,) = rows("s", where).to_dict("records")
        assert row["e_com"] == pytest.approx(row["e_av"] - row["ambiguity"], rel=1e-12) and row["ambiguity"] > 0
        assert row["loss_members"] == pytest.approx(summary[f"{where}_loss_best"].mean(), rel=1e-5)
        assert row["r2_members"] == pytest.approx(summary[f"{where}_r2_best"].mean(), rel=1e-4)
        assert row["loss_ensemble"] < row["loss_members"]
        assert np.isnan(row["accuracy_ensemble"]) and np.isnan(row["ece_members"])


def test_a_regressions_predictions_are_in_the_targets_own_units() -> None:
    assert main([*KEEP, "data=sklearn", "data.name=diabetes", "trainer.save=predictions", "hydra.run.dir=r"]) == 0
    ((own,), summary) = kept("r").values(), regrun.read("r").summary
    assert own.outputs["test"].dtype == np.float64 and 100 < own.outputs["test"].mean() < 200
    source = load(s.Sklearn(name="diabetes"))
    np.testing.assert_array_equal(own.targets["test"], source.targets[source.test].numpy())
    errors = (own.outputs["test"][0] - own.targets["test"]) / own.target_scale
    assert np.square(errors).mean() == pytest.approx(summary.test_loss_best[0], rel=1e-5)


def test_members_that_differ_in_val_are_averaged_on_test_alone(said: Said) -> None:
    assert main(["-m", *KEEP, "seed=0,1", "hydra.sweep.dir=s"]) == 0
    lines = said("ensemble", "s")
    assert any("seeds.split=0" in line for line in lines)
    (val,), (test,) = rows("s", "val").to_dict("records"), rows("s").to_dict("records")
    assert np.isnan(val["loss_ensemble"]) and val["loss_members"] > 0
    assert test["loss_ensemble"] < test["loss_members"]


def test_members_of_different_data_are_refused_in_a_line(refused: Callable[..., str]) -> None:
    assert main(["-m", *KEEP, "data=moons", "data.noise=0.1,0.3", "hydra.sweep.dir=s"]) == 0
    line = refused("ensemble", "s", "--all", code=2)
    assert line.startswith("ensemble: members must have the same test examples, but data.noise varies")
    assert not Path("s/ensemble.csv").exists()


def test_a_setting_that_is_none_is_answered_with_the_nearest(shared: Path, refused: Callable[..., str]) -> None:
    line = refused("ensemble", shared, "--by", "reg.dropout.rat", code=2)
    assert line.startswith("--by: no such setting, got 'reg.dropout.rat'; did you mean reg.dropout.rate")


def test_a_sweep_that_kept_nothing_says_what_to_set_and_then_keeps_it(refused: Callable[..., str], said: Said) -> None:
    """The same command with it trains the runs again, to the same figures."""
    line = ["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=s"]
    assert main(line) == 0
    before = Path("s/summary.csv").read_bytes()
    assert "2 of 2 runs have kept no predictions" in (problem := refused("ensemble", "s", code=3))
    assert problem.endswith("repeat the command with trainer.save=predictions")
    assert main([*line, "trainer.save=predictions"]) == 0
    assert len(kept("s")) == 2 and Path("s/summary.csv").read_bytes() == before
    said("ensemble", "s")


def test_a_run_without_its_file_is_not_finished(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["-m", *KEEP, "seed=range(3)", "hydra.sweep.dir=s"]
    assert main(line) == 0
    files = {path: path.read_bytes() for path in Path("s/predictions").iterdir()}
    victim = sorted(files)[1]
    victim.unlink()
    capsys.readouterr()
    assert main([*line, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "3 runs in s, 2 finished"
    assert main(["resume", "s"]) == 0
    assert {path: path.read_bytes() for path in Path("s/predictions").iterdir()} == files


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_other_launchers_and_single_runs_keep_the_same_bytes(launcher: str) -> None:
    line = [*KEEP, "reg=dropout"]
    assert main(["-m", *line, "seed=0,1", "hydra.sweep.dir=local"]) == 0
    assert main(["-m", *line, "seed=0,1", f"hydra/launcher={launcher}", "hydra.sweep.dir=other"]) == 0
    assert main([*line, "seed=1", "hydra.run.dir=alone"]) == 0
    files = {path.name: path.read_bytes() for path in Path("local/predictions").iterdir()}
    assert files == {path.name: path.read_bytes() for path in Path("other/predictions").iterdir()}
    (alone,) = Path("alone/predictions").iterdir()
    assert files[alone.name] == alone.read_bytes()


@pytest.mark.parametrize(
    "data", [s.Digits(), s.Sklearn(name="wine"), s.Sine(samples=300, normalize="standardize")], ids=lambda d: d.kind
)
def test_a_replica_predicts_the_bits_of_its_single_run(data: s.DataSet) -> None:
    source, trainer = load(data), {"epochs": 4, "save": "predictions"}
    runs = [make(data=data, optimizer=s.Adam(lr=(0.001, 0.01)[i % 2]), trainer=trainer, seed=i) for i in range(5)]
    _, together = train_rows(runs, source)
    for run, end in zip(runs, together, strict=True):
        _, (alone,) = train_rows([run], source)
        assert end.look is not None and alone.look is not None
        assert end.look.epochs == alone.look.epochs == [end.outcome.best_epoch]
        assert all(torch.equal(end.look.outputs[name], alone.look.outputs[name]) for name in ("val", "test"))


def test_early_stopping_before_the_cycles_end_is_a_warning() -> None:
    line = ["scheduler=cosine_restarts", "trainer.save=snapshots", "trainer.early_stopping.patience="]
    texts = [
        list(checks.warnings(config.jobs([*line[:2], line[2] + patience], multirun=False)[0].settings, 1000))
        for patience in ("10", "null")
    ]
    assert [len(text) for text in texts] == [1, 0] and texts[0][0].startswith("trainer.save: early stopping may end")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="kills a process and its children")
def test_a_killed_sweep_has_a_file_for_each_row_and_goes_on_to_the_rest() -> None:
    line = ["-m", *KEEP, "trainer.epochs=1,30", "seed=range(6)", "sweep.stack_size=2", "hydra.sweep.dir=s"]
    with subprocess.Popen([sys.executable, "-m", "regrun", *line]) as process:
        deadline = time.monotonic() + 60
        while not list(Path("s").glob("stacks/*/summary.csv")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.5)
    done = set(collect.summaries(Path("s")))
    assert done and done <= set(kept("s"))
    assert main(["resume", "s"]) == 0
    assert len(kept("s")) == 12 and set(regrun.read("s").summary.status) == {"ok"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-200],
        lambda raw: b"no zip",
        lambda raw: raw[:9000] + bytes([raw[9000] ^ 1]) + raw[9001:],
    ],
    ids=["empty", "cut", "text", "a bit"],
)
def test_a_damaged_file_is_one_line(damage: Callable[[bytes], bytes], refused: Callable[..., str]) -> None:
    assert main([*KEEP, "hydra.run.dir=r"]) == 0
    (path,) = Path("r/predictions").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert refused("ensemble", "r", code=3).startswith(f"{path}: holds no predictions of regrun's")


def test_a_changed_byte_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """Each byte of a small file in turn."""
    by_split = [dict.fromkeys(("val", "test"), array) for array in (np.zeros((1, 2, 3)), np.ones(2), np.arange(2))]
    own, path, same = predictions.Predictions(np.array([4]), *by_split, np.zeros(0)), tmp_path / "p.npz", 0
    raw = predictions.content(own)
    for i, byte in enumerate(raw):
        path.write_bytes(raw[:i] + bytes([byte ^ 0xFF]) + raw[i + 1 :])
        try:
            found = predictions.read(path)
        except DataError:
            continue
        assert predictions.content(found) == raw
        same += 1
    assert same < len(raw) / 2


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    names = [f"{split}{name}" for split in ("val", "test") for name in ("", "_targets", "_examples")]
    arrays: dict[str, Any] = dict.fromkeys([*names, "epochs", "target_scale"], np.array([print], dtype=object))
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="holds no predictions"):
        predictions.read(path)


def test_diverged_runs_are_left_out_and_counted(said: Said) -> None:
    assert main(["-m", *KEEP, "optimizer=sgd", "optimizer.lr=0.01,1e20", "seed=0", "hydra.sweep.dir=s"]) == 0
    lines = said("ensemble", "s", "--all")
    (row,) = rows("s").to_dict("records")
    assert (row["members"], row["left_out"]) == (1, 1)
    assert "1 runs that diverged, failed or have not ended are left out" in lines


def test_snapshots_are_what_the_run_predicts_at_the_end_of_each_cycle(said: Said) -> None:
    """A run of four epochs ends where the second of three cycles does."""
    line = [*SMALL, *CYCLES, "trainer.epochs=6"]
    assert main([*line, "trainer.save=snapshots", "hydra.run.dir=r"]) == 0
    assert main([*line, "trainer.epochs=4", "trainer.save=last", "hydra.run.dir=short"]) == 0
    (own,) = kept("r").values()
    assert own.epochs.tolist() == [2, 4, 6]
    source = load(s.Digits())
    with torch.no_grad():
        short = regrun.load("short", weights="last")(source.inputs[source.test]).log_softmax(1)
    np.testing.assert_allclose(own.outputs["test"][1], short.numpy(), atol=1e-5)
    said("ensemble", "r")
    (row,) = rows("r").to_dict("records")
    assert row["members"] == 3 and row["best_member"].split("@")[1] in ("2", "4", "6")
    assert row["loss_ensemble"] < row["loss_members"]
    summary = regrun.read("r").summary
    assert own.outputs["test"][2].shape == (summary.test_size[0], 10)


def test_keeping_snapshots_changes_no_figure() -> None:
    line = [*SMALL, *CYCLES, "trainer.epochs=5"]
    for save in ("none", "snapshots"):
        assert main([*line, f"trainer.save={save}", f"hydra.run.dir={save}"]) == 0
    tables = [regrun.read(save) for save in ("none", "snapshots")]
    pd.testing.assert_frame_equal(tables[0].curves, tables[1].curves)
    cells = [table.summary.drop(columns=["seconds", "peak_memory_bytes", "trainer.save"]) for table in tables]
    pd.testing.assert_frame_equal(*cells)


def test_snapshots_of_a_stack_are_those_of_its_runs(said: Said) -> None:
    """Cycles of different lengths, and runs that stop before their last one."""
    line = [*SMALL, *CYCLES, "scheduler.t_0=1,2", "scheduler.t_mult=2", "trainer.epochs=7", "trainer.save=snapshots"]
    assert main(["-m", *line, "trainer.early_stopping.patience=1,null", "hydra.sweep.dir=s"]) == 0
    stopped = regrun.read("s").summary.set_index("run_id")
    for run_id, own in kept("s").items():
        ends = [1, 3, 7] if stopped["scheduler.t_0"][run_id] == 1 else [2, 6]
        assert own.epochs.tolist() == [end for end in ends if end <= stopped.last_epoch[run_id]]
    run = stopped[stopped["trainer.early_stopping.patience"] == "none"].index[0]
    words = [f"scheduler.t_0={stopped['scheduler.t_0'][run]}", "trainer.early_stopping.patience=null"]
    assert main([*line[:4], *CYCLES, *words, *line[-3:], "hydra.run.dir=r"]) == 0
    assert Path(f"s/predictions/{run}.npz").read_bytes() == Path(f"r/predictions/{run}.npz").read_bytes()
    said("ensemble", "s", "--all")
    assert rows("s").members.tolist() == [sum(len(own.epochs) for own in kept("s").values())]


@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize(("t_0", "t_mult"), [(1, 1), (3, 1), (1, 2), (2, 3), (40, 1)])
def test_a_cycle_ends_where_the_learning_rate_is_lowest(t_0: int, t_mult: int, warmup: float) -> None:
    """The next epoch begins with the base learning rate again."""
    scheduler, epochs = s.CosineRestarts(t_0=t_0, t_mult=t_mult, warmup=warmup), 30
    ends = s.cycle_ends(scheduler, epochs)
    start = round(warmup * epochs)
    factors = [schedules.multiplier(scheduler, t, epochs) for t in range(epochs)]
    restarts = [t for t in range(start + 1, epochs) if factors[t] == 1]
    assert [end for end in ends if end < epochs] == restarts
    assert set(ends) <= {*restarts, epochs}


@pytest.mark.long
@pytest.mark.parametrize("save", ["predictions", "snapshots", "best", "both"])
@pytest.mark.parametrize("data", ["digits", "sine"])
def test_what_will_be_kept_is_said_first_and_is_what_is_kept(save: str, data: str, said: Said) -> None:
    words = [
        *SMALL,
        *CYCLES,
        "trainer.epochs=4",
        f"data={data}",
        f"trainer.save={save}",
        "seed=range(3)",
        "reg=batchnorm",
    ]
    line = ["-m", *words, "hydra.sweep.dir=s"]
    told = said(*line, "--dry-run")[-1]
    assert told.startswith(f"trainer.save={save}: about ") and told.split(" for ")[1].startswith("3 runs, at most")
    assert told in said(*line, "trainer.progress=plain")
    files = [*Path("s").rglob("*.npz"), *Path("s").rglob("*.pt")]
    expected = keeping.kept_bytes(prepare.prepare(config.jobs(words, multirun=True))[0]) * 3
    assert expected <= sum(path.stat().st_size for path in files) <= expected + 12_000 * len(files)


def test_a_sweep_that_keeps_nothing_says_nothing_of_it(said: Said) -> None:
    assert not any("trainer.save" in line for line in said("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=s", "--dry-run"))
