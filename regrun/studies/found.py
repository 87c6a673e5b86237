"""What a study that trains nothing gives: a figure of an arm for one seed."""

from typing import NamedTuple


class Found(NamedTuple):
    """A figure of an arm, and the place on the x axis that it belongs to, if there is one."""

    arm: str
    figure: str
    value: float
    over: float | None = None
