"""Rows of inputs that are too many for the device: gathered in the host's memory, by processes if asked, and sent over.

The rows are those that the device would have gathered itself, so nothing in the tables changes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regrun.settings import Data

SHARE = 0.5  # of a GPU's free memory that inputs may fill: the rest is for weights, activations and workspaces
PATIENCE = 60.0  # seconds that a process may take for a batch before it counts as hanging
LOST = "RuntimeError: DataLoader "  # what torch raises where a process died or hangs: type and first words


class Rows(Dataset[Tensor]):
    """(R, B) indices -> (R, B, D) inputs."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.inputs.index_select(0, indices.flatten()).view(*indices.shape, -1)


def is_streamed(data: Data, inputs: Tensor, device: torch.device) -> bool:
    """Whether inputs stay in the host's memory. auto: where they would fill over `SHARE` of a GPU's free memory."""
    if data.stream != "auto" or device.type != "cuda":
        return data.stream == "always"
    free, _ = torch.cuda.mem_get_info(device)
    return inputs.nbytes > SHARE * free


def rows(inputs: Tensor, parts: Sequence[Tensor], device: torch.device, *, workers: int) -> Iterator[Tensor]:
    """For each (R, B) of `parts` its inputs (R, B, D), on the device; from pinned memory to a GPU.

    torch raises RuntimeError where a process dies, wherever this one is then, and here where one hangs.
    """
    loader = DataLoader(
        Rows(inputs),
        batch_size=None,
        sampler=[part.cpu() for part in parts],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        timeout=PATIENCE if workers else 0,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from torch's global stream
    )
    for batch in loader:
        yield batch.to(device, non_blocking=True)
