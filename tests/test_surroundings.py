"""Whatever is around a command: nobody reads it, another runs beside it, its folder goes, clocks jump, homes shut."""

import ast
import contextlib
import importlib.util
import locale
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import races
import torch
from conftest import Refused, Said

import regrun
from regrun import foreign
from regrun.cli import main
from regrun.errors import DataError

SMALL = ["experiment=smoke", "trainer.epochs=2", "trainer.progress=none", "model.width=16"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("swept") / "sweep"
    seeds = ["seeds.init=0,1,2", "seeds.split=0", "trainer.save=predictions", "trainer.early_stopping.patience=null"]
    assert main(["-m", *SMALL, *seeds, "reg=none,dropout", f"hydra.sweep.dir={root}"]) == 0
    return root


@pytest.fixture
def sweep(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a sweep, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(swept, "sweep")
    return Path("sweep")


# Nobody reads


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads from."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    with contextlib.suppress(OSError):
        os.close(writing)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "--help",
            "--version",
            "--cfg job",
            "-sc install=bash",
            "demo",
            "demo chain",
            "-m --dry-run seed=1,2",
        ),
        *(
            "report sweep --terminal",
            "report sweep",
            "compare sweep",
            "stopping sweep",
            "ensemble sweep",
            "ledger sweep",
        ),
        "experiment=smoke trainer.epochs=2 trainer.progress=plain hydra.run.dir=run",
        *("collect sweep", "check sweep --against sweep", "variance sweep", "resume sweep"),
        *(["track sweep tensorboard"] if importlib.util.find_spec("tensorboard") else []),
    ],
)
def test_what_nobody_reads_ends_quietly(
    command: str, sweep: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with closed_pipe() as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", os.fdopen(pipe, "w", closefd=False))
        patch.setattr(sys, "argv", ["regrun"])
        try:
            code = main(command.split())
        except SystemExit as ended:  # Hydra's own
            code = ended.code or 0
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.close()
    assert (code, capfd.readouterr().err) == (0, "")
    if "hydra.run.dir" in command:
        assert regrun.read("run").epochs["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("command", "tables"),
    [
        ("-m seed=1,2 hydra.sweep.dir=sweep", ["sweep"]),
        ("--version", []),
        ("model=depp", []),
    ],
)
def test_a_command_that_nobody_reads_trains_to_its_end(command: str, tables: list[str], tmp_path: Path) -> None:
    """The process of the command itself, with nobody on both streams."""
    words = [sys.executable, "-m", "regrun", *SMALL, "trainer.progress=plain", *command.split()]
    with closed_pipe() as pipe:
        done = subprocess.run(words, cwd=tmp_path, stdout=pipe, stderr=pipe, check=False)
    assert done.returncode == (2 if "depp" in command else 0)
    for name in tables:
        assert set(regrun.read(tmp_path / name).summary["status"]) == {"ok"}


def test_a_command_without_a_standard_output_works(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m regrun demo chain >&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# Another runs beside it


@pytest.mark.parametrize("words", races.COMMANDS, ids=["run", "sweep"])
def test_of_eight_commands_at_one_moment_in_one_folder_one_wins(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are refused in a line, whenever they come: their seeds are others."""
    monkeypatch.chdir(tmp_path)
    codes = races.race(words)
    assert sorted(codes) == [0, *[2] * 7]
    assert regrun.read("f").summary["seed"].tolist() == [codes.index(0)]


# Clocks


def test_a_clock_that_jumps_by_a_day_changes_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    now, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: now() + 86400 * (-1) ** next(jumps))
    monkeypatch.chdir(tmp_path)
    said(*SMALL, "hydra.run.dir=run")
    said("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=sweep")
    for folder in ("run", "sweep"):
        tables = regrun.read(folder)
        for column in (tables.summary["seconds"], tables.epochs["seconds"]):
            assert column.between(0, 600).all()


def test_the_wall_clock_is_asked_for_labels_alone() -> None:
    """What is a time of day, not a duration: looks at test, the day of a verdict, and what trackers ask for."""
    asked = set()
    for path in Path(regrun.__file__).parent.rglob("*.py"):
        calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if any(re.fullmatch(r"time\.(time|time_ns|localtime|strftime)|datetime\.(now|today|utcnow)", c) for c in calls):
            asked.add(path.name)
    assert asked == {"conduct.py", "ledger.py", "mlflow.py", "tensorboard.py"}


# Folders


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write there: not root, either, to whom permissions are nothing."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    bound = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("root may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_that_cannot_be_written_is_one_line(sweep: Path, refused: Refused) -> None:
    own = [
        *(
            [verb, sweep]
            for verb in ("collect", "compare", "confirm", "ensemble", "ledger", "report", "resume", "stopping")
        ),
        ["check", sweep, "--against", sweep],
        *([f"hydra.run.dir={sweep}/new"], ["-m", f"hydra.sweep.dir={sweep}/new", "seed=1,2"]),
    ]
    with read_only(sweep):
        for words in own:
            assert "cannot be written (" in refused(*words, code=4)
        assert main(["report", str(sweep), "--terminal"]) == 0
        assert len(regrun.read(sweep).summary) == 6


@pytest.mark.parametrize("words", ["hydra.run.dir=f", "-m hydra.sweep.dir=f seed=1,2"], ids=["run", "sweep"])
def test_a_folder_that_vanishes_is_one_line(words: str, tmp_path: Path) -> None:
    endless = ["trainer.epochs=100000", "trainer.early_stopping.patience=null", *words.split()]
    command = [sys.executable, "-m", "regrun", *endless]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list((tmp_path).rglob("curves.csv")) and process.poll() is None:
            time.sleep(0.05)
        while (tmp_path / "f").exists():  # what is written meanwhile goes, too
            shutil.rmtree(tmp_path / "f", ignore_errors=True)
        _, errors = process.communicate()
    assert process.returncode == 4
    assert len(errors.splitlines()) == 1 and "cannot be written" in errors


def test_a_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.chdir(tmp_path)
    name = 'it\'s "größe" 深い, = 100 %'
    quoted = "'" + name.replace("'", "\\'")
    said(*SMALL, f"hydra.run.dir={quoted}/run'")
    said("-m", *SMALL, "seed=1,2", "reg=none,dropout", f"hydra.sweep.dir={quoted}/sweep'")
    own = Path(name)
    for verb in ("report", "collect", "compare", "stopping", "ledger", "resume"):
        said(verb, own / "sweep")
    said("report", own / "run", "--pictures")
    assert len(said("compare", own / "run", own / "sweep", "--by", "reg")) > 5
    assert (own / "sweep/report.html").is_file()
    assert isinstance(regrun.load(own / "run"), torch.nn.Module)


ABUSIVE = [
    *("../out", "../../out", "a/../../out", "/tmp/out", "/", "..", "./..", "a/..", ".", "~/../../out", "a/b/../../.."),
    *(f"{'../' * n}out" for n in range(3, 24)),
    *(f"{'a/' * n}{'../' * (n + 1)}out" for n in range(1, 24)),
    *(
        "x" * 300,
        "a/" * 3000,
        "\x00",
        "a\x00b",
        "a\nb",
        "a\rb",
        "a\tb",
        "\x1b[2J",
        "a\u202eb",
        "a\u2066b",
        "\x7f",
        "a\x85b",
    ),
]


def test_no_name_in_a_table_leads_out_of_its_folder(tmp_path: Path) -> None:
    """The folder that a plan gives a run."""
    names = [name for name in ABUSIVE if len(name) < 300 or "/" in name[:1]]
    assert len(names) >= 60
    for name in names:
        with pytest.raises(DataError) as caught:
            foreign.inside(tmp_path, name)
        assert str(caught.value).isprintable()


def test_no_name_of_a_run_leads_out_of_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """hydra.sweep.subdir, of which each run's folder is made: a mistake before anything is."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in [*ABUSIVE[:4], *ABUSIVE[-4:]]:
        assert main(["-m", *SMALL, "hydra.sweep.dir=s", f"hydra.sweep.subdir='{name}'", "trainer.save=best"]) == 2
        output, errors = capsys.readouterr()
        assert output == "" and len(errors.splitlines()) == 1 and errors.rstrip("\n").isprintable()
        assert [path.name for path in tmp_path.rglob("*")] == ["here"], name[:40]


# Homes, languages, terminals, spreadsheets


def test_a_home_that_cannot_be_written_says_nothing(sweep: Path) -> None:
    others = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in others} | {"HOME": os.devnull}
    command = [sys.executable, "-m", "regrun", "report", "sweep", "--pictures"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def decimal_comma(tmp_path: Path) -> Iterator[None]:
    """The locale of a country that writes 0,5."""
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
    if shutil.which("localedef") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("there is no localedef, or no de_DE")
    code = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.localeconv()['decimal_point'])"
    environment = os.environ | {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.UTF-8"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == ",\n"
    os.environ["LOCPATH"] = str(tmp_path)
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    yield
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    del os.environ["LOCPATH"]


def test_a_decimal_comma_changes_no_byte(
    decimal_comma: None, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    assert locale.localeconv()["decimal_point"] == ","
    words = ["-m", *SMALL, "seeds.init=0,1,2", "seeds.split=0", "trainer.early_stopping.patience=null"]
    said(*words, "trainer.save=predictions", "reg=none,dropout", "hydra.sweep.dir=other")
    timed = re.compile("seconds|memory|examples_per|when")
    for name in ("curves.csv", "epochs.csv", "layers.csv", "summary.csv", "effects.csv", "plan.csv"):
        tables = [pd.read_csv(folder / name, dtype=str) for folder in (sweep, Path("other"))]
        ours, theirs = (t.drop(columns=[c for c in t if timed.search(c)]) for t in tables)
        pd.testing.assert_frame_equal(ours, theirs)
    for verb in ("compare", "stopping", "report", "ensemble"):
        said(verb, "other")


def test_a_terminal_of_40_columns_shows_every_figure(sweep: Path) -> None:
    """Tables fit, or are entries of some lines; none is cut, none is wrapped in the midst of a word."""
    script = Path(__file__).parent / "narrow.py"
    done = subprocess.run([sys.executable, script, "."], capture_output=True, text=True, check=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout).replace("\r\n", "\n")
    assert shown.count("$ ") == 10 and "! " not in shown and "Traceback" not in shown
    assert "…" not in shown
    tables = [line for line in shown.split("\n") if line.startswith(("    ", "─"))]
    assert len(tables) > 30
    assert max(map(len, tables)) <= 40


def test_a_baseline_that_a_spreadsheet_has_saved_is_the_same(sweep: Path, said: Said) -> None:
    """With Windows' line ends and a byte order mark."""
    before = said("check", "sweep", "--against", "sweep/summary.csv")
    for name in ("summary.csv", "epochs.csv"):
        text = (sweep / name).read_text(encoding="utf-8").replace("\n", "\r\n")
        Path(name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert said("check", "sweep", "--against", "summary.csv") == before
