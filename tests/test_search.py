"""A search: a space as data, trials in batches that become stacks, the same trials however they are trained."""

import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import qmc

from regrun import asktell, batches, config, pruning, records, search, space
from regrun.cli import main
from regrun.errors import ConfigError
from regrun.pruning import Rules
from regrun.rows import CurveRow, columns, values

optuna = pytest.importorskip("optuna")

SMALL = ["model=shallow", "model.width=24", "trainer.progress=none", "trainer.early_stopping.patience=null"]
SEARCH = ["-m", "hydra/sweeper=optuna", *SMALL]
LR = "optimizer.lr=tag(log, interval(1e-5, 1))"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*lines: str) -> space.Search:
    """The search that a command line means."""
    found = config.command(["hydra/sweeper=optuna", *lines], multirun=True).search
    assert found is not None
    return found


def options(**values: object) -> list[str]:
    return [f"hydra.sweeper.{name}={value}" for name, value in values.items()]


def run(*lines: str, into: str = "s", epochs: int = 2, code: int = 0, **values: object) -> pd.DataFrame:
    """The trials of a search."""
    assert main([*SEARCH, f"trainer.epochs={epochs}", f"hydra.sweep.dir={into}", *options(**values), *lines]) == code
    return trials(into)


def trials(folder: str) -> pd.DataFrame:
    return pd.read_csv(f"{folder}/trials.csv", dtype={"run_id": str}, na_values=["none"], keep_default_na=False)


def curves(folder: str) -> pd.DataFrame:
    return pd.read_csv(f"{folder}/curves.csv", dtype=str)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("optimizer.lr=tag(log, interval(1e-4, 1e-1))", "optimizer.lr: 0.0001 to 0.1, log"),
        ("reg.dropout.rate=interval(0, 0.5)", "reg.dropout.rate: 0.0 to 0.5"),
        ("model.width=choice(32,64,128)", "model.width: 32, 64, 128"),
        ("model.depth=range(1,5)", "model.depth: 1 to 4"),
        ("model.depth=range(7,1,-2)", "model.depth: 3 to 7 in steps of 2"),
        ("reg.dropout.rate=range(0, 0.5, 0.1)", "reg.dropout.rate: 0.0 to 0.4 in steps of 0.1"),
        ("reg=[],[dropout,batchnorm]", "reg: [], [dropout,batchnorm]"),
        ("model.widths=null,[32],[64,32]", "model.widths: null, [32], [64,32]"),
        ("model.width=interval(16,256)", "model.width: 16 to 256"),  # a setting that takes whole numbers
        ("model.width=tag(log, interval(16,256))", "model.width: 16 to 256, log"),
        ("reg.l2.value=int(interval(0,3))", "reg.l2.value: 0 to 3"),
        ("model.width=interval(16,24) model.width=8,16", "model.width: 8, 16"),  # the last one holds, as in Hydra
        ("seed=shuffle(range(3))", "seed: 0 to 2"),
    ],
)
def test_the_space_is_what_hydras_grammar_says(line: str, shown: str) -> None:
    lines = [line] if "tag" in line or ", " in line else line.split(" ")
    assert [str(axis) for axis in made(*lines).space] == [shown]


