"""What a step moves in a network's layers and what lies along it, against torch and planted cases."""

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
from regrun.studies import drift, landscape, watched


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


def small(source: Source, reg: s.Reg | None = None) -> tuple[Stack, Tensor, Tensor]:
    run = s.resolve(s.Settings(model=s.Mlp(depth=2, width=16), optimizer=s.Sgd(lr=0.1), reg=reg or s.Reg()))
    batches = Batches(source, [split(source, run.data, run.seeds)], [run], torch.device("cpu"))
    return new_stack([run], batches), *batches.eval_batch(batches.indices["train"][:, :32])


def test_a_gradients_shift_is_what_the_layers_before_it_do_to_it(digits: Source) -> None:
    """By autograd: the second layer's gradient after a move of the first, the third's after one of both."""
    stack, x, targets = small(digits)
    with torch.no_grad():
        _, before = watched.gradient(stack, x, targets)
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


@pytest.mark.parametrize("reg", [s.Reg(), s.Reg(batchnorm=s.BatchNorm(active=True))])
def test_along_a_step_lie_the_losses_and_gradients_of_autograd(digits: Source, reg: s.Reg) -> None:
    stack, x, targets = small(digits, reg)
    before = stack.params.flat.clone(), {name: buffer.clone() for name, buffer in stack.buffers.items()}

    def loss(own: dict[str, Tensor]) -> Tensor:
        h = x[0]
        for i in (1, 2):
            h = F.linear(h, own[f"hidden{i}.weight"], own.get(f"hidden{i}.bias"))
            if reg.batchnorm.active:
                h = F.batch_norm(h, None, None, own[f"norm{i}.weight"], own[f"norm{i}.bias"], training=True)
            h = h.relu()
        return F.cross_entropy(F.linear(h, own["output.weight"], own["output.bias"]), targets[0])

    def gradient(own: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(own, torch.autograd.grad(loss(own), list(own.values())), strict=True))

    start = {name: leaf[0].detach().clone().requires_grad_() for name, leaf in stack.params.leaves.items()}
    g = gradient(start)
    places = [
        {name: (w - a * 0.1 * g[name]).detach().requires_grad_() for name, w in start.items()} for a in (0.5, 1, 2, 4)
    ]
    losses = [loss(place).item() for place in places]
    norm = math.sqrt(sum(float(own.square().sum()) for own in g.values()))
    moved = [math.sqrt(sum(float((own - g[n]).square().sum()) for n, own in gradient(p).items())) for p in places]
    found = landscape.along(stack, x, targets)
    assert found["loss_range"].item() == pytest.approx(max(losses) - min(losses), rel=1e-3)
    assert found["relative_gradient_change"].item() == pytest.approx(max(moved) / norm, rel=1e-3)
    assert torch.equal(stack.params.flat, before[0])  # the stack is as it was
    assert all(torch.equal(buffer, before[1][name]) for name, buffer in stack.buffers.items())


def test_smoothness_is_of_each_rate_and_the_highest_decides(digits: Source) -> None:
    run = s.Settings(model=s.Mlp(depth=2, width=16), optimizer=s.Sgd(lr=0.1), trainer=s.Trainer(epochs=2))
    found = list(landscape.smoothness(run, digits, 1, True))
    for arm in landscape.ARMS:
        for figure in ("loss_range", "relative_gradient_change"):
            *by_rate, decides = [one for one in found if (one.arm, one.figure) == (arm, figure)]
            assert [one.over for one in by_rate] == list(landscape.RATES) and decides.over is None
            assert decides.value == by_rate[-1].value
            values = [one.value for one in by_rate]
            assert values == sorted(values) and values[0] > 0  # longer steps see more


def test_a_batchs_gradient_deviates_as_a_mean_does(digits: Source) -> None:
    """By the spread of the gradients of single examples over the root of the batch's size."""
    run = s.Settings(model=s.Mlp(depth=1, width=8), optimizer=s.Sgd(lr=0.1), data=s.Digits(train_size=200))
    found = list(landscape.gradient_noise(run, digits, 1, True))
    stack = watched.at_rates(run, digits, 1, s.Reg(), [0.1])
    singles = stack.batches.indices["train"].split(1, dim=1)
    own = torch.cat([watched.gradient(stack, *stack.batches.eval_batch(one))[1] for one in singles]).double()
    spread = (own - own.mean(0)).square().sum(1).mean().sqrt() / own.mean(0).norm()
    for size in landscape.SIZES:
        (value,) = [one.value for one in found if one.over == size]
        assert value == pytest.approx(float(spread) / math.sqrt(size), rel=0.15)
    (slope,) = [one.value for one in found if one.figure == "slope"]
    assert slope == pytest.approx(-0.5, abs=0.05)
