"""A process that reads hostile files, one after another, while it hears what the interpreter does.

`python hostile.py FOLDER` trains a run and a sweep there, puts each file into a copy of one of them, reads it as the
command or the package does, and writes results.json: the exit code, what was said, and each event that was none of
reading the folder.
"""

import csv
import hashlib
import importlib.util
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hostile_files as files
import numpy as np

SMALL = ["experiment=smoke", "trainer.epochs=2", "trainer.progress=none", "model.width=16"]
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn")
REACHES = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "sqlite3.enable_load_extension")
CHANGES = ("mkdir", "remove", "rename", "rmdir", "link", "symlink", "truncate", "chmod", "chown")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READABLE = [Path(p) for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[1], "/proc", "/sys", "/dev", "/usr")]

Change = Callable[[Path], object]


@dataclass
class Case:
    """A change to a copy of `of`, and how it is read: by a command, or by a function of the package."""

    name: str
    of: str
    change: Change
    read: list[str] | str
    codes: tuple[int, ...] = (3,)


@dataclass
class Result:
    """What came of a case, in seconds of a processor. changed: a file is another than before; ran: a payload did."""

    name: str
    codes: tuple[int, ...]
    code: int
    output: str
    errors: str
    seconds: float
    heard: list[str]
    changed: bool
    ran: bool


@dataclass
class Hearing:
    """The events that are none of reading what is allowed."""

    root: Path
    heard: list[str] = field(default_factory=list)
    is_on: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on:
            self.is_on = False  # what follows makes events of its own
            if self._is_wrong(event, arguments):
                self.heard.append(f"{event} {arguments!r}"[:200])
            self.is_on = True

    def _is_wrong(self, event: str, arguments: tuple[Any, ...]) -> bool:
        group, _, action = event.partition(".")
        if event == "import":
            return str(arguments[0]).partition(".")[0] == "evil"
        if event == "pickle.find_class":
            return arguments[0].partition(".")[0] not in ("numpy", "_codecs")
        if (group == "os" and action in CHANGES) or event == "shutil.rmtree":
            return not self._is_inside(arguments[0], [])
        if event == "open" and isinstance(arguments[0], str | bytes):
            return not self._is_inside(arguments[0], [] if (arguments[2] or 0) & WRITING else READABLE)
        return event in (*RUNS, *REACHES)

    def _is_inside(self, path: Any, others: list[Path]) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor
            return True
        real = Path(os.fsdecode(path)).resolve()
        return any(real.is_relative_to(root) for root in (self.root.resolve(), *others)) or str(real) == os.devnull


# Changes to a folder


def written(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return change


def edited(edit: Callable[[bytes], bytes], name: str = "summary.csv") -> Change:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


def cell(name: str, value: str, table: str = "summary.csv") -> Change:
    """Give a whole column of a table another value."""

    def change(folder: Path) -> None:
        path = folder / table
        header, *lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        for line in lines:
            line[header.index(name)] = value
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *lines])
        path.write_text(text.getvalue(), encoding="utf-8", newline="")

    return change


