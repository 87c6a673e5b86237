"""A sweep: one plan, stacks in worker processes, nothing lost, one set of tables."""

import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import ttest_1samp

import regrun
from regrun import config, effects, plan, prepare, records, stacking, sweep
from regrun.cli import main
from regrun.engines import work
from regrun.errors import RunFailed

SMALL = ["model=shallow", "model.width=24", "trainer.progress=none", "trainer.epochs=3", "hydra.sweep.dir=s"]
GRID = ["-m", *SMALL, "reg=none,dropout", "optimizer.lr=0.001,0.01", "seed=range(3)"]
LONG = ["-m", *SMALL, "trainer.epochs=150", "trainer.early_stopping.patience=null", "seed=range(8)"]
TIMED = ["seconds", "examples_per_second", "peak_memory_bytes"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(folder: str, name: str, run: str | None = None) -> pd.DataFrame:
    """A table's cells as text, without what time changes; of one run, if it is named."""
    cells = pd.read_csv(f"{folder}/{name}.csv", dtype=str).drop(columns=TIMED, errors="ignore")
    return (cells if run is None else cells[cells.run_id == run]).reset_index(drop=True)


NAMES = ("curves", "epochs", "layers", "summary")


def test_every_row_of_a_sweep_is_that_of_its_single_run() -> None:
    assert main(GRID) == 0
    jobs = config.jobs(GRID[1:], multirun=True)
    for number in (0, 5, 11):
        run, path = jobs[number].settings, f"single{number}"
        line = [f"reg.dropout.rate={run.reg.dropout.rate}", f"optimizer.lr={run.optimizer.lr}", f"seed={run.seed}"]
        assert main([*SMALL[:-1], *line, f"hydra.run.dir={path}"]) == 0
        for name in NAMES:
            pd.testing.assert_frame_equal(table("s", name, prepare.run_id(run)), table(path, name))


def test_the_plan_is_written_first_and_holds_every_run() -> None:
    assert main(GRID) == 0
    plan = pd.read_csv("s/plan.csv", dtype={"run_id": str})
    assert list(plan.run_id) == list(regrun.read("s").summary.run_id)
    assert plan.run_id.is_unique and len(plan) == 12
    assert Path("s/plan.csv").stat().st_mtime_ns <= min(p.stat().st_mtime_ns for p in Path("s/stacks").glob("*/*.csv"))


def test_a_dry_run_prints_the_plan_and_creates_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main([*GRID, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 runs in s, 0 finished"
    assert sum(int(line.split(":")[0].split()[-1]) for line in lines[1:-1]) == 12
    assert list(folder.iterdir()) == []


def test_the_same_command_trains_what_is_missing_and_nothing_else() -> None:
    assert main(GRID) == 0
    before = {name: table("s", name) for name in NAMES}
    victim = sorted(Path("s/stacks").iterdir())[0]
    for file in victim.iterdir():
        file.unlink()
    kept = {path: path.stat().st_mtime_ns for path in Path("s/stacks").glob("*/*.csv")}
    assert main(GRID) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    for name in NAMES:
        pd.testing.assert_frame_equal(before[name], table("s", name))


def test_how_a_sweep_is_trained_cannot_be_swept_over(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["-m", *SMALL, "sweep.workers=1,2"]) == 2
    assert capsys.readouterr().err.startswith("regrun: sweep: is the same for all runs")
    assert list(folder.iterdir()) == []


def test_a_dry_run_without_a_sweep_is_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["--dry-run", "experiment=smoke"]) == 2
    assert capsys.readouterr().err.startswith("regrun: --dry-run: ") and list(folder.iterdir()) == []


def test_a_sweep_has_no_single_configuration_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "--cfg", "job", "seed=1,2"]) == 2
    assert capsys.readouterr().err.startswith("regrun: --cfg: shows the configuration of one run, got -m, too")


