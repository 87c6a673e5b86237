"""What an untrained network does to a batch: the laws of signal propagation, and exact sizes."""

import csv
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make

from regrun import auditview, optim
from regrun import settings as s
from regrun.audit import Audit, audit, look
from regrun.cli import main
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.stack import Stack, new_stack
from regrun.streams import generator

CPU = torch.device("cpu")
WIDTH, DEPTH, SEEDS, EXAMPLES = 512, 20, 4, 64
INITS = {
    "he": s.Init(scheme="he_normal"),
    "xavier": s.Init(scheme="xavier_normal"),
    "normal 1": s.Init(scheme="normal", std=1.0),
    "normal 0.001": s.Init(scheme="normal", std=0.001),
    "torch": s.Init(scheme="torch", bias="torch"),
}


def normal_source(*shape: int) -> Source:
    """Standard normal inputs of this shape, in ten classes."""
    inputs = torch.randn(EXAMPLES + 20, *shape, generator=generator(0, "test"))
    targets = torch.arange(len(inputs)) % 10
    train, test = torch.arange(EXAMPLES + 10), torch.arange(EXAMPLES + 10, len(inputs))
    return Source("normal", inputs, targets, train, test, 10, None if len(shape) == 1 else 1.0)


def stack_of(run: s.Settings, source: Source) -> Stack:
    own = split(source, run.data, run.seeds)
    return new_stack([run], Batches(source, [own], [run], CPU))


def audited(source: Source, **changes: Any) -> Audit:
    run = make(data=s.Digits(val_size=10.0, normalize="none"), **changes)
    return audit(run, source, split(source, run.data, run.seeds), CPU)


def deep(init: str, activation: str) -> list[Audit]:
    """20 layers of 512 on standard normal inputs, from several seeds."""
    source = normal_source(WIDTH)
    model = s.Mlp(depth=DEPTH, width=WIDTH, activation=activation, init=INITS[init])
    return [audited(source, model=model, seed=seed) for seed in range(SEEDS)]


