"""torchvision's models train as they would in a plain loop, from their own weights or a file's, and repeat."""

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make, train_rows
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision import models

import regrun
from regrun import settings as s
from regrun.cli import main
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models import ops, vision
from regrun.models.export import export
from regrun.models.parameters import initialize
from regrun.rows import LayerRow
from regrun.stack import Stack, new_stack

CPU, DOUBLE = torch.device("cpu"), torch.float64
SHUFFLE = s.Torchvision(name="shufflenet_v2_x0_5")  # batch norm, no dropout
SQUEEZE = s.Torchvision(name="squeezenet1_1", small_stem=True)  # dropout, no batch norm
# One of each family, and the smallest image that torchvision's own head room allows for all.
FAMILIES = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "efficientnet_v2_s": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_y_400mf": "fc",
    "resnet18": "fc",
    "resnext50_32x4d": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "swin_t": "head",
    "swin_v2_t": "head",
    "vgg11_bn": "classifier.6",
    "vit_b_32": "heads.head",
    "wide_resnet50_2": "fc",
}


def stack_of(digits: Source, run: s.Settings) -> Stack:
    return new_stack([run], Batches(digits, [split(digits, run.data, run.seeds)], [run], CPU))


def network_of(stack: Stack) -> vision.Network:
    (network,) = (op for op in stack.ops if isinstance(op, vision.Network))
    return network


def ended(run: s.Settings, source: Source) -> Any:
    return train_rows([run], source)[1][0]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_ends_in_its_head(name: str) -> None:
    side = 256 if name == "swin_v2_t" else 299 if name == "inception_v3" else 224
    model, size = s.Torchvision(name=name), (side, side)
    assert list(vision.check(model, (3, *size), 7, 64)) == []
    assert vision.called(model, size, 7)[-1] == FAMILIES[name]


@pytest.mark.long
def test_every_classification_model_of_torchvision_is_one() -> None:
    """But for regnets, which meta cannot build and of which one is above."""
    known = models.list_models(module=models, exclude="regnet*")
    assert len(known) >= 60
    with torch.device("meta"):
        built = [vision._built(s.Torchvision(name=name), (224, 224), 7, seed=0) for name in known]
    assert all(isinstance(module, nn.Module) for module in built)


def distance(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum((some[key].double() - others[key]).square().sum().item() for key in others))


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_neutral_settings_train_torchvisions_model_as_a_plain_loop_does(name: str, digits: Source) -> None:
    """Two steps, batch norm's running statistics included, without dropout: as close to a loop in double precision as
    the same loop in single precision is, to a factor of 2. (1.00 to 1.06; rounding itself differs between processors.)
    """
    run = make(model=s.Torchvision(name=name), optimizer=s.Momentum(lr=0.01), trainer={"epochs": 1, "batch_size": 61})
    stack = stack_of(digits, run)
    own = stack.batches.splits[0]
    start = stack.weights_of(0) | {"input.offset": own.offset, "input.scale": own.scale}
    double, single = (export(stack.ops, start, {"input": 0.0}).train().to(dtype) for dtype in (DOUBLE, torch.float32))
    loops = {plain: torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9) for plain in (double, single)}
    for module in [*double.modules(), *single.modules(), *network_of(stack).module.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    streams = stack.mask_streams(1, batch_size=61, steps=2)
    ones = torch.ones(1, 1)
    at = {"lr": 0.01 * ones, "base_lr": 0.01 * ones, "size": 0.01 * ones, "momentum": 0.9 * ones, "fresh": ones}
    for indices in stack.batches.order(1)[0].split(61)[:2]:
        for plain, optimizer in loops.items():
            inputs = digits.inputs[indices].to(next(plain.parameters()).dtype)
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(inputs), digits.targets[indices]).backward()
            optimizer.step()
        stack.step(*stack.batches.train_batch(indices[None], {}), at, streams)
        trained = stack.weights_of(0)
        exact, rounded = ({key: plain.state_dict()[f"{name}.{key}"] for key in trained} for plain in loops)
        rounding = distance(rounded, exact)
        assert rounding < 0.1 * distance(start, exact)
        assert distance(trained, exact) < 2 * rounding
    vision._skeleton.cache_clear()


@pytest.mark.long
def test_a_run_is_its_seeds_bit_for_bit_and_dropout_has_its_own(digits: Source) -> None:
    """Whatever torch's global generator has drawn before, and it draws on as if nothing had happened."""
    run = make(model=SQUEEZE, trainer={"epochs": 1, "limit_batches": 4})
    torch.manual_seed(1)
    first = ended(run, digits)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert_equal(ended(run, digits).last, first.last)
    assert torch.equal(torch.get_rng_state(), before)
    moved = ended(replace(run, seeds=replace(run.seeds, dropout=9)), digits)
    assert not torch.equal(moved.last["classifier.1.weight"], first.last["classifier.1.weight"])