def linked(name: str, to: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(to)

    return change


def piped(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


BAD_TABLES: dict[str, Change] = {
    "no text": edited(lambda raw: raw + b"\xff\xfe\n"),
    "NUL": edited(lambda raw: raw.replace(b"mlp", b"m\0p")),
    "a cell of 10 MB": cell("device", "x" * 10_000_000),
    "a line of 2 MB": edited(lambda raw: raw + b"x" * 2_000_000 + b"\n"),
    "a screen is cleared": cell("device", "\x1b[2J"),
    "a title is set": cell("device", "\x1b]0;owned\x07"),
    "one byte steers": cell("device", "\x9b31m"),
    "another direction": cell("device", "cpu \u202e gpu"),
    "isolates": cell("device", "cpu \u2066 gpu"),
    "a line in a cell": cell("device", "cpu\nregrun: all is well"),
    "a carriage return in a cell": cell("device", "cpu\rgpu"),
    "a line separator": cell("device", "cpu\u2028gpu"),
    "a longer row": edited(lambda raw: raw.rstrip(b"\n") + b",1,2,3\n"),
    "a shorter row": edited(lambda raw: raw + b"a,ok\n"),
    "an open quote": edited(lambda raw: raw + b'a,"ok\n'),
    "a column twice": edited(lambda raw: raw.replace(b"run_id,status", b"status,status", 1)),
    "no run_id": edited(lambda raw: raw.replace(b"run_id", b"run", 1)),
    "no header": edited(lambda raw: raw.partition(b"\n")[2]),
    "empty": written("summary.csv", b""),
    "a web page": written("summary.csv", "<!DOCTYPE html>\n<html></html>\n"),
    "a pickle": written("summary.csv", pickle.dumps(files.CODE)),
    "a run_id that climbs": cell("run_id", "../../../ran"),
    "an absolute run_id": cell("run_id", "/tmp/ran"),
    "a run_id that asks": cell("run_id", "x' or 1=1 --"),
    "a long run_id": cell("run_id", "x" * 300),
    "a hidden run_id": cell("run_id", ".ran"),
    "a link": linked("summary.csv", "/etc/passwd"),
    "a link up": linked("summary.csv", "../run/summary.csv"),
    "a pipe": piped("summary.csv"),
}
TOLD = [["report", "{}"], ["report", "{}", "--terminal"]]
# Where TensorBoard is not installed, another reader of the same tables.
TRACKED = ["track", "{}", "tensorboard"] if importlib.util.find_spec("tensorboard") else TOLD[0]
READ_BY = [TOLD[0], ["compare", "{}", "--by", "seed"], ["stopping", "{}"], TRACKED, ["check", "{}", "--against", "{}"]]
ODD: dict[str, Change] = {  # but tables: they are told as they are, or refused
    "a script": cell("device", "<script>alert(1)</script>"),
    "a picture": cell("error", '"><img src=x onerror=alert(1)>'),
    "a formula": cell("device", '=HYPERLINK("http://evil","x")'),
    "markup": cell("device", "[bold red]x[/] [link=http://evil]y[/link]"),
    "no kind": cell("model.kind", "os.system"),
    "no number": cell("val_accuracy_best", "nan"),
    "infinite": cell("val_loss_best", "-inf"),
    "overflow": cell("val_accuracy_best", "1e999"),
    "a large number": cell("num_parameters", "9" * 5000),
    "a negative count": cell("last_epoch", "-5"),
    "a word": cell("best_epoch", "many"),
    "an unknown status": cell("status", "owned"),
    "header alone": edited(lambda raw: raw.partition(b"\n")[0] + b"\n"),
}
IN_STACKS = ("no text", "NUL", "a cell of 10 MB", "a screen is cleared", "a longer row", "a run_id that climbs")
JOURNAL = bytes.fromhex("d9d505f920a163d7")


def cases() -> Iterator[Case]:
    good = Path("run/best.pt").read_bytes()
    for name, content in (files.pickles() | files.tensors(good)).items():
        yield Case(f"best.pt: {name}", "run", written("best.pt", content), "load")
    for name, text in files.settings(Path("run/settings.yaml").read_text(encoding="utf-8")).items():
        yield Case(f"settings.yaml: {name}", "run", written("settings.yaml", text), "load")
    yield from tables()
    for folder in files.FOLDERS:
        yield Case(f"plan.csv: {folder!r}", "sweep", cell("folder", folder, "plan.csv"), ["resume", "{}"])
    yield Case("plan.csv: confirm", "sweep", cell("folder", "../ran", "plan.csv"), ["confirm", "{}"])
    for name, text in files.LAUNCHES.items():
        yield Case(f"launch.json: {name}", "sweep", written("launch.json", text), ["resume", "{}"])
    for name, text in files.SEARCHES.items():
        yield Case(f"search.json: {name}", "sweep", written("search.json", text), ["resume", "{}"])
    for name, raw in files.predictions().items():
        change = edited(lambda _, raw=raw: raw, f"predictions/{next(Path('sweep/predictions').iterdir()).name}")  # type: ignore[misc]
        yield Case(f"predictions: {name}", "sweep", change, ["ensemble", "{}"])
    (begun,) = Path("begun").glob("checkpoint-*.pt")
    for name, raw in files.checkpoints(begun.read_bytes()).items():
        yield Case(f"checkpoint: {name}", "begun", checkpoint(begun.stem, raw), ["resume", "{}"])
    for name, text in files.MANIFESTS.items():
        yield Case(f"manifest: {name}", "begun", written(f"{begun.stem}.json", text), ["resume", "{}"])
    settings = files.settings(Path("begun/settings.yaml").read_text(encoding="utf-8"))
    for name in ("aliases", "object", "environment", "deep", "control characters"):
        change = written("settings.yaml", settings[name])
        yield Case(f"settings.yaml: {name}, resume", "begun", change, ["resume", "{}"])
    yield from places()
    yield from data()
    yield from configs()


def checkpoint(name: str, raw: bytes) -> Change:
    """Another state, with a manifest by which it is whole."""

    def change(folder: Path) -> None:
        told = json.loads((folder / f"{name}.json").read_text())
        told |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        (folder / f"{name}.json").write_text(json.dumps(told))
        (folder / f"{name}.pt").write_bytes(raw)

    return change


def tables() -> Iterator[Case]:
    for (name, change), words in zip(BAD_TABLES.items(), itertools.cycle(READ_BY), strict=False):
        codes = (2, 3) if name == "a pipe" else (3,)
        yield Case(f"summary.csv: {name}, {words[0]}", "sweep", change, words, codes)
        yield Case(f"summary.csv: {name}, read", "sweep", change, "read")
    for (name, change), words in itertools.product(ODD.items(), [*TOLD, TRACKED]):
        yield Case(f"summary.csv: {name}, {' '.join(words)}", "sweep", change, words, (0, 2, 3))
    for name, verb in zip(IN_STACKS, itertools.cycle(["collect", "ensemble", "ledger", "variance"]), strict=False):
        change = both(BAD_TABLES[name], lambda at: (at / "summary.csv").replace(at / "stacks/00000/summary.csv"))
        yield Case(f"stacks/*/summary.csv: {name}, {verb}", "sweep", change, [verb, "{}"])


def places() -> Iterator[Case]:
    """Links that lead out of the folder, what is no file, and journals that name another file."""
    victim, verbs = Path("victim").absolute(), itertools.cycle(["resume", "ensemble", "collect", "report"])
    folders = ("stacks", "stacks/00000", "predictions", "confirm", "tensorboard", "pictures")
    names = ("stacks/00000/summary.csv", "looks.csv", "lock", "run.log", "report.html", "plan.csv")
    for name, verb in zip(folders + names, verbs, strict=False):
        yield Case(f"{name} leads out, {verb}", "sweep", linked(name, str(victim)), [verb, "{}"])
    yield Case("a link in a circle", "sweep", linked("looks.csv", "looks.csv"), ["ledger", "{}"])
    yield Case("best.pt leads out", "run", linked("best.pt", str(Path("run/best.pt").absolute())), "load")
    for name in ("summary.csv", "plan.csv", "launch.json", "looks.csv", "predictions/pipe"):
        yield Case(f"{name} is a pipe", "sweep", piped(name), ["resume", "{}"])
    for name in ("study.db-journal", "mlflow.db-journal"):
        yield Case(f"{name} names a file", "sweep", written(name, JOURNAL + bytes(1000) + JOURNAL), ["resume", "{}"])


def data() -> Iterator[Case]:
    """Data sets and weights that a command names."""
    code, own = np.array([files.CODE] * 4, dtype=object), ["trainer.epochs=0", "hydra.run.dir={}/out"]
    for name, raw in {"npz": files.npz(x=code, y=np.arange(4)), "pickle": files.array(code)}.items():
        yield Case(f"data=npz: {name}", "run", written("d.npz", raw), ["data=npz", "data.path={}/d.npz", *own])
    code_in_a_dict = pickle.dumps({"data": files.CODE, "labels": [0]}, protocol=2)
    for name, raw in {"code": code_in_a_dict, "a far memo": files.FAR_MEMO}.items():
        yield Case(f"data=cifar10: {name}", "run", cifar("data_batch_1", raw), ["data=cifar10", "data.root={}", *own])
    images = files.npz(x=np.zeros((20, 3, 32, 32), np.uint8), y=np.arange(20) % 2)
    words = ["model=torchvision", "model.name=squeezenet1_1", "data=npz", "data.layout=chw", "data.path={}/d.npz", *own]
    change = both(written("w.pth", files.pickles()["legacy pickle"]), written("d.npz", images))
    yield Case("model.weights: legacy pickle", "run", change, [*words, "model.weights={}/w.pth"])


def configs() -> Iterator[Case]:
    """A folder of configurations in which Hydra would run code."""
    own = ["experiment=x", "trainer.epochs=0", "trainer.progress=none", "hydra.run.dir={}/out"]
    for i, (name, text) in enumerate(files.CONFIGS.items()):  # what was composed of a folder is remembered by its name
        path, node = f"mine{i}/experiment/x.yaml", f"# @package _global_\n{text}\n"
        words = ["--config-dir", f"{{}}/mine{i}", *own]
        yield Case(f"experiment: {name}", "run", written(path, node), words, (0,) if name == "handlers" else (2,))


def cifar(name: str, raw: bytes) -> Change:
    """Torchvision's files of CIFAR-10, one of them another."""
    good = pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}, protocol=2)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return both(*(written(f"cifar-10-batches-py/{n}", raw if n == name else good) for n in names))