def test_another_plan_in_an_old_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GRID) == 0
    capsys.readouterr()
    assert main([*GRID[:-1], "seed=range(2,5)"]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert "8 of its 12 runs are not in this command's, 8 are new" in first
    assert rest[0] == "regrun:   seed: 0, 1, 2; now 2, 3, 4" and all("0, 1, 2; now 2, 3, 4" in line for line in rest)


def test_the_plan_gives_the_runs_back() -> None:
    lines = ["model=shallow,cnn", "reg=none,[dropout,l1]", "seed=0,1", "data.normalize=none", "hydra.sweep.dir=s"]
    lines += ["model.widths=null,[3,4]", "trainer.early_stopping.patience=null", "optimizer.betas=[0.1,1e-5]"]
    jobs = config.jobs(lines, multirun=True)
    assert main(["-m", *lines, "trainer.epochs=0", "trainer.progress=none"]) == 0
    read = plan.read(Path("s"), Path("s"))
    assert [replace(j.settings, trainer=None) for j in read] == [replace(j.settings, trainer=None) for j in jobs]
    assert [j.folder for j in read] == [Path(f"s/{i}") for i in range(16)]


def test_resume_trains_what_is_missing_by_the_folder_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GRID, "sweep.stack_size=2"]) == 0
    before = {name: table("s", name) for name in NAMES}
    for victim in sorted(Path("s/stacks").iterdir())[:2]:
        (victim / "summary.csv").unlink()
    capsys.readouterr()
    assert main(["resume", "s", "sweep.workers=1"]) == 0
    for name in NAMES:
        pd.testing.assert_frame_equal(before[name], table("s", name))
    new = sorted(Path("s/stacks").iterdir())[6:]
    assert [len(plan.rows(folder)) for folder in new] == [2, 2]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resume"], 2, "resume: must be followed by the folder of a run or a sweep, got nothing"),
        (["resume", "nowhere"], 2, "resume: must be followed by the folder of a run or a sweep, got 'nowhere'"),
        (["resume", "."], 3, "has no plan.csv"),
        (["resume", "s", "seed=4"], 2, "resume: a sweep keeps its plan, got 'seed=4'"),
        (["resume", "s", "sweep.workers=0"], 2, "sweep.workers: must be"),
        (["collect"], 2, "collect: must be followed by the folder"),
        (["collect", "."], 3, "has no plan.csv"),
        (["collect", "s", "t"], 2, "collect: takes one folder"),
        (["colect", "s"], 2, "'colect': no such command"),
    ],
)
def test_mistaken_verbs_are_one_line(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *SMALL, "trainer.epochs=0", "seed=0,1"]) == 0
    capsys.readouterr()
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_damaged_plan_is_refused_with_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *SMALL, "trainer.epochs=0", "seed=0,1"]) == 0
    path = Path("s/plan.csv")
    path.write_text(path.read_text().replace(",shallow,", ",x,").replace(",mlp,", ",perceptron,", 1))
    capsys.readouterr()
    assert main(["resume", "s"]) == 3
    assert capsys.readouterr().err.startswith("regrun: s/plan.csv: line 2: model.kind: no such kind, got 'perceptron'")


def test_collect_writes_every_table_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GRID) == 0
    files = ("summary.csv", "curves.csv", "epochs.csv", "layers.csv", "effects.csv")
    before = {name: Path(f"s/{name}").read_bytes() for name in files}
    for name in files:
        Path(f"s/{name}").unlink()
    capsys.readouterr()
    assert main(["collect", "s"]) == 0
    assert capsys.readouterr().out == "12 runs collected in s\n"
    assert before == {name: Path(f"s/{name}").read_bytes() for name in files}


def test_tables_are_kept_current_in_at_most_a_hundredth_of_the_time() -> None:
    called: list[float] = []
    late, early = sweep.Refresh(time.monotonic() - 60), sweep.Refresh(time.monotonic() - 40)
    for refresh in (late, early):
        refresh(lambda: called.append(time.monotonic()))
    assert len(called) == 1
    slow = sweep.Refresh(time.monotonic() - 60)
    for _ in range(2):  # 0.4 s spent, and as much to come, would be more than a hundredth of 60 s
        slow(lambda: time.sleep(0.4))
    assert 0.4 <= slow.spent < 0.8


def test_a_lock_of_another_host_is_never_taken_over(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["-m", *SMALL, "trainer.epochs=0", "seed=0,1"]
    assert main(line) == 0
    assert not Path("s/lock").exists()
    Path("s/lock").write_text("process 7 on elsewhere.example\n")
    capsys.readouterr()
    assert main(line) == 2
    assert "was left in use by process 7 on elsewhere.example" in capsys.readouterr().err
    Path("s/lock").write_text(f"process 7 on {socket.gethostname()}\n")
    assert main(line) == 0


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """A sweep of eight long runs in a process of its own, one of whose workers is at work."""
    command = [sys.executable, "-m", "regrun", *LONG]
    hear_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where a shell started us deaf to it
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c) as started:
        wait_for_workers()
        yield started
        started.kill()


