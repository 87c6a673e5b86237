"""What a person sees of a sweep: lines anywhere, a live table that fits its terminal, the effects at the end."""

import io
import math
import os
import re
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from regrun import collect, effectsview, sweepview
from regrun.cli import main

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UP = "\x1b[1A"
KEYS = ("model.widths", "reg.dropout.rate", "optimizer.lr", "seed")
FIGURES = [
    f"{name}_best_{part}"
    for name in ("val_accuracy", "val_loss", "test_accuracy", "test_loss")
    for part in ("mean", "low", "high")
]
Rows = list[dict[str, str]]


def planned(settings: int, seeds: int) -> Rows:
    """A plan in which three settings differ, one of them a list, each from some seeds."""
    values = [(f"[{i}, 10]", "0.25" if i % 2 else "0.0", f"0.{i:03}") for i in range(1, settings + 1)]
    rows = [dict(zip(KEYS, (*value, str(seed)), strict=True)) for value in values for seed in range(seeds)]
    return [{"run_id": f"{i:04}", "trainer.epochs": "10"} | row for i, row in enumerate(rows)]


def ended(planned: dict[str, str], accuracy: object = "none", error: str = "none", **facts: str) -> dict[str, str]:
    """The row of summary.csv of a planned run."""
    figures = {"val_accuracy_best": str(accuracy), "val_loss_best": "none", "error": error}
    return planned | figures | {"status": "ok", "stop_reason": "max_epochs", "last_epoch": "10"} | facts


def failed(planned: dict[str, str]) -> dict[str, str]:
    return ended(planned, error="RuntimeError: no [memory] for 1 TB", status="oom", last_epoch="none")


def effects(settings: int, **cells: str) -> Rows:
    """Rows of effects.csv, the best first."""
    facts = {"n": "3", "failed": "0", "diverged": "0"} | dict.fromkeys(FIGURES, "0.5") | cells
    return [{key: row[key] for key in KEYS[:-1]} | facts for row in planned(settings, 1)]