# The process


def main(root: Path) -> None:
    from regrun import cli

    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["SECRET"] = "value-of-a-secret"
    files.place_bait(root)
    sweep = ["-m", *SMALL, "seed=0,1,2", "hydra.sweep.dir=sweep", "trainer.save=predictions"]
    assert cli.main([*SMALL, "hydra.run.dir=run"]) == 0 == cli.main(sweep)
    begin()
    warm_up()
    hearing = Hearing(root / "case")
    sys.addaudithook(hearing.hook)
    Path("results.json").write_text(json.dumps([asdict(tried(case, hearing)) for case in cases()]))


def begin() -> None:
    """A run that has been interrupted, with one checkpoint."""
    from regrun import cli

    child = os.fork()
    if child == 0:
        with redirect_stderr(io.StringIO()):
            endless = ["trainer.epochs=100000", "trainer.early_stopping.patience=null", "hydra.run.dir=begun"]
            os._exit(cli.main([*SMALL, *endless]))
    while not (Path("begun/curves.csv").is_file() and Path("begun/curves.csv").read_text().count("\n") > 3):
        time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    os.waitpid(child, 0)


def warm_up() -> None:
    """Whatever is imported late is imported now, so that no event of it is heard."""
    import torchvision  # noqa: F401

    for words in [*READ_BY, *TOLD, ["ensemble", "{}"], ["collect", "{}"]]:
        shutil.copytree("sweep", "case")
        read(words)
        shutil.rmtree("case")
    shutil.copytree("begun", "case")
    (Path("case") / "settings.yaml").write_text("")
    read(["resume", "{}"])
    shutil.rmtree("case")
    for how in ("load", "read"):
        shutil.copytree("run", "case")
        read(how)
        shutil.rmtree("case")


