"""Networks: their sizes, the order of their pieces, and that each is the ordinary torch network it exports."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import make, train_rows
from torch import nn
from torch.testing import assert_close

from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models import ops
from regrun.models.build import build
from regrun.models.export import export
from regrun.models.parameters import all_slots
from regrun.stack import Stack, new_stack
from regrun.streams import generator

MODELS = {
    "linear": s.Mlp(depth=0),
    "shallow": s.Mlp(depth=1, width=40),
    "deep": s.Mlp(depth=8, width=24),
    "residual": s.Residual(depth=2, width=24, widths=[10, 40]),
    "cnn": s.Cnn(widths=[6, 10]),
    "resnet": s.Resnet(depth=14, width=4),
    "moe": s.Moe(experts=3, top_k=2, widths=[12, 7]),
    "vit": s.Vit(depth=2, width=12, heads=3, patch=2),
}
NORMS = {
    "none": s.Reg(),
    "batchnorm": s.Reg(batchnorm=s.BatchNorm(active=True)),
    "layernorm": s.Reg(layernorm=s.LayerNorm(active=True)),
}
ACTIVATIONS = pytest.mark.parametrize("activation", s.ACTIVATIONS)
EACH_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
EACH_NORM = pytest.mark.parametrize("reg", NORMS.values(), ids=NORMS)


def network(model: s.Model, reg: s.Reg) -> tuple[ops.Op, ...]:
    return build(model, reg, input_shape=(1, 8, 8), num_classes=10)


def stack_of(digits: Source, *runs: s.Settings) -> Stack:
    """The runs as they start, before the first step."""
    splits = [split(digits, run.data, run.seeds) for run in runs]
    return new_stack(runs, Batches(digits, splits, runs, torch.device("cpu")))


def words(network: tuple[ops.Op, ...]) -> list[str]:
    """The kinds of the ops, what is inside of a skip in brackets."""
    return [f"[{' '.join(words(op.branch))}]" if isinstance(op, ops.Skip) else type(op).__name__ for op in network]


@pytest.mark.parametrize(
    ("model", "reg", "inputs", "count"),
    [
        (s.Mlp(widths=[100, 100]), "none", 50, 16_210),
        (s.Mlp(depth=1, width=256), "none", 100, 28_426),
        (s.Mlp(depth=2, width=128), "none", 100, 30_730),
        (s.Mlp(widths=[75, 45]), "batchnorm", 784, 62_875),  # no bias before the norms, which shift
        (s.Mlp(depth=0), "none", 784, 7_850),
    ],
    ids=["50-100-100-10", "100-256-10", "100-128-128-10", "784-75-45-10", "784-10"],
)
def test_a_network_has_the_parameters_that_its_widths_say(model: s.Model, reg: str, inputs: int, count: int) -> None:
    slots = all_slots(build(model, NORMS[reg], input_shape=(inputs,), num_classes=10))
    assert sum(math.prod(slot.shape) for slot in slots) == count


def test_a_convolution_of_3_to_64_channels_has_1792_parameters() -> None:
    slots = all_slots(build(s.Cnn(widths=[64]), s.Reg(), input_shape=(3, 8, 8), num_classes=10))
    assert sum(math.prod(slot.shape) for slot in slots if slot.name.startswith("conv1.")) == 1_792


@EACH_NORM
@EACH_MODEL
def test_a_stack_counts_the_parameters_that_torch_counts(model: s.Model, reg: s.Reg, digits: Source) -> None:
    stack = stack_of(digits, make(model=model, reg=reg))
    assert stack.params.num_parameters == sum(p.numel() for p in exported(stack, 0).parameters())


@pytest.mark.parametrize(
    ("model", "reg", "pieces"),
    [
        (s.Mlp(depth=0), "none", "Dropout Linear"),
        (s.Mlp(depth=1), "none", "Dropout Linear Activation Dropout Linear"),
        (s.Mlp(depth=1), "batchnorm", "Dropout Linear BatchNorm Activation Dropout Linear"),
        (s.Mlp(depth=1), "layernorm", "Dropout Linear LayerNorm Activation Dropout Linear"),
        (s.Residual(depth=1), "none", "Dropout Linear [Activation Linear Activation Dropout Linear] Activation Linear"),
        (
            s.Residual(depth=1),
            "batchnorm",
            "Dropout Linear [BatchNorm Activation Linear BatchNorm Activation Dropout Linear] "
            "BatchNorm Activation Linear",
        ),
        (
            s.Cnn(depth=1),
            "batchnorm",
            "Dropout ToImage Conv BatchNorm MaxPool Activation Dropout ToFeatures Linear",
        ),
        # gelu is not monotone, so that it cannot change places with the maximum.
        (
            s.Cnn(depth=1, activation="gelu"),
            "layernorm",
            "Dropout ToImage Conv LayerNorm Activation MaxPool Dropout ToFeatures Linear",
        ),
    ],
)
def test_a_block_is_weights_then_norm_then_activation_then_dropout(model: s.Model, reg: str, pieces: str) -> None:
    assert " ".join(words(network(model, NORMS[reg]))) == pieces


@EACH_NORM
@EACH_MODEL
def test_nothing_comes_after_the_output_layer(model: s.Model, reg: s.Reg) -> None:
    last = network(model, reg)[-1] if not isinstance(model, s.Moe) else network(model, reg)[-1].inside()[-2]
    assert isinstance(last, ops.Linear)
    assert (last.name.removeprefix("expert3_"), last.fan_out, last.bias) == ("output", 10, True)


@EACH_NORM
@EACH_MODEL
def test_a_layer_has_no_bias_if_and_only_if_a_norm_follows_it(model: s.Model, reg: s.Reg) -> None:
    layers = network(model, reg)
    for sequence in [layers, *(op.branch for op in layers if isinstance(op, ops.Skip))]:
        for op, after in pairwise(sequence):
            if isinstance(op, ops.Linear | ops.Conv):
                assert op.bias != isinstance(after, ops.BatchNorm | ops.LayerNorm), op.name


def test_the_widths_of_a_residual_network_are_those_inside_of_its_blocks() -> None:
    slots = {slot.name: slot.shape for slot in all_slots(network(s.Residual(width=16, widths=[5, 7]), s.Reg()))}
    assert slots["stem.weight"] == (16, 64)
    assert [slots[f"block{i}.weight"] for i in ("1a", "1b", "2a", "2b")] == [(5, 16), (16, 5), (7, 16), (16, 7)]
    assert slots["output.weight"] == (10, 16)


def exported(stack: Stack, replica: int) -> nn.Module:
    batches, rates = stack.batches, dict.fromkeys(stack.sizes, 0.5)
    inputs = {"input.offset": batches.offset[replica, 0], "input.scale": batches.scale[replica, 0]}
    return export(stack.ops, stack.weights_of(replica) | inputs, rates)


def disturb(stack: Stack) -> None:
    """Move everything off its neutral start: biases, gains, shifts and running statistics."""
    source = generator(0, "test")
    with torch.no_grad():
        for leaf in stack.params.leaves.values():
            leaf += 0.1 * torch.randn(leaf.shape, generator=source)
    for name, buffer in stack.buffers.items():
        buffer.copy_(torch.rand(buffer.shape, generator=source) + (0.5 if name.endswith("var") else -0.5))


def assert_is_what_it_exports(stack: Stack, digits: Source) -> None:
    indices = stack.batches.indices["test"][:, :50]
    x, _ = stack.batches.eval_batch(indices)
    logits = stack.forward(x)
    for r in range(len(stack)):
        assert_close(exported(stack, r)(digits.inputs[indices[r]]), logits[r], rtol=1e-5, atol=1e-5)


@ACTIVATIONS
@EACH_NORM
@EACH_MODEL
def test_each_replica_is_the_torch_network_that_it_exports(
    model: s.Model, reg: s.Reg, activation: str, digits: Source
) -> None:
    model = replace(model, activation=activation)
    data = s.Digits(normalize="standardize")
    stack = stack_of(digits, *(make(model=model, reg=reg, data=data, seed=seed) for seed in (0, 1)))
    disturb(stack)
    assert_is_what_it_exports(stack, digits)


def test_an_exported_network_drops_where_its_run_dropped() -> None:
    reg = s.Reg(dropout=s.Dropout(rates=[0.5, 0.3], input_rate=0.2))
    layers = network(s.Mlp(widths=[20, 30]), reg)
    rates = {"input": 0.2, "hidden1": 0.5, "hidden2": 0.3}
    weights = {slot.name: torch.zeros(slot.shape) for slot in all_slots(layers)}
    module = export(layers, weights | {"input.offset": torch.zeros(64), "input.scale": torch.ones(64)}, rates)
    assert [m.p for m in module.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.3]
    assert not any(m.training for m in module.modules())


@EACH_NORM
def test_blocks_whose_last_layer_starts_at_zero_are_the_identity(reg: s.Reg, digits: Source) -> None:
    init = s.Init(scheme="torch", bias="torch")
    runs = [make(model=s.Residual(depth=3, width=24, zero_residual=zero, init=init), reg=reg) for zero in (True, False)]
    stack = stack_of(digits, *runs)
    x = torch.randn(2, 32, 24, generator=generator(0, "test"))
    for block in (op for op in stack.ops if isinstance(op, ops.Skip)):
        y = block.forward(x, ops.Pass(stack.params.leaves, stack.buffers, 32, training=True))
        assert torch.equal(y[0], x[0])
        assert not torch.equal(y[1], x[1])


def test_a_deep_linear_network_is_the_product_of_its_matrices(digits: Source) -> None:
    init = s.Init(bias="torch")
    stack = stack_of(digits, make(model=s.Mlp(depth=8, width=32, activation="identity", init=init)))
    x, _ = next(stack.batches.eval_batches("test"))
    matrix, vector = torch.eye(64).double(), torch.zeros(64).double()
    weights = {name: w.double() for name, w in stack.weights_of(0).items()}
    for layer in [*(f"hidden{i}" for i in range(1, 9)), "output"]:
        matrix = weights[f"{layer}.weight"] @ matrix
        vector = weights[f"{layer}.weight"] @ vector + weights[f"{layer}.bias"]
    expected = x[0].double() @ matrix.T + vector
    assert_close(stack.forward(x)[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [32, 21])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("scheme", ["zeros", "constant"])
def test_units_that_start_identical_stay_identical(scheme: str, activation: str, width: int, digits: Source) -> None:
    """Equal weights get equal gradients: training cannot break the symmetry, only a random start can."""
    runs = [
        make(model=s.Mlp(depth=2, width=width, activation=activation, init=s.Init(scheme=chosen)))
        for chosen in (scheme, "he_normal")
    ]
    _, (symmetric, random) = train_rows(runs, digits)
    for layer in ("hidden1.weight", "hidden2.weight"):
        assert torch.equal(symmetric.last[layer], symmetric.last[layer][:1].expand(width, -1))
        assert random.last[layer].std(0).min() > 0.01
    assert symmetric.last["output.bias"].any()  # it did train


def test_a_relu_network_that_starts_at_zero_learns_its_output_bias_alone(digits: Source) -> None:
    _, (end,) = train_rows([make(model=s.Mlp(depth=2, width=32, init=s.Init(scheme="zeros")))], digits)
    assert {name for name, value in end.last.items() if value.any()} == {"output.bias"}
