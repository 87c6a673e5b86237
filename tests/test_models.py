"""Networks: their sizes, the order of their pieces, and that each is the ordinary torch network it exports."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import make, train_rows
from torch import nn
from torch.testing import assert_close

from regrun import config
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models import dropping, norms, ops
from regrun.models.build import build
from regrun.models.export import export
from regrun.models.parameters import all_slots
from regrun.stack import Stack, drop_rate, new_stack
from regrun.streams import generator

MODELS = {
    "linear": s.Mlp(depth=0),
    "shallow": s.Mlp(depth=1, width=40),
    "deep": s.Mlp(depth=8, width=24),
    "residual": s.Residual(depth=2, width=24, widths=[10, 40]),
    "cnn": s.Cnn(widths=[6, 10]),
    "resnet": s.Resnet(depth=14, width=4),
    "moe": s.Moe(experts=3, top_k=2, widths=[12, 8]),
    "vit": s.Vit(depth=2, width=12, heads=3, patch=2),
}
NORMS = {
    "none": s.Reg(),
    "batchnorm": s.Reg(batchnorm=s.BatchNorm(active=True)),
    "layernorm": s.Reg(layernorm=s.LayerNorm(active=True)),
    "groupnorm": s.Reg(groupnorm=s.GroupNorm(active=True, groups=2)),
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


def mnist_parameters(option: str) -> int:
    """What `model=option` has on 28 x 28 images of ten classes."""
    run = config.jobs([f"model={option}"], multirun=False)[0].settings
    network = build(run.model, run.reg, input_shape=(1, 28, 28), num_classes=10)
    return sum(math.prod(slot.shape) for slot in all_slots(network))


@pytest.mark.parametrize(
    ("cnn", "mlp", "counts"),
    [("cnn", "mlp_as_cnn", (50_186, 50_095)), ("cnn_small", "mlp_as_cnn_small", (20_490, 20_499))],
)
def test_a_cnn_and_its_mlp_have_as_many_parameters_on_mnist(cnn: str, mlp: str, counts: tuple[int, int]) -> None:
    assert (mnist_parameters(cnn), mnist_parameters(mlp)) == counts
    assert counts[1] == pytest.approx(counts[0], rel=0.01)


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
        (s.Mlp(depth=1), "groupnorm", "Dropout Linear GroupNorm Activation Dropout Linear"),
        (s.Mlp(depth=1, norm_position="post"), "none", "Dropout Linear Activation Dropout Linear"),
        (s.Mlp(depth=1, norm_position="post"), "batchnorm", "Dropout Linear Activation BatchNorm Dropout Linear"),
        (
            s.Residual(depth=1),
            "none",
            "Dropout Linear [Activation Linear Activation Dropout Linear StochasticDepth] Activation Linear",
        ),
        (
            s.Residual(depth=1),
            "batchnorm",
            "Dropout Linear [BatchNorm Activation Linear BatchNorm Activation Dropout Linear StochasticDepth] "
            "BatchNorm Activation Linear",
        ),
        (
            s.Cnn(depth=1),
            "batchnorm",
            "Dropout ToImage Conv BatchNorm MaxPool Activation SpatialDropout Dropout ToFeatures Linear",
        ),
        # gelu is not monotone, so that it cannot change places with the maximum.
        (
            s.Cnn(depth=1, activation="gelu"),
            "layernorm",
            "Dropout ToImage Conv LayerNorm Activation MaxPool SpatialDropout Dropout ToFeatures Linear",
        ),
        (
            s.Cnn(depth=1, norm_position="post"),
            "none",
            "Dropout ToImage Conv MaxPool Activation SpatialDropout Dropout ToFeatures Linear",
        ),
        (
            s.Cnn(depth=1, norm_position="post"),
            "groupnorm",
            "Dropout ToImage Conv Activation GroupNorm MaxPool SpatialDropout Dropout ToFeatures Linear",
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


@pytest.mark.parametrize("position", s.NORM_POSITIONS)
@EACH_NORM
@EACH_MODEL
def test_a_layer_has_no_bias_if_and_only_if_a_norm_follows_it(model: s.Model, reg: s.Reg, position: str) -> None:
    is_free = isinstance(model, s.Mlp | s.Moe | s.Cnn)
    layers = network(replace(model, norm_position=position) if is_free else model, reg)
    for sequence in [layers, *(op.branch for op in layers if isinstance(op, ops.Skip))]:
        for op, after in pairwise(sequence):
            if isinstance(op, ops.Linear | ops.Conv):
                assert op.bias != isinstance(after, norms.BatchNorm | norms.LayerNorm), op.name


def test_the_widths_of_a_residual_network_are_those_inside_of_its_blocks() -> None:
    slots = {slot.name: slot.shape for slot in all_slots(network(s.Residual(width=16, widths=[5, 7]), s.Reg()))}
    assert slots["stem.weight"] == (16, 64)
    assert [slots[f"block{i}.weight"] for i in ("1a", "1b", "2a", "2b")] == [(5, 16), (16, 5), (7, 16), (16, 7)]
    assert slots["output.weight"] == (10, 16)


def exported(stack: Stack, replica: int) -> nn.Module:
    batches = stack.batches
    dropouts = [op for op in ops.walk(stack.ops) if isinstance(op, dropping.Dropout)]
    rates = {op.name: drop_rate(stack.runs[replica], op) for op in dropouts}
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
        assert_close(
            exported(stack, r)(digits.inputs[indices[r]]), logits[r], rtol=1e-5, atol=2e-5
        )  # AVX-512 rounds otherwise


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


@EACH_NORM
@pytest.mark.parametrize("name", ["deep", "cnn"])
def test_each_replica_is_what_it_exports_with_its_norms_after_the_activation(
    name: str, reg: s.Reg, digits: Source
) -> None:
    model = replace(MODELS[name], norm_position="post")
    stack = stack_of(digits, *(make(model=model, reg=reg, seed=seed) for seed in (0, 1)))
    disturb(stack)
    assert_is_what_it_exports(stack, digits)


@EACH_MODEL
def test_each_replica_is_what_it_exports_under_classic_dropout(model: s.Model, digits: Source) -> None:
    """Evaluation scales units down by each replica's own rates."""
    rates = [(0.0, 0.0), (0.5, 0.1), (0.3, 0.0)]
    dropouts = [
        s.Dropout(rate=rate if s.hidden_layers(model) else 0, input_rate=i, kind="classic") for rate, i in rates
    ]
    stack = stack_of(digits, *(make(model=model, reg=s.Reg(dropout=dropout)) for dropout in dropouts))
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


