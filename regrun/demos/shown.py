"""What a demonstration shows."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """A small table, and what it shows in a sentence. The claim is the first line of the function that made it."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]  # of words and numbers
    meaning: str
