"""Rows of inputs that are too many for the device: gathered in the host's memory, by processes if asked, and sent over.

The rows are those that the device would have gathered itself, so nothing in the tables changes.
"""

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regrun.settings import Data

SHARE = 0.5  # of a GPU's free memory that inputs may fill: the rest is for weights, activations and workspaces
LOOK = 0.5  # seconds to wait for a batch before looking whether the processes live
PATIENCE = 60.0  # seconds that a process may take for a batch before it counts as hanging
TORCHS = "DataLoader "  # the first words of torch's own errors about processes
LATE = "DataLoader timed out"  # of the one that no batch came within `LOOK`


class ReaderLost(RuntimeError):
    """A process that reads the data died, or hangs."""


class Rows(Dataset[Tensor]):
    """(R, B) indices -> (R, B, D) inputs.

    The indices are numpy's, which are sent by value: torch's come by a thread that a process's death makes print.
    """

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __getitem__(self, indices: NDArray[np.int64]) -> Tensor:
        return self.inputs.index_select(0, torch.from_numpy(indices.ravel())).view(*indices.shape, -1)


def is_streamed(data: Data, inputs: Tensor, device: torch.device) -> bool:
    """Whether inputs stay in the host's memory. auto: where they would fill over `SHARE` of a GPU's free memory."""
    if data.stream != "auto" or device.type != "cuda":
        return data.stream == "always"
    free, _ = torch.cuda.mem_get_info(device)
    return inputs.nbytes > SHARE * free


def rows(inputs: Tensor, parts: Sequence[Tensor], device: torch.device, *, workers: int) -> Iterator[Tensor]:
    """For each (R, B) of `parts` its inputs (R, B, D), on the device; from pinned memory to a GPU.

    Raises ReaderLost, here and nowhere else, where a process died or hangs.
    """
    loader = DataLoader(
        Rows(inputs),
        batch_size=None,
        sampler=[part.cpu().numpy() for part in parts],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        timeout=LOOK if workers else 0,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from torch's global stream
    )
    for batch in _watched(loader) if workers else loader:
        yield batch.to(device, non_blocking=True)


def _watched(loader: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches of processes, as long as these live and go on."""
    batches = _without_signals(loader)
    while (batch := _next(batches)) is not None:
        yield batch


def _next(batches: Iterator[Tensor]) -> Tensor | None:
    """The next batch; None after the last. torch looks after the processes each time that none came within `LOOK`."""
    for _ in range(round(PATIENCE / LOOK)):
        try:
            return next(batches, None)
        except RuntimeError as error:
            if not str(error).startswith(TORCHS):
                raise
            if not str(error).startswith(LATE):
                raise ReaderLost(f"a process that reads the data died: {error}") from error
        except (OSError, EOFError) as error:
            raise ReaderLost("a process that reads the data died while it handed a batch over") from error
    raise ReaderLost(f"a process that reads the data hangs: no batch within {PATIENCE:g} s")


def _without_signals(loader: Iterable[Tensor]) -> Iterator[Tensor]:
    """Its iterator, without the handler by which torch raises wherever this process is when a process of its dies.

    Of 450 kills, 43 raised so a second time, in what handled the first. `_next` is told of every death anyway.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)  # torch sets none there
    before, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
