"""Random changes to every file that regrun reads: each is refused in a line, or read; nothing else comes of it."""

import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import hostile_files as files
import hypothesis
import numpy as np
from hypothesis import strategies as st
from PIL import Image

import regrun
from regrun import config, ledger, plan, run, search, space, sweep, tracking
from regrun import prepare as preparing
from regrun import settings as s
from regrun.cli import main
from regrun.data.sources import MNIST_SHA256, load
from regrun.due import Due, Pace
from regrun.errors import Interrupted, RegrunError
from regrun.signals import Noted
from regrun.writing import train_into

SMALL = ["experiment=smoke", "trainer.epochs=2", "trainer.progress=none", "model.width=8"]
SLOWEST, MOST_BYTES = 2.0, 300 << 20  # seconds of a processor for one file; memory that all may take
NASTY = [
    *(
        b"\0",
        b"\x1b[2J",
        b"\xff",
        b"\xef\xbb\xbf",
        b'"',
        b"'",
        b",",
        b"\n",
        b"\r",
        b"\n\n",
        b"\t",
        b";",
        b"=1+1",
        b"@x",
    ),
    *(b"nan", b"-inf", b"1e999", b"1e308", b"-1e308", b"-1", b"0", b"9" * 30, b"9" * 5000, b"none", b"true", b"1_0"),
    *(b"${oc.env:HOME}", b"&a ", b"*a", b"!!python/name:os.system ", b"[", b"{", b"[" * 2000, b"_target_: x", b"???"),
    *(b"../../ran", b"/tmp/ran", "\u202e".encode(), "\u2028".encode(), "٣".encode(), b"<script>", b"x" * 2000),
]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A file in a folder, and what reads it."""

    file: str
    read: Read
    examples: int = 25  # in the short form


def _loaded(**options: str) -> Read:
    """The data set of some settings whose files are below the folder."""
    kinds = {**s.DATA}

    def read(folder: Path) -> object:
        paths = {name: str(folder / value) for name, value in options.items() if name in ("path", "root")}
        return load(kinds[options["kind"]](**(options | paths)))

    return read


def _command(*words: str) -> Read:
    """A verb, whose exit code is what it raises."""

    def read(folder: Path) -> int:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return main([word.replace("{}", str(folder)) for word in words])

    return read


def _tracked(folder: Path) -> object:
    return [list(run.epochs()) for run in tracking.read(folder, set())]


def _resumed(folder: Path) -> int:
    """What was begun goes on from a state whose manifest says that every byte is right."""
    again, path = folder / "again", folder / "begun/checkpoint-1.pt"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(folder / "begun", again)
    content, manifest = path.read_bytes(), again / "checkpoint-1.json"
    with suppress(ValueError, TypeError):  # where the manifest itself is changed it may be none
        told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | told))
    return int(_command("resume", str(again))(folder) or 0)


SUMMARY = "summary.csv"
TARGETS = {
    "best.pt": Target("best.pt", regrun.load),
    "settings.yaml": Target("settings.yaml", regrun.load),
    "read": Target(SUMMARY, regrun.read, 15),
    "report": Target(SUMMARY, _command("report", "{}"), 15),
    "report of curves": Target("curves.csv", _command("report", "{}", "--terminal"), 15),
    "report of layers": Target("layers.csv", _command("report", "{}", "--terminal"), 15),
    "report of a ledger": Target("ledger.csv", _command("report", "{}", "--terminal"), 15),
    "compare": Target(SUMMARY, _command("compare", "{}", "--by", "reg"), 15),
    "compare with a plan": Target("plan.csv", _command("compare", "{}", "--by", "reg"), 10),
    "stopping": Target("curves.csv", _command("stopping", "{}"), 15),
    "stopping of a summary": Target(SUMMARY, _command("stopping", "{}"), 15),
    "check": Target(SUMMARY, _command("check", "{}", "--against", "base/sweep"), 15),
    "check against": Target(SUMMARY, _command("check", "base/sweep", "--against", "{}"), 15),
    "check of epochs": Target("epochs.csv", _command("check", "{}", "--against", "base/sweep"), 15),
    "track": Target("epochs.csv", _tracked),
    "track of a summary": Target(SUMMARY, _tracked, 15),
    "collect": Target("stacks/00000/summary.csv", _command("collect", "{}"), 15),
    "collect of curves": Target("stacks/00000/curves.csv", _command("collect", "{}"), 15),
    "variance": Target("stacks/00000/summary.csv", _command("variance", "{}"), 15),
    "ledger": Target("looks.csv", lambda folder: (ledger.ledger(folder), ledger.line(folder))),
    "plan.csv": Target("plan.csv", lambda folder: plan.read(folder, folder)),
    "launch.json": Target("launch.json", lambda folder: sweep._read_launch(folder)),
    "search.json": Target("search.json", search.load),
    "checkpoint": Target("begun/checkpoint-1.pt", _resumed),
    "checkpoint's manifest": Target("begun/checkpoint-1.json", _resumed),
    "predictions": Target("predictions/a.npz", _command("ensemble", "{}"), 15),
    "data=csv": Target("t.csv", _loaded(kind="csv", path="t.csv", target="y"), 15),
    "data=npz": Target("a.npz", _loaded(kind="npz", path="a.npz"), 15),
    "data=image_folder": Target("photos/a/0.png", _loaded(kind="image_folder", path="photos", cache="none")),
    "JPEG": Target("photos/b/0.jpg", _loaded(kind="image_folder", path="photos", cache="none")),
    "data=kmnist": Target("KMNIST/raw/t10k-images-idx3-ubyte", _loaded(kind="kmnist", root="")),
    "data=cifar10": Target("cifar-10-batches-py/data_batch_1", _loaded(kind="cifar10", root="")),
    "data=svhn": Target("train_32x32.mat", _loaded(kind="svhn", root="")),
}


def prepare(root: Path) -> None:
    """Good files of every kind below `root`, in the folders that the targets are read from."""
    os.chdir(root)
    quiet = io.StringIO()
    with redirect_stdout(quiet):
        assert main([*SMALL, "hydra.run.dir=base/run"]) == 0
        assert main(["-m", *SMALL, "seeds.init=0,1,2", "reg=none,dropout", "hydra.sweep.dir=base/sweep"]) == 0
        assert main(["ledger", "base/sweep"]) == 0
    whole = Path("base/whole")
    shutil.copytree("base/sweep", whole)
    for name in ("best.pt", "settings.yaml"):
        shutil.copy(Path("base/run") / name, whole)
    (whole / "search.json").write_text(_search().text())
    _begin(whole / "begun")
    _write_predictions(whole)
    _write_data(whole)


class After(Pace):
    """The end is due when so much has been asked."""

    def __init__(self, count: int) -> None:
        super().__init__(None, Noted(15))
        self.left = count

    def __call__(self) -> Due:
        self.left -= 1
        return Due.END if self.left < 0 else Due.NOTHING


def _begin(folder: Path) -> None:
    """A run that has been ended between two steps of its second epoch, with a checkpoint."""
    (one,) = preparing.prepare(config.jobs([*SMALL, f"hydra.run.dir={folder}"], multirun=False))
    with ExitStack() as held, suppress(Interrupted):
        run._begin(one, held)
        list(train_into(folder, [one], pace=After(20)))
    assert (folder / "checkpoint-1.json").is_file()


def _search() -> space.Search:
    found = config.command(["-m", "optimizer.lr=interval(0.1,1)", "hydra/sweeper=optuna"][1:], multirun=True).search
    assert found is not None
    return found


def _write_predictions(whole: Path) -> None:
    """The same for every run; the first is called a."""
    (whole / "predictions").mkdir()
    ids = [row["run_id"] for row in plan.rows(whole)]
    for path in [*whole.glob("stacks/*/*.csv"), *whole.glob("*.csv")]:
        path.write_text(path.read_text(encoding="utf-8").replace(ids[0], "a"), encoding="utf-8")
    for run_id in ["a", *ids[1:]]:
        (whole / "predictions" / f"{run_id}.npz").write_bytes(files.arrays())


def _write_data(whole: Path) -> None:
    rows = [f"{i / 7:.3f},{['red', 'blue', 'green'][i % 3]},{i % 2}\n" for i in range(30)]
    (whole / "t.csv").write_text("x,color,y\n" + "".join(rows))
    (whole / "a.npz").write_bytes(files.npz(x=np.eye(20), y=np.arange(20) % 2))
    draw = np.random.default_rng(0)
    for name, suffix in (("a", "png"), ("b", "jpg")):
        (whole / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(
                whole / f"photos/{name}/{i}.{suffix}"
            )
    (whole / "KMNIST/raw").mkdir(parents=True)
    for name, count in zip(MNIST_SHA256, (8, 8, 4, 4), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        (whole / "KMNIST/raw" / name).write_bytes(head + bytes(np.ones(shape, np.uint8)))
    (whole / "cifar-10-batches-py").mkdir()
    batch = pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}, protocol=2)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (whole / "cifar-10-batches-py" / name).write_bytes(batch)
    from scipy.io import savemat

    for name in ("train_32x32.mat", "test_32x32.mat"):
        savemat(
            whole / name, {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.arange(1, 5)[:, None]}, do_compression=True
        )


def changed(good: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bits, parts or words of it changed."""
    places = st.integers(0, max(0, len(good) - 1))
    flip = st.tuples(st.just("flip"), places, st.integers(0, 7))
    cut = st.tuples(st.just("cut"), places, st.integers(1, 200))
    twice = st.tuples(st.just("twice"), places, st.integers(1, 200))
    end = st.tuples(st.just("end"), places, st.just(0))
    word = st.tuples(st.just("word"), places, st.sampled_from(NASTY))
    instead = st.tuples(st.just("instead"), places, st.sampled_from(NASTY))
    edits = st.lists(st.one_of(word, instead, flip, cut, twice, end), min_size=1, max_size=4)
    return edits.map(lambda own: _edited(good, own))


