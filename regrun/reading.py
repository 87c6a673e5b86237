"""What a run left, for notebooks: its tables as DataFrames, its network as an nn.Module."""

import io
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from regrun import foreign
from regrun.errors import ConfigError, DataError, clip
from regrun.records import unguarded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regrun.models.ops import Op

HASHES = ("run_id", "fingerprint", "data_hash", "git", "code")  # words, though one may look like a number


@dataclass(frozen=True)
class Tables:
    """The tables of a run (`outputs/README.md` describes every column); `label_noise` only where there was any."""

    curves: pd.DataFrame
    epochs: pd.DataFrame
    layers: pd.DataFrame
    summary: pd.DataFrame
    label_noise: pd.DataFrame | None


def read(folder: Path) -> Tables:
    """The tables in `folder`, or in every run's folder below it, put under one another."""
    folders = [folder] if (folder / "summary.csv").is_file() else sorted(p.parent for p in folder.glob("*/summary.csv"))
    if not folders:
        raise DataError(f"{folder}: has no summary.csv, nor has a folder in it; name the folder of a run or a sweep")
    for own in dict.fromkeys([folder, *folders]):
        foreign.check_folder(own)
    tables = {name: _table(folders, name) for name in ("curves", "epochs", "layers", "summary")}
    noisy = [f for f in folders if (f / "label_noise.csv").is_file()]
    return Tables(**tables, label_noise=_table(noisy, "label_noise") if noisy else None)


def _table(folders: list[Path], name: str) -> pd.DataFrame:
    frames = [_csv(folder / f"{name}.csv") for folder in folders]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def _csv(path: Path) -> pd.DataFrame:
    """Whole rows alone, words without the mark that keeps a spreadsheet from computing them (`records.guarded`)."""
    text = "".join(foreign.lines(path))
    try:
        deque(foreign.table(path, ["run_id"], of=io.StringIO(text)), maxlen=0)  # each row is looked at
        found = pd.read_csv(io.StringIO(text), dtype=dict.fromkeys(HASHES, str))
    except ValueError as error:  # pandas' own errors
        raise DataError(f"{path}: is no table of regrun's ({clip(str(error))}); repeat the run") from None
    for name in found.select_dtypes(["object", "str"]):
        is_marked = [isinstance(cell, str) and cell.startswith("'") for cell in found[name]]
        if any(is_marked):
            found[name] = [unguarded(c) if marked else c for c, marked in zip(found[name], is_marked, strict=True)]
    return found


def load(folder: Path, *, weights: str = "best") -> "nn.Module":
    """The network of the run in `folder`, in eval mode, from raw inputs to logits.

    A regression's network predicts in the units of the targets.
    """
    from regrun import tensors
    from regrun.config import read_settings
    from regrun.models.build import build
    from regrun.models.dropping import Dropout
    from regrun.models.export import export
    from regrun.models.ops import walk
    from regrun.stack import drop_rate

    if weights not in ("best", "last"):
        raise ConfigError(f"weights: must be best or last, got {weights!r}")
    path = folder / f"{weights}.pt"
    if not path.is_file():
        raise DataError(f"{path}: is not there; train with trainer.save={weights} to keep it")
    foreign.check_folder(folder)
    found, run = tensors.read(path), read_settings(folder / "settings.yaml")
    shape, outputs = _sizes(path, found)
    network = build(run.model, run.reg, input_shape=shape, num_classes=outputs)
    _check_fit(path, found, network)
    rates = {op.name: drop_rate(run, op) for op in walk(network) if isinstance(op, Dropout)}
    return export(network, found, rates)


def _sizes(path: Path, found: "Mapping[str, Tensor]") -> tuple[tuple[int, ...], int]:
    """The shape of an example, and how many outputs there are. What is scaled is as large."""
    try:
        shape, outputs = tuple(map(int, found["input.shape"].tolist())), int(found["output.size"])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
        shape, outputs = (), 0
    own = [found.get(name) for name in ("input.offset", "input.scale")]
    size = math.prod(shape)
    if not shape or min(*shape, outputs) < 1 or any(one is None or one.numel() != size for one in own):
        raise _misfit(path, "input.shape, output.size or input.offset")
    return shape, outputs


def _check_fit(path: Path, found: "Mapping[str, Tensor]", network: "tuple[Op, ...]") -> None:
    """Raise DataError where the file lacks a tensor of the network, before any memory is taken for it."""
    from regrun.models.parameters import all_slots

    for slot in all_slots(network):
        if slot.name not in found or tuple(found[slot.name].shape) != slot.shape:
            raise _misfit(path, slot.name)


def _misfit(path: Path, name: str) -> DataError:
    return DataError(f"{path}: does not fit settings.yaml beside it: {clip(name)}; repeat the run")