REFUSED = [
    ("reg.dropout.rate=interval(0,1)", "reg.dropout.rate: must be a number in [0, 1), got 1.0"),
    ("model.depth=interval(1,2.5)", "model.depth: must be a whole number in [0, 1000], got 2.5"),
    ("optimizer.lr=0.1,-1", "optimizer.lr: must be a number in [0, inf), got -1"),
    ("model=deep,depp", "model: no such option, got 'depp'"),
    ("optimizer.lrr=interval(0,1)", "optimizer.lrr: no such key; did you mean optimizer.lr"),
    ("optimizer.lr=interval(1,0)", "optimizer.lr: must go from a lower to a higher number"),
    ("optimizer.lr=tag(log,interval(0,1))", "optimizer.lr: a log scale begins above 0"),
    ("optimizer.lr=tag(big,interval(0,1))", "optimizer.lr: the only tag of a search is log"),
    ("model.width=tag(log,range(8,64,8))", "model.width: a log scale has no steps"),
    ("seed=range(1,0)", "seed: must go from a lower to a higher number"),
    ("seed=range(0,1,0)", "seed: must go from a lower to a higher number"),
    ("model=deep,linear reg=none,dropout", "reg.dropout.rate: a model without hidden layers"),  # the last with the last
    ("seed=interval(0,9) seeds.init=${seed}", "seed: others follow it, got seeds.init"),
    ("seed=1,2 hydra.sweep.subdir=x", "hydra.sweep.subdir: a search numbers its folders"),
    ("seed=1,2 hydra.sweeper.sampler=cmaes", "hydra.sweeper.sampler: must be one of random, sobol, tpe, gp"),
    ("seed=1,2 hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials: must be a whole number in [1, 1000000], got 0"),
    ("seed=1,2 hydra.sweeper.n_jobs=2", "hydra.sweeper.n_jobs: no such key; a search has hydra.sweeper.sampler, n_tr"),
    ("seed=1,2 hydra/sweeper/sampler=tpe", "hydra/sweeper/sampler: no such key; a search has hydra.sweeper.sampler"),
    ("seed=1", "hydra/sweeper: optuna has nothing to search"),
    ("trainer.early_stopping.monitor=val_loss,val_accuracy", "trainer.early_stopping.monitor: is what a search comp"),
    ("seed=1,2 hydra.sweeper.storage=nonsense", "hydra.sweeper.storage: cannot be opened, got nonsense"),
]


@pytest.mark.parametrize(("line", "problem"), REFUSED)
def test_a_mistake_is_one_line_before_anything_is_created(
    line: str, problem: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "hydra/sweeper=optuna", *line.split(" ")]) == 2
    output, errors = capfd.readouterr()
    assert output == "" and errors.startswith(f"regrun: {problem}") and len(errors.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_all_mistakes_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["reg.dropout.rate=interval(0,1)", "optimizer.lr=-1,0.1", "model.width=interval(0,8)", *options(seed=-1)]
    lines += ["reg.l1.value=interval(1,0)", "optimizer.rho=range(3)", "data=mmnist,digits"]
    assert main(["-m", "hydra/sweeper=optuna", *lines]) == 2
    wheres = ["data", "hydra.sweeper.seed", "model.width", "optimizer.lr", "optimizer.rho", "reg.dropout.rate"]
    wheres += ["reg.l1.value"]
    found = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1] for line in found) == wheres


def test_an_interval_is_for_a_search_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optimizer.lr=interval(0,1)"]) == 2
    assert capsys.readouterr().err.endswith("; use range(...) or hydra/sweeper=optuna\n")


def test_without_optuna_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([*SEARCH, "seed=1,2"]) == 2
    expected = 'hydra/sweeper: optuna is not installed, got optuna; pip install "regrun[optuna]"'
    assert capsys.readouterr().err == f"regrun: {expected}\n" and list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "axes",
    [
        ["reg=[],[dropout],[batchnorm,l2]", "optimizer=adam,sgd,momentum", "reg.dropout.rate=0.1,0.3", "seed=0,1"],
        ["model=shallow,cnn,residual", "model.width=8,16", "scheduler=constant,step", "optimizer.lr=0.1,1"],
        ["experiment=smoke,lecture_batch_64", "model=deep,shallow", "model.width=8,16", "trainer.epochs=1,3"],
        ["seed=0,1", "optimizer=adam,adamw", "reg.weight_decay.value=null,0.1"],
    ],
)
def test_every_point_is_what_hydra_composes(axes: list[str]) -> None:
    found = made(*axes)
    names = [axis.name for axis in found.space]
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*(a.ends() for a in found.space))]
    searched = [config._resolved(found.tree(point), []) for point in points]
    assert len(points) > 7 and searched == [job.settings for job in config.jobs(axes, multirun=True)]