def _edited(content: bytes, edits: list[tuple[str, int, int | bytes]]) -> bytes:
    for kind, at, what in edits:
        head, tail = content[:at], content[at:]
        match kind, what:
            case "flip", int() if tail:
                content = head + bytes([tail[0] ^ 1 << what]) + tail[1:]
            case "cut", int():
                content = head + tail[what:]
            case "twice", int():
                content = head + tail[:what] + tail
            case "end", _:
                content = head
            case "word", bytes():
                content = head + what + tail
            case "instead", bytes():  # of a cell, or of a value
                ends = [i for i in (tail.find(b","), tail.find(b"\n")) if i >= 0]
                start = 1 + max(head.rfind(b","), head.rfind(b"\n"), head.rfind(b": ") + 1)
                content = content[:start] + what + tail[min(ends, default=len(tail)) :]
    return content


def fuzz(name: str, *, examples: int | None = None, seconds: float = 0.0) -> int:
    """Read changed files for so many examples, then on for so many seconds; how many there were."""
    target, count, start = TARGETS[name], 0, time.monotonic()
    folder = Path(f"fuzz/{name}")
    shutil.copytree("base/whole", folder)
    path = folder / target.file
    good, before = path.read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def check(content: bytes) -> None:
        nonlocal count
        count += 1
        path.write_bytes(content)
        begun = time.process_time()
        try:
            target.read(folder)
        except RegrunError as error:
            assert all(line.strip() for line in str(error).split("\n"))
        assert time.process_time() - begun < SLOWEST

    assert not isinstance(code := target.read(folder), int) or code == 0  # the good file is good
    while count == 0 or time.monotonic() - start < seconds:
        own = hypothesis.given(changed(good))(check)
        own = hypothesis.seed(random.getrandbits(64) if seconds else 0)(own)
        hypothesis.settings(
            max_examples=examples or target.examples,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(own)()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES
    return count