def tried(case: Case, hearing: Hearing) -> Result:
    shutil.copytree(case.of, "case")
    case.change(Path("case"))
    before, hearing.heard = snapshot(), []
    start, hearing.is_on = time.process_time(), True
    code, output, errors = read(case.read)
    hearing.is_on, seconds = False, time.process_time() - start
    changed, ran = snapshot() != before, Path("ran").exists()
    shutil.rmtree("case")
    return Result(case.name, case.codes, code, output, errors, seconds, hearing.heard, changed, ran)


def read(how: list[str] | str) -> tuple[int, str, str]:
    """The exit code of a command, or of what a function of the package raises, and what was said. 9: another error."""
    import regrun
    from regrun import cli
    from regrun.errors import RegrunError

    code = 0
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        try:
            if isinstance(how, list):
                code = cli.main([word.replace("{}", "case") for word in how])
            else:
                getattr(regrun, how)("case")
        except RegrunError as error:
            code = error.exit_code
            print(f"regrun: {error}", file=sys.stderr)
        except BaseException as error:
            code = 9
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return code, output.getvalue(), errors.getvalue()


def snapshot() -> dict[str, int]:
    """When each file was changed, the bait's too."""
    return {str(path): path.lstat().st_mtime_ns for path in Path().rglob("*") if not path.is_dir()}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