def test_a_choice_that_others_follow_takes_them_along() -> None:
    found = made("seed=3,4", "seeds.init=${seed}")
    for seed in ("3", "4"):
        settings = config._resolved(found.tree({"seed": seed}), [])
        assert settings is not None and (settings.seed, settings.seeds.init) == (int(seed), int(seed))


def test_choices_that_change_the_same_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^experiment: changes optimizer.lr as optimizer does, got both; search ove"):
        made("experiment=smoke,lecture_batch_64", "optimizer=adam,sgd")


def test_the_folder_holds_the_space_and_no_password() -> None:
    found = made(LR, "reg=[],[dropout]", "model.depth=range(1,5)", *options(storage="postgresql://me:secret@host/db"))
    text = found.text()
    assert "secret" not in text
    again = space.read(json.loads(text))
    assert (again.base, again.space) == (found.base, found.space) and again.options.storage == "elsewhere"


def points(found: space.Search, past: list[optuna.trial.FrozenTrial]) -> list[space.Point]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asktell._ask(found, "minimize", past)


def told(found: space.Search, asked: list[space.Point], first: int = 0) -> list[optuna.trial.FrozenTrial]:
    """Complete trials of a function with its optimum inside of the space."""
    values = [(math.log10(p["optimizer.lr"]) + 2) ** 2 + p.get("reg.dropout.rate", 0) for p in asked]
    pairs = enumerate(zip(asked, values, strict=True), start=first)
    return [asktell.ended(number, p, found.space, {}, "COMPLETE", value) for number, (p, value) in pairs]


@functools.cache
def _plane() -> space.Search:
    return made(LR, "reg.dropout.rate=interval(0,0.5)", "model.width=8,16")


def plane(**values: object) -> space.Search:
    """A search over a learning rate, a drop rate and two widths."""
    return replace(_plane(), options=replace(_plane().options, **values))


