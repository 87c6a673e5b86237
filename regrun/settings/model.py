"""The group `model`: architecture, activation, init."""

from dataclasses import dataclass

from regrun.settings.fields import choice, group, number, plain

SCHEMES = (
    "torch",
    "he_normal",
    "he_uniform",
    "xavier_normal",
    "xavier_uniform",
    "orthogonal",
    "normal",
    "uniform",
    "constant",
    "zeros",
)
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "identity")
NORM_POSITIONS = ("pre", "post")  # of a norm: before the activation, or right after it


@dataclass(frozen=True)
class Init:
    """How weights and biases start (see `initializers`). Each replica of a stack may start in its own way."""

    scheme: str = choice("he_normal", SCHEMES)
    mode: str = choice("fan_in", ("fan_in", "fan_out", "fan_avg"))
    gain: float | None = number(None, "(0, inf)")
    std: float = number(0.01, "[0, inf)")
    value: float = number(0.01)
    bias: str = choice("zeros", ("zeros", "torch", "constant"))
    bias_value: float = number(0.0)
    output_scheme: str = choice("same", ("same", *SCHEMES))
    output_std: float | None = number(None, "[0, inf)")
    output_value: float | None = number(None)


@dataclass(frozen=True)
class Mlp:
    """Fully connected: `depth` hidden layers of `width` units, or one layer for each of `widths`."""

    kind: str = plain("mlp")
    depth: int = number(8, "[0, 1000]")
    width: int = number(128, "[1, 1000000]")
    widths: list[int] | None = number(None, "[1, 1000000]")
    activation: str = choice("relu", ACTIVATIONS)
    norm_position: str = choice("pre", NORM_POSITIONS)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Residual:
    """Pre-activation residual MLP: `depth` blocks on a stream of `width`; `widths` are the blocks' inner widths."""

    kind: str = plain("residual")
    depth: int = number(4, "[1, 1000]")
    width: int = number(128, "[1, 1000000]")
    widths: list[int] | None = number(None, "[1, 1000000]")
    activation: str = choice("relu", ACTIVATIONS)
    norm_position: str = choice("pre", NORM_POSITIONS)
    zero_residual: bool = plain(False, stackable=True)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Cnn:
    """Blocks of 3 x 3 convolution and 2 x 2 max pooling, then a linear head.

    Block i of `depth` has width * 2^i channels (i from 0), or `widths` says how many each has.
    """

    kind: str = plain("cnn")
    depth: int = number(2, "[1, 20]")
    width: int = number(32, "[1, 100000]")
    widths: list[int] | None = number(None, "[1, 100000]")
    activation: str = choice("relu", ACTIVATIONS)
    norm_position: str = choice("pre", NORM_POSITIONS)
    init: Init = group(Init, stackable=True)


Model = Mlp | Residual | Cnn
MODELS: dict[str, type] = {"mlp": Mlp, "residual": Residual, "cnn": Cnn}
WITH_MAPS = (Cnn,)  # have feature maps
WITH_SKIPS = (Residual,)  # have branches beside a skip


def hidden_layers(model: Model) -> list[int]:
    """The width of each hidden layer, block or convolution: where norm and dropout act."""
    if model.widths is not None:
        return list(model.widths)
    factor = 2 if isinstance(model, Cnn) else 1
    return [model.width * factor**i for i in range(model.depth)]


def normalized_widths(model: Model) -> list[int]:
    """The features or channels of each place where a norm may act."""
    return [*hidden_layers(model), *([model.width] if isinstance(model, Residual) else [])]
