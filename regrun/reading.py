"""What a run left, for notebooks: its tables as DataFrames, its network as an nn.Module."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from regrun.errors import ConfigError, DataError, clip

if TYPE_CHECKING:
    from torch import nn

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
    tables = {name: _table(folders, name) for name in ("curves", "epochs", "layers", "summary")}
    noisy = [f for f in folders if (f / "label_noise.csv").is_file()]
    return Tables(**tables, label_noise=_table(noisy, "label_noise") if noisy else None)


def _table(folders: list[Path], name: str) -> pd.DataFrame:
    frames = [_csv(folder / f"{name}.csv") for folder in folders]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(HASHES, str))
    except (OSError, ValueError) as error:  # pandas' own errors and undecodable bytes are ValueErrors
        raise DataError(f"{path}: is no table of regrun's ({clip(str(error))}); repeat the run") from None


def load(folder: Path, *, weights: str = "best") -> "nn.Module":
    """The network of the run in `folder`, in eval mode, from raw inputs to logits.

    A regression's network predicts in the units of the targets.
    """
    import torch
    import yaml

    from regrun.config import from_yaml
    from regrun.models.build import build
    from regrun.models.dropping import Dropout
    from regrun.models.export import export
    from regrun.models.ops import walk
    from regrun.stack import drop_rate

    if weights not in ("best", "last"):
        raise ConfigError(f"weights: must be best or last, got {weights!r}")
    path, settings = folder / f"{weights}.pt", folder / "settings.yaml"
    if not path.is_file():
        raise DataError(f"{path}: is not there; train with trainer.save={weights} to keep it")
    try:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: holds no weights of regrun's ({type(error).__name__}); repeat the run") from None
    try:
        run = from_yaml(settings.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, ConfigError, yaml.YAMLError) as error:
        raise DataError(f"{settings}: holds no settings of regrun's ({clip(str(error))}); repeat the run") from None
    shape, classes = tuple(tensors["input.shape"].tolist()), int(tensors["output.size"])
    network = build(run.model, run.reg, input_shape=shape, num_classes=classes)
    rates = {op.name: drop_rate(run, op) for op in walk(network) if isinstance(op, Dropout)}
    return export(network, tensors, rates)
