"""The group `optimizer`: what an update is. Decay is a regularizer's, not theirs."""

from dataclasses import dataclass

from regrun.settings.fields import choice, number, numbers, plain


@dataclass(frozen=True)
class Sgd:
    """Plain gradient descent."""

    kind: str = plain("sgd")
    lr: float = number(1e-3, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum, `kind: momentum` (heavy ball) or `nesterov`.

    `convention` says where lr is: `torch` multiplies the velocity by it, `lecture` each gradient that enters it. They
    are the same until lr changes; then only torch's changes what is under way, too.
    """

    kind: str = plain("momentum")
    lr: float = number(1e-3, "[0, inf)", stackable=True)
    momentum: float = number(0.9, "[0, 1)", stackable=True)
    dampening: float = number(0.0, "[0, 1]", stackable=True)
    convention: str = choice("torch", ("torch", "lecture"), stackable=True)


@dataclass(frozen=True)
class RmsProp:
    """Gradients divided by a running root mean square."""

    kind: str = plain("rmsprop")
    lr: float = number(1e-2, "[0, inf)", stackable=True)
    alpha: float = number(0.99, "[0, 1)", stackable=True)
    eps: float = number(1e-8, "[0, inf)", stackable=True)
    momentum: float = number(0.0, "[0, 1)", stackable=True)
    centered: bool = plain(False)


@dataclass(frozen=True)
class Adam:
    """Adaptive moments, `kind: adam` or `adamw` (adam whose default `reg.weight_decay.value` is 0.01)."""

    kind: str = plain("adam")
    lr: float = number(1e-3, "[0, inf)", stackable=True)
    betas: list[float] = numbers([0.9, 0.999], "[0, 1)", length=2, stackable=True)
    eps: float = number(1e-8, "[0, inf)", stackable=True)
    amsgrad: bool = plain(False)


@dataclass(frozen=True)
class NAdam:
    """Adam with Nesterov's look-ahead; its momentum grows towards betas[0] by `momentum_decay`."""

    kind: str = plain("nadam")
    lr: float = number(2e-3, "[0, inf)", stackable=True)
    betas: list[float] = numbers([0.9, 0.999], "[0, 1)", length=2, stackable=True)
    eps: float = number(1e-8, "(0, inf)", stackable=True)
    momentum_decay: float = number(4e-3, "[0, inf)", stackable=True)


@dataclass(frozen=True)
class Adamax:
    """Adam with the largest recent gradient in place of the root mean square."""

    kind: str = plain("adamax")
    lr: float = number(2e-3, "[0, inf)", stackable=True)
    betas: list[float] = numbers([0.9, 0.999], "[0, 1)", length=2, stackable=True)
    eps: float = number(1e-8, "(0, inf)", stackable=True)


@dataclass(frozen=True)
class Adagrad:
    """Gradients divided by the root of the sum of all their squares so far."""

    kind: str = plain("adagrad")
    lr: float = number(1e-2, "[0, inf)", stackable=True)
    lr_decay: float = number(0.0, "[0, inf)", stackable=True)
    initial_accumulator_value: float = number(0.0, "[0, inf)", stackable=True)
    eps: float = number(1e-10, "(0, inf)", stackable=True)


@dataclass(frozen=True)
class Adadelta:
    """Gradients scaled by recent updates over recent gradients: lr is a factor of the result, usually 1."""

    kind: str = plain("adadelta")
    lr: float = number(1.0, "[0, inf)", stackable=True)
    rho: float = number(0.9, "[0, 1)", stackable=True)
    eps: float = number(1e-6, "(0, inf)", stackable=True)


Optimizer = Sgd | Momentum | RmsProp | Adam | NAdam | Adamax | Adagrad | Adadelta
OPTIMIZERS: dict[str, type] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "nesterov": Momentum,
    "rmsprop": RmsProp,
    "adam": Adam,
    "adamw": Adam,
    "nadam": NAdam,
    "adamax": Adamax,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
}
