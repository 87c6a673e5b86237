"""Settings -> network: a tuple of ops. One function for each kind of model, and a table of them.

The order inside a block is Linear or Conv, norm, activation, dropout, or with `norm_position` post activation, norm,
dropout; in a block of a residual MLP or a vit, which is pre-activated, norm first. No bias right before a norm, which
shifts; no norm, activation or dropout after the last layer.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from regrun.models.attention import Attention, MeanTokens, Patches, Positions
from regrun.models.dropping import Dropout, SpatialDropout, StochasticDepth
from regrun.models.mixture import Mixture
from regrun.models.norms import BatchNorm, GroupNorm, LayerNorm
from regrun.models.ops import Activation, Conv, Linear, MaxPool, MeanPool, Op, Skip, ToFeatures, ToImage, ToRgb, Widen
from regrun.models.vision import Network
from regrun.settings import Cnn, Mlp, Model, Moe, Reg, Residual, Resnet, Torchvision, Vit, hidden_layers

VIT_EPS = 1e-6  # of a vit's layer norms, as in the paper's code


def build(model: Model, reg: Reg, *, input_shape: tuple[int, ...], num_classes: int) -> tuple[Op, ...]:
    """The network for examples shaped `input_shape`, (D,) or (C, H, W), and logits (R, B, num_classes).

    For regression num_classes is the number of target columns, and the logits are their predictions.
    """
    return _with_stochastic_depth(tuple(BUILDERS[type(model)](model, reg, input_shape, num_classes)))


def _with_stochastic_depth(network: tuple[Op, ...]) -> tuple[Op, ...]:
    """Each branch beside a skip ends where it may be left out, the later the likelier."""
    blocks = sum(isinstance(op, Skip) for op in network)
    tokens = next((op.tokens for op in network if isinstance(op, Positions)), 1)
    ends = (StochasticDepth(f"skip{i}", 1, share=i / blocks, tokens=tokens) for i in range(1, blocks + 1))
    return tuple(replace(op, branch=(*op.branch, next(ends))) if isinstance(op, Skip) else op for op in network)


def _mlp(model: Mlp, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    yield Dropout("input", math.prod(shape), reg.dropout.kind)
    yield from _layers(model, reg, shape, num_classes)


def _layers(model: Mlp | Moe, reg: Reg, shape: tuple[int, ...], num_classes: int, *, of: str = "") -> Iterator[Op]:
    """The layers of an MLP, each name with `of` in front."""
    width = math.prod(shape)
    for i, units in enumerate(hidden_layers(model), start=1):
        norm, activation = _norm(reg, f"{of}norm{i}", units), Activation(model.activation, layer=f"{of}hidden{i}")
        is_post = model.norm_position == "post"
        yield Linear(f"{of}hidden{i}", width, units, bias=is_post or not norm)
        yield from (activation, *norm) if is_post else (*norm, activation)
        yield Dropout(f"{of}hidden{i}", units, reg.dropout.kind)
        width = units
    yield Linear(f"{of}output", width, num_classes, bias=True, start="output")


def _moe(model: Moe, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    width = math.prod(shape)
    yield Dropout("input", width, reg.dropout.kind)
    names = [f"expert{i}_" for i in range(1, model.experts + 1)]
    experts = tuple(tuple(_layers(model, reg, shape, num_classes, of=name)) for name in names)
    yield Mixture(experts, Linear("gate", width, model.experts, bias=True, start="gate"), model.top_k)


def _residual(model: Residual, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    size, width = math.prod(shape), model.width
    yield Dropout("input", size, reg.dropout.kind)
    yield Linear("stem", size, width, bias=True)
    for i, inner in enumerate(hidden_layers(model), start=1):
        norm = _norm(reg, f"norm{i}b", inner)
        branch = (
            *_norm(reg, f"norm{i}a", width),
            Activation(model.activation),
            Linear(f"block{i}a", width, inner, bias=not norm),
            *norm,
            Activation(model.activation, layer=f"block{i}a"),
            Dropout(f"hidden{i}", inner, reg.dropout.kind),
            Linear(f"block{i}b", inner, width, bias=True, start="residual_end"),
        )
        yield Skip(branch)
    yield from _norm(reg, "norm", width)
    yield Activation(model.activation)
    yield Linear("output", width, num_classes, bias=True, start="output")


def _cnn(model: Cnn, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    channels, height, width = shape
    yield Dropout("input", math.prod(shape), reg.dropout.kind)
    yield ToImage((channels, height, width))
    for i, maps in enumerate(hidden_layers(model), start=1):
        norm, activation = _norm(reg, f"norm{i}", maps), Activation(model.activation, layer=f"conv{i}")
        is_post = model.norm_position == "post" and bool(norm)
        yield Conv(f"conv{i}", channels, maps, bias=is_post or not norm)
        # Pooling before a monotone activation gives the same values for a quarter of the work; gelu and silu are not.
        block = (MaxPool(), activation) if model.activation not in ("gelu", "silu") else (activation, MaxPool())
        yield from (activation, *norm, MaxPool()) if is_post else (*norm, *block)
        channels, height, width = maps, height // 2, width // 2
        yield SpatialDropout(f"maps{i}", channels)
        yield Dropout(f"hidden{i}", channels * height * width, reg.dropout.kind)
    yield ToFeatures("output.weight")
    yield Linear("output", channels * height * width, num_classes, bias=True, start="output")


def _resnet(model: Resnet, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    channels, height, width = shape
    yield Dropout("input", math.prod(shape), reg.dropout.kind)
    yield ToImage((channels, height, width))
    norm = _norm(reg, "norm", model.width)
    yield Conv("stem", channels, model.width, bias=not norm)
    yield from norm
    yield Activation(model.activation, layer="stem")
    channels = model.width
    for i, maps in enumerate(hidden_layers(model), start=1):
        stride = 1 if maps == channels else 2
        height, width = -(-height // stride), -(-width // stride)
        branch = (
            Conv(f"block{i}a", channels, maps, bias=not norm, stride=stride),
            *_norm(reg, f"norm{i}a", maps),
            Activation(model.activation, layer=f"block{i}a"),
            SpatialDropout(f"maps{i}", maps),
            Dropout(f"hidden{i}", maps * height * width, reg.dropout.kind),
            Conv(f"block{i}b", maps, maps, bias=not norm, start="residual_end"),
            *_norm(reg, f"norm{i}b", maps),
        )
        yield Skip(branch, () if stride == 1 else (Widen(channels, maps - channels),))
        yield Activation(model.activation)
        channels = maps
    yield MeanPool(channels)
    yield Linear("output", channels, num_classes, bias=True, start="output")


def _vit(model: Vit, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    channels, height, width = shape
    tokens = (height // model.patch) * (width // model.patch)
    size = tokens * model.width
    yield Dropout("input", math.prod(shape), reg.dropout.kind)
    yield Patches((channels, height, width), model.patch)
    yield Linear("embed", channels * model.patch**2, model.width, bias=True)
    yield Positions("positions", tokens, model.width)
    for i in range(1, model.depth + 1):
        yield Skip((*_attention(model, i, tokens), Dropout(f"hidden{i}_attention", size, reg.dropout.kind)))
        yield Skip((*_token_mlp(model, i), Dropout(f"hidden{i}_mlp", size, reg.dropout.kind)))
    yield LayerNorm("norm", model.width, VIT_EPS)
    yield MeanTokens(tokens)
    yield Linear("output", model.width, num_classes, bias=True, start="output")


def _attention(model: Vit, i: int, tokens: int) -> Iterator[Op]:
    yield LayerNorm(f"norm{i}a", model.width, VIT_EPS)
    yield Linear(f"block{i}_qkv", model.width, 3 * model.width, bias=True)
    drop = Dropout(f"attention{i}", model.heads * tokens**2, mechanism="attention_dropout")
    yield Attention(model.heads, tokens, drop)
    yield Linear(f"block{i}_mixed", model.width, model.width, bias=True, start="residual_end")


def _token_mlp(model: Vit, i: int) -> Iterator[Op]:
    inner = model.mlp_ratio * model.width
    yield LayerNorm(f"norm{i}b", model.width, VIT_EPS)
    yield Linear(f"block{i}a", model.width, inner, bias=True)
    yield Activation(model.activation, layer=f"block{i}a")
    yield Linear(f"block{i}b", inner, model.width, bias=True, start="residual_end")


def _torchvision(model: Torchvision, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    channels, height, width = shape
    yield Dropout("input", math.prod(shape), reg.dropout.kind)
    yield ToImage((channels, height, width))
    if channels == 1:
        yield ToRgb()
    yield Network(model, (height, width), num_classes)


BUILDERS: dict[type, Callable[..., Iterator[Op]]] = {
    Mlp: _mlp,
    Residual: _residual,
    Cnn: _cnn,
    Resnet: _resnet,
    Moe: _moe,
    Vit: _vit,
    Torchvision: _torchvision,
}


def _norm(reg: Reg, name: str, width: int) -> tuple[Op, ...]:
    """The norm that is active, or nothing."""
    if reg.batchnorm.active:
        return (BatchNorm(name, width, reg.batchnorm.momentum, reg.batchnorm.eps),)
    if reg.layernorm.active:
        return (LayerNorm(name, width, reg.layernorm.eps),)
    if reg.groupnorm.active:
        return (GroupNorm(name, width, reg.groupnorm.eps, reg.groupnorm.groups),)
    return ()
