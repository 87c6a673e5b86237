"""Settings -> network: a tuple of ops. One function for each kind of model, and a table of them.

The order inside a block is fixed: Linear or Conv, norm, activation, dropout; in a residual block, which is
pre-activated, norm, activation, dropout, Linear. No bias before a norm that shifts; no norm, activation or
dropout after the last layer.
"""

import math
from collections.abc import Callable, Iterator

from regrun.models.ops import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    LayerNorm,
    Linear,
    MaxPool,
    Op,
    Skip,
    ToFeatures,
    ToImage,
)
from regrun.settings import Cnn, Mlp, Model, Reg, Residual, hidden_layers


def build(model: Model, reg: Reg, *, input_shape: tuple[int, ...], num_classes: int) -> tuple[Op, ...]:
    """The network for examples shaped `input_shape`, (D,) or (C, H, W), and logits (R, B, num_classes).

    For regression num_classes is the number of target columns, and the logits are their predictions.
    """
    return tuple(BUILDERS[type(model)](model, reg, input_shape, num_classes))


def _mlp(model: Mlp, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    width = math.prod(shape)
    yield Dropout("input", width)
    for i, units in enumerate(hidden_layers(model), start=1):
        yield Linear(f"hidden{i}", width, units, bias=not _has_norm(reg))
        yield from _norm(reg, f"norm{i}", units)
        yield Activation(model.activation, layer=f"hidden{i}")
        yield Dropout(f"hidden{i}", units)
        width = units
    yield Linear("output", width, num_classes, bias=True, start="output")


def _residual(model: Residual, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    size, width, bias = math.prod(shape), model.width, not _has_norm(reg)
    yield Dropout("input", size)
    yield Linear("stem", size, width, bias=True)
    for i, inner in enumerate(hidden_layers(model), start=1):
        branch = (
            *_norm(reg, f"norm{i}a", width),
            Activation(model.activation),
            Linear(f"block{i}a", width, inner, bias=bias),
            *_norm(reg, f"norm{i}b", inner),
            Activation(model.activation, layer=f"block{i}a"),
            Dropout(f"hidden{i}", inner),
            Linear(f"block{i}b", inner, width, bias=True, start="residual_end"),
        )
        yield Skip(branch)
    yield from _norm(reg, "norm", width)
    yield Activation(model.activation)
    yield Linear("output", width, num_classes, bias=True, start="output")


def _cnn(model: Cnn, reg: Reg, shape: tuple[int, ...], num_classes: int) -> Iterator[Op]:
    channels, height, width = shape
    yield Dropout("input", math.prod(shape))
    yield ToImage((channels, height, width))
    for i, maps in enumerate(hidden_layers(model), start=1):
        yield Conv(f"conv{i}", channels, maps, bias=not _has_norm(reg))
        yield from _norm(reg, f"norm{i}", maps)
        # Pooling before a monotone activation gives the same values for a quarter of the work; gelu is not.
        block = (MaxPool(), Activation(model.activation, layer=f"conv{i}"))
        yield from block if model.activation != "gelu" else reversed(block)
        channels, height, width = maps, height // 2, width // 2
        yield Dropout(f"hidden{i}", channels * height * width)
    yield ToFeatures("output.weight")
    yield Linear("output", channels * height * width, num_classes, bias=True, start="output")


BUILDERS: dict[type, Callable[..., Iterator[Op]]] = {Mlp: _mlp, Residual: _residual, Cnn: _cnn}


def _has_norm(reg: Reg) -> bool:
    return reg.batchnorm.active or reg.layernorm.active


def _norm(reg: Reg, name: str, width: int) -> Iterator[Op]:
    if reg.batchnorm.active:
        yield BatchNorm(name, width, reg.batchnorm.momentum, reg.batchnorm.eps)
    if reg.layernorm.active:
        yield LayerNorm(name, width, reg.layernorm.eps)
