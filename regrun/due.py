"""When a checkpoint is due, and when training is to end: what the loop asks after every step."""

import math
import time
from enum import IntEnum

from regrun.signals import Noted

SHARE = 0.01  # of the time may go into checkpoints, however slow the disk


class Due(IntEnum):
    """What is asked of the loop."""

    NOTHING = 0
    CHECKPOINT = 1
    END = 2  # and a checkpoint before


NOTHING, CHECKPOINT, END = Due  # to ask an enumeration for its members takes as long as the clock


class Pace:
    """A checkpoint every so many minutes, or less often where they take long; the end when a signal came.

    Asking takes 0.2 microseconds; a step takes 100 or more.
    """

    def __init__(self, minutes: float | None, noted: Noted) -> None:
        """minutes: None for no checkpoint but the last."""
        self.pause, self.noted = math.inf if minutes is None else 60 * minutes, noted
        self.next = time.monotonic() + self.pause

    def __call__(self) -> Due:
        if self.noted.number:
            return END
        return CHECKPOINT if time.monotonic() >= self.next else NOTHING

    def took(self, seconds: float) -> None:
        """A checkpoint has been written."""
        self.next = time.monotonic() + max(self.pause, seconds / SHARE)
