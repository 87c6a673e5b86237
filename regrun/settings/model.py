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
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "elu", "identity")
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


@dataclass(frozen=True)
class Resnet:
    """Residual network for small images (He et al. 2016, section 4.2): `depth` is 6n + 2 layers with weights.

    A 3 x 3 convolution, three stages of n blocks of `width`, 2 and 4 times as many channels, global average pooling.
    Where a stage begins, the shortcut takes every other pixel and adds channels of zeros (the paper's option A). The
    paper normalizes every convolution: `reg=batchnorm`. Dropout is between the two convolutions of a block, as in wide
    ResNets (Zagoruyko and Komodakis 2016).
    """

    kind: str = plain("resnet")
    depth: int = number(20, "[8, 1202]")
    width: int = number(16, "[1, 100000]")
    activation: str = choice("relu", ACTIVATIONS)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Moe:
    """`experts` MLPs (see Mlp) whose outputs a softmax gate on the input mixes (Jacobs et al. 1991).

    `top_k` lets only the largest gates of an example count; null: all.
    """

    kind: str = plain("moe")
    experts: int = number(4, "[1, 1024]")
    top_k: int | None = number(None, "[1, 1024]")
    depth: int = number(1, "[0, 1000]")
    width: int = number(64, "[1, 1000000]")
    widths: list[int] | None = number(None, "[1, 1000000]")
    activation: str = choice("relu", ACTIVATIONS)
    norm_position: str = choice("pre", NORM_POSITIONS)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Vit:
    """Vision transformer (Dosovitskiy et al. 2021): a token for each square of `patch` pixels, `depth` blocks.

    Blocks are pre-normalized attention of `heads` and an MLP `mlp_ratio` times as wide as the tokens' `width`, each
    beside a skip. Positions are learned; the mean of the tokens, not a class token, goes to the output.
    """

    kind: str = plain("vit")
    depth: int = number(4, "[1, 1000]")
    width: int = number(64, "[1, 100000]")
    heads: int = number(4, "[1, 1024]")
    patch: int = number(4, "[1, 1024]")
    mlp_ratio: int = number(2, "[1, 100]")
    activation: str = choice("gelu", ACTIVATIONS)
    init: Init = group(Init, stackable=True)


@dataclass(frozen=True)
class Torchvision:
    """A classification model of torchvision by `name`, untrained or from `weights`, the file of a state_dict.

    Linear layers and convolutions start by `init`, all else as torchvision starts it; with `weights` the head alone,
    the last layer, is new. `small_stem` replaces a first convolution and max pooling that shrink the image (3 x 3,
    stride 1, no pooling). Grey images are repeated to three channels. Runs never share a stack.
    """

    kind: str = plain("torchvision")
    name: str = plain("resnet18")
    weights: str | None = plain(None)
    small_stem: bool = plain(False)
    init: Init = group(Init)

    @property
    def activation(self) -> str:
        """What `init` takes the gain of."""
        return "relu"


Model = Mlp | Residual | Cnn | Resnet | Moe | Vit | Torchvision
MODELS: dict[str, type] = {
    "mlp": Mlp,
    "residual": Residual,
    "cnn": Cnn,
    "resnet": Resnet,
    "moe": Moe,
    "vit": Vit,
    "torchvision": Torchvision,
}
WITH_MAPS = (Cnn, Resnet)  # have feature maps
WITH_SKIPS = (Residual, Resnet, Vit)  # have branches beside a skip


def hidden_layers(model: Model) -> list[int]:
    """The width of each hidden layer, block or convolution: where norm and dropout act, in each expert alike."""
    match model:
        case Torchvision():
            return []
        case Resnet():
            return [model.width * factor for factor in (1, 2, 4) for _ in range((model.depth - 2) // 6)]
        case Vit():
            return [model.width] * model.depth
    if model.widths is not None:
        return list(model.widths)
    factor = 2 if isinstance(model, Cnn) else 1
    return [model.width * factor**i for i in range(model.depth)]


def normalized_widths(model: Model) -> list[int]:
    """The features or channels of each place where a norm may act."""
    return [*hidden_layers(model), *([model.width] if isinstance(model, Residual) else [])]


def describe(model: Model) -> str:
    """A model in a few words: mlp 8 x 128, mlp 75, 45, or torchvision resnet18."""
    match model:
        case Torchvision():
            return f"torchvision {model.name}"
        case Resnet() | Vit():
            return f"{model.kind} {model.depth} x {model.width}"
    hidden = hidden_layers(model)
    words = f"{len(hidden)} x {hidden[0]}" if len(set(hidden)) == 1 else ", ".join(map(str, hidden)) or "linear"
    return f"moe {model.experts} experts {words}" if isinstance(model, Moe) else f"{model.kind} {words}"