def mean_field(square: float, activation: str) -> float:
    """RMS after 20 layers of infinite width whose weights have n var(w) = `square`, from RMS 1 (Poole et al. 2016)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    f = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[activation]
    q = 1.0
    for _ in range(DEPTH):
        q = float(weights @ f(math.sqrt(square * q) * nodes) ** 2 / weights.sum())
    return math.sqrt(q)


@pytest.mark.parametrize(
    ("init", "activation", "square", "seen"),
    [
        ("he", "relu", 2.0, 0.96),
        ("xavier", "tanh", 1.0, 0.16),
        ("xavier", "relu", 1.0, 7.8e-4),
        ("normal 1", "relu", WIDTH, 1.4e24),
        ("normal 0.001", "relu", 1e-6 * WIDTH, 1.4e-36),
    ],
)
def test_20_layers_have_the_rms_of_theory(init: str, activation: str, square: float, seen: float) -> None:
    """A ReLU layer of n units changes the squared norm by a factor of variance 5 / n; a tanh one by less.

    So log RMS has a standard deviation of at most sqrt(20 * 5 / 512) / 2 = 0.22, and the mean of 4 seeds 0.11;
    `seen`, one seed's figure in the literature, is within 4 of its own.
    """
    logs = [math.log(found.row(f"hidden{DEPTH}").activation_rms) for found in deep(init, activation)]
    theory, deviation = math.log(mean_field(square, activation)), math.sqrt(5 * DEPTH / WIDTH) / 2
    assert sum(logs) / SEEDS == pytest.approx(theory, abs=4 * deviation / math.sqrt(SEEDS))
    assert math.log(seen) == pytest.approx(theory, abs=4 * deviation)


def test_torchs_default_init_looks_alive_and_is_a_constant() -> None:
    for found in deep("torch", "relu"):
        last = found.row(f"hidden{DEPTH}")
        assert last.activation_rms == pytest.approx(0.019, rel=0.15)
        # Each layer scales differences by sqrt(1 / 6), which is sqrt(512 / 2 * 1 / (3 * 512)).
        assert math.log(last.across_example_std) == pytest.approx(DEPTH * math.log(1 / 6) / 2, abs=1.5)
        assert found.dies_at() is not None
        says = auditview.verdict(found, make(model=s.Mlp(depth=DEPTH, width=WIDTH, init=INITS["torch"])))
        assert re.match(r"the signal dies at hidden\d+ of 20: hidden20 has an RMS of 0.0\d+, which looks alive", says)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (s.Mlp(depth=20, width=64), "the signal passes"),
        (s.Mlp(depth=0), "nothing is hidden"),
        (s.Mlp(depth=20, width=64, init=INITS["xavier"]), "the signal (dies|fades).*he_normal"),
        (s.Mlp(depth=20, width=64, init=INITS["normal 0.001"]), "the signal dies at hidden2 of 20.*he_normal"),
        (s.Mlp(depth=20, width=64, init=INITS["normal 1"]), "the signal grows .*he_normal"),
        (s.Mlp(depth=60, width=512, init=INITS["normal 1"]), "the signal overflows"),
        (s.Mlp(depth=4, width=64, activation="tanh", init=INITS["normal 1"]), "7. % of hidden. is saturated.*xavier"),
        (s.Mlp(depth=20, width=64, activation="sigmoid", init=INITS["xavier"]), "the signal dies.*residual"),
        (s.Mlp(depth=2, width=64, init=s.Init(scheme="zeros")), "the units of hidden1 start the same"),
        (s.Mlp(depth=2, width=64, init=s.Init(scheme="constant")), "the units of hidden1 start the same"),
        (s.Residual(depth=50, width=64, zero_residual=True), "the signal passes"),
        (s.Mlp(depth=2, width=64, init=s.Init(output_scheme="zeros")), "the signal passes"),
    ],
)
def test_each_fate_of_a_signal_is_told(model: s.Model, words: str) -> None:
    run = make(model=model)
    assert re.match(words, auditview.verdict(audited(normal_source(64), model=model), run))


def test_gradients_that_batchnorm_lets_explode_are_told() -> None:
    changes: dict[str, Any] = {"model": s.Mlp(depth=50, width=64), "reg": s.Reg(batchnorm=s.BatchNorm(active=True))}
    says = auditview.verdict(audited(normal_source(64), **changes), make(**changes))
    assert re.match(r"the gradient grows .*-fold on its way back from hidden50 to hidden1; try model=residual", says)


@pytest.mark.parametrize(
    ("model", "shape", "counts"),
    [
        (s.Mlp(widths=[100, 100]), (50,), [0, 5_100, 10_100, 1_010]),
        (s.Mlp(widths=[256]), (100,), [0, 25_856, 2_570]),
        (s.Cnn(widths=[64]), (3, 8, 8), [0, 1_792, 10_250]),
        (s.Resnet(depth=8, width=1), (3, 8, 8), [0, 28, *[10] * 2, 20, 38, 76, 148, 50]),
        (s.Moe(experts=2, width=5), (50,), [0, 255, 60, 255, 60, 102]),
        (s.Vit(depth=1, width=8, heads=2, patch=4), (3, 8, 8), [0, 440, 216, 88, 144, 152, 90]),
    ],
    ids=["50-100-100-10", "100-256-10", "conv 3 to 64", "resnet", "moe", "vit"],
)
def test_each_layer_has_its_parameters(model: s.Model, shape: tuple[int, ...], counts: list[int]) -> None:
    assert [row.parameters for row in audited(normal_source(*shape), model=model).layers] == counts


def test_a_norms_parameters_are_counted_with_the_layer_before_it() -> None:
    found = audited(normal_source(50), model=s.Mlp(widths=[100]), reg=s.Reg(batchnorm=s.BatchNorm(active=True)))
    assert [row.parameters for row in found.layers] == [0, 50 * 100 + 2 * 100, 1_010]


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        (s.Sgd(), 0),
        (s.Momentum(), 1),
        (s.RmsProp(), 1),
        (s.RmsProp(centered=True, momentum=0.9), 3),
        (s.Adam(), 2),
        (s.Adam(amsgrad=True), 3),
    ],
)
def test_an_optimizer_holds_whole_copies_of_the_parameters(optimizer: s.Optimizer, copies: int) -> None:
    found = audited(normal_source(50), model=s.Mlp(widths=[100, 100]), optimizer=optimizer)
    held = {row.part: row.bytes for row in found.memory}
    stack = stack_of(make(model=s.Mlp(widths=[100, 100]), data=s.Digits(val_size=10.0)), normal_source(50))
    state: optim.State = {}
    at = optim.epoch_table([optimizer], np.array([[0.1]]), first_step=1, device=CPU)[0]
    optim.update(stack.params.flat, stack.gradient, state, at, optimizer)
    assert held["optimizer"] == sum(t.nbytes for t in state.values()) == copies * held["parameters"]
    assert held["parameters"] == held["gradients"]
    assert 0 <= held["parameters"] - 4 * 16_210 < 6 * 64  # six tensors, each padded to a cache line


def test_activations_are_what_backward_needs() -> None:
    """The input, and each hidden layer's outputs before and after its activation."""
    run = make(model=s.Mlp(widths=[100, 60]), data=s.Digits(val_size=10.0, normalize="none"))
    stack = stack_of(run, normal_source(50))
    x, targets = stack.batches.train_batch(stack.batches.order(1)[:, :32], {})
    assert look(stack, x, targets)[1] == 4 * 32 * (50 + 2 * 100 + 2 * 60)


