"""What a step moves in a network's layers, against torch and planted cases."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models.ops import Pass
from regrun.stack import Stack, new_stack
from regrun.studies import drift


def a_pass(*, training: bool) -> Pass:
    return Pass(params={}, buffers={}, rows=4000, training=training)


def test_noise_is_of_each_unit_and_each_step_and_not_of_evaluation() -> None:
    noise, x = drift.Noise(torch.Generator().manual_seed(0)), torch.randn(1, 4000, 200)
    assert torch.equal(noise.compute(x, a_pass(training=False)), x)
    first, second = (noise.compute(x, a_pass(training=True))[0] for _ in range(2))
    factors = [y.std(0) / x[0].std(0) for y in (first, second)]
    shifts = first.mean(0) - factors[0] * x[0].mean(0)
    assert not torch.allclose(factors[0], factors[1], atol=0.01)
    assert 0.75 <= factors[0].min() < 0.8 and 1.2 < factors[0].max() <= 1.25
    assert shifts.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.15) and abs(shifts.mean()) < 0.1


def test_drift_is_in_deviations() -> None:
    """Every unit of a layer with deviation 2 moves by 3, none of another one: 1.5 and 0."""
    x = torch.tensor([[-2.0], [2.0]]).repeat(1, 5).unsqueeze(0)
    assert drift.drift([x, x], [x + 3, x]).tolist() == [0.75]


def small(source: Source) -> tuple[Stack, Tensor, Tensor]:
    run = s.resolve(s.Settings(model=s.Mlp(depth=2, width=16), optimizer=s.Sgd(lr=0.1)))
    batches = Batches(source, [split(source, run.data, run.seeds)], [run], torch.device("cpu"))
    return new_stack([run], batches), *batches.eval_batch(batches.indices["train"][:, :32])


def test_a_gradients_shift_is_what_the_layers_before_it_do_to_it(digits: Source) -> None:
    """By autograd: the second layer's gradient after a move of the first, the third's after one of both."""
    stack, x, targets = small(digits)
    with torch.no_grad():
        before = drift.weight_gradients(stack, x, targets)
        old = stack.params.flat.clone()
        stack.params.flat.add_(0.05 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1)))
    views = [stack.params.views(flat.clone()) for flat in (old, stack.params.flat.detach())]

    def gradient(layer: str, moved: list[str]) -> Tensor:
        own: dict[str, Any] = {name: views[name.split(".")[0] in moved][name][0].detach().clone() for name in views[0]}
        h = x[0]
        own[f"{layer}.weight"].requires_grad_()
        for name in ("hidden1", "hidden2", "output"):
            h = h @ own[f"{name}.weight"].T + own[f"{name}.bias"]
            h = h if name == "output" else h.relu()
        (found,) = torch.autograd.grad(F.cross_entropy(h, targets[0]), own[f"{layer}.weight"])
        return found

    expected = []
    for layer, moved in (("hidden2", ["hidden1"]), ("output", ["hidden1", "hidden2"])):
        was = gradient(layer, [])
        expected.append(float((gradient(layer, moved) - was).norm() / was.norm()))
    after = stack.params.flat.detach().clone()
    found = drift.gradient_shift(stack, old, before, x, targets)
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert torch.equal(stack.params.flat, after)  # the stack is as it was


def test_inputs_of_layers_are_outputs_of_those_before(digits: Source) -> None:
    stack, x, _ = small(digits)
    first, second = drift.layer_inputs(stack, x)
    w = stack.params.leaves
    assert torch.allclose(first[0], F.relu(x[0] @ w["hidden1.weight"][0].T + w["hidden1.bias"][0]), atol=1e-6)
    assert torch.allclose(second[0], F.relu(first[0] @ w["hidden2.weight"][0].T + w["hidden2.bias"][0]), atol=1e-6)


def test_noise_moves_the_inputs_that_batch_norm_holds(digits: Source) -> None:
    run = s.Settings(model=s.Mlp(depth=3, width=16), optimizer=s.Sgd(lr=0.1), trainer=s.Trainer(epochs=6))
    found = {(one.arm, one.figure): one.value for one in drift.covariate_shift(run, digits, 1, True) if not one.over}
    assert found["batch norm", "drift"] < 0.1 < 0.25 < found["noisy batch norm", "drift"] < 0.4
    assert max(found[arm, "test_error"] for arm in drift.ARMS) < 0.5  # chance is 0.9