def test_dropout_of_a_model_acts_in_training_alone(digits: Source) -> None:
    stack = stack_of(digits, make(model=SQUEEZE))
    x, _ = stack.batches.eval_batch(stack.batches.indices["val"][:, :32])
    assert torch.equal(stack.forward(x), stack.forward(x))
    draws = [torch.full((1, 4), i, dtype=torch.int16) for i in (0, 0, 1)]
    same, again, other = (_trained_pass(stack, x, draw) for draw in draws)
    assert torch.equal(same, again) and not torch.equal(same, other)


def _trained_pass(stack: Stack, x: Tensor, draw: Tensor) -> Tensor:
    on = ops.Pass(stack.params.leaves, stack.buffers, x.shape[1], training=True, masks=lambda *_: draw)
    with torch.no_grad():
        return ops.run(stack.ops, x, on)


def test_padding_is_no_part_of_a_batch(digits: Source) -> None:
    """29 examples are padded to 32; batch norm must not see the three."""
    stack = stack_of(digits, make(model=SHUFFLE))
    own = stack.batches.splits[0]
    start = stack.weights_of(0) | {"input.offset": own.offset, "input.scale": own.scale}
    plain = export(stack.ops, start, {"input": 0.0}).train()
    x, targets = stack.batches.train_batch(stack.batches.order(1)[:, :29], {})
    stack.first_gradients(x, targets, {}, [])
    plain(digits.inputs[stack.batches.order(1)[0, :29]])
    key = "conv1.1.running_mean"
    assert_close(stack.buffers[key][0], plain.state_dict()[f"{SHUFFLE.name}.{key}"], rtol=1e-5, atol=1e-6)


