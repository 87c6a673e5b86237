"""Where the package keeps what is not code."""

import os
from pathlib import Path

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes; of a path 96 are left for a file's name


def conf_dir() -> Path:
    """The configuration that an installed wheel carries beside this file, or that of the checkout."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def is_folder(path: str) -> bool:
    """Whether there is such a folder; a name that no file system takes is none."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def is_below(path: Path, root: Path) -> bool:
    """Whether a path lies below root, wherever links lead; links that go round in a circle lead nowhere."""
    try:
        return root.resolve() in path.resolve().parents
    except (OSError, RuntimeError, ValueError):
        return False


def is_short(path: Path) -> bool:
    """Whether file systems take a path, and each name in it."""
    is_whole_short = len(os.fsencode(path.absolute())) <= LONGEST_PATH
    return is_whole_short and all(len(os.fsencode(part)) <= LONGEST_NAME for part in path.parts)


def is_there(path: str) -> bool:
    """Whether there is such a file or folder."""
    try:
        return Path(path).exists()
    except OSError:
        return False