def show(view: sweepview.Silent, plan: Rows, *, pause: Callable[[], object] = lambda: None) -> None:
    """Let a view see a whole sweep in stacks of ten: each with a failure and a divergence."""
    stacks = [[row["run_id"] for row in plan[i : i + 10]] for i in range(0, len(plan), 10)]
    view.start(plan, [], stacks)
    view.note("warning: a word before")
    for number, stack in enumerate(stacks):
        view.look({Path("nowhere") / str(number): stack})
        for i, run in enumerate(stack):
            row, figure = plan[10 * number + i], 0.5 + int(run) / 10_000
            view.ended(failed(row) if i == 3 else ended(row, figure, status="diverged" if i == 4 else "ok"))
            pause()
    view.look({})
    view.close()
    view.finish(effects(len(plan) // 3), Path("out"))


def plain(plan: Rows) -> list[str]:
    stream = io.StringIO()
    show(sweepview.choose("plain", stream), plan)
    assert {c for c in stream.getvalue() if unicodedata.category(c).startswith("C")} == {"\n"}
    return stream.getvalue().splitlines()


def drawn(view: sweepview.LiveTable) -> str:
    """What the terminal gets for one frame, without its control codes."""
    stream = view.console.file
    start = stream.tell()
    view.show()
    stream.seek(start)
    return ANSI.sub("", stream.read()).replace("\r", "")


def started(plan: Rows, before: Rows = [], *, width: int = 100) -> sweepview.LiveTable:  # noqa: B006
    """A live table in a terminal of some width, all runs of the plan in one stack."""
    view = sweepview.LiveTable(Console(file=io.StringIO(), width=width, height=40, force_terminal=True))
    done = {row["run_id"] for row in before}
    view.start(plan, before, [[row["run_id"] for row in plan if row["run_id"] not in done]])
    return view


def test_a_small_sweep_has_a_line_for_each_run() -> None:
    lines = plain(planned(20, 3))
    assert lines[:2] == ["60 runs, 0 finished before; 6 stacks of up to 10", "warning: a word before"]
    settings = "'model.widths=[1,10]' reg.dropout.rate=0.25 optimizer.lr=0.001 seed=0"
    assert lines[2] == f"1/60  0000  ok  val accuracy 0.500  {settings}"
    assert lines[5].startswith("oom: run 0003 ") and lines[5].endswith(": RuntimeError: no [memory] for 1 TB")
    assert lines[6].startswith("5/60  0004  diverged  val accuracy 0.500  ")
    assert lines[61].startswith("60/60  0059  ok  ") and len([line for line in lines if line.startswith("oom")]) == 6


@pytest.mark.parametrize("figure", ["none", "nan", "inf"])
def test_a_run_without_a_figure_shows_none(figure: str) -> None:
    stream, plan = io.StringIO(), planned(2, 1)
    view = sweepview.choose("plain", stream)
    view.start(plan, [], [["0000", "0001"]])
    view.ended(ended(plan[1], figure, status="diverged"))
    settings = "'model.widths=[2,10]' reg.dropout.rate=0.0 optimizer.lr=0.002"
    assert stream.getvalue().splitlines()[1] == f"1/2  0001  diverged  {settings}"


def test_a_large_sweep_that_is_fast_tells_its_failures_alone() -> None:
    lines = plain(planned(34, 3))
    assert [line.split(":")[0] for line in lines[2:13]] == ["oom"] * 10 + [lines[12]]
    assert lines[12].split()[:3] == list(KEYS[:-1])


def test_a_large_sweep_has_a_line_for_a_percent_of_its_work_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there can be: with no time between two of them, and a look after each run."""
    monkeypatch.setattr(sweepview, "GAP", 0.0)
    monkeypatch.setattr(sweepview, "PAUSE", 0.0)
    monkeypatch.setattr(sweepview, "SHARE", math.inf)
    stream, plan = io.StringIO(), planned(1000, 1)
    view = sweepview.choose("plain", stream)
    view.start(plan, [], [[row["run_id"]] for row in plan])
    for row in plan:
        view.ended(ended(row, 0.5))
        view.look({})
    lines = stream.getvalue().splitlines()[1:]
    assert [line.split(" %: ")[0] for line in lines] == [str(i) for i in range(1, 101)]
    assert lines[49].startswith("50 %: 500/1000 done, 0 running, ") and lines[49].endswith(", best val accuracy 0.500")


def test_failures_beyond_twenty_are_only_counted() -> None:
    stream, plan = io.StringIO(), planned(50, 1)
    view = sweepview.choose("plain", stream)
    view.start(plan, [], [[row["run_id"] for row in plan]])
    for row in plan:
        view.ended(failed(row))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 20 + 1 and lines[-1] == "more failures are only counted; summary.csv has all"


def test_silence_says_nothing() -> None:
    stream = io.StringIO()
    show(sweepview.choose("none", stream), planned(4, 3))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("width", [30, 40, 60, 100, 200])
def test_the_live_table_fits_its_terminal(width: int) -> None:
    plan = planned(20, 3)
    view = started(plan, width=width)
    for i, row in enumerate(plan):
        view.ended(failed(row) if i == 3 else ended(row, 0.5 + i / 100))
        frame = drawn(view)
        assert max(map(cell_len, frame.splitlines())) <= width
        words = " ".join(frame.split())
        assert f" {100 * (i + 1) / 60:.0f} % {i + 1}/60 done, 0 running" in words and (", 1 oom" in words) == (i >= 3)
    assert "best val accuracy so far: 1.080 n = 3 'model.widths=[20,10]' reg.dropout.rate=0.0 optim" in words


@pytest.mark.parametrize("width", [40, 120])
def test_a_terminal_without_utf8_gets_ascii(width: int) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    view = sweepview.LiveTable(Console(file=stream, width=width, force_terminal=True))
    show(view, planned(20, 3), pause=view.show)
    stream.flush()
    assert b"60/60 done" in stream.buffer.getvalue()


def test_the_live_table_shows_the_five_best_and_not_what_failed() -> None:
    plan = planned(8, 1)
    view = started(plan)
    for i, row in enumerate(plan):
        view.ended(failed(row) if i == 7 else ended(row, 0.9 - i / 100))
    best = re.findall(r"(\d\.\d{3})  n = (\d)  '(.*?)'", drawn(view))
    assert best == [(f"0.{90 - i}0", "1", f"model.widths=[{i + 1},10]") for i in range(5)]


def test_losses_are_shown_where_there_is_no_accuracy() -> None:
    plan = planned(2, 1)
    view = started(plan)
    view.ended(ended(plan[0], val_loss_best="0.5"))
    view.ended(ended(plan[1], val_loss_best="0.25"))
    assert "best val loss so far:\n0.250  n = 1" in drawn(view)


def test_runs_that_were_finished_before_count() -> None:
    plan = planned(2, 2)
    view = started(plan, [ended(plan[0], 0.75)])
    assert view.console.file.getvalue().startswith("4 runs, 1 finished before; 1 stacks of up to 3\n")
    frame = drawn(view)
    assert "25 %\n1/4 done, 0 running\n" in frame
    assert "0.750  n = 1  'model.widths=[1,10]' reg.dropout.rate=0.25 optimizer.lr=0.001" in frame


def test_no_thread_draws_while_workers_are_forked() -> None:
    threads = threading.active_count()
    view = started(planned(1, 1))
    assert view.live.is_started and threading.active_count() == threads
    view.close()
    assert not view.live.is_started


def test_a_frame_that_a_narrower_terminal_has_wrapped_is_erased_whole() -> None:
    """The bar and the best setting, 45 and 88 columns wide, take five rows of 30, the three lines between one each."""
    plan = planned(2, 1)
    view = started(plan, [ended(plan[0], 0.75)])
    assert [cell_len(line) for line in drawn(view).splitlines()] == [45, 19, 22, 25, 76]
    view.console.width = 30
    start = view.console.file.tell()
    view.note("word")
    assert view.console.file.getvalue()[start:].partition("word")[0].count(UP) == (2 + 1 + 1 + 1 + 3) - 1


def test_the_view_goes_on_when_nobody_reads_it() -> None:
    for progress in ("plain", "rich"):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            show(sweepview.choose(progress, stream), planned(4, 3))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "term", "kind"),
    [
        ("auto", Terminal, "xterm", sweepview.LiveTable),
        ("auto", Terminal, "dumb", sweepview.Plain),
        ("auto", io.StringIO, "xterm", sweepview.Plain),
        ("rich", io.StringIO, "xterm", sweepview.LiveTable),
        ("plain", Terminal, "xterm", sweepview.Plain),
        ("none", Terminal, "xterm", sweepview.Silent),
    ],
)
def test_the_view_suits_the_stream(
    progress: str, stream: type[io.StringIO], term: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", term)
    assert type(sweepview.choose(progress, stream())) is kind


def test_the_effects_as_text_are_never_wrapped_or_cut() -> None:
    rows = effects(30)
    lines = effectsview.lines([row | {"model.widths": str([128] * 100)} for row in rows], Path("out"))
    assert len({len(line) for line in lines[:21]}) == 1 and len(lines[0]) > 500
    assert lines[0].endswith("  test accuracy") and lines[1].endswith("  0.500 [0.500, 0.500]")
    assert lines[21] == "and 10 more settings in effects.csv"


@pytest.mark.parametrize("width", [30, 40, 60, 100, 200])
def test_the_effects_fit_the_terminal(width: int) -> None:
    stream, rows = io.StringIO(), effects(30)
    effectsview.tell(rows, Path("out"), Console(file=stream, width=width))
    text, _, _ = stream.getvalue().partition("and ")
    assert max(map(len, text.splitlines())) <= width
    is_table, settings = width >= 100, " ".join(text.split())
    assert ("0.003" in settings, "'model.widths=[3,10]'" in settings) == (True, not is_table)
    assert settings.count("0.500 [0.500, 0.500]") == 2 * (20 if is_table else 6)


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ({}, "val accuracy 0.500 [0.500, 0.500], n = 3"),
        ({"failed": "1"}, "val accuracy 0.500 [0.500, 0.500], n = 2"),
        ({"n": "1", "val_accuracy_best_low": "none", "val_accuracy_best_high": "none"}, "val accuracy 0.500, n = 1"),
        ({"val_accuracy_best_mean": "none"}, "val loss 0.500 [0.500, 0.500], n = 3"),
    ],
)
def test_the_best_setting_is_a_line_to_copy(cells: dict[str, str], line: str) -> None:
    (best,) = (line for line in effectsview.lines(effects(2, **cells), Path("out")) if line.startswith("best: "))
    assert best == f"best: 'model.widths=[1,10]' reg.dropout.rate=0.25 optimizer.lr=0.001  {line}"


def test_means_of_other_seeds_are_told() -> None:
    """A setting that lost a run, beside one that lost none; one that lost all has no mean."""
    rows = effects(3)
    line = "means are of 2 to 3 runs, not all of the same seeds; regrun compare pairs them"
    assert line not in effectsview.lines([rows[0], rows[1] | {"failed": "3"}], Path("out"))
    assert line in effectsview.lines([rows[0], rows[1] | {"failed": "1"}], Path("out"))


def test_where_every_run_failed_there_is_no_best() -> None:
    nothing = {"n": "2", "failed": "2"} | dict.fromkeys(FIGURES, "none")
    lines = effectsview.lines(effects(2, **nothing), Path("out"))
    assert [line.split(":")[0] for line in lines[-2:]] == ["folder", "  summary.csv"] and "best" not in " ".join(lines)


SWEEP = ["-m", "model=shallow", "model.width=8", "trainer.epochs=2", "trainer.progress=plain", "hydra.sweep.dir=s"]


def test_a_sweep_ends_with_its_effects_its_best_setting_and_its_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SWEEP, "optimizer.lr=1e-6,0.1", "seed=1,2"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0] == "4 runs, 0 finished before; 2 stacks of up to 2"
    assert sorted(line.split("  ")[-1] for line in lines[1:5]) == [
        *(
            "optimizer.lr=0.1 seed=1",
            "optimizer.lr=0.1 seed=2",
            "optimizer.lr=1e-06 seed=1",
            "optimizer.lr=1e-06 seed=2",
        )
    ]
    assert [line.split()[0] for line in lines[5:8]] == ["optimizer.lr", "0.1", "1e-06"]
    assert lines[8].startswith("best: optimizer.lr=0.1  val accuracy ") and lines[9] == "folder: s"


def test_a_sweep_that_ends_early_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["model.depth=3", "model.width=8,1000000", "seed=1,2", "sweep.workers=1", "sweep.fail_fast=true"]
    assert main([*SWEEP, *lines]) == 1
    out, err = capsys.readouterr()
    last = out.splitlines()[-1]
    assert last == "ended early, 2 of 4 runs are kept; to go on: regrun resume s"
    assert err.startswith("regrun: oom: run ") and "model.width=1000000 seed=1\n" in err
    assert main([*last.split("regrun ")[1].split(), "sweep.fail_fast=false"]) == 1
    assert capsys.readouterr().out.startswith("4 runs, 2 finished before; 2 stacks of up to 1\n")


def test_the_last_epoch_is_read_from_the_tables_end(tmp_path: Path) -> None:
    table = tmp_path / "epochs.csv"
    assert collect.last_epoch(tmp_path) == 0
    for text, epoch in [("", 0), ("run_id,epoch,step\n", 0), ("a,1,9\nb,1,9\n", 1), ("a,2,18\nb,2", 2)]:
        with table.open("a") as file:
            file.write(text)
        assert collect.last_epoch(tmp_path) == epoch
    with table.open("a") as file:
        file.write(
            ",18\n"
            + "".join(
                f"{i:010},{epoch},123456,{'0.12345678901234567,' * 8}\n" for epoch in range(3, 300) for i in range(9)
            )
        )
    assert collect.last_epoch(tmp_path) == 299
