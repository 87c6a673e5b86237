"""Data sets that torchvision can fetch, where they are not there yet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regrun import records
from regrun.errors import ConfigError, EnvironmentFault


def fetch(
    kind: str, root: str, folder: Path, *, dataset: str, allowed: bool, parts: Sequence[dict[str, Any]] = ({},)
) -> None:
    """Let torchvision's `dataset` download into root, and check its MD5s. folder: where the files will be."""
    if not allowed:
        raise ConfigError(f"data.root: no {kind} in {folder}; set data.root or data.download=true")
    import torchvision  # 1.3 s, so only when something is missing

    try:
        for part in parts:
            getattr(torchvision.datasets, dataset)(root, download=True, **part)
    except (OSError, RuntimeError) as error:
        records.prune(folder, below=Path(root).parent)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentFault(
            f"data.root: no {kind} in {folder}, and it could not be downloaded ({reason}); "
            f"set data.root to a folder that has torchvision's files"
        ) from None
