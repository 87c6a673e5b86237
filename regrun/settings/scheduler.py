"""The group `scheduler`: how the learning rate goes."""

from dataclasses import dataclass

from regrun.settings.fields import choice, number, plain


@dataclass(frozen=True)
class Constant:
    """The same lr throughout."""

    kind: str = plain("constant")


@dataclass(frozen=True)
class Exponential:
    """lr * e^(-k t); t counts epochs or steps, from 0."""

    kind: str = plain("exponential")
    interval: str = choice("epoch", ("epoch", "step"))
    k: float = number(0.05, "[0, inf)")


@dataclass(frozen=True)
class Inverse:
    """lr / (1 + k t); t counts epochs or steps, from 0."""

    kind: str = plain("inverse")
    interval: str = choice("epoch", ("epoch", "step"))
    k: float = number(0.05, "[0, inf)")


@dataclass(frozen=True)
class Step:
    """lr * gamma^floor(t / step_size)."""

    kind: str = plain("step")
    interval: str = choice("epoch", ("epoch", "step"))
    step_size: int = number(30, "[1, inf)")
    gamma: float = number(0.1, "(0, inf)")


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from lr to lr * min_factor over the whole run."""

    kind: str = plain("cosine")
    interval: str = choice("epoch", ("epoch", "step"))
    min_factor: float = number(0.0, "[0, 1]")


@dataclass(frozen=True)
class WarmupCosine:
    """A linear rise over the first `warmup` (a share of the run), then half a cosine."""

    kind: str = plain("warmup_cosine")
    interval: str = choice("step", ("epoch", "step"))
    warmup: float = number(0.1, "[0, 1)")
    min_factor: float = number(0.0, "[0, 1]")


Scheduler = Constant | Exponential | Inverse | Step | Cosine | WarmupCosine
SCHEDULERS: dict[str, type] = {
    "constant": Constant,
    "exponential": Exponential,
    "inverse": Inverse,
    "step": Step,
    "cosine": Cosine,
    "warmup_cosine": WarmupCosine,
}
