"""What must not happen in the process that forks the workers, done in a process of its own.

A Gaussian process starts autograd's threads, which initialize CUDA, and a connection to SQLite must not be forked.
"""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from regrun.errors import RegrunError, RunFailed

FORK = get_context("fork")
P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns, or the error of regrun's that it raises. The process sees no GPU."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send, args=(receiver, sender, lambda: function(*args, **kwargs)))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        name = getattr(function, "__name__", "a step")
        raise RunFailed(f"{name}: its process ended early, with exit code {process.exitcode}") from None
    process.join()
    if isinstance(result, RegrunError):
        raise result
    return result  # type: ignore[no-any-return]


def here(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same in this process: where none of its workers is a fork, and threads of a cluster's client forbid one."""
    return function(*args, **kwargs)


def _send(receiver: Connection, sender: Connection, function: Callable[[], object]) -> None:
    """The process. Any other error ends it, and shows where."""
    receiver.close()  # with the only other end, so that sending fails when the parent is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        sender.send(function())
    except RegrunError as error:
        sender.send(error)