def test_100_blocks_whose_last_layers_start_at_zero_are_a_network_without_them(digits: Source) -> None:
    stack = stack_of(digits, make(model=s.Residual(depth=100, width=24, zero_residual=True)))
    x, _ = next(stack.batches.eval_batches("test"))
    without = tuple(op for op in stack.ops if not isinstance(op, ops.Skip))
    assert len(stack.ops) == len(without) + 100
    on = ops.Pass(stack.params.leaves, stack.buffers, x.shape[1], training=False)
    assert torch.equal(ops.run(stack.ops, x, on), ops.run(without, x, on))


def gradient_norms(stack: Stack, layer: str) -> torch.Tensor:
    """(100, R) norms of the initial gradients of the weights of layers 1 to 100, by 256 examples."""
    x, targets = stack.batches.eval_batch(stack.batches.indices["train"][:, :256])
    found = stack.weight_gradients(x, targets, {})
    return torch.stack([found[f"{layer.format(i)}.weight"].flatten(1).norm(dim=1) for i in range(1, 101)])


@pytest.mark.parametrize("init", [s.Init(), s.Init(scheme="torch", bias="torch")], ids=["he_normal", "torch"])
def test_the_gradient_of_100_residual_blocks_is_even_and_that_of_100_plain_layers_is_not(
    init: s.Init, digits: Source
) -> None:
    """At the start every block gets the output's own gradient (He et al. 2016): norms differ only as its weights do.

    In a plain network they are a random walk over the layers under he_normal, and vanish under torch's init.
    """
    residual = s.Residual(depth=100, width=32, zero_residual=True, init=init)
    plain = s.Mlp(depth=100, width=32, init=init)
    even = gradient_norms(stack_of(digits, *(make(model=residual, seed=seed) for seed in range(5))), "block{}b")
    uneven = gradient_norms(stack_of(digits, *(make(model=plain, seed=seed) for seed in range(5))), "hidden{}")[1:]
    assert (even[0] / even[-1]).log().abs().max() < math.log(2)
    assert (even.amax(0) / even.amin(0)).max() < 4
    assert (uneven.amax(0) / uneven.amin(0)).min() > 10


@pytest.mark.long
@pytest.mark.parametrize("depth", [100, 200])
def test_hundreds_of_residual_blocks_train_where_as_many_plain_layers_do_not(depth: int, digits: Source) -> None:
    """Three epochs on digits, from two seeds each; guessing the largest class is right for 10 %."""

    def accuracies(model: s.Model) -> list[float]:
        _, ends = train_rows([make(model=model, trainer={"epochs": 3}, seed=seed) for seed in (0, 1)], digits)
        return [end.outcome.val_accuracy_last or 0 for end in ends]

    assert min(accuracies(s.Residual(depth=depth, width=32, zero_residual=True))) > 0.6
    assert max(accuracies(s.Mlp(depth=depth, width=32))) < 0.3


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
