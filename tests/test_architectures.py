"""ResNets, mixtures of experts and vision transformers are what their papers say they are."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make, train_rows
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import regrun
from regrun import checks, layers
from regrun import settings as s
from regrun.cli import main
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.models import dropping, mixture, ops
from regrun.models.attention import Attention, Patches, Positions
from regrun.models.build import build
from regrun.models.parameters import all_slots
from regrun.models.rates import Rates
from regrun.rows import CurveRow, EpochRow, LayerRow
from regrun.stack import Stack, new_stack
from regrun.streams import generator

BATCHNORM = s.Reg(batchnorm=s.BatchNorm(active=True))
VIT = s.Vit(depth=2, width=12, heads=3, patch=2)


def stack_of(digits: Source, *runs: s.Settings) -> Stack:
    splits = [split(digits, run.data, run.seeds) for run in runs]
    return new_stack(runs, Batches(digits, splits, runs, torch.device("cpu")))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"))


def passing(params: dict[str, Tensor], rows: int, **more: Any) -> ops.Pass:
    return ops.Pass(params, {}, rows, **({"training": False} | more))


# ResNets


@pytest.mark.parametrize(("n", "published"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_a_resnet_has_the_parameters_of_the_paper(n: int, published: float) -> None:
    """Table 6 of He et al. (2016), in millions; and exactly, convolutions, gains and shifts, and the output."""
    network = build(s.Resnet(depth=6 * n + 2), BATCHNORM, input_shape=(3, 32, 32), num_classes=10)
    count = sum(math.prod(slot.shape) for slot in all_slots(network))
    maps = [3, 16, *[16] * 2 * n, *[32] * 2 * n, *[64] * 2 * n]
    exact = sum(9 * a * b + 2 * b for a, b in pairwise(maps)) + 64 * 10 + 10
    assert count == exact
    assert count / 1e6 == pytest.approx(published, abs=0.05 if published > 1 else 0.005)
    assert n != 3 or count == 269_722


def test_a_resnet_has_as_many_layers_with_weights_as_its_depth() -> None:
    network = build(s.Resnet(depth=32), BATCHNORM, input_shape=(1, 28, 28), num_classes=10)
    assert sum(len(list(op.weighted())) for op in ops.walk(network)) == 32


@pytest.mark.parametrize("side", [8, 7, 5, 1])
def test_the_wider_shortcut_is_every_other_pixel_and_zeros(side: int) -> None:
    x = noise(4, 2 * 3, side, side)
    y = layers.widen(x, 3, 5).unflatten(1, (2, 8))
    assert torch.equal(y[:, :, :3], x.unflatten(1, (2, 3))[..., ::2, ::2])
    assert not y[:, :, 3:].any()


def test_a_resnet_without_a_norm_warns_and_learns(digits: Source) -> None:
    run = make(model=s.Resnet(depth=14, width=8), trainer={"epochs": 3})
    (warning,) = checks.warnings(run, 1150)
    assert warning.startswith("model: ") and "reg=batchnorm" in warning
    _, (end,) = train_rows([run], digits)
    assert end.outcome.status == "ok" and (end.outcome.val_accuracy_last or 0) > 0.5
    assert not list(checks.warnings(make(model=s.Resnet(), reg=BATCHNORM), 1150))


# Mixtures of experts


def test_one_expert_is_that_mlp(digits: Source) -> None:
    """Bit for bit: the same initial weights, the same steps; its gate is 1."""
    mlp, moe = (make(model=m, reg=BATCHNORM) for m in (s.Mlp(widths=[20, 9]), s.Moe(experts=1, widths=[20, 9])))
    (rows, end), (other_rows, other_end) = (one(run, digits) for run in (mlp, moe))
    assert all(torch.equal(other_end.last[f"expert1_{name}"], weight) for name, weight in end.last.items())
    curves, others = ([row for row in found if isinstance(row, CurveRow)] for found in (rows, other_rows))
    assert curves == others


def one(run: s.Settings, source: Source) -> tuple[list[Any], Any]:
    (rows,), (end,) = train_rows([run], source)
    return rows, end


@pytest.mark.parametrize("top_k", [None, 1, 2, 5])
def test_gates_sum_to_one_and_only_the_largest_count(top_k: int | None) -> None:
    logits = 3 * noise(2, 64, 5)
    gates = mixture.gate_shares(logits, top_k)
    assert_close(gates.sum(-1), torch.ones(2, 64))
    chosen = logits.argsort(-1, descending=True)[..., : top_k or 5]
    assert (gates > 0).sum() == 2 * 64 * (top_k or 5)
    kept = logits.gather(-1, chosen)
    assert_close(gates.gather(-1, chosen), kept.softmax(-1))


@pytest.mark.parametrize(("top_k", "entropy"), [(None, math.log(4)), (1, 0.0)])
def test_a_gate_that_knows_nothing_has_the_entropy_of_its_experts(
    top_k: int | None, entropy: float, digits: Source
) -> None:
    """All weights 0: every gate is 1 / E. With a learning rate that moves nothing it stays so."""
    model = s.Moe(experts=4, top_k=top_k, init=s.Init(scheme="zeros"))
    rows, _ = one(make(model=model, optimizer=s.Sgd(lr=1e-30), trainer={"epochs": 1}), digits)
    (row,) = [row for row in rows if isinstance(row, EpochRow)]
    assert row.gate_entropy == pytest.approx(entropy, abs=1e-6)
    assert row.gate_load_entropy == pytest.approx(entropy, abs=1e-6)


def test_a_mixture_tells_its_gate_each_epoch_and_others_have_none(digits: Source) -> None:
    rows, _ = one(make(model=s.Moe(experts=3, width=16), trainer={"epochs": 3}), digits)
    found = [(row.gate_entropy, row.gate_load_entropy) for row in rows if isinstance(row, EpochRow)]
    assert len(found) == 3
    for entropy, load in found:
        assert entropy is not None and load is not None
        assert 0 < entropy <= load <= math.log(3)  # entropy is concave
    rows, _ = one(make(), digits)
    assert {(row.gate_entropy, row.gate_load_entropy) for row in rows if isinstance(row, EpochRow)} == {(None, None)}


def test_each_experts_layers_have_rows(digits: Source) -> None:
    rows, _ = one(make(model=s.Moe(experts=2, width=16), trainer={"epochs": 0}), digits)
    names = [row.layer for row in rows if isinstance(row, LayerRow)]
    assert names == ["expert1_hidden1", "expert1_output", "expert2_hidden1", "expert2_output", "gate"]


def test_experts_drop_apart_at_the_rate_of_their_layer(digits: Source) -> None:
    reg = s.Reg(dropout=s.Dropout(rates=[0.0, 0.5]))
    stack = stack_of(digits, make(model=s.Moe(experts=2, widths=[16, 16]), reg=reg))
    assert set(stack.rates) == {"expert1_hidden2", "expert2_hidden2"}
    masks = stack.mask_streams(1, batch_size=16, steps=1)
    assert not torch.equal(*(masks[name].next(256) for name in stack.rates))


# Vision transformers


def test_patches_are_squares_of_the_image_row_by_row() -> None:
    x = noise(2, 16, 3 * 8 * 12)
    tokens = Patches((3, 8, 12), 4).compute(x, passing({}, 16))
    assert tokens.shape == (2, 16 * 6, 48)
    images = x.unflatten(2, (3, 8, 12))
    assert torch.equal(tokens.unflatten(1, (16, 6))[:, :, 4], images[..., 4:8, 4:8].flatten(2))
    weight = noise(10, 3, 4, 4, seed=1)  # embedding patches is a convolution by patches
    expected = F.conv2d(images[1], weight, stride=4).flatten(2).transpose(1, 2)
    assert_close((tokens[1] @ weight.flatten(1).T).unflatten(0, (16, 6)), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_torchs() -> None:
    """nn.MultiheadAttention with the same weights, and scaled_dot_product_attention on the same heads."""
    own, width, tokens = nn.MultiheadAttention(12, 3, batch_first=True), 12, 6
    x = noise(1, 16 * tokens, width)
    params = {"qkv.weight": own.in_proj_weight[None], "qkv.bias": own.in_proj_bias[None]}
    params |= {"out.weight": own.out_proj.weight[None], "out.bias": own.out_proj.bias[None]}
    core = Attention(3, tokens, dropping.Dropout("attention1", 3 * tokens**2))
    pieces = (ops.Linear("qkv", width, 3 * width, True), core, ops.Linear("out", width, width, True))
    expected, _ = own(*[x.view(16, tokens, width)] * 3, need_weights=False)
    assert_close(ops.run(pieces, x, passing(params, 16)).view(16, tokens, width), expected, rtol=1e-5, atol=1e-6)
    qkv = noise(2, 16 * tokens, 3 * width, seed=1)
    heads = qkv.view(2, 16, tokens, 3, 3, 4).permute(3, 0, 1, 4, 2, 5)
    expected = F.scaled_dot_product_attention(*heads).transpose(2, 3).reshape(2, 16 * tokens, width)
    assert_close(core.compute(qkv, passing({}, 16)), expected, rtol=1e-5, atol=1e-6)


def test_patches_that_move_with_their_positions_leave_the_logits(digits: Source) -> None:
    """And patches that move alone do not."""
    stack = stack_of(digits, make(model=VIT))
    stack.params.leaves["positions.weight"].data.mul_(50)
    x, order = noise(1, 16, 64), torch.randperm(16, generator=generator(1, "test"))
    inputs = x.view(1, 16, 4, 2, 4, 2).transpose(3, 4).reshape(1, 16, 16, 4)
    moved = inputs[:, :, order].reshape(1, 16, 4, 4, 2, 2).transpose(3, 4).reshape(1, 16, 64)
    before, alone = stack.forward(x), stack.forward(moved)
    stack.params.leaves["positions.weight"].data = stack.params.leaves["positions.weight"].data[:, order]
    assert_close(stack.forward(moved), before, rtol=1e-4, atol=1e-5)
    assert (alone - before).abs().max() > 0.1


def test_positions_start_small_and_from_the_seed(digits: Source) -> None:
    runs = [make(model=s.Vit(depth=1, width=64, patch=1), seed=seed) for seed in (0, 0, 1)]
    first, same, other = stack_of(digits, *runs).params.leaves["positions.weight"].detach()
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert first.std() == pytest.approx(0.02, rel=5 / math.sqrt(2 * 64 * 64))
    assert abs(first.mean()) < 5 * 0.02 / 64


def test_positions_do_not_decay(digits: Source) -> None:
    stack = stack_of(digits, make(model=VIT, reg=s.Reg(weight_decay=s.WeightDecay(0.1))))
    decays = {slot.name for slot in stack.params.slots if stack._is_decayed(slot)}
    assert "positions.weight" not in decays and "embed.weight" in decays and "block1_qkv.weight" in decays


def test_attention_dropout_zeroes_its_share_of_the_weights(digits: Source) -> None:
    """4 sigma of a binomial: 21 batches of 64, of which the last of each epoch is measured."""
    reg = s.Reg(attention_dropout=s.AttentionDropout(0.3))
    model = s.Vit(depth=2, width=16, heads=4, patch=2)
    _, end = one(make(model=model, reg=reg, trainer={"batch_size": 64}), digits)
    count = 2 * 2 * (1150 % 64) * 4 * 16 * 16
    assert end.outcome.status == "ok"
    assert end.outcome.acted["attention_dropout"] == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / count))
    assert end.outcome.acted["dropout"] is None


def test_dropout_of_a_vit_acts_on_its_branches(digits: Source) -> None:
    stack = stack_of(digits, make(model=VIT, reg=s.Reg(dropout=s.Dropout(rates=[0.0, 0.2]))))
    assert set(stack.rates) == {"hidden2_attention", "hidden2_mlp"}


def test_stochastic_depth_leaves_out_branches_of_whole_examples() -> None:
    """One draw for all tokens of an example."""
    op = dropping.StochasticDepth("skip1", 1, tokens=3)
    on = passing({}, 16, training=True, rates={"skip1": Rates.of([0.5, 0.25], torch.device("cpu"))})
    on.masks = lambda name, size: torch.randint(-32768, 32768, (2, size), dtype=torch.int16)
    kept = op.forward(torch.ones(2, 16 * 3, 5), on).view(2, 16, 15)
    assert torch.equal(kept, kept[..., :1].expand_as(kept))
    assert set(kept[0].unique().tolist()) == {0.0, 2.0}


# All of them

TRAINS: dict[str, list[str]] = {
    "resnet": [
        "model=resnet",
        "model.depth=8",
        "model.width=8",
        "reg=[batchnorm,dropout,spatial_dropout,stochastic_depth]",
    ],
    "moe": ["model=moe", "reg=dropout"],
    "vit": ["model=vit", "model.depth=2", "reg=[dropout,attention_dropout,stochastic_depth]"],
}


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINS)
def test_a_run_repeats_and_its_network_is_loaded(name: str, tmp_path: Path, digits: Source) -> None:
    tables = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        line = [*TRAINS[name], "trainer.epochs=2", "trainer.device=cpu", "trainer.progress=none"]
        assert main([*line, f"hydra.run.dir={folder}"]) == 0
        tables.append([(folder / file).read_bytes() for file in ("curves.csv", "layers.csv", "best.pt")])
    assert tables[0] == tables[1]
    network = regrun.load(folder)
    with torch.no_grad():
        found = (network(digits.inputs[digits.test]).argmax(1) == digits.targets[digits.test]).double().mean()
    assert found.item() == regrun.read(folder).summary["test_accuracy_best"].item()
    assert found > 0.3


@pytest.mark.parametrize("name", TRAINS)
def test_an_audit_shows_each_layer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *TRAINS[name]]) == 0
    output, errors = capsys.readouterr()
    assert "the signal passes" in output and errors == ""


@pytest.mark.parametrize("name", TRAINS)
def test_bfloat16_trains(name: str, digits: Source) -> None:
    models: dict[str, s.Model] = {"resnet": s.Resnet(depth=8, width=8), "moe": s.Moe(), "vit": VIT}
    run = make(model=models[name], reg=s.Reg(), trainer={"precision": "bfloat16"})
    _, end = one(run, digits)
    assert end.outcome.status == "ok"
    assert (end.outcome.train_loss_last or 9) < 2


def test_silu_and_elu_are_torchs() -> None:
    x = noise(1000)
    assert torch.equal(layers.ACTIVATIONS["silu"].forward(x), F.silu(x))
    assert torch.equal(layers.ACTIVATIONS["elu"].forward(x), F.elu(x))


def test_positions_are_a_bias_by_place() -> None:
    weight = noise(2, 3, 5)
    y = Positions("p", 3, 5).compute(torch.zeros(2, 16 * 3, 5), passing({"p.weight": weight}, 16))
    assert torch.equal(y.unflatten(1, (16, 3)), weight.unsqueeze(1).expand(2, 16, 3, 5))


def test_a_vit_of_one_depth_has_the_parameters_that_its_widths_say() -> None:
    network = build(replace(VIT, depth=1, width=64, patch=4), s.Reg(), input_shape=(3, 32, 32), num_classes=10)
    d, tokens, inner = 64, 64, 128
    block = 2 * 2 * d + (3 * d * d + 3 * d) + (d * d + d) + (inner * d + inner) + (d * inner + d)
    expected = (48 * d + d) + tokens * d + block + 2 * d + (10 * d + 10)
    assert sum(math.prod(slot.shape) for slot in all_slots(network)) == expected