def workers() -> list[int]:
    """The processes that have taken up a stack."""
    logs = "".join(log.read_text() for log in Path("s").glob("stacks/*/run.log"))
    return [int(number) for number in re.findall(r"begun by process (\d+)", logs)]


def is_alive(process: int) -> bool:
    """Whether it runs; one that nobody has reaped yet does not."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for_workers() -> None:
    deadline = time.monotonic() + 30
    while not workers():
        assert time.monotonic() < deadline, "no worker was started"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_costs_nothing(process: "subprocess.Popen[bytes]") -> None:
    os.kill(workers()[-1], signal.SIGKILL)
    assert process.wait(60) == 0
    summary = regrun.read("s").summary
    assert len(summary) == 8 and set(summary.status) == {"ok"}
    assert regrun.read("s").curves.groupby("run_id").size().eq(2 * 151).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_sweep_leaves_no_process_and_is_finished_by_the_same_command(
    process: "subprocess.Popen[bytes]",
) -> None:
    begun = workers()
    process.kill()
    process.wait()
    time.sleep(1)
    assert not any(is_alive(worker) for worker in begun)
    assert main(LONG) == 0
    assert len(regrun.read("s").summary) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_keeps_what_is_finished(process: "subprocess.Popen[bytes]", number: int, code: int) -> None:
    process.send_signal(number)
    assert process.wait(30) == code
    assert process.stderr is not None and process.stderr.read() == b""
    assert main(LONG) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_second_command_in_the_folder_is_refused_and_names_the_first(
    process: "subprocess.Popen[bytes]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(LONG) == 2
    error = capsys.readouterr().err
    assert f"in use by process {process.pid}" in error and len(error.splitlines()) == 1
    assert process.wait(60) == 0


def test_a_run_that_takes_too_long_is_a_row_and_the_others_finish() -> None:
    lines = ["-m", *SMALL, "trainer.early_stopping.patience=null", "sweep.run_timeout=2"]
    assert main([*lines, "trainer.epochs=1,2,1000000", "seed=0,1"]) == 1
    summary = regrun.read("s").summary
    assert list(summary.status) == ["ok"] * 4 + ["failed"] * 2
    assert summary.error[4:].str.contains("sweep.run_timeout=2").all()


def test_a_run_that_exits_is_a_row_with_its_reason() -> None:
    """SystemExit ends a worker as any other exception does: its stack's folder says why."""
    folder = Path("s/stacks/00000")
    records.claim(folder)
    work.train(folder, partial(sys.exit, 3))
    assert work.failure(folder) == ("failed", "SystemExit: 3")
    with pytest.raises(RunFailed, match="trained in before"):
        work.train(folder, list)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_stack_that_runs_out_of_memory_is_halved_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Four replicas of 36 MB, each seven times over, do not fit where two do."""
    line = ["-m", "model=shallow", "model.widths=[3000,3000]", "trainer.epochs=1", "trainer.limit_batches=1"]
    (used,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(used) * 1024 + (800 << 20), before[1]))
    try:
        assert main([*line, "seed=range(4)", "sweep.workers=1", "sweep.stack_size=4", "hydra.sweep.dir=s"]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert "a stack of 4 ended early: out of memory; again as 2 and 2" in capsys.readouterr().out
    assert set(regrun.read("s").summary.status) == {"ok"}


def test_failures_are_told_in_three_lines_each(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["-m", *SMALL, "trainer.epochs=1", "model.width=8,1000000", "model.depth=3", "seed=range(3)"]
    assert main(line) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [text.split(" run ")[0] for text in lines[::3]] == ["regrun: oom:"] * 3 and len(lines) == 9
    assert lines[0].endswith(" model.width=1000000 seed=0") and "memory" in lines[1]


def test_a_sweep_in_which_every_run_failed_has_its_tables() -> None:
    """Layers of a million units ask for terabytes, which are refused."""
    assert main(["-m", *SMALL, "trainer.progress=plain", "model.width=1000000", "model.depth=3", "seed=0,1"]) == 1
    assert list(regrun.read("s").summary.status) == ["oom", "oom"]
    assert list(pd.read_csv("s/effects.csv").failed) == [2]


def test_divergence_is_a_result() -> None:
    assert main(["-m", *SMALL, "optimizer=sgd", "optimizer.lr=0.01,1e20"]) == 0
    assert list(regrun.read("s").summary.status) == ["ok", "diverged"]


def test_weights_are_kept_only_when_asked_in_a_folder_of_their_own() -> None:
    assert main(["-m", *SMALL, "seed=0,1", "trainer.save=best"]) == 0
    summary = regrun.read("s").summary
    assert [len(list(Path(f"s/{i}").glob("*.pt"))) for i in range(2)] == [1, 1]
    assert sum(p.numel() for p in regrun.load("s/1").parameters()) == summary.num_parameters[1]


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("model.width=24", 32),
        ("model=wide model.width=10000", 1),
        ("model=cnn", 1),
        ("model=resnet", 1),
        ("sweep.stack_size=5", 5),
    ],
)
def test_stacks_fit_the_cache(line: str, size: int) -> None:
    (run,) = prepare.prepare(config.jobs(["model=shallow", *line.split()], multirun=False))
    assert stacking.stack_size(run) == size


def test_a_gpu_elsewhere_takes_the_largest_stack_and_counts_what_a_replica_needs() -> None:
    lines = ["model=shallow", "model.width=1000", "trainer.device=cuda"]
    (run,) = prepare.prepare(config.jobs(lines, multirun=False), there={"cuda": True, "mps": False, "cpu": True})
    parameters = 64 * 1000 + 1000 + 1000 * 10 + 10
    assert stacking.parameter_bytes(run) == 4 * parameters
    assert stacking.replica_bytes(run) > 6 * 4 * parameters + 4 * 1024 * (64 + 1000)
    assert stacking.stack_size(run) == 1024 or stacking.free_gpu_bytes() is not None


def test_stacks_hold_one_structure_and_keep_every_worker_busy() -> None:
    line = ["model=shallow", "trainer.epochs=1,2", "seed=range(7)", "sweep.workers=3", "sweep.stack_size=4"]
    stacks = stacking.stacks(prepare.prepare(config.jobs(line, multirun=True)), workers=3)
    assert sorted(len(stack) for stack in stacks) == [2, 2, 2, 2, 3, 3]
    assert all(len({p.job.settings.trainer.epochs for p in stack}) == 1 for stack in stacks)


def test_effects_are_means_with_t_intervals_over_seeds() -> None:
    assert main(GRID) == 0
    table, summary = pd.read_csv("s/effects.csv"), regrun.read("s").summary
    assert list(table.columns[:3]) == ["reg.dropout.rate", "optimizer.lr", "n"] and list(table.n) == [3] * 4
    for _, row in table.iterrows():
        same = (summary["reg.dropout.rate"] == row.iloc[0]) & (summary["optimizer.lr"] == row.iloc[1])
        values = summary[same].test_accuracy_best
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        assert row.test_accuracy_best_mean == pytest.approx(values.mean())
        assert row.test_accuracy_best_sd == pytest.approx(values.std(ddof=1))
        assert (row.test_accuracy_best_low, row.test_accuracy_best_high) == pytest.approx(tuple(interval))


def test_effects_have_a_column_for_what_varies_in_the_plan_whatever_has_ended() -> None:
    assert main([*GRID, "sweep.stack_size=3"]) == 0
    for folder in sorted(Path("s/stacks").iterdir())[1:]:
        (folder / "summary.csv").unlink()
    assert main(["collect", "s"]) == 0
    table = pd.read_csv("s/effects.csv", dtype=str)
    assert list(table.columns[:3]) == ["reg.dropout.rate", "optimizer.lr", "n"]
    assert table.iloc[0, :3].tolist() == ["0.0", "0.001", "3"] and len(table) == 1


def test_effects_are_in_the_order_of_accuracy_then_of_loss() -> None:
    rows = {"optimizer.lr": ["1", "2", "3", "4"], "status": ["ok"] * 4} | dict.fromkeys(effects.MEASURES, [0.0] * 4)
    figures = {"val_accuracy_best": [0.5, 0.9, 0.9, None], "val_loss_best": [0.1, 0.3, 0.2, 0.1]}
    assert list(effects.effects(pd.DataFrame(rows | figures), ["optimizer.lr"])["optimizer.lr"]) == ["3", "2", "1", "4"]


def test_one_run_has_no_interval() -> None:
    one = effects._interval([0.5])
    assert one["mean"] == 0.5 and all(math.isnan(one[part]) for part in ("sd", "low", "high"))
    assert math.isclose(effects._interval([1.0, 3.0])["sd"], math.sqrt(2))
