"""The ops' own backward gives autograd's gradients of the same network in torch.nn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make
from torch import nn

from regrun import layers, objective
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models.dropping import Dropout
from regrun.models.export import export
from regrun.models.norms import BatchNorm
from regrun.models.ops import Pass, run, run_back, walk
from regrun.models.rates import Rates
from regrun.stack import Stack, drop_rate, new_stack
from regrun.streams import generator

MODELS = {
    "mlp": s.Mlp(depth=2, width=21),
    "residual": s.Residual(depth=2, width=24, widths=[15, 9]),
    "cnn": s.Cnn(depth=2, width=6),
    "resnet": s.Resnet(depth=8, width=6),
    "moe": s.Moe(experts=3, widths=[12, 9]),
    "moe top 2": s.Moe(experts=3, top_k=2, width=12),
    "vit": s.Vit(depth=2, width=12, heads=3, patch=4),
}
NORMS = {
    "none": s.Reg(),
    "batchnorm": s.Reg(batchnorm=s.BatchNorm(active=True)),
    "layernorm": s.Reg(layernorm=s.LayerNorm(active=True)),
    "groupnorm": s.Reg(groupnorm=s.GroupNorm(active=True, groups=3)),
}


def two(model: s.Model, reg: s.Reg, digits: Source) -> Stack:
    """A stack of two runs; the second one is compared, so that its place matters."""
    init = s.Init(scheme="torch", bias="torch")
    runs = [make(model=replace(model, init=init), reg=reg, seed=seed) for seed in (0, 1)]
    splits = [split(digits, r.data, r.seeds) for r in runs]
    return new_stack(runs, Batches(digits, splits, runs, torch.device("cpu")))


def reference(stack: Stack, *, training: bool) -> nn.Module:
    own = stack.batches.splits[1]
    weights = stack.weights_of(1) | {"input.offset": own.offset, "input.scale": own.scale}
    places = [op.name for op in walk(stack.ops) if isinstance(op, Dropout)]
    return export(stack.ops, weights, dict.fromkeys(places, 0.0)).train(training)


def torch_gradients(module: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    nn.functional.cross_entropy(module(images), targets).backward()
    found = {name.replace("branch.", ""): p.grad for name, p in module.named_parameters()}
    return {".".join(name.split(".")[-2:]): grad for name, grad in found.items() if grad is not None}


@pytest.mark.parametrize("batch", [64, 29])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_training_gradients_equal_autograd(name: str, norm: str, batch: int, digits: Source) -> None:
    """With padding (29 is no multiple of 16) and without, batch statistics included."""
    stack = two(MODELS[name], NORMS[norm], digits)
    indices = stack.batches.order(1)[:, :batch]
    expected = torch_gradients(reference(stack, training=True), digits.inputs[indices[1]], digits.targets[indices[1]])
    x, targets = stack.batches.train_batch(indices, {})
    with torch.no_grad():
        on = Pass(stack.params.leaves, stack.buffers, batch, training=True, gradients=stack.gradients, tape=[])
        logits = run(stack.ops, layers.pad_rows(x, dim=1), on)[:, :batch]
        _, gradient = objective.cross_entropy_with_gradient(logits, targets)
        run_back(stack.ops, layers.pad_rows(gradient, dim=1), on)
    assert set(expected) == set(stack.gradients)
    for key, value in expected.items():
        torch.testing.assert_close(stack.gradients[key][1], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_eval_gradients_equal_autograd(name: str, norm: str, digits: Source) -> None:
    stack = two(MODELS[name], NORMS[norm], digits)
    indices = stack.batches.indices["train"][:, :50]
    expected = torch_gradients(reference(stack, training=False), digits.inputs[indices[1]], digits.targets[indices[1]])
    x, targets = stack.batches.eval_batch(indices)
    found = stack.weight_gradients(x, targets, {})
    for key, value in expected.items():
        torch.testing.assert_close(found[key][1], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("kind", s.ACTIVATIONS)
def test_each_activations_backward_is_its_derivative(kind: str) -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64).requires_grad_()
    activation = layers.ACTIVATIONS[kind]
    y = activation.forward(x)
    (expected,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(activation.backward(torch.ones_like(x), y.detach(), x.detach()), expected)


DRAWN = {
    "mlp": s.Reg(dropout=s.Dropout(0.5, input_rate=0.25, kind="classic")),
    "residual": s.Reg(dropout=s.Dropout(0.25), stochastic_depth=s.StochasticDepth(0.5)),
    "cnn": s.Reg(dropout=s.Dropout(0.25), spatial_dropout=s.SpatialDropout(0.5)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_training_gradients_under_the_same_draws_equal_autograd(name: str, digits: Source) -> None:
    """Dropout of elements (inverted and classic), maps and branches, each by masks of its own."""
    batch, stack = 29, two(MODELS[name], DRAWN[name], digits)
    masks = {
        place: stream.next(stream.stride) for place, stream in stack.mask_streams(1, batch_size=29, steps=1).items()
    }
    assert len(masks) > 2
    network, indices = reference(stack, training=True), stack.batches.order(1)[:, :batch]
    for module_name, module in network.named_modules():
        place = module_name.rpartition("dropout_")[2]
        if place in masks and place != module_name:
            module.register_forward_hook(_drawn(stack, place, masks[place][1]))
    expected = torch_gradients(network, digits.inputs[indices[1]], digits.targets[indices[1]])
    x, targets = stack.batches.train_batch(indices, {})
    with torch.no_grad():
        on = stack._pass(x, training=True, tape=[])
        on.rates, on.masks = stack.rates, lambda place, size: masks[place][:, :size]
        _, gradient = objective.cross_entropy_with_gradient(stack._logits(x, on), targets)
        run_back(stack.ops, layers.pad_rows(gradient, dim=1), on)
    for key, value in expected.items():
        torch.testing.assert_close(stack.gradients[key][1], value, rtol=2e-4, atol=2e-6)


def _drawn(stack: Stack, place: str, mask: torch.Tensor) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
    """A hook that multiplies by what replica 1 drew, whatever the module itself does."""
    op = next(op for op in walk(stack.ops) if isinstance(op, Dropout) and op.name == place)
    rate = drop_rate(stack.runs[1], op)
    kept = (mask.double() >= rate * 65536 - 32768) / (1.0 if op.kind == "classic" else 1 - rate)

    def multiplied(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        factors = kept[: len(x) * op.size].float().view(len(x), op.size)
        is_element = op.size == x[0].numel()
        return x * (factors.view(x.shape) if is_element else factors.view(len(x), -1, *[1] * (x.dim() - 2)))

    return multiplied


@pytest.mark.parametrize(("rows", "ghost"), [(64, 16), (29, 8), (33, 8), (29, None)])
def test_the_gradients_of_ghost_batches_equal_autograd(rows: int, ghost: int | None) -> None:
    source, op = generator(0, "test"), BatchNorm("norm", 21, 0.1, 1e-5)
    leaves = {slot.name: torch.randn(2, 21, generator=source).requires_grad_() for slot in op.slots()}
    x, by_y = (layers.pad_rows(torch.randn(2, rows, 21, generator=source), dim=1) for _ in range(2))

    def start(**more: Any) -> Pass:
        buffers = {"norm.running_mean": torch.zeros(2, 21), "norm.running_var": torch.ones(2, 21)}
        return Pass(leaves, buffers, rows, training=True, ghost=ghost, **more)

    own, by_autograd = start(tape=[], gradients={name: torch.zeros(2, 21) for name in leaves}), start()
    with torch.no_grad():
        y = op.forward(x, own)
        by_x = op.backward(by_y, own)
    z = op.compute(x.requires_grad_(), by_autograd)
    torch.testing.assert_close(y, z.detach())
    expected = torch.autograd.grad(z, [x, *leaves.values()], by_y)
    for found, value in zip([by_x, *own.gradients.values()], expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(own.buffers[name], value) for name, value in by_autograd.buffers.items())


def test_dropout_passes_gradients_where_it_passed_values() -> None:
    op, mask = Dropout("hidden1", 8), torch.randint(-32768, 32768, (2, 16, 8), dtype=torch.int16)
    rates = {"hidden1": Rates.of([0.5, 0.25], torch.device("cpu"))}
    on = Pass({}, {}, 16, training=True, rates=rates, masks=lambda *_: mask.flatten(1), tape=[])
    y = op.forward(torch.ones(2, 16, 8), on)
    gradient = op.backward(torch.ones(2, 16, 8), on)
    assert gradient is not None and torch.equal(gradient, y)


def test_each_gradient_and_weight_starts_on_a_cache_line(digits: Source) -> None:
    stack = two(s.Mlp(widths=[37, 21]), s.Reg(), digits)
    for tensors in (stack.params.leaves, stack.gradients):
        assert all(t[r].data_ptr() % 64 == 0 for t in tensors.values() for r in range(2))
