"""What a folder from elsewhere may hold, and a process that reads all of it while it hears what the interpreter does.

`python hostile.py FOLDER` trains a run and a sweep there, puts each hostile file into a copy of one of them, reads it as
the command or the package does, and writes results.json: the exit code, what was said, and each event that was none of
reading the folder.
"""

import csv
import io
import itertools
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

PAYLOAD = "touch ran"  # what a file would run
SECRET = "value-of-a-secret"  # of the environment variable SECRET
BEFORE = ["experiment=smoke", "trainer.epochs=2", "trainer.progress=none", "model.width=16"]
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn")
CHANGES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
)
REACHES = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "sqlite3.enable_load_extension")
READABLE = [
    Path(sys.prefix),
    Path(sys.base_prefix),
    Path(__file__).parents[1],
    *map(Path, ("/proc", "/sys", "/dev", "/usr")),
]

Change = Callable[[Path], object]


@dataclass
class Case:
    """A change to a copy of `of`, and how it is read: words of a command, or a function of the package."""

    name: str
    of: str
    change: Change
    read: list[str] | str
    codes: tuple[int, ...] = (3,)


@dataclass
class Hearing:
    """The events since it began that are none of reading what is allowed."""

    root: Path
    heard: list[str] = field(default_factory=list)
    is_on: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on:
            self.is_on = False  # what follows makes events of its own
            if (found := self._what(event, arguments)) is not None:
                self.heard.append(found)
            self.is_on = True

    def _what(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event in (*RUNS, *REACHES):
            return f"{event} {arguments!r}"
        if event == "import" and str(arguments[0]).split(".")[0] == "evil":
            return "import evil"
        if event == "pickle.find_class" and arguments[0].split(".")[0] not in ("numpy", "_codecs"):
            return f"find_class {arguments!r}"
        if event in CHANGES or event == "shutil.rmtree":
            return None if self._is_inside(arguments[0], []) else f"{event} {arguments!r}"
        if event == "open" and isinstance(arguments[0], str | bytes):
            writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
            if not self._is_inside(arguments[0], [] if writes else READABLE):
                return f"open {arguments!r}"
        return None

    def _is_inside(self, path: Any, others: list[Path]) -> bool:
        real = Path(os.fsdecode(path)).resolve() if isinstance(path, str | bytes | os.PathLike) else self.root
        return any(real.is_relative_to(root) for root in (self.root.resolve(), *others)) or str(real) == os.devnull


# Weights


class Calls:
    """Unpickled, it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def archive(pickled: bytes, *, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    """A file as torch.save writes it, around another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **parts}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def legacy_tar() -> bytes:
    """As torch before 0.1.10 wrote it, with a part that leads out of the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors", "../escaped"):
            content = pickle.dumps(Calls(os.system, PAYLOAD), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def weights() -> dict[str, bytes]:
    """best.pt, in every way that could run something, or take all memory."""
    good = Path("run/best.pt").read_bytes()
    tensors = torch.load(io.BytesIO(good), weights_only=True)
    run, system = Calls(os.system, PAYLOAD), b"cos\nsystem\n"
    call = b"(X\x09\x00\x00\x00" + PAYLOAD.encode() + b"tR."
    flipped = bytearray(good)
    flipped[good.index(b"output.bias") + 2] ^= 0x20
    return {
        "reduce": archive(pickle.dumps(run, protocol=2)),
        "reduce in a dict": archive(pickle.dumps({"hidden1.weight": run}, protocol=2)),
        "reduce as a key": archive(pickle.dumps({Calls(str, "a"): run}, protocol=2)),
        "stack_global": archive(
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x09" + PAYLOAD.encode() + b"\x85R."
        ),
        "build": archive(b"\x80\x02" + b"ctorch.nn.modules.module\nModule\n)\x81}X\x03\x00\x00\x00foocos\nsystem\nsb."),
        "inst": archive(b"(X\x09\x00\x00\x00" + PAYLOAD.encode() + b"ios\nsystem\n."),
        "obj": archive(b"(" + system + b"X\x09\x00\x00\x00" + PAYLOAD.encode() + b"o."),
        "newobj": archive(b"\x80\x02" + system + b")\x81."),
        "extension": archive(b"\x80\x02\x82\x01."),
        "persistent": archive(b"\x80\x02" + system + call[:-1] + b"Q."),
        "eval": archive(pickle.dumps(Calls(eval, "__import__('os').system('touch ran')"), protocol=2)),
        "getattr": archive(
            pickle.dumps(Calls(getattr, os, "system"), protocol=2) if False else b"\x80\x02cbuiltins\ngetattr\n."
        ),
        "hub": archive(b"\x80\x02ctorch.hub\nload\n(X\x01\x00\x00\x00aX\x01\x00\x00\x00btR."),
        "import": archive(b"\x80\x02cevil\nrun\n)R."),
        "pandas": archive(b"\x80\x02cpandas\nread_pickle\n(X\x05\x00\x00\x00a.pkltR."),
        "legacy pickle": pickle.dumps(run, protocol=2),
        "legacy pickle, protocol 0": pickle.dumps(run, protocol=0),
        "legacy, magic number first": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(run, protocol=2),
        "legacy tar": legacy_tar(),
        "nested archive": archive(pickle.dumps({"a": archive(pickle.dumps(run, protocol=2))}, protocol=2)),
        "script": archive(
            b"\x80\x02}.",
            **{"code/__torch__.py": b"import os\nos.system('touch ran')\n", "constants.pkl": b"\x80\x02)."},
        ),
        "compressed": archive(b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED, bomb=bytes(50_000_000)),
        "a long word": archive(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a."),
        "a far memo": archive(b"\x80\x02}r\xff\xff\xff\x7f."),
        "deep": archive(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."),
        "repeated without end": saved(tensors | {"hidden1.weight": torch.zeros(1).expand(1 << 40)}),
        "a shape without end": saved(tensors | {"input.shape": torch.tensor([1 << 20, 1 << 20, 1 << 20])}),
        "a negative shape": saved(tensors | {"input.shape": torch.tensor([-1, -8, 8])}),
        "no shape": saved({name: value for name, value in tensors.items() if name != "input.shape"}),
        "outputs without end": saved(tensors | {"output.size": torch.tensor(1 << 40)}),
        "NaN outputs": saved(tensors | {"output.size": torch.tensor(float("nan"))}),
        "a tensor of another shape": saved(tensors | {"hidden1.weight": torch.zeros(3, 3)}),
        "a tensor lacks": saved({name: value for name, value in tensors.items() if name != "output.bias"}),
        "a sparse tensor": saved(tensors | {"output.bias": torch.zeros(10).to_sparse()}),
        "a tensor of nothing": saved(tensors | {"output.bias": torch.zeros(10, device="meta")}),
        "a word": saved(tensors | {"output.bias": "x"}),
        "a list": saved([1, 2]),
        "nothing": saved(None),
        "empty": b"",
        "web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "cut short": good[: len(good) // 2],
        "a name flipped": bytes(flipped),
        "no archive": b"PK\x03\x04" + bytes(100),
    }


# Settings

TARGETS = [
    "os.system",
    "posix.system",
    "logging.os.system",
    "subprocess.call",
    "builtins.eval",
    "timeit.timeit",
    "code.interact",
    "cProfile.run",
    "runpy.run_path",
    "pickle.loads",
    "shutil.rmtree",
    "torch.hub.load",
    "torch.load",
    "pandas.read_pickle",
    "builtins.open",
    "pathlib.Path.write_text",
]


def settings() -> dict[str, str | bytes]:
    """settings.yaml."""
    good = Path("run/settings.yaml").read_text(encoding="utf-8")
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    named = {f"_target_ {name}": f"{good}_target_: {name}\n_args_: [{PAYLOAD}]\n" for name in TARGETS}
    inside = {
        f"{key} inside": good.replace("kind: mlp", f"kind: mlp\n  {key}: os.system")
        for key in ("_target_", "_partial_", "()")
    }
    return (
        named
        | inside
        | {
            "callbacks": f"{good}hydra:\n  callbacks:\n    x:\n      _target_: pandas.read_pickle\n      filepath_or_buffer: evil.pkl\n",
            "handlers": f"{good}hydra:\n  job_logging:\n    handlers:\n      x:\n        (): os.system\n        command: {PAYLOAD}\n",
            "defaults": f"{good}defaults:\n  - override hydra/launcher: evil\n",
            "searchpath": f"{good}hydra:\n  searchpath: [pkg://evil]\n",
            "environment": good.replace("activation: relu", "activation: ${oc.env:SECRET}"),
            "environment as a number": good.replace("width: 16", "width: ${oc.decode:${oc.env:SECRET}}"),
            "interpolation": good.replace("width: 16", "width: ${model.depth}"),
            "create": good.replace("activation: relu", "activation: ${oc.create:'{a: ${oc.env:SECRET}}'}"),
            "no such resolver": good.replace("activation: relu", "activation: ${evil:}"),
            "missing": good.replace("activation: relu", "activation: ???"),
            "aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(levels) + f"\n{good}",
            "one anchor": good.replace("kind: mlp", "kind: &a mlp"),
            "object": f"{good}x: !!python/object/apply:os.system [{PAYLOAD}]\n",
            "object instead": f"!!python/object/apply:os.system [{PAYLOAD}]\n",
            "object/new": f"{good}x: !!python/object/new:os.system [{PAYLOAD}]\n",
            "name": f"{good}x: !!python/name:os.system\n",
            "module": f"{good}x: !!python/module:evil\n",
            "path": f"{good}x: !!python/object/apply:pathlib.Path [evil]\n",
            "deep": good + "x: " + "[" * 5000 + "]" * 5000 + "\n",
            "deep blocks": good + "".join(f"{' ' * i}- \n" for i in range(500)),
            "large": good + "".join(f"k{i}: 1\n" for i in range(200_000)),
            "a large word": good.replace("activation: relu", "activation: " + "x" * 10_000_000),
            "a large number": good.replace("width: 16", "width: " + "9" * 5000),
            "a number too large": good.replace("width: 16", "width: 1e400"),
            "a large network": good.replace("width: 16", "width: 1000000").replace("depth: 1", "depth: 1000"),
            "another network": good.replace("width: 16", "width: 17"),
            "a key twice": good.replace("kind: mlp", "kind: mlp\n  kind: mlp"),
            "no key": f"{good}? [a, b]\n: c\n",
            "two documents": f"{good}---\n{good}",
            "a date": good.replace("seed: 0", "seed: 2001-99-99"),
            "control characters": good.replace("activation: relu", "activation: 'relu\x1b[2J'"),
            "escaped control characters": good.replace("activation: relu", 'activation: "\\e[2J\\u202e"'),
            "NUL": good.replace("activation: relu", "activation: 'a\0b'"),
            "no text": b"\xff\xfe\x00\x01",
            "a word": "regrun",
            "a list": "[1, 2]",
            "empty": "",
        }
    )


# Tables


def cell(name: str, value: str, *, table: str = "summary", rows: slice = slice(None)) -> Change:
    """Give a column of a table another value."""

    def change(folder: Path) -> None:
        path = folder / f"{table}.csv"
        header, *lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        for line in lines[rows]:
            line[header.index(name)] = value
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *lines])
        path.write_text(text.getvalue(), encoding="utf-8", newline="", errors="surrogatepass")

    return change


def written(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return change


def edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


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


BAD_TABLES: dict[str, Change] = {
    "no text": edited("summary.csv", lambda raw: raw + b"\xff\xfe\n"),
    "NUL": edited("summary.csv", lambda raw: raw.replace(b"mlp", b"m\0p")),
    "a cell of 10 MB": cell("device", "x" * 10_000_000),
    "a line of 2 MB": edited("summary.csv", lambda raw: raw + b"x" * 2_000_000 + b"\n"),
    "a screen is cleared": cell("device", "\x1b[2J"),
    "a title is set": cell("device", "\x1b]0;owned\x07"),
    "a bell, C1": cell("device", "\x9b31m"),
    "another direction": cell("device", "cpu \u202e gpu"),
    "isolates": cell("device", "cpu \u2066 gpu"),
    "a line in a cell": cell("device", "cpu\nregrun: all is well"),
    "a carriage return in a cell": cell("device", "cpu\rgpu"),
    "a line separator": cell("device", "cpu\u2028gpu"),
    "a longer row": edited("summary.csv", lambda raw: raw.rstrip(b"\n") + b",1,2,3\n"),
    "a shorter row": edited("summary.csv", lambda raw: raw + b"a,ok\n"),
    "an open quote": edited("summary.csv", lambda raw: raw + b'a,"ok\n'),
    "a column twice": edited("summary.csv", lambda raw: raw.replace(b"run_id,status", b"status,status", 1)),
    "no run_id": edited("summary.csv", lambda raw: raw.replace(b"run_id", b"run", 1)),
    "no header": edited("summary.csv", lambda raw: raw.partition(b"\n")[2]),
    "header alone": edited("summary.csv", lambda raw: raw.partition(b"\n")[0] + b"\n"),
    "empty": written("summary.csv", b""),
    "a web page": written("summary.csv", "<!DOCTYPE html>\n<html></html>\n"),
    "a pickle": written("summary.csv", pickle.dumps(Calls(os.system, PAYLOAD))),
    "a run_id that climbs": cell("run_id", "../../../ran"),
    "an absolute run_id": cell("run_id", "/tmp/ran"),
    "a run_id that asks": cell("run_id", "x' or 1=1 --"),
    "a long run_id": cell("run_id", "x" * 300),
    "a hidden run_id": cell("run_id", ".ran"),
    "no such kind": cell("model.kind", "os.system"),
    "a link": linked("summary.csv", "/etc/passwd"),
    "a link up": linked("summary.csv", "../run/summary.csv"),
}
VERBS = [
    ["report"],
    ["report", "--terminal"],
    ["compare", "--by", "seed"],
    ["stopping"],
    ["ensemble"],
    ["ledger"],
    ["track", "tensorboard"],
]
SHOWN: dict[str, Change] = {  # odd, but a table: it is told as it is
    "a script": cell("device", "<script>alert(1)</script>"),
    "a picture": cell("error", '"><img src=x onerror=alert(1)>'),
    "a formula": cell("device", '=HYPERLINK("http://evil","x")'),
    "markup": cell("device", "[bold red]x[/] [link=http://evil]y[/link]"),
    "no number": cell("val_accuracy_best", "nan"),
    "infinite": cell("val_loss_best", "-inf"),
    "overflow": cell("val_accuracy_best", "1e999"),
    "a large number": cell("num_parameters", "9" * 5000),
    "a negative count": cell("train_size", "-5"),
    "an unknown status": cell("status", "owned"),
}


# Plans, and how a sweep was trained

FOLDERS = [
    "../ran",
    "../../ran",
    "a/../../ran",
    "/tmp/ran",
    "",
    ".",
    "..",
    "a\0b",
    "~/../..",
    "x\x1b[2J",
    "stacks/../../ran",
    "out/ran",
]


def bomb(levels: int) -> str:
    return "[" * levels + "]" * levels


LAUNCHES = {
    "no JSON": "launcher: local",
    "deep": bomb(100_000),
    "a list": "[]",
    "an interpolation": '{"launcher": "local", "sweep": {"workers": "${oc.env:SECRET}"}}',
    "a sweep": '{"launcher": "local", "sweep": {"workers": "1,2"}}',
    "another key": '{"launcher": "local", "sweep": {"workers=1 hydra.run.dir": 1}}',
    "a launcher that steers": '{"launcher": "\\u001b[2J", "sweep": {}}',
    "a launcher that climbs": '{"launcher": "../../evil", "sweep": {}}',
    "a large number": '{"launcher": "local", "sweep": {"workers": ' + "9" * 5000 + "}}",
    "not finite": '{"launcher": "local", "sweep": {"run_timeout": NaN}}',
    "two mistakes": '{"launcher": "local", "sweep": {"workers": -1, "fail_fast": "x"}}',
    "no text": b"\xff\xfe",
}
SEARCHES = {
    "no JSON": "x",
    "deep": bomb(100_000),
    "a list": "[]",
    "empty": "{}",
    "no base": '{"options": {}, "base": {}, "space": []}',
    "a space of code": '{"options": {"kind": "optuna"}, "base": {}, "space": [{"_target_": "os.system"}]}',
}


def arrays(**changes: Any) -> bytes:
    """A file of predictions, but for some arrays."""
    own = {
        "epochs": np.array([1], np.int32),
        "target_scale": np.zeros(0, np.float32),
        **{s: np.zeros((1, 4, 10), np.float32) for s in ("val", "test")},
        **{f"{s}_targets": np.zeros(4, np.int32) for s in ("val", "test")},
        **{f"{s}_examples": np.arange(4, dtype=np.int32) for s in ("val", "test")},
    }
    buffer = io.BytesIO()
    np.savez(buffer, **(own | changes))
    return buffer.getvalue()


def predictions() -> dict[str, bytes]:
    code = np.array([Calls(os.system, PAYLOAD)], dtype=object)
    compressed = io.BytesIO()
    np.savez_compressed(compressed, val=np.zeros(20_000_000))
    header = (
        np.lib.format.magic(1, 0)
        + struct.pack("<H", 70)
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(69)
        + b"\n"
    )
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as file:
        file.writestr("val.npy", header)
    return {
        "code": arrays(val=code),
        "code in targets": arrays(val_targets=code),
        "compressed": compressed.getvalue(),
        "a shape without end": huge.getvalue(),
        "words": arrays(val=np.array([[["a" * 10] * 10] * 4])),
        "a class too high": arrays(test_targets=np.full(4, 10, np.int32)),
        "a class below 0": arrays(test_targets=np.full(4, -1, np.int32)),
        "nothing": arrays(
            val=np.zeros((1, 0, 10), np.float32), val_targets=np.zeros(0, np.int32), val_examples=np.zeros(0, np.int32)
        ),
        "one array": saved_array(code),
        "a pickle": pickle.dumps(Calls(os.system, PAYLOAD)),
        "empty": b"",
    }


def saved_array(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


# All of it


def cases() -> Iterator[Case]:
    for name, content in weights().items():
        yield Case(f"best.pt: {name}", "run", written("best.pt", content), "load")
    for name, text in settings().items():
        yield Case(f"settings.yaml: {name}", "run", written("settings.yaml", text), "load")
    for (name, change), words in zip(BAD_TABLES.items(), itertools.cycle(VERBS)):
        yield Case(f"summary.csv: {name}, {words[0]}", "sweep", change, [words[0], "{}", *words[1:]])
        yield Case(f"summary.csv: {name}, read", "sweep", change, "read")
    for name, change in SHOWN.items():
        for words in VERBS[:3]:
            yield Case(f"summary.csv: {name}, {words[0]}", "sweep", change, [words[0], "{}", *words[1:]], (0, 2, 3))
    for folder, verb in zip(FOLDERS, itertools.cycle(["resume", "confirm"])):
        yield Case(f"plan.csv: {folder!r}, {verb}", "sweep", cell("folder", folder, table="plan"), [verb, "{}"])
    for name, content in LAUNCHES.items():
        yield Case(f"launch.json: {name}", "sweep", written("launch.json", content), ["resume", "{}"])
    for name, content in SEARCHES.items():
        yield Case(f"search.json: {name}", "sweep", written("search.json", content), ["resume", "{}"])
    for name, raw in predictions().items():
        yield Case(f"predictions: {name}", "sweep", all_predictions(raw), ["ensemble", "{}"])
    yield from places()
    yield from data()


def all_predictions(raw: bytes) -> Change:
    return lambda folder: [path.write_bytes(raw) for path in (folder / "predictions").iterdir()]


def places() -> Iterator[Case]:
    """Links that lead out of the folder, what is no file, and journals that name another file."""
    victim = Path("victim").absolute()
    for name in (
        "stacks",
        "stacks/00000",
        "stacks/00000/summary.csv",
        "predictions",
        "looks.csv",
        "lock",
        "run.log",
        "confirm",
    ):
        for verb in ("resume", "ensemble", "collect"):
            yield Case(f"{name} leads out, {verb}", "sweep", linked(name, str(victim)), [verb, "{}"])
    yield Case("a link in a circle", "sweep", linked("looks.csv", "looks.csv"), ["ledger", "{}"])
    yield Case("tensorboard leads out", "sweep", linked("tensorboard", str(victim)), ["track", "{}", "tensorboard"])
    yield Case("pictures lead out", "sweep", linked("pictures", str(victim)), ["report", "{}", "--pictures"])
    yield Case("report.html leads out", "sweep", linked("report.html", str(victim / "file")), ["report", "{}"])
    yield Case("best.pt leads out", "run", linked("best.pt", str(Path("run/best.pt").absolute())), "load")
    for name in ("summary.csv", "plan.csv", "launch.json", "looks.csv", "predictions/pipe"):
        yield Case(f"{name} is a pipe", "sweep", piped(name), ["resume", "{}"])
    journal = b"d9d505f920a163d7" + bytes(1000) + bytes.fromhex("d9d505f920a163d7")
    for name in ("study.db-journal", "mlflow.db-journal"):
        yield Case(f"{name} names a file", "sweep", written(name, journal), ["resume", "{}"])


def data() -> Iterator[Case]:
    """Data sets and weights that a command names."""
    code = np.array([Calls(os.system, PAYLOAD)] * 4, dtype=object)
    npz, own = io.BytesIO(), ["trainer.epochs=0", "hydra.run.dir={}/out"]
    np.savez(npz, x=code, y=np.arange(4))
    yield Case("npz of code", "run", written("d.npz", npz.getvalue()), ["data=npz", "data.path={}/d.npz", *own])
    yield Case(
        "npz that is a pickle", "run", written("d.npz", saved_array(code)), ["data=npz", "data.path={}/d.npz", *own]
    )
    batch = pickle.dumps({"data": Calls(os.system, PAYLOAD), "labels": [0]}, protocol=2)
    for name in ("data_batch_1", "test_batch"):
        path = f"cifar-10-batches-py/{name}"
        yield Case(
            f"cifar10: {name}", "run", cifar(path, batch), ["data=cifar10", "data.root={}", "data.download=false", *own]
        )
    memo = b"\x80\x02}r\xff\xff\xff\x7f."
    yield Case(
        "cifar10: a far memo",
        "run",
        cifar("cifar-10-batches-py/data_batch_1", memo),
        ["data=cifar10", "data.root={}", *own],
    )
    model = ["model=torchvision", "model.name=squeezenet1_1", "model.weights={}/w.pth", "data=npz", "data.layout=chw"]
    images = io.BytesIO()
    np.savez(images, x=np.zeros((20, 3, 32, 32), np.uint8), y=np.arange(20) % 2)
    for name in ("reduce", "legacy pickle", "legacy tar", "stack_global", "compressed"):
        change = both(written("w.pth", weights()[name]), written("d.npz", images.getvalue()))
        yield Case(f"model.weights: {name}", "run", change, [*model, "data.path={}/d.npz", *own])


def cifar(name: str, raw: bytes) -> Change:
    good = pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}, protocol=2)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    parts = [written(f"cifar-10-batches-py/{n}", good) for n in names]
    return both(*parts, written(name, raw))


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def main(root: Path) -> None:
    from regrun import cli

    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["SECRET"] = SECRET
    Path("victim").mkdir()
    Path("victim/file").write_text("mine")
    Path("evil.py").write_text("import os\nos.system('touch ran')\ndef run(): pass\n")
    Path("evil.pkl").write_bytes(pickle.dumps(Calls(os.system, PAYLOAD)))
    sweep = ["-m", *BEFORE, "seed=0,1,2", "hydra.sweep.dir=sweep", "trainer.save=predictions"]
    assert cli.main([*BEFORE, "hydra.run.dir=run"]) == 0 == cli.main(sweep)
    hearing = Hearing(root / "case")
    warm_up()
    sys.addaudithook(hearing.hook)
    Path("results.json").write_text(json.dumps([tried(case, hearing) for case in cases()]))


def warm_up() -> None:
    """Whatever is imported late is imported now, so that no event of it is heard."""
    for words in [*VERBS, ["collect"], ["variance"]]:
        shutil.copytree("sweep", "case")
        read([words[0], "case", *words[1:]])
        shutil.rmtree("case")
    for how in ("load", "read"):
        shutil.copytree("run", "case")
        read(how)
        shutil.rmtree("case")


def tried(case: Case, hearing: Hearing) -> dict[str, Any]:
    """What came of a case."""
    shutil.copytree(case.of, "case", symlinks=True)
    case.change(Path("case"))
    before = snapshot()
    hearing.heard, hearing.is_on = [], True
    start = time.monotonic()
    code, said = read(case.read if isinstance(case.read, str) else [word.replace("{}", "case") for word in case.read])
    seconds, hearing.is_on = time.monotonic() - start, False
    kept, ran = snapshot() == before, Path("ran").exists()
    shutil.rmtree("case")
    Path("ran").unlink(missing_ok=True)
    found = {"code": code, "said": said, "seconds": seconds, "heard": hearing.heard, "kept": kept, "ran": ran}
    return {"name": case.name, "codes": case.codes, **found}


def read(how: list[str] | str) -> tuple[int, list[str]]:
    """The exit code and what was said, of a command or of a function of the package: 0 where it returned."""
    import regrun
    from regrun import cli
    from regrun.errors import RegrunError

    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        try:
            code = cli.main(how) if isinstance(how, list) else bool(getattr(regrun, how)("case")) - 1 if False else 0
            if isinstance(how, str):
                getattr(regrun, how)("case")
        except RegrunError as error:
            code = error.exit_code
            print(f"regrun: {error}", file=sys.stderr)
        except BaseException as error:
            code = -1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return code, [output.getvalue(), errors.getvalue()]


def snapshot() -> dict[str, Any]:
    """Every file below here, and when it was changed."""
    return {str(p): p.lstat().st_mtime_ns for p in sorted(Path().rglob("*")) if not p.is_dir()}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
