"""Where the package keeps what is not code."""

from pathlib import Path


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
        return path != root and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def is_there(path: str) -> bool:
    """Whether there is such a file or folder."""
    try:
        return Path(path).exists()
    except OSError:
        return False
