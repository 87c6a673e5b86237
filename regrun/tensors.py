"""Files of tensors by name, which may be somebody else's: nothing in them runs, and no tensor is larger than its file.

torch has several formats. The one that it writes today is a ZIP file of uncompressed parts; before 1.6 it was a pickle.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regrun import foreign
from regrun.errors import DataError

MOST = 64 << 30  # bytes
ZIP, PICKLE = b"PK\x03\x04", b"\x80\x02"


def read(path: Path) -> dict[str, Tensor]:
    """The dense tensors of a state_dict, on the CPU; what else it holds is left out. Raises DataError."""
    try:
        found = load(path)
        return {str(name): value.detach() for name, value in found.items() if _is_plain(value)}
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path}: holds no weights ({type(error).__name__}); it is damaged, or another's") from None


def load(path: Path) -> Any:
    """What a file of torch.save holds: tensors, plain values, lists and dicts. Raises whatever is wrong with it."""
    foreign.check_size(path, MOST)
    _check_format(path)
    with warnings.catch_warnings(action="ignore"):  # of other formats
        return torch.load(path, weights_only=True, map_location="cpu")


def _check_format(path: Path) -> None:
    """Raise ValueError where a small file could become large: one whose parts are compressed, or a tar file."""
    with path.open("rb") as file:
        begin = file.read(4)
    if not begin.startswith((ZIP, PICKLE)):
        raise ValueError(begin)
    if begin == ZIP:
        foreign.check_stored(path)


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of numbers in memory, each of which is there: some formats repeat one without end."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return bool(value.numel() * value.element_size() <= value.untyped_storage().nbytes())
