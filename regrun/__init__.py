"""regrun: experiments on neural-network design and regularization.

`regrun.read(folder)` gives a run's tables as DataFrames, `regrun.load(folder)` its trained network.
Both import what they need when they are called, so that `regrun --help` answers at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from regrun.reading import Tables

__version__ = "0.1.0"
__all__ = ["__version__", "load", "read"]


def read(path: str | Path) -> "Tables":
    """The tables of the run in folder `path`: `.curves`, `.epochs`, `.layers`, `.summary` (pandas)."""
    from regrun import reading

    return reading.read(Path(path))


def load(path: str | Path, *, weights: str = "best") -> "nn.Module":
    """The trained network of the run in folder `path`: an ordinary `nn.Module` in eval mode.

    It takes raw inputs as the data set has them (pixels 0 to 255, say), shaped (batch, ...), and returns
    logits (batch, classes). `weights` is "best" or "last"; the run must have kept them (`trainer.save`).
    """
    from regrun import reading

    return reading.load(Path(path), weights=weights)