def test_sobol_is_optunas_own_sequence() -> None:
    found = plane(sampler="sobol", n_trials=64)
    asked = points(found, [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=asktell._sampler(found.options, 0))
    distributions = asktell.distributions(found.space)

    def objective(trial: optuna.Trial) -> float:
        return sum(hash(trial._suggest(name, d)) for name, d in distributions.items()) % 7

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(objective, n_trials=64)
    assert asked == [trial.params for trial in study.trials]
    unit = [[(math.log10(p["optimizer.lr"]) + 5) / 5, 2 * p["reg.dropout.rate"]] for p in asked]
    assert qmc.discrepancy(np.array(unit)) < 0.2 * qmc.discrepancy(np.random.default_rng(0).random((64, 2)))


def searched(past: list[optuna.trial.FrozenTrial], **values: object) -> list[optuna.trial.FrozenTrial]:
    """All trials of a search, after those of `past`."""
    found = plane(**values)
    while len(past) < found.options.n_trials:
        past = past + told(found, points(found, past), len(past))
    return past


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["random", "sobol", "tpe", "gp"])
def test_a_longer_search_begins_with_the_trials_of_a_shorter_one(sampler: str) -> None:
    """Also where its last batch was cut short, and where a batch was told in part when the search was killed."""

    def found(n_trials: int, past: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
        return searched(past, n_trials=n_trials, sampler=sampler, batch_size=6, n_startup_trials=5)

    at_once = found(10, [])
    for again in (found(10, found(8, at_once[:6])), found(10, at_once[:7])):
        assert [trial.params for trial in again] == [trial.params for trial in at_once]
    assert len({json.dumps(trial.params) for trial in at_once}) == 10


@pytest.mark.parametrize(("sampler", "n_trials"), [("tpe", 48), ("gp", 24)])
def test_samplers_that_learn_end_near_the_optimum(sampler: str, n_trials: int) -> None:
    """Mean decades between the last batch and the optimum: over 5 decades 1.3 by chance, and random's 1.0 to 2.0."""
    last = searched([], n_trials=n_trials, sampler=sampler)[-8:]
    assert np.mean([abs(math.log10(trial.params["optimizer.lr"]) + 2) for trial in last]) < 0.8


def test_another_seed_gives_other_trials() -> None:
    for sampler in ("random", "sobol", "tpe"):
        one, other = (points(plane(sampler=sampler, seed=seed), []) for seed in (0, 1))
        assert not any(a == b for a, b in zip(one, other, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["random", "sobol", "tpe", "gp"])
def test_each_sampler_ends_in_the_good_decade_of_five(sampler: str) -> None:
    """Four epochs of this network reach a val loss of 0.23 to 0.26 with a learning rate in [0.01, 0.1], else 0.9."""
    table = run(LR, epochs=4, sampler=sampler, n_trials=14, batch_size=7, n_startup_trials=5)
    assert list(table.number) == list(range(14)) and set(table.state) == {"complete"}
    best = table.loc[table.value.idxmin()]
    assert 0.01 <= best["optimizer.lr"] <= 0.1 and best.value < 0.27
    summary = pd.read_csv("s/summary.csv", dtype={"run_id": str}).set_index("run_id")
    assert list(table.value) == list(summary.val_loss_best[table.run_id])


@pytest.mark.long
def test_the_same_seed_gives_the_same_trials_whatever_the_number_of_workers(capfd: pytest.CaptureFixture[str]) -> None:
    lines = [LR, "model.width=8,24", "trainer.early_stopping.monitor=val_accuracy"]
    values = {"sampler": "tpe", "n_trials": 8, "batch_size": 4, "n_startup_trials": 4, "pruner": "hyperband"}
    run(*lines, "sweep.workers=1", epochs=4, **values)
    run(*lines, "sweep.workers=2", "sweep.stack_size=1", into="t", epochs=4, **values)
    assert Path("t/trials.csv").read_bytes() == Path("s/trials.csv").read_bytes() and curves("t").equals(curves("s"))
    assert {"complete", "pruned"} == set(trials("t").state)
    assert trials("t").value.max() <= 1
    assert capfd.readouterr().err == ""


def medians_say(table: pd.DataFrame, rows: pd.DataFrame, number: int, batch: int) -> int | None:
    """After which epoch the median rule ends a trial: its best loss is above the median of earlier complete ones."""
    losses = {run: own.set_index("epoch").loss for run, own in rows[rows.split == "val"].groupby("run_id")}
    earlier = table[(table.number < number // batch * batch) & (table.state == "complete")]
    own = losses[table.run_id[number]]
    for epoch in sorted(own.index[own.index > 0]) if len(earlier) >= 4 else []:
        if own[(own.index > 0) & (own.index <= epoch)].min() > np.median([losses[r][epoch] for r in earlier.run_id]):
            return int(epoch)
    return None


def test_pruned_replicas_of_a_stack_have_the_rows_of_their_unpruned_runs_up_to_there() -> None:
    values = {"sampler": "random", "n_trials": 12, "batch_size": 6, "n_startup_trials": 4}
    pruned = run(LR, epochs=6, pruner="median", **values)
    whole = run(LR, into="t", epochs=6, **values)
    left, right = curves("s"), curves("t")
    rows = right.assign(epoch=right.epoch.astype(int), loss=right.loss.astype(float))
    ended = {n: medians_say(whole, rows, n, 6) for n in range(12)}
    assert list(pruned["optimizer.lr"]) == list(whole["optimizer.lr"]) and set(whole.state) == {"complete"}
    assert [state == "pruned" for state in pruned.state] == [ended[n] is not None and ended[n] < 6 for n in range(12)]
    assert 2 <= (pruned.state == "pruned").sum() <= 6
    for number, run_id in enumerate(pruned.run_id):
        last = ended[number] or 6
        expected = rows[(rows.run_id == run_id) & (rows.epoch <= last)].index
        pd.testing.assert_frame_equal(
            left[left.run_id == run_id].reset_index(drop=True), right.loc[expected].reset_index(drop=True)
        )
    summary = pd.read_csv("s/summary.csv", dtype={"run_id": str}).set_index("run_id")
    assert list(summary.stop_reason[pruned.run_id] == "pruned") == list(pruned.state == "pruned")
    stacks = [set(pd.read_csv(path).stop_reason) for path in Path("s/stacks").glob("*/summary.csv")]
    assert {"pruned", "max_epochs"} in stacks


def test_a_figure_that_is_not_finite_is_not_reported() -> None:
    rules = Rules("loss", "minimize", "median", n_startup_trials=0, epochs=3, study_name="x")
    past = [pruning._frozen("COMPLETE", 1.0, {"1": 1.0, "2": 1.0}, {})]
    trial = pruning.begin(rules, past, 4)
    assert trial.number == 4
    assert not any(pruning.has_no_promise(trial, e, v) for e, v in ((0, 9.0), (1, math.nan), (1, math.inf), (2, 0.5)))
    assert pruning.has_no_promise(pruning.begin(rules, past, 1), 1, 1.5)


def test_what_failed_or_diverged_is_told_as_failed_and_a_point_is_trained_once() -> None:
    """A hidden layer of a million units after another asks for terabytes."""
    lines = ["optimizer=sgd", "optimizer.lr=0.01,1e20", "model.depth=2", "model.width=8,1000000"]
    table = run(*lines, code=1, sampler="random", n_trials=16)
    complete = (table["model.width"] == 8) & (table["optimizer.lr"] == 0.01)
    assert list(table.state == "complete") == list(complete) and set(table.state) == {"complete", "fail"}
    assert table.value.notna().equals(complete) and table.value[complete].nunique() == 1
    found = [row for path in Path("s/stacks").glob("*/summary.csv") for row in pd.read_csv(path).status]
    assert sorted(found) == ["diverged", "ok", "oom", "oom"] and table.run_id.nunique() == 4
    again = run(*lines, code=1, sampler="random", n_trials=18)
    assert again[:16].equals(table) and len(list(Path("s/stacks").iterdir())) == len(found)


def test_settings_that_contradict_each_other_only_in_the_middle_are_a_failed_trial() -> None:
    """Dropped last batches leave nothing of ten examples in batches of 64; any two of the three are all right."""
    lines = ["data.drop_last=false,true", "data.train_size=200,10", "trainer.batch_size=8,64"]
    table = run(*lines, sampler="random", n_trials=24)
    contradict = table["data.drop_last"] & (table["data.train_size"] == 10) & (table["trainer.batch_size"] == 64)
    assert contradict.any() and list(table.run_id.isna()) == list(contradict)
    assert list(table.state == "fail") == list(contradict)
    study = optuna.load_study(study_name="regrun", storage="sqlite:///s/study.db")
    assert {t.user_attrs["error"].split(":")[0] for t in study.trials if t.state.name == "FAIL"} == {"data.drop_last"}


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_runs_that_go_on_from_a_checkpoint_are_pruned_as_if_they_had_not_stopped(pruner: str, tmp_path: Path) -> None:
    rules = Rules("loss", "minimize", pruner, n_startup_trials=1, epochs=9, study_name="regrun")
    rungs = {f"completed_rung_{rung}": 1.0 / 3**rung for rung in range(3)}
    past = [pruning._frozen("COMPLETE", 1.0, {str(e): 1.0 / e for e in range(1, 10)}, rungs) for _ in range(9)]
    ids = {f"run{number}": number for number in range(9, 18)}
    records.replace(tmp_path / pruning.FILE, pruning.text(rules, past, ids))
    losses = [[0.1 * (number - 8) * epoch / (epoch or 1) for number in ids.values()] for epoch in range(10)]
    epochs = [
        [CurveRow(run_id, epoch, epoch, "val", loss, None, None) for run_id, loss in zip(ids, own, strict=True)]
        for epoch, own in enumerate(losses)
    ]
    prune = pruning.of(tmp_path)
    whole = [prune(list(rows)) for rows in epochs]
    assert any(whole[:4]) and any(whole[4:])
    for stop in range(1, 10):
        (tmp_path / "curves.csv").unlink(missing_ok=True)
        before = [values(row) for rows in epochs[:stop] for row in rows]
        records.append(tmp_path / "curves.csv", columns(CurveRow), before, missing="")
        prune = pruning.of(tmp_path)
        assert [prune(list(rows)) for rows in epochs[stop:]] == whole[stop:]


KILLED = [LR, *options(sampler="tpe", n_trials=7, batch_size=4, n_startup_trials=4, pruner="median")]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="workers die with their parent")
def test_a_killed_search_resumes_to_exactly_its_trials() -> None:
    """Killed in its second batch, with some of its runs ended; the study, lost later, is told anew from the stacks."""
    lines = [*SEARCH, "trainer.epochs=15", "sweep.stack_size=1", "hydra.sweep.dir=s", *KILLED]
    assert main([*lines, "hydra.sweep.dir=whole"]) == 0
    with subprocess.Popen([sys.executable, "-m", "regrun", *lines]) as process:
        while len(list(Path("s/stacks").glob("*/summary.csv"))) < 5:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert list(trials("s").state).count("running") == 3
    assert main(["resume", "s"]) == 0
    assert trials("s").equals(trials("whole")) and len(trials("s")) == 7
    study = optuna.load_study(study_name="regrun", storage="sqlite:///s/study.db")
    assert [t.state.name.lower() for t in study.trials] == list(trials("s").state)
    assert all(t.intermediate_values for t in study.trials)
    stacks = list(Path("s/stacks").iterdir())
    Path("s/study.db").unlink()
    assert main(["resume", "s"]) == 0
    assert trials("s").equals(trials("whole")) and list(Path("s/stacks").iterdir()) == stacks


@pytest.mark.long
def test_a_finished_search_is_made_longer_by_resume_and_by_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {"sampler": "tpe", "batch_size": 4, "n_startup_trials": 3}
    whole = run(LR, epochs=1, n_trials=9, **lines)
    run(LR, into="t", epochs=1, n_trials=5, **lines)
    assert main(["resume", "t", "hydra.sweeper.n_trials=7"]) == 0
    assert trials("t").equals(whole[:7])
    run(LR, "sweep.workers=1", into="t", epochs=1, n_trials=9, **lines)
    assert trials("t").equals(whole)
    plan = pd.read_csv("t/plan.csv", dtype={"run_id": str})
    assert list(plan.run_id) == list(whole.run_id) == list(pd.read_csv("t/summary.csv", dtype=str).run_id)
    capsys.readouterr()
    assert main([*SEARCH, LR, "trainer.epochs=1", "hydra.sweep.dir=t", *options(seed=1, **lines)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("regrun: hydra.sweep.dir: has another search") and second.endswith("seed: 0; now 1")
    assert main(["resume", "t", "hydra.sweeper.seed=1"]) == 2
    assert main(["-m", *SMALL, "seed=1,2", "hydra.sweep.dir=t"]) == 2
    assert trials("t").equals(whole)


def test_a_study_may_be_kept_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"hydra.sweeper.storage='sqlite:///{folder}/all.db'"
    table = run(LR, url, epochs=1, sampler="random", n_trials=3, study_name="mine")
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{folder}/all.db")
    assert [t.value for t in study.trials] == list(table.value) and not Path("s/study.db").exists()
    assert "all.db" not in Path("s/search.json").read_text()
    assert main(["resume", "s"]) == 2
    assert "add hydra.sweeper.storage=URL" in capsys.readouterr().err
    assert main(["resume", "s", url, "hydra.sweeper.n_trials=4"]) == 0
    assert trials("s")[:3].equals(table) and len(trials("s")) == 4
    assert main([*SEARCH, "hydra.sweep.dir=t", url, *options(study_name="mine"), "seed=range(3)"]) == 2
    assert "hydra.sweeper.study_name: is another search's there" in capsys.readouterr().err
    assert not Path("t").exists()


@pytest.mark.long
def test_any_launcher_trains_and_prunes_the_same_trials() -> None:
    values = {"sampler": "sobol", "n_trials": 6, "batch_size": 3, "n_startup_trials": 2, "pruner": "median"}
    own = run(LR, epochs=3, **values)
    assert run(LR, "hydra/launcher=basic", into="t", epochs=3, **values).equals(own)
    assert set(own.state) == {"complete", "pruned"}


def test_a_dry_run_prints_the_search_and_creates_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [LR, "model.depth=range(1,5)", *options(sampler="gp", n_trials=30, pruner="median")]
    assert main([*SEARCH, *lines, "hydra.sweep.dir=s", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "30 trials in s, 0 done; gp, seed 0, 8 at once, pruned by median",
        "optimizer.lr: 1e-05 to 1.0, log",
        "model.depth: 1 to 4",
    ]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("axis", "value", "edge"),
    [
        (space.Range("optimizer.lr", 1e-4, 1e-1, None, True, False), 0.098, "upper"),
        (space.Range("optimizer.lr", 1e-4, 1e-1, None, True, False), 1.3e-4, "lower"),
        (space.Range("optimizer.lr", 1e-4, 1e-1, None, True, False), 0.06, None),
        (space.Range("optimizer.lr", 1e-4, 1e-1, None, False, False), 0.004, "lower"),
        (space.Range("model.depth", 1, 4, None, False, True), 4, "upper"),
        (space.Range("model.depth", 1, 4, None, False, True), 3, None),
        (space.Range("model.depth", 0, 4, None, False, True), 0, None),  # there is nothing below
        (space.Range("reg.dropout.rate", 0, 0.5, None, False, False), 0.01, None),
        (space.Range("reg.dropout.rate", 0.1, 0.5, 0.1, False, False), 0.1, "lower"),
        (space.Range("seed", 3, 3, None, False, True), 3, None),
        (space.Options("model.width", {"8": {}, "16": {}}), "16", None),
    ],
)
def test_a_best_value_within_a_twentieth_of_its_range_is_at_the_edge(
    axis: space.Axis, value: float, edge: str | None
) -> None:
    assert axis.edge(value) == edge


def test_a_best_trial_at_the_edge_of_the_space_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """The lower the better: the best of these learning rates would be 0.03."""
    lines = ["optimizer.lr=tag(log, interval(1e-5, 1e-3))", "trainer.progress=plain"]
    table = run(*lines, sampler="sobol", n_trials=16)
    best = table.loc[table.value.idxmin()]
    said = capsys.readouterr().out.splitlines()
    at = said.index("16 trials: 16 complete")
    assert said[at + 1] == f"best: trial {best.number}, run {best.run_id}, val_loss {best.value:.4g}"
    lr = float(best["optimizer.lr"])
    assert said[at + 2 : at + 4] == [
        f"  optimizer.lr={lr!r}",
        f"optimizer.lr: the best value {lr:.4g} lies at the upper edge of [1e-05, 0.001]; widen it",
    ]


@pytest.mark.parametrize("module", [asktell, batches, pruning, search, space])
def test_nothing_that_searches_names_the_test_set(module: object) -> None:
    assert "test_" not in Path(str(module.__file__)).read_text(encoding="utf-8")  # type: ignore[attr-defined]
