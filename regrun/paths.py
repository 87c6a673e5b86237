"""Where the package keeps what is not code."""

from pathlib import Path


def conf_dir() -> Path:
    """The configuration that an installed wheel carries beside this file, or that of the checkout."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"