def test_figures_are_torchs_own(digits: Source) -> None:
    """The first layer of an MLP and its gradient, by autograd, on the first batch of the run's first epoch."""
    run = make(model=s.Mlp(widths=[30], activation="tanh"))
    own = split(digits, run.data, run.seeds)
    found, stack = audit(run, digits, own, CPU), stack_of(run, digits)
    x, targets = stack.batches.train_batch(stack.batches.order(1)[:, : run.trainer.batch_size], {})
    leaves = {name: t.detach()[0].clone().requires_grad_() for name, t in stack.params.leaves.items()}
    y = torch.tanh(torch.nn.functional.linear(x[0], leaves["hidden1.weight"], leaves["hidden1.bias"]))
    logits = torch.nn.functional.linear(y, leaves["output.weight"], leaves["output.bias"])
    torch.nn.functional.cross_entropy(logits, targets[0]).backward()
    row, y = found.row("hidden1"), y.detach().double()
    gradient = leaves["hidden1.weight"].grad
    assert gradient is not None
    assert row.activation_rms == pytest.approx(y.square().mean().sqrt().item(), rel=1e-6)
    assert row.across_example_std == pytest.approx(y.var(0, correction=0).mean().sqrt().item(), rel=1e-6)
    assert row.grad_rms == pytest.approx(gradient.double().square().mean().sqrt().item(), rel=1e-5)
    assert row.saturated_fraction == (y.abs() > 0.97).double().mean().item()
    assert (row.fan_in, row.fan_out, row.shape) == (64, 30, [30])
    assert found.row("input").across_example_std == pytest.approx(
        x[0].double().var(0, correction=0).mean().sqrt().item(), rel=1e-6
    )


@pytest.mark.parametrize("scheme", [name for name in s.SCHEMES if name not in ("zeros", "constant")])
@pytest.mark.parametrize("model", [s.Mlp(widths=[300, 200]), s.Cnn(widths=[40, 60])], ids=["mlp", "cnn"])
def test_weights_have_the_std_that_the_scheme_aims_at(scheme: str, model: s.Mlp | s.Cnn) -> None:
    """Within 5 standard errors, sd / sqrt(2 n); constant and zeros have none."""
    found = audited(normal_source(3, 8, 8), model=replace(model, init=s.Init(scheme=scheme, std=0.1)))
    for row in found.layers[1:]:
        assert row.fan_in and row.target_std
        n = row.fan_in * row.shape[0]
        assert row.weight_std == pytest.approx(row.target_std, rel=5 / math.sqrt(2 * n))


def test_dropout_does_not_pass_for_a_signal() -> None:
    model = s.Mlp(depth=DEPTH, width=64, init=INITS["torch"])
    reg = s.Reg(dropout=s.Dropout(rate=0.5, input_rate=0.5))
    with_dropout, without = (audited(normal_source(64), model=model, reg=r) for r in (reg, s.Reg()))
    assert with_dropout.layers == without.layers


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("model", [s.Mlp(depth=8), s.Mlp(depth=300, width=16, activation="tanh"), s.Cnn()])
def test_the_table_fits(width: int, model: s.Model) -> None:
    lines = [text for _, text in auditview.table(audited(normal_source(1, 28, 28), model=model), width=width)]
    assert max(map(len, lines)) <= width
    assert len(lines) <= 48
    assert all(word in lines[0] for word in ("layer", "rms", "across", "gradient", "dead"))


def test_an_audit_prints_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "model=shallow", "reg=dropout"]) == 0
    output, errors = capsys.readouterr()
    assert output.splitlines()[0].startswith("digits | mlp 1 x 256 | reg dropout | adam | seed 0 | cpu")
    assert "the signal passes: hidden1" in output
    assert errors == ""
    assert not list(tmp_path.iterdir())


def test_an_audit_that_is_told_a_folder_keeps_its_tables_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)  # what is no terminal has the log's width
    command = ["audit", "model=cnn", "reg=batchnorm", "hydra.run.dir=here"]
    assert main(command) == 0
    folder = tmp_path / "here"
    assert {p.name for p in folder.iterdir()} == {"audit.csv", "memory.csv", "audit.png", "settings.yaml", "run.log"}
    with (folder / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["input", "conv1", "conv2", "output"]
    assert (folder / "run.log").read_text() == capsys.readouterr().out
    assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("regrun: hydra.run.dir: must be a new or an empty folder")
