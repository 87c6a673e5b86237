"""Initial weights: the scale of every scheme, torch's own where it has one, and what depth makes of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from regrun.initializers import GAINS, gain, init_bias, init_weight, output_init
from regrun.layers import ACTIVATIONS
from regrun.settings import SCHEMES, Init

DENSE, KERNEL = (256, 512), (96, 64, 3, 3)
SHAPES = {"dense": (DENSE, 512, 256), "kernel": (KERNEL, 64 * 9, 96 * 9)}  # shape, fan_in, fan_out

# What std each scheme has for (fan_in, fan_out) before ReLU.
STDS: list[tuple[Init, Callable[[int, int], float]]] = [
    (Init("torch"), lambda i, o: 1 / math.sqrt(3 * i)),
    (Init("he_normal"), lambda i, o: math.sqrt(2 / i)),
    (Init("he_uniform"), lambda i, o: math.sqrt(2 / i)),
    (Init("he_normal", mode="fan_out"), lambda i, o: math.sqrt(2 / o)),
    (Init("he_uniform", mode="fan_out"), lambda i, o: math.sqrt(2 / o)),
    (Init("he_normal", mode="fan_avg"), lambda i, o: math.sqrt(4 / (i + o))),
    (Init("he_uniform", mode="fan_avg"), lambda i, o: math.sqrt(4 / (i + o))),
    (Init("he_normal", gain=3.0), lambda i, o: 3 / math.sqrt(i)),
    (Init("xavier_normal"), lambda i, o: math.sqrt(2 / (i + o))),
    (Init("xavier_uniform"), lambda i, o: math.sqrt(2 / (i + o))),
    (Init("xavier_normal", gain=math.sqrt(2)), lambda i, o: math.sqrt(4 / (i + o))),
    (Init("normal", std=0.3), lambda i, o: 0.3),
    (Init("uniform", std=0.3), lambda i, o: 0.3),
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def weights(shape: tuple[int, ...], init: Init, activation: str = "relu", seed: int = 0) -> Tensor:
    weight = torch.empty(shape)
    init_weight(weight, init, activation=activation, generator=seeded(seed))
    return weight


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("init", "std"), STDS, ids=[f"{i.scheme}-{i.mode}-{i.gain}" for i, _ in STDS])
def test_weights_have_the_mean_and_std_of_their_scheme(
    init: Init, std: Callable[[int, int], float], shape: str
) -> None:
    size, fan_in, fan_out = SHAPES[shape]
    w, expected = weights(size, init).double(), std(fan_in, fan_out)
    # Four standard errors: sigma / sqrt(n) of a mean, at most sigma / sqrt(2 n) (a normal's) of a std.
    assert abs(w.mean().item()) < 4 * expected / math.sqrt(w.numel())
    assert w.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * w.numel()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("scheme", "bound"),
    [
        ("torch", lambda i, o: 1 / math.sqrt(i)),
        ("he_uniform", lambda i, o: math.sqrt(6 / i)),
        ("xavier_uniform", lambda i, o: math.sqrt(6 / (i + o))),
        ("uniform", lambda i, o: 0.01 * math.sqrt(3)),
    ],
)
def test_uniform_weights_fill_their_bound(scheme: str, bound: Callable[[int, int], float], shape: str) -> None:
    size, fan_in, fan_out = SHAPES[shape]
    share = weights(size, Init(scheme)).abs().max().item() / bound(fan_in, fan_out)
    # The largest of n values is below 1 - 20 / n with probability e^-20.
    assert 1 - 20 / math.prod(size) < share <= 1 + 1e-6


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid", "identity"])
def test_gains_are_torchs(activation: str) -> None:
    name = "linear" if activation == "identity" else activation
    assert GAINS[activation] == pytest.approx(nn.init.calculate_gain(name), rel=1e-15)


def test_gelus_gain_keeps_the_mean_square() -> None:
    """1 / gain^2 = E[gelu(z)^2], by the trapezoidal rule: exact to rounding for what is smooth and vanishes."""
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    mean_square = torch.trapezoid(nn.functional.gelu(z) ** 2 * density, z).item()
    assert 1 / GAINS["gelu"] ** 2 == pytest.approx(mean_square, abs=1e-6)


@pytest.mark.parametrize("activation", GAINS)
def test_he_and_orthogonal_follow_the_activation_and_xavier_does_not(activation: str) -> None:
    followers = {scheme: gain(scheme, activation) for scheme in ("he_normal", "he_uniform", "orthogonal")}
    assert set(followers.values()) == {GAINS[activation]}
    assert gain("xavier_normal", activation) == gain("xavier_uniform", activation) == 1
    size = (64, 64)
    scaled = weights(size, Init("he_normal"), "identity") * GAINS[activation]
    torch.testing.assert_close(weights(size, Init("he_normal"), activation), scaled)


def test_every_activation_has_a_gain() -> None:
    assert GAINS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("size", [(96, 256), (256, 96), (32, 16, 3, 3)])
def test_orthogonal_weights_keep_angles_times_the_gain(size: tuple[int, ...]) -> None:
    w = weights(size, Init("orthogonal")).flatten(1)
    short = w if w.shape[0] <= w.shape[1] else w.T
    torch.testing.assert_close(short @ short.T, 2 * torch.eye(len(short)), atol=1e-5, rtol=0)


def test_constant_weights_are_the_value_and_zeros_are_zero() -> None:
    assert (weights(DENSE, Init("constant", value=-0.3)) == torch.tensor(-0.3)).all()
    assert (weights(KERNEL, Init("zeros")) == 0).all()


@pytest.mark.parametrize(
    ("make", "fan_in"), [(lambda: nn.Linear(50, 70), 50), (lambda: nn.Conv2d(5, 7, 3), 45)], ids=["linear", "conv"]
)
def test_torch_scheme_draws_what_torchs_layers_draw(make: Callable[[], nn.Linear | nn.Conv2d], fan_in: int) -> None:
    """Weights and bias, number for number, from a generator of the same seed; all within 1 / sqrt(fan_in)."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = make()
    assert layer.bias is not None
    init, generator = Init("torch", bias="torch"), seeded(3)
    weight, bias = torch.empty_like(layer.weight.detach()), torch.empty_like(layer.bias.detach())
    init_weight(weight, init, activation="relu", generator=generator)
    init_bias(bias, init, fan_in=fan_in, generator=generator)
    torch.testing.assert_close(weight, layer.weight.detach(), atol=1e-7, rtol=0)
    torch.testing.assert_close(bias, layer.bias.detach(), atol=1e-7, rtol=0)
    assert max(weight.abs().max().item(), bias.abs().max().item()) <= 1 / math.sqrt(fan_in) + 1e-7


