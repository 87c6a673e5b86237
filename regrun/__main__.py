"""The process of the command: `regrun`, and `python -m regrun`."""

import atexit
import os
import sys
import threading
from typing import NoReturn, TextIO

from regrun.cli import main


def run() -> NoReturn:
    """Run the command line and end the process."""
    code = main()
    try:
        _flush(sys.stdout)
        _flush(sys.stderr)
    except OSError:
        sys.exit(code)  # Python's own end says so
    if threading.active_count() > 1:
        sys.exit(code)
    # What is registered still runs; what is left of torch is not taken apart piece by piece (0.25 s).
    atexit._run_exitfuncs()
    os._exit(code)


def _flush(stream: TextIO | None) -> None:
    """What nobody reads any more (`regrun ... | head`) goes nowhere."""
    if stream is None:  # it was closed from the start
        return
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    run()
