"""The group `scheduler`: how the learning rate goes. t counts epochs or steps, from 0, after the warm-up."""

from dataclasses import dataclass

from regrun.settings.fields import choice, number, numbers, plain

INTERVALS = ("epoch", "step")


@dataclass(frozen=True)
class Scheduler:
    """What all schedules share: what lr changes with, and the share of the run in which it first rises linearly.

    The warm-up ends where the schedule starts, and the schedule has the rest of the run.
    """

    kind: str = plain("constant")
    interval: str = choice("epoch", INTERVALS)
    warmup: float = number(0.0, "[0, 1)")


@dataclass(frozen=True)
class Constant(Scheduler):
    """The same lr throughout."""


@dataclass(frozen=True)
class Exponential(Scheduler):
    """lr * e^(-k t)."""

    kind: str = plain("exponential")
    k: float = number(0.05, "[0, inf)")


@dataclass(frozen=True)
class Multiplicative(Scheduler):
    """lr * alpha^t: exponential with alpha = e^(-k)."""

    kind: str = plain("multiplicative")
    alpha: float = number(0.95, "(0, 1]")


@dataclass(frozen=True)
class Inverse(Scheduler):
    """lr / (1 + k t)."""

    kind: str = plain("inverse")
    k: float = number(0.05, "[0, inf)")


@dataclass(frozen=True)
class Step(Scheduler):
    """lr * gamma^floor(t / step_size)."""

    kind: str = plain("step")
    step_size: int = number(30, "[1, inf)")
    gamma: float = number(0.1, "(0, inf)")


@dataclass(frozen=True)
class MultiStep(Scheduler):
    """lr times gamma at each of the `milestones`."""

    kind: str = plain("multistep")
    milestones: list[int] = numbers([30, 60, 80], "[1, inf)")
    gamma: float = number(0.1, "(0, 1]")


@dataclass(frozen=True)
class Cosine(Scheduler):
    """Half a cosine from lr to lr * min_factor over the whole run."""

    kind: str = plain("cosine")
    min_factor: float = number(0.0, "[0, 1]")


@dataclass(frozen=True)
class WarmupCosine(Cosine):
    """Cosine whose `warmup` is 0.1 and counts steps."""

    kind: str = plain("warmup_cosine")
    interval: str = choice("step", INTERVALS)
    warmup: float = number(0.1, "[0, 1)")


@dataclass(frozen=True)
class CosineRestarts(Scheduler):
    """Half a cosine from lr to lr * min_factor again and again: the first takes t_0, each next one t_mult as long."""

    kind: str = plain("cosine_restarts")
    t_0: int = number(10, "[1, inf)")
    t_mult: int = number(1, "[1, inf)")
    min_factor: float = number(0.0, "[0, 1]")


def cycle_ends(scheduler: CosineRestarts, epochs: int) -> list[int]:
    """The epochs of a run with which a cycle ends, where t counts epochs."""
    ends, end, length = list[int](), round(scheduler.warmup * epochs), scheduler.t_0
    while end + length <= epochs:
        end, length = end + length, length * scheduler.t_mult
        ends.append(end)
    return ends


@dataclass(frozen=True)
class OneCycle(Scheduler):
    """Half a cosine from lr / div_factor up to lr in the share pct_start of the run, then one down to nearly 0.

    The end is at lr / (div_factor * final_div_factor).
    """

    kind: str = plain("one_cycle")
    interval: str = choice("step", INTERVALS)
    pct_start: float = number(0.3, "(0, 1)")
    div_factor: float = number(25.0, "[1, inf)")
    final_div_factor: float = number(1e4, "[1, inf)")


@dataclass(frozen=True)
class Cyclic(Scheduler):
    """Triangles: lr * min_factor up to lr in step_size_up, down in as many, and again."""

    kind: str = plain("cyclic")
    interval: str = choice("step", INTERVALS)
    step_size_up: int = number(100, "[1, inf)")
    min_factor: float = number(0.1, "[0, 1]")


@dataclass(frozen=True)
class Table(Scheduler):
    """The learning rates themselves, in place of optimizer.lr: one for each t; the last one stays."""

    kind: str = plain("table")
    lrs: list[float] = numbers([1e-3], "[0, inf)")


@dataclass(frozen=True)
class Plateau(Scheduler):
    """lr times `factor` when val has not improved for more than `patience` epochs; never below lr * min_factor."""

    kind: str = plain("plateau")
    interval: str = choice("epoch", ("epoch",))
    monitor: str = choice("val_loss", ("val_loss", "val_accuracy"))
    factor: float = number(0.1, "(0, 1)")
    patience: int = number(5, "[0, inf)")
    threshold: float = number(1e-4, "[0, inf)")
    cooldown: int = number(0, "[0, inf)")
    min_factor: float = number(0.0, "[0, 1]")


SCHEDULERS: dict[str, type] = {
    "constant": Constant,
    "exponential": Exponential,
    "multiplicative": Multiplicative,
    "inverse": Inverse,
    "step": Step,
    "multistep": MultiStep,
    "cosine": Cosine,
    "warmup_cosine": WarmupCosine,
    "cosine_restarts": CosineRestarts,
    "one_cycle": OneCycle,
    "cyclic": Cyclic,
    "table": Table,
    "plateau": Plateau,
}
