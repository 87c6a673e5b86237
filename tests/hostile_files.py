"""The contents of files that somebody has made to run code, to reach out of their folder, or to take all memory."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

PAYLOAD = "touch ran"  # what a file would run
TARGETS = (
    *("os.system", "posix.system", "logging.os.system", "subprocess.call", "builtins.eval", "timeit.timeit"),
    *("code.interact", "cProfile.run", "runpy.run_path", "pickle.loads", "shutil.rmtree", "torch.hub.load"),
    *("torch.load", "pandas.read_pickle", "builtins.open", "pathlib.Path.write_text"),
)


class Calls:
    """Unpickled, it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


CODE = Calls(os.system, PAYLOAD)
WORD = b"X\x09\x00\x00\x00" + PAYLOAD.encode()  # the payload as a pickle's opcode
FAR_MEMO = b"\x80\x02}r\xff\xff\xff\x7f."  # the unpickler in C takes 32 GB to remember a dict at place 2^31


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
    """As the first versions of torch wrote it, with a part that leads out of the folder."""
    buffer, content = io.BytesIO(), pickle.dumps(CODE, protocol=2)
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors", "../ran"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pickles() -> dict[str, bytes]:
    """Files of weights that could run something, or whose reader could take all memory."""
    script = {"code/__torch__.py": b"import os\nos.system('touch ran')\n", "constants.pkl": b"\x80\x02)."}
    return {
        "reduce": archive(pickle.dumps(CODE, protocol=2)),
        "reduce in a dict": archive(pickle.dumps({"hidden1.weight": CODE}, protocol=2)),
        "reduce as a key": archive(pickle.dumps({Calls(str, "a"): CODE}, protocol=2)),
        "stack_global": archive(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09" + PAYLOAD.encode() + b"\x85R."),
        "build": archive(b"\x80\x02ctorch.nn.modules.module\nModule\n)\x81}X\x03\x00\x00\x00foocos\nsystem\nsb."),
        "inst": archive(b"(" + WORD + b"ios\nsystem\n."),
        "obj": archive(b"(cos\nsystem\n" + WORD + b"o."),
        "newobj": archive(b"\x80\x02cos\nsystem\n)\x81."),
        "extension": archive(b"\x80\x02\x82\x01."),
        "persistent": archive(b"\x80\x02cos\nsystem\n(" + WORD + b"tRQ."),
        "eval": archive(pickle.dumps(Calls(eval, "__import__('os').system('touch ran')"), protocol=2)),
        "getattr": archive(b"\x80\x02cbuiltins\ngetattr\n."),
        "hub": archive(b"\x80\x02ctorch.hub\nload\n(" + WORD + WORD + b"tR."),
        "import": archive(b"\x80\x02cevil\nrun\n)R."),
        "pandas": archive(b"\x80\x02cpandas\nread_pickle\n(X\x08\x00\x00\x00evil.pkltR."),
        "legacy pickle": pickle.dumps(CODE, protocol=2),
        "legacy pickle of protocol 0": pickle.dumps(CODE, protocol=0),
        "legacy pickle behind a magic number": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(CODE, 2),
        "legacy tar": legacy_tar(),
        "nested archive": archive(pickle.dumps({"a": archive(pickle.dumps(CODE, protocol=2))}, protocol=2)),
        "script": archive(b"\x80\x02}.", **script),
        "compressed": archive(b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED, bomb=bytes(50_000_000)),
        "a long word": archive(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a."),
        "a far memo": archive(FAR_MEMO),
        "deep": archive(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."),
        "a list": saved([1, 2]),
        "nothing": saved(None),
        "empty": b"",
        "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "no archive": b"PK\x03\x04" + bytes(100),
    }


def tensors(good: bytes) -> dict[str, bytes]:
    """Files of tensors that are not those of the network, or larger than they look."""
    own = torch.load(io.BytesIO(good), weights_only=True)
    flipped = bytearray(good)
    flipped[good.index(b"output.bias") + 2] ^= 0x20
    changes: dict[str, Any] = {
        "repeated without end": {"hidden1.weight": torch.zeros(1).expand(1 << 40)},
        "a shape without end": {"input.shape": torch.tensor([1 << 20, 1 << 20, 1 << 20])},
        "a negative shape": {"input.shape": torch.tensor([-1, -8, 8])},
        "outputs without end": {"output.size": torch.tensor(1 << 40)},
        "NaN outputs": {"output.size": torch.tensor(float("nan"))},
        "another shape": {"hidden1.weight": torch.zeros(3, 3)},
        "a sparse tensor": {"output.bias": torch.zeros(10).to_sparse()},
        "a tensor of nothing": {"output.bias": torch.zeros(10, device="meta")},
        "a word": {"output.bias": "x"},
    }
    return {name: saved(own | change) for name, change in changes.items()} | {
        "no shape": saved({name: value for name, value in own.items() if name != "input.shape"}),
        "a tensor lacks": saved({name: value for name, value in own.items() if name != "output.bias"}),
        "cut short": good[: len(good) // 2],
        "a name flipped": bytes(flipped),
    }


def settings(good: str) -> dict[str, str | bytes]:
    """Files of settings, made of a good one."""

    def with_(old: str, new: str) -> str:
        assert old in good
        return good.replace(old, new)

    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    target = "      _target_: pandas.read_pickle\n      filepath_or_buffer: evil.pkl\n"
    inside = {
        f"{key} inside": with_("kind: mlp", f"kind: mlp\n  {key}: os.system") for key in ("_target_", "_partial_")
    }
    return {
        **{f"_target_ {name}": f"{good}_target_: {name}\n_args_: [{PAYLOAD}]\n" for name in TARGETS},
        **inside,
        "()": f"{good}(): os.system\n",
        "callbacks": f"{good}hydra:\n  callbacks:\n    x:\n{target}",
        "handlers": f"{good}hydra:\n  job_logging:\n    handlers:\n      x:\n        (): os.system\n",
        "defaults": f"{good}defaults:\n  - override hydra/launcher: evil\n",
        "searchpath": f"{good}hydra:\n  searchpath: [pkg://evil]\n",
        "environment": with_("activation: relu", "activation: ${oc.env:SECRET}"),
        "environment as a number": with_("width: 16", "width: ${oc.decode:${oc.env:SECRET}}"),
        "interpolation": with_("width: 16", "width: ${model.depth}"),
        "create": with_("activation: relu", "activation: ${oc.create:'{a: ${oc.env:SECRET}}'}"),
        "no such resolver": with_("activation: relu", "activation: ${evil:}"),
        "missing": with_("activation: relu", "activation: ???"),
        "aliases": f"a0: &a0 [x, x, x, x, x, x, x, x, x]\n{levels}{good}",
        "one anchor": with_("kind: mlp", "kind: &a mlp"),
        "merged": f"base: &b {{width: 3}}\nx:\n  <<: *b\n{good}",
        "object": f"{good}x: !!python/object/apply:os.system [{PAYLOAD}]\n",
        "object instead": f"!!python/object/apply:os.system [{PAYLOAD}]\n",
        "object/new": f"{good}x: !!python/object/new:os.system [{PAYLOAD}]\n",
        "name": f"{good}x: !!python/name:os.system\n",
        "module": f"{good}x: !!python/module:evil\n",
        "path": f"{good}x: !!python/object/apply:pathlib.Path [evil]\n",
        "deep": good + "x: " + "[" * 5000 + "]" * 5000 + "\n",
        "deep blocks": good + "".join(f"{' ' * i}- \n" for i in range(500)),
        "large": good + "".join(f"k{i}: 1\n" for i in range(200_000)),
        "a large word": with_("activation: relu", "activation: " + "x" * 10_000_000),
        "a large number": with_("width: 16", "width: " + "9" * 5000),
        "a number too large": with_("width: 16", "width: 1e400"),
        "a large network": good.replace("width: 16", "width: 1000000").replace("depth: 1", "depth: 1000"),
        "another network": with_("width: 16", "width: 17"),
        "a key twice": with_("kind: mlp", "kind: mlp\n  kind: mlp"),
        "no key": f"{good}? [a, b]\n: c\n",
        "two documents": f"{good}---\n{good}",
        "no date": with_("seed: 0", "seed: 2001-99-99"),
        "control characters": with_("activation: relu", "activation: 'relu\x1b[2J'"),
        "control characters in escapes": with_("activation: relu", 'activation: "\\e[2J\\u202e"'),
        "NUL": with_("activation: relu", "activation: 'a\0b'"),
        "no text": b"\xff\xfe\x00\x01",
        "a word": "regrun",
        "a list": "[1, 2]",
        "empty": "",
    }


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


LAUNCHES: dict[str, str | bytes] = {
    "no JSON": "launcher: local",
    "deep": _nested(100_000),
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
SEARCHES: dict[str, str | bytes] = {
    "no JSON": "x",
    "deep": _nested(100_000),
    "a list": "[]",
    "empty": "{}",
    "no base": '{"options": {}, "base": {}, "space": []}',
    "a space of code": '{"options": {"kind": "optuna"}, "base": {}, "space": [{"_target_": "os.system"}]}',
}
FOLDERS = ("../ran", "../../ran", "a/../../ran", "/tmp/ran", "", ".", "..", "a\0b", "x\x1b[2J", "stacks/../../ran")


def predictions() -> dict[str, bytes]:
    """Files of predictions."""
    code = np.array([CODE], dtype=object)
    compressed, endless = io.BytesIO(), io.BytesIO()
    np.savez_compressed(compressed, val=np.zeros(20_000_000))
    shape = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    with zipfile.ZipFile(endless, "w") as file:
        file.writestr("val.npy", np.lib.format.magic(1, 0) + struct.pack("<H", 80) + shape.ljust(79) + b"\n")
    nothing = {"val": np.zeros((1, 0, 10), np.float32), "val_targets": np.zeros(0, np.int32)}
    return {
        "code": arrays(val=code),
        "code in targets": arrays(val_targets=code),
        "compressed": compressed.getvalue(),
        "a shape without end": endless.getvalue(),
        "words": arrays(val=np.array([[["a" * 10] * 10] * 4])),
        "a class too high": arrays(test_targets=np.full(4, 10, np.int32)),
        "a class below 0": arrays(test_targets=np.full(4, -1, np.int32)),
        "no example": arrays(**nothing, val_examples=np.zeros(0, np.int32)),
        "one array": array(code),
        "a pickle": pickle.dumps(CODE),
        "empty": b"",
    }


def arrays(**changes: Any) -> bytes:
    """A file of predictions, but for some arrays."""
    own = {"epochs": np.array([1], np.int32), "target_scale": np.zeros(0, np.float32)}
    for split in ("val", "test"):
        own |= {split: np.zeros((1, 4, 10), np.float32), f"{split}_targets": np.zeros(4, np.int32)}
        own |= {f"{split}_examples": np.arange(4, dtype=np.int32)}
    return npz(**(own | changes))


def npz(**own: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **own)
    return buffer.getvalue()


def array(own: Any) -> bytes:
    """NumPy's .npy, of objects, too."""
    buffer = io.BytesIO()
    np.save(buffer, own, allow_pickle=True)
    return buffer.getvalue()


def checkpoints(good: bytes) -> dict[str, bytes]:
    """Files of a stack's state whose manifest says that every byte is right."""
    held = torch.load(io.BytesIO(good), weights_only=True)
    state, own = held["state"], pickles()
    changes: dict[str, Any] = {
        "no runs": {"runs": []},
        "other runs": {"runs": [{"run_id": "../ran"}]},
        "runs that are words": {"runs": ["a"]},
        "words for tensors": {"tensors": dict.fromkeys(state["tensors"], "x")},
        "tensors of another shape": {"tensors": {name: t[..., :3] for name, t in state["tensors"].items()}},
        "no tensors": {"tensors": {}},
        "another epoch": {"epoch": 10**9},
        "steps without end": {"taken": 10**9},
        "a step back": {"taken": -5},
    }
    names = ("reduce", "stack_global", "legacy pickle", "legacy tar", "compressed", "a far memo", "a list", "nothing")
    return {name: own[name] for name in names} | {
        **{name: saved(held | {"state": state | change}) for name, change in changes.items()},
        "no state": saved({"manifest": held["manifest"]}),
        "another's manifest": saved(held | {"manifest": held["manifest"] | {"epoch": 7}}),
    }


MANIFESTS: dict[str, str | bytes] = {
    "no JSON": "epoch: 1",
    "deep": _nested(100_000),
    "a list": "[]",
    "empty": "{}",
    "no text": b"\xff\xfe",
    "tables elsewhere": '{"version": 1, "number": 9, "run_ids": [], "epoch": 1, "step": 1, "facts": {}, '
    '"tables": {"../../victim/file": [1, "x"]}}',
}


CONFIGS = {  # hydra nodes and others of an experiment
    "callbacks": "hydra: {callbacks: {x: {_target_: pandas.read_pickle, filepath_or_buffer: evil.pkl}}}",
    "handlers": "hydra: {job_logging: {handlers: {x: {(): os.system, command: touch ran}}}}",
    "target": "_target_: os.system",
    "target inside": "model: {_target_: os.system}",
    "searchpath": "hydra: {searchpath: ['pkg://evil']}",
    "object": "seed: !!python/object/apply:os.system [touch ran]",
}


def place_bait(root: Path) -> None:
    """What hostile files reach for: a module, a pickle, a folder of somebody's."""
    (root / "victim").mkdir()
    (root / "victim/file").write_text("mine\n")
    (root / "evil.py").write_text("import os\nos.system('touch ran')\ndef run(): pass\n")
    (root / "evil.pkl").write_bytes(pickle.dumps(CODE))