def test_bias_is_zero_unless_asked_for() -> None:
    bias = torch.full((40,), torch.nan)
    init_bias(bias, Init(), fan_in=9, generator=seeded())
    assert (bias == 0).all()
    init_bias(bias, Init(bias="constant", bias_value=0.2), fan_in=9, generator=seeded())
    assert (bias == torch.tensor(0.2)).all()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"output_scheme": "normal", "output_std": 0.1}, {"scheme": "normal", "std": 0.1}),
        ({"output_scheme": "zeros"}, {"scheme": "zeros"}),
        ({"output_scheme": "constant", "output_value": 0.5}, {"scheme": "constant", "value": 0.5}),
        ({"output_std": 0.0}, {"std": 0.0}),
        ({"output_value": 0.0}, {"value": 0.0}),
    ],
)
def test_output_layer_starts_as_the_network_but_for_its_overrides(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    network = Init("xavier_uniform", gain=2.0, std=0.7, value=0.3, bias="constant", bias_value=0.1, **changes)
    output = output_init(network)
    same = {name: getattr(network, name) for name in ("scheme", "mode", "gain", "std", "value", "bias", "bias_value")}
    assert {name: getattr(output, name) for name in same} == same | expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_a_function_of_the_generator(scheme: str) -> None:
    first, again, other = (weights((16, 24), Init(scheme), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (scheme in ("constant", "zeros"))


DEPTH, WIDTH, EXAMPLES = 20, 512, 32


def last_layer(init: Init, activation: str, seed: int) -> Tensor:
    """Activations (EXAMPLES, WIDTH) of unit-normal inputs after DEPTH dense layers, in float64 against underflow."""
    generator = seeded(seed)
    x = torch.randn(EXAMPLES, WIDTH, generator=generator)
    weight, bias = torch.empty(WIDTH, WIDTH), torch.empty(WIDTH)
    for _ in range(DEPTH):
        init_weight(weight, init, activation=activation, generator=generator)
        init_bias(bias, init, fan_in=WIDTH, generator=generator)
        x = ACTIVATIONS[activation].forward(torch.addmm(bias, x, weight.T))
    return x.double()


def test_he_keeps_the_mean_square_through_20_relu_layers() -> None:
    squares = [last_layer(Init("he_normal"), "relu", seed).square().mean().item() for seed in range(50)]
    assert abs(np.mean(squares) - 1) < 3 * np.std(squares, ddof=1) / math.sqrt(50)


@pytest.mark.parametrize(
    ("init", "activation", "published"),
    [
        (Init("he_normal"), "relu", 0.96),
        (Init("xavier_normal"), "relu", 7.8e-4),
        (Init("xavier_normal"), "tanh", 0.16),
        (Init("normal", std=1.0), "relu", 1.4e24),
        (Init("normal", std=0.001), "relu", 1.4e-36),
        (Init("torch", bias="torch"), "relu", 0.019),
    ],
    ids=["he-relu", "glorot-relu", "glorot-tanh", "unit", "tiny", "torch"],
)
def test_rms_after_20_layers_is_the_published_one(init: Init, activation: str, published: float) -> None:
    """Each published figure is one network's, so it lies within three standard deviations of networks' log RMS.

    That is a factor of about 2 for ReLU (sqrt(20 * 5 / 512) / 2 = 0.22 in the log) and 1.1 for tanh.
    """
    logs = [last_layer(init, activation, seed).square().mean().sqrt().log().item() for seed in range(8)]
    spread = np.std(logs, ddof=1) * math.sqrt(1 + 1 / 8)
    assert spread < 0.4
    assert abs(np.mean(logs) - math.log(published)) < 3 * spread


def test_torchs_init_loses_the_examples_while_its_rms_lives_on() -> None:
    x = last_layer(Init("torch", bias="torch"), "relu", seed=0)
    # The bias alone holds the signal up: the fixed point of q = (q + 1 / WIDTH) / 6 is 1 / (5 WIDTH).
    assert x.square().mean().sqrt().item() == pytest.approx(1 / math.sqrt(5 * WIDTH), rel=0.15)
    assert x.std(0).max().item() < 1e-7
