"""Settings -> network: a tuple of ops. One function for each kind of model, and a table of them.

The order inside a block is Linear or Conv, norm, activation, dropout, or with `norm_position` post activation, norm,
dropout; in a residual block, which is pre-activated, norm, activation, dropout, Linear. No bias right before a norm,
which shifts; no norm, activation or dropout after the last layer.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from regrun.models.ops import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool,
    Op,
    Skip,
    SpatialDropout,
    StochasticDepth,
    ToFeatures,
    ToImage,
)
from regrun.settings import Cnn, Mlp, Model, Reg, Residual, hidden_layers


def build(model: Model, reg: Reg, *, input_shape: tuple[int, ...], num_classes: int) -> tuple[Op, ...]:
    """The network for examples shaped `input_shape`, (D,) or (C, H, W), and logits (R, B, num_classes).

    For regression num_classes is the number of target columns, and the logits are their predictions.
    """
    return _with_stochastic_depth(tuple(BUILDERS[type(model)](model, reg, input_shape, num_classes)))


def _with_stochastic_depth(network: tuple[Op, ...]) -> tuple[Op, ...]:
    """Each branch beside a skip ends where it may be left out, the later the likelier."""
    blocks = sum(isinstance(op, Skip) for op in network)
    ends = (StochasticDepth(f"skip{i}", 1, share=i / blocks) for i in range(1, blocks + 1))
    return tuple(replace(op, branch=(*op.branch, next(ends))) if isinstance(op, Skip) else op for op in network)


def _mlp(model: Mlp, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    width = math.prod(shape)
    yield Dropout("input", width, reg.dropout.kind)
    for i, units in enumerate(hidden_layers(model), start=1):
        norm, activation = _norm(reg, f"norm{i}", units), Activation(model.activation, layer=f"hidden{i}")
        is_post = model.norm_position == "post"
        yield Linear(f"hidden{i}", width, units, bias=is_post or not norm)
        yield from (activation, *norm) if is_post else (*norm, activation)
        yield Dropout(f"hidden{i}", units, reg.dropout.kind)
        width = units
    yield Linear("output", width, num_classes, bias=True, start="output")


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
        # Pooling before a monotone activation gives the same values for a quarter of the work; gelu is not.
        block = (MaxPool(), activation) if model.activation != "gelu" else (activation, MaxPool())
        yield from (activation, *norm, MaxPool()) if is_post else (*norm, *block)
        channels, height, width = maps, height // 2, width // 2
        yield SpatialDropout(f"maps{i}", channels)
        yield Dropout(f"hidden{i}", channels * height * width, reg.dropout.kind)
    yield ToFeatures("output.weight")
    yield Linear("output", channels * height * width, num_classes, bias=True, start="output")


BUILDERS: dict[type, Callable[..., Iterator[Op]]] = {Mlp: _mlp, Residual: _residual, Cnn: _cnn}


def _norm(reg: Reg, name: str, width: int) -> tuple[Op, ...]:
    """The norm that is active, or nothing."""
    if reg.batchnorm.active:
        return (BatchNorm(name, width, reg.batchnorm.momentum, reg.batchnorm.eps),)
    if reg.layernorm.active:
        return (LayerNorm(name, width, reg.layernorm.eps),)
    if reg.groupnorm.active:
        return (GroupNorm(name, width, reg.groupnorm.eps, reg.groupnorm.groups),)
    return ()
