"""Signals that ask a command to end: noted, so that training can end between two steps and keep what it has done."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
SHOW_CURSOR = "\x1b[?25h"


@dataclass
class Noted:
    """The signal that came, 0 if none. The loop looks at it after every step, so it is nothing but a number."""

    number: int = 0
    is_patient: bool = False  # a second signal does not end the process at once
    process: int = field(default_factory=os.getpid)

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else "none"

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for others; 0 if none came."""
        return (130 if self.number == signal.SIGINT else 143) if self.number else 0

    def note(self, number: int, _: FrameType | None) -> None:
        """The handler."""
        if self.number and not self.is_patient:
            if sys.stdout is not None and sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())  # a live view has hidden it
            os._exit(self.exit_code)
        self.number = self.number or number


_now: Noted | None = None  # of this process, or of the one that it was forked from


@contextmanager
def noted(*, is_patient: bool = False) -> Iterator[Noted]:
    """While it lasts, signals are noted; a second one ends the process. What is deaf to one (nohup) stays so.

    is_patient: of a worker, who may be told to end by several at once, and whose end is up to who started it.
    """
    global _now
    if _now is not None and _now.process == os.getpid():
        yield _now  # it was begun around this one
        return
    before, outer = {}, _now
    _now = Noted(is_patient=is_patient)
    for number in ENDING if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _now.note)
    try:
        yield _now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _now = outer