ASKED = {
    "sam": s.Reg(sam=s.Sam(0.05)),
    "l1": s.Reg(l1=s.L1(1e-5)),
    "l2": s.Reg(l2=s.L2(1e-4)),
    "weight_decay": s.Reg(weight_decay=s.WeightDecay(0.1)),
    "max_norm": s.Reg(max_norm=s.MaxNorm(0.5)),
    "label_smoothing": s.Reg(label_smoothing=s.LabelSmoothing(0.1)),
    "dropout": s.Reg(dropout=s.Dropout(input_rate=0.2)),
    "flip": s.Reg(flip=s.Flip(0.5)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ASKED)
def test_what_acts_on_our_models_acts_on_torchvisions(name: str, digits: Source) -> None:
    end = ended(make(model=SHUFFLE, reg=ASKED[name], trainer={"epochs": 1, "limit_batches": 2}), digits)
    assert end.outcome.status == "ok" and (end.outcome.acted[name] or 0) > 0


def test_decay_spares_norms_biases_and_if_told_the_head(digits: Source) -> None:
    reg = s.Reg(weight_decay=s.WeightDecay(0.1, exclude="norm_bias_output"))
    stack = stack_of(digits, make(model=SHUFFLE, reg=reg))
    decays = {slot.name for slot in stack.params.slots if stack._is_decayed(slot)}
    module = network_of(stack).module
    weights = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert decays == weights - {"fc.weight"}


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaged_weights_get_statistics_of_their_own(kind: str, digits: Source) -> None:
    """mobilenet's batch norms have a momentum of 0.01: the estimate must not depend on it."""
    averaging = s.Averaging(kind=kind, start=0.0, **({"decay": 0.5} if kind == "ema" else {}))
    run = make(model=s.Torchvision(name="mobilenet_v3_small"), trainer={"epochs": 1, "averaging": averaging})
    stack = stack_of(digits, run)
    stack.params.flat.mul_(1.01)
    with stack.averaged():
        found = stack.buffers["features.0.1.running_mean"][0].clone()
        x, _ = stack.batches.eval_batch(stack.batches.indices["train"])
        weight = stack.params.leaves["features.0.0.weight"].detach()[0]
        images = x[0].view(-1, 1, 8, 8).repeat(1, 3, 1, 1)
        expected = nn.functional.conv2d(images, weight, stride=2, padding=1).mean((0, 2, 3))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


# Weights from a file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Another task's network, with seven classes, and running statistics that are its own."""
    network = models.shufflenet_v2_x0_5(num_classes=7)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.fill_(0.5)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_file_gives_all_but_the_head(file: Path, digits: Source) -> None:
    model = replace(SHUFFLE, weights=str(file), init=s.Init(scheme="constant", value=0.25))
    stack, given = stack_of(digits, make(model=model)), torch.load(file, weights_only=True)
    for name, value in stack.weights_of(0).items():
        if name.startswith("fc."):
            assert torch.equal(value, torch.full_like(value, 0.25 if name == "fc.weight" else 0.0))
        else:
            assert torch.equal(value, given[name])


def test_without_a_file_layers_start_by_the_scheme(digits: Source) -> None:
    stack = stack_of(digits, make(model=replace(SHUFFLE, init=s.Init(scheme="normal", std=0.3))))
    weight = stack.params.leaves["fc.weight"].detach()
    assert weight.std() == pytest.approx(0.3, rel=5 / math.sqrt(2 * weight.numel()))
    again = stack_of(digits, make(model=replace(SHUFFLE, init=s.Init(scheme="normal", std=0.3))))
    assert torch.equal(stack.params.flat, again.params.flat)
    initialize(again.params, again.ops, [make(model=SHUFFLE, seed=1)])
    assert not torch.equal(stack.params.flat, again.params.flat)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo evil",)


@pytest.mark.parametrize("content", ["another", "code", "words", "list"])
def test_a_file_that_does_not_fit_is_one_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    match content:
        case "another":
            torch.save(models.squeezenet1_1().state_dict(), path)
        case "code":
            path.write_bytes(pickle.dumps({"conv1.weight": Evil()}, protocol=2))
        case "words":
            path.write_text("no weights")
        case "list":
            torch.save([1, 2], path)
    line = ["model=torchvision", "model.name=shufflenet_v2_x0_5", f"model.weights={path}"]
    code, where = (2, "model.weights") if content == "another" else (3, path)
    assert main(line) == code
    output, errors = capsys.readouterr()
    assert output == "" and len(errors.splitlines()) == 1 and errors.startswith(f"regrun: {where}: ")


# The stem, sizes, tables


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_a_small_stem_keeps_the_size_of_the_image(name: str) -> None:
    small = vision._built(s.Torchvision(name=name, small_stem=True), (32, 32), 10, seed=0)
    (_, first), *_ = [(n, m) for n, m in small.named_modules() if isinstance(m, nn.Conv2d)]
    assert isinstance(first, nn.Conv2d)
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    small(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["vgg11", "vit_b_32", "mobilenet_v2", "convnext_tiny", "inception_v3"])
def test_a_model_without_such_a_stem_says_so(name: str) -> None:
    (line,) = vision.check(s.Torchvision(name=name, small_stem=True), (3, 320, 320), 10, 64)
    assert line.startswith(f"model.small_stem: {name} ")


def test_an_image_that_is_too_small_is_one_line() -> None:
    for name in ("inception_v3", "alexnet", "squeezenet1_0"):
        (line,) = vision.check(s.Torchvision(name=name), (3, 8, 8), 10, 64)
        assert line.startswith(f"model.name: {name} cannot take 8 x 8 images (")


def test_layers_have_rows_in_the_order_of_the_forward_pass(digits: Source) -> None:
    (rows,), _ = train_rows([make(model=SQUEEZE, trainer={"epochs": 0})], digits)
    found = [row for row in rows if isinstance(row, LayerRow)]
    assert (found[0].layer, found[0].kind, found[-1].layer) == ("features.0", "conv", "classifier.1")
    assert len(found) == 26
    assert all(row.weight_norm > 0 and row.activation_rms > 0 and row.grad_norm > 0 for row in found)


def test_a_run_leaves_a_network_to_load(tmp_path: Path, digits: Source) -> None:
    line = ["model=torchvision", f"model.name={SHUFFLE.name}", "trainer.epochs=1", "trainer.progress=none"]
    assert main([*line, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    network = regrun.load(tmp_path / "run")
    with torch.no_grad():
        right = network(digits.inputs[digits.test]).argmax(1) == digits.targets[digits.test]
    summary = regrun.read(tmp_path / "run").summary
    assert right.double().mean().item() == summary["test_accuracy_best"].item()
    assert sum(p.numel() for p in network.parameters()) == summary["num_parameters"].item()
    saved = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    plain = models.shufflenet_v2_x0_5(num_classes=10)
    missing, _ = plain.load_state_dict(saved, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)


def test_an_audit_shows_torchvisions_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "model=torchvision", "model.small_stem=true"]) == 0
    output, errors = capsys.readouterr()
    assert "torchvision resnet18" in output and "conv1" in output and errors == ""
    assert "parameters: 11,173,962" in output  # a grey image is repeated, so the stem has three channels


def test_runs_go_side_by_side_each_in_a_stack_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "-m",
        "--dry-run",
        "model=torchvision",
        "seed=range(3)",
        "sweep.stack_size=3",
        f"hydra.sweep.dir={tmp_path}",
    ]
    assert main(line) == 0
    assert capsys.readouterr().out.count("stack of 1: torchvision resnet18\n") == 3


def test_torchvision_is_imported_only_where_it_is_used() -> None:
    code = "import sys, regrun.trainer, regrun.sweep, regrun.models.vision; sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
