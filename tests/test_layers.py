"""Layers with a replica axis: each replica is torch's own layer, and the closed forms of the lectures hold."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad, gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from regrun import layers
from regrun.models import dropping, norms, ops
from regrun.models.rates import Rates, realized
from regrun.streams import MaskStream, generator

R, D, C, SIDE = 3, 20, 5, 4  # replicas, features (not a multiple of a cache line), channels, height and width
EPS = 1e-5


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"), dtype=dtype)


def statistics(width: int) -> tuple[Tensor, Tensor]:
    """Running means and variances that are not those of a fresh network."""
    return normal(R, width, seed=5), normal(R, width, seed=6).square() + 0.5


def affine(width: int) -> tuple[Tensor, Tensor]:
    """Gains and shifts that require gradients."""
    return normal(R, width, seed=3).requires_grad_(), normal(R, width, seed=4).requires_grad_()


def replica(images: Tensor, r: int) -> Tensor:
    """(B, R * C, H, W) -> the (B, C, H, W) of replica r."""
    return images.unflatten(1, (R, -1))[:, r]


def drop(x: Tensor, rates: list[float], *, seed: int = 0) -> Tensor:
    """`layers.dropout` of (R, B, D) as a network calls it."""
    at = Rates.of(rates, x.device)
    sources = [generator(seed + r, "dropout") for r in range(len(rates))]
    mask = MaskStream(sources, size=x[0].numel(), steps=1).next(x[0].numel()).view(x.shape)
    return layers.dropout(x, at.threshold.unsqueeze(2), at.scale.unsqueeze(2), mask)


def test_dropout_zeroes_each_replicas_own_rate_and_keeps_the_mean() -> None:
    rates, n = [0.05, 0.2, 0.5, 0.9], 1000 * 400
    y = drop(torch.ones(4, 1000, 400), rates).flatten(1).double()
    p = torch.tensor(rates).double()
    # 4 standard errors of a share of n, and of the mean of n values that are 0 or 1 / (1 - p).
    assert ((y == 0).double().mean(1) - p).abs().le(4 * (p * (1 - p) / n).sqrt()).all()
    assert (y.mean(1) - 1).abs().le(4 * (p / (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 0.5, 0.999])
def test_dropout_is_exact_over_all_masks(rate: float) -> None:
    """The mean over all 65,536 masks is 1, and the zeroed share is the rate to half of 1 / 65,536."""
    masks = torch.arange(-32768, 32768).to(torch.int16).view(1, -1, 1)
    at = Rates.of([rate], masks.device)
    y = layers.dropout(torch.ones(masks.shape), at.threshold.unsqueeze(2), at.scale.unsqueeze(2), masks).double()
    assert (y == 0).sum().item() == round(rate * 65536)
    assert y.mean().item() == pytest.approx(1, rel=1e-7)  # float32's rounding of the scale


def test_dropout_at_rate_0_is_the_identity() -> None:
    x = normal(2, 64, 50)
    y = drop(x, [0.0, 0.5])
    assert torch.equal(y[0], x[0])
    assert not torch.equal(y[1], x[1])


def test_dropout_scales_the_gradient_as_it_scales_the_value() -> None:
    x = normal(2, 64, 50).requires_grad_()
    y = drop(x, [0.3, 0.6])
    (gradient,) = grad(y.sum(), x)
    assert_close(gradient * x, y)


def test_dropout_of_images_gives_each_replica_what_it_gets_alone() -> None:
    images, rates = normal(8, R * C, SIDE, SIDE), [0.2, 0.0, 0.7]
    op, size = dropping.Dropout("hidden1", C * SIDE * SIDE), 8 * C * SIDE * SIDE
    masks = MaskStream([generator(r, "dropout") for r in range(R)], size=size, steps=1).next(size)

    def dropped(x: Tensor, chosen: slice) -> Tensor:
        at = {"hidden1": Rates.of(rates[chosen], x.device)}
        return op.forward(x, ops.Pass({}, {}, 8, training=True, rates=at, masks=lambda *_: masks[chosen]))

    together = dropped(images, slice(0, R))
    for r in range(R):
        assert torch.equal(replica(together, r), dropped(replica(images, r), slice(r, r + 1)))


def test_spatial_dropout_drops_whole_maps_and_gives_each_replica_what_it_gets_alone() -> None:
    """Each of an example's maps is 0, or its values times 1 / (1 - rate); also beside dropout of elements."""
    n, rates = 512, [0.25, 0.0, 0.5]
    images, op = normal(n, R * C, SIDE, SIDE).abs() + 1, dropping.SpatialDropout("maps1", C)
    masks = MaskStream([generator(r, "dropout") for r in range(R)], size=n * C, steps=1).next(n * C)

    def dropped(x: Tensor, chosen: slice) -> Tensor:
        at = {"maps1": Rates.of(rates[chosen], x.device)}
        return op.forward(x, ops.Pass({}, {}, n, training=True, rates=at, masks=lambda *_: masks[chosen]))

    together = dropped(images, slice(0, R))
    for r, rate in enumerate(rates):
        own, before = replica(together, r), replica(images, r)
        is_kept = (own != 0).flatten(2).float().mean(2)
        assert set(is_kept.unique().tolist()) <= {0.0, 1.0}
        assert_close(own, before * is_kept[:, :, None, None] / (1 - rate))
        assert abs(is_kept.mean().item() - (1 - rate)) <= 4 * (rate * (1 - rate) / is_kept.numel()) ** 0.5
        assert torch.equal(own, dropped(before, slice(r, r + 1)))


def test_stochastic_depth_leaves_out_a_branch_for_some_examples_and_scales_it_for_the_others() -> None:
    n, rates = 4096, [0.25, 0.0, 0.5]
    at = {"skip1": Rates.of(rates, torch.device("cpu"))}
    masks = MaskStream([generator(r, "dropout") for r in range(R)], size=n, steps=1).next(n)
    branch = ops.Skip((ops.Activation("identity"), dropping.StochasticDepth("skip1", 1)))
    x = normal(R, n, D)
    y = branch.forward(x, ops.Pass({}, {}, n, training=True, rates=at, masks=lambda *_: masks))
    assert torch.equal(branch.forward(x, ops.Pass({}, {}, n, training=False)), x + x)
    for r, rate in enumerate(rates):
        is_kept = (y[r] != x[r]).all(1)
        assert_close(y[r], torch.where(is_kept.unsqueeze(1), x[r] + x[r] / (1 - rate), x[r]))
        assert abs(is_kept.float().mean().item() - (1 - rate)) <= 4 * (rate * (1 - rate) / n) ** 0.5


@pytest.mark.parametrize("shape", [(R, 16, D), (16, R * C, SIDE, SIDE)], ids=["features", "images"])
def test_classic_dropout_leaves_survivors_as_they_are_and_evaluates_to_1_minus_rate(shape: tuple[int, ...]) -> None:
    """So that evaluation is the mean over all masks, as inverted dropout's is (Srivastava et al. 2014)."""
    x, rates = normal(*shape).abs() + 1, [0.25, 0.0, 0.5]
    at = {"hidden1": Rates.classic(rates, x.device)}
    op, size = dropping.Dropout("hidden1", x.numel() // R // 16), x.numel() // R
    masks = MaskStream([generator(r, "dropout") for r in range(R)], size=size, steps=1).next(size)
    trained = op.forward(x, ops.Pass({}, {}, 16, training=True, rates=at, masks=lambda *_: masks))
    tested = op.forward(x, ops.Pass({}, {}, 16, training=False, rates=at))
    for r, rate in enumerate(rates):
        own, before, after = (t[r] if len(shape) == 3 else replica(t, r) for t in (trained, x, tested))
        assert torch.equal(own, before * (own != 0))
        assert bool((own == 0).any()) == (rate > 0)
        assert torch.equal(after, before * (1 - rate))  # the realized rates are these


def test_classic_dropout_is_exact_over_all_masks() -> None:
    masks = torch.arange(-32768, 32768).to(torch.int16).view(1, -1, 1)
    at = Rates.classic([1 / 3], masks.device)
    y = layers.dropout(torch.ones(masks.shape), at.threshold.unsqueeze(2), at.scale.unsqueeze(2), masks)
    assert at.mean is not None and y.double().mean().item() == at.mean.item() == 1 - realized(1 / 3)


def test_dropout_does_nothing_in_evaluation() -> None:
    x, at = normal(2, 16, D), {"input": Rates.of([0.5, 0.9], torch.device("cpu"))}
    assert dropping.Dropout("input", D).forward(x, ops.Pass({}, {}, 16, training=False, rates=at)) is x


# Examples, what a ghost batch has, and the ghost batches: what is left is one, or with a single example joins the last.
GHOSTS = pytest.mark.parametrize(
    ("rows", "ghost", "sizes"),
    [
        (2, None, [2]),
        (16, None, [16]),
        (33, None, [33]),
        (16, 8, [8, 8]),
        (29, 8, [8, 8, 8, 5]),
        (33, 8, [8, 8, 8, 9]),
        (9, 8, [9]),
        (17, 100, [17]),
    ],
)


@GHOSTS
def test_batch_norm_of_features_equals_torchs_on_each_ghost_batch(
    rows: int, ghost: int | None, sizes: list[int]
) -> None:
    """Outputs, running statistics and every gradient, of each replica, with rows of padding."""
    x = normal(R, rows, D, seed=1).mul(3).add(2)
    padded = layers.pad_rows(x, dim=1).requires_grad_()
    (gain, shift), (mean, var) = affine(D), statistics(D)
    weighting = normal(R, rows, D, seed=2)
    before = mean.clone(), var.clone()
    how: dict[str, Any] = {"rows": rows, "training": True, "momentum": 0.3, "eps": EPS, "ghost": ghost}
    y = layers.batch_norm(padded, gain, shift, mean, var, **how)[:, :rows]
    gradients = grad((y * weighting).sum(), [padded, gain, shift])
    for r in range(R):
        own, norm = x[r].clone().requires_grad_(), nn.BatchNorm1d(D, EPS, momentum=0.3)
        norm.load_state_dict(
            {"weight": gain[r], "bias": shift[r], "running_mean": before[0][r], "running_var": before[1][r]},
            strict=False,
        )
        z = torch.cat([norm(part) for part in own.split(sizes)])
        reference = grad((z * weighting[r]).sum(), [own, norm.weight, norm.bias])
        assert_close(y[r], z, rtol=1e-5, atol=2e-5)
        assert_close(mean[r], norm.running_mean)
        assert_close(var[r], norm.running_var)
        assert_close(gradients[0][r, :rows], reference[0], rtol=1e-4, atol=2e-5)
        assert_close(gradients[1][r], reference[1], rtol=1e-4, atol=2e-5)
        assert_close(gradients[2][r], reference[2], rtol=1e-4, atol=2e-5)
    assert not gradients[0][:, rows:].any()


@GHOSTS
def test_batch_norm_of_images_equals_torchs_on_each_ghost_batch(rows: int, ghost: int | None, sizes: list[int]) -> None:
    """Outputs, running statistics and every gradient, of each replica, with rows of padding."""
    x = normal(rows, R * C, SIDE, SIDE, seed=1).mul(3).add(2)
    padded = layers.pad_rows(x, dim=0).requires_grad_()
    (gain, shift), (mean, var) = affine(C), statistics(C)
    weighting = normal(rows, R * C, SIDE, SIDE, seed=2)
    before = mean.clone(), var.clone()
    how: dict[str, Any] = {"rows": rows, "training": True, "momentum": 0.3, "eps": EPS, "ghost": ghost}
    y = layers.batch_norm(padded, gain, shift, mean, var, **how)[:rows]
    gradients = grad((y * weighting).sum(), [padded, gain, shift])
    for r in range(R):
        own, norm = replica(x, r).clone().requires_grad_(), nn.BatchNorm2d(C, EPS, momentum=0.3)
        norm.load_state_dict(
            {"weight": gain[r], "bias": shift[r], "running_mean": before[0][r], "running_var": before[1][r]},
            strict=False,
        )
        z = torch.cat([norm(part) for part in own.split(sizes)])
        reference = grad((z * replica(weighting, r)).sum(), [own, norm.weight, norm.bias])
        assert_close(replica(y, r), z, rtol=1e-5, atol=1e-5)
        assert_close(mean[r], norm.running_mean)
        assert_close(var[r], norm.running_var)
        assert_close(replica(gradients[0][:rows], r), reference[0], rtol=1e-4, atol=1e-5)
        assert_close(gradients[1][r], reference[1], rtol=1e-4, atol=1e-4)
        assert_close(gradients[2][r], reference[2], rtol=1e-4, atol=1e-4)
    assert not gradients[0][rows:].any()


@pytest.mark.parametrize("shape", [(R, 48, D), (48, R * C, SIDE, SIDE)], ids=["features", "images"])
def test_batch_norm_in_evaluation_is_torchs_and_one_example_gives_what_it_gives_in_a_batch(
    shape: tuple[int, ...],
) -> None:
    is_image, x = len(shape) == 4, normal(*shape)
    width = C if is_image else D
    (gain, shift), (mean, var) = affine(width), statistics(width)

    def evaluate(x: Tensor) -> Tensor:
        rows = x.shape[0] if is_image else x.shape[1]
        return layers.batch_norm(x, gain, shift, mean, var, rows=rows, training=False, momentum=0.1, eps=EPS)

    y, before = evaluate(x), (mean.clone(), var.clone())
    alone = evaluate(x[7:8])[0] if is_image else evaluate(x[:, 7:8])[:, 0]
    assert torch.equal(alone, y[7] if is_image else y[:, 7])
    for r in range(R):
        z = F.batch_norm(replica(x, r) if is_image else x[r], mean[r], var[r], gain[r], shift[r], eps=EPS)
        assert_close(replica(y, r) if is_image else y[r], z, rtol=1e-5, atol=1e-5)
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])


@pytest.mark.parametrize("shape", [(R, 24, D), (24, R * C, SIDE, SIDE)], ids=["features", "images"])
@pytest.mark.parametrize("momentum", [0.01, 0.1, 1.0])
def test_running_statistics_forget_their_start_as_a_power_of_one_minus_momentum(
    shape: tuple[int, ...], momentum: float
) -> None:
    """After k equal batches: mean = (1 - (1 - m)^k) batch mean, var = (1 - m)^k + (1 - (1 - m)^k) unbiased var."""
    is_image, x, k = len(shape) == 4, normal(*shape).mul(2).add(1), 7
    width = C if is_image else D
    mean, var, ones = torch.zeros(R, width), torch.ones(R, width), torch.ones(R, width)
    for _ in range(k):
        layers.batch_norm(x, ones, ones, mean, var, rows=24, training=True, momentum=momentum, eps=EPS)
    values = x.unflatten(1, (R, C)).permute(1, 0, 3, 4, 2).flatten(1, 3) if is_image else x
    kept = (1 - momentum) ** k
    assert_close(mean, (1 - kept) * values.mean(1), rtol=1e-5, atol=1e-6)
    assert_close(var, kept + (1 - kept) * values.var(1), rtol=1e-5, atol=1e-6)


def normalized(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Linear, then batch norm in training."""
    ones, zeros = torch.ones(weight.shape[:2]), torch.zeros(weight.shape[:2])
    y = layers.linear(x, weight, bias)
    return layers.batch_norm(
        y, ones, zeros, zeros.clone(), ones.clone(), rows=x.shape[1], training=True, momentum=0.1, eps=eps
    )


def test_a_bias_before_batch_norm_has_no_gradient() -> None:
    x, weight, bias = normal(R, 32, 8), normal(R, D, 8, seed=1), normal(R, D, seed=2).requires_grad_()
    y = normalized(x, weight, bias, EPS)
    (gradient,) = grad((y * normal(R, 32, D, seed=3)).sum(), bias)
    assert gradient.abs().max() < 5e-6  # sums of 32 float32 terms of order 1


@pytest.mark.parametrize("c", [0.1, 3.0, 100.0])
def test_batch_norm_undoes_the_scale_of_the_weights_and_divides_their_gradient_by_it(c: float) -> None:
    x, weighting = normal(R, 32, 8), normal(R, 32, D, seed=3)
    plain = normal(R, D, 8, seed=1).requires_grad_()
    scaled = (c * plain).detach().requires_grad_()
    y, z = normalized(x, plain, None, 1e-12), normalized(x, scaled, None, 1e-12)
    assert_close(z, y, rtol=1e-5, atol=1e-5)
    (by_plain,), (by_scaled,) = grad((y * weighting).sum(), plain), grad((z * weighting).sum(), scaled)
    assert_close(by_scaled * c, by_plain, rtol=1e-4, atol=1e-5)


def test_layer_norm_of_features_equals_torch() -> None:
    x, weighting = normal(R, 16, D).mul(3).add(2).requires_grad_(), normal(R, 16, D, seed=2)
    gain, shift = affine(D)
    y = layers.group_norm(x, gain, shift, groups=1, eps=EPS)
    gradients = grad((y * weighting).sum(), [x, gain, shift])
    for r in range(R):
        norm = nn.LayerNorm(D, eps=EPS)
        norm.load_state_dict({"weight": gain[r], "bias": shift[r]})
        own = x[r].detach().requires_grad_()
        z = norm(own)
        reference = grad((z * weighting[r]).sum(), [own, norm.weight, norm.bias])
        assert_close(y[r], z, rtol=1e-5, atol=1e-5)
        for g, expected in zip(gradients, reference, strict=True):
            assert_close(g[r], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4, 10])
def test_group_norm_of_features_equals_torch(groups: int) -> None:
    """In float64: of two features that are nearly equal, float32 keeps few digits of the difference."""
    x = normal(R, 16, D, dtype=torch.float64).mul(3).add(2).requires_grad_()
    weighting = normal(R, 16, D, seed=2)
    gain, shift = (t.detach().double().requires_grad_() for t in affine(D))
    y = layers.group_norm(x, gain, shift, groups=groups, eps=EPS)
    gradients = grad((y * weighting).sum(), [x, gain, shift])
    for r in range(R):
        norm = nn.GroupNorm(groups, D, eps=EPS, dtype=torch.float64)
        norm.load_state_dict({"weight": gain[r], "bias": shift[r]})
        own = x[r].detach().requires_grad_()
        z = norm(own)
        reference = grad((z * weighting[r]).sum(), [own, norm.weight, norm.bias])
        assert_close(y[r], z, rtol=1e-5, atol=1e-5)
        for g, expected in zip(gradients, reference, strict=True):
            assert_close(g[r], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 6), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True)], ids=str)
def test_group_norm_of_images_equals_torch_and_of_one_channel_each_is_instance_norm(norm: nn.Module) -> None:
    groups = getattr(norm, "num_groups", 6)
    x, weighting = normal(16, R * 6, SIDE, SIDE).mul(3).add(2).requires_grad_(), normal(16, R * 6, SIDE, SIDE, seed=2)
    gain, shift = affine(6)
    y = layers.group_norm(x, gain, shift, groups=groups, eps=EPS)
    gradients = grad((y * weighting).sum(), [x, gain, shift])
    for r in range(R):
        norm.load_state_dict({"weight": gain[r], "bias": shift[r]})
        own = replica(x, r).detach().requires_grad_()
        z = norm(own)
        reference = grad((z * replica(weighting, r)).sum(), [own, norm.weight, norm.bias])
        assert_close(replica(y, r), z, rtol=1e-5, atol=1e-5)
        assert_close(replica(gradients[0], r), reference[0], rtol=1e-4, atol=1e-5)
        assert_close(gradients[1][r], reference[1], rtol=1e-4, atol=1e-4)
        assert_close(gradients[2][r], reference[2], rtol=1e-4, atol=1e-4)


def test_layer_norm_gives_each_example_mean_0_and_variance_1_in_training_and_in_evaluation() -> None:
    x, op = normal(R, 16, D).mul(5).add(2), norms.LayerNorm("norm1", D, EPS)
    params = {"norm1.weight": torch.ones(R, D), "norm1.bias": torch.zeros(R, D)}
    trained, evaluated = (op.forward(x, ops.Pass(params, {}, 16, training=t)) for t in (True, False))
    assert torch.equal(trained, evaluated)
    assert_close(trained.mean(2), torch.zeros(R, 16), rtol=0, atol=1e-6)
    var = x.var(2, correction=0)
    assert_close(trained.var(2, correction=0), var / (var + EPS), rtol=1e-5, atol=0)


def test_linear_gives_each_replica_the_bits_of_torch() -> None:
    x, weight, bias = normal(R, 64, D), normal(R, 10, D, seed=1), normal(R, 10, seed=2)
    y = layers.linear(x, weight, bias)
    for r in range(R):
        assert torch.equal(y[r], F.linear(x[r], weight[r], bias[r]))


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_gradients_of_linear_are_right(has_bias: bool) -> None:
    x = normal(2, 5, 4, dtype=torch.float64).requires_grad_()
    weight = normal(2, 3, 4, seed=1, dtype=torch.float64).requires_grad_()
    bias = normal(2, 3, seed=2, dtype=torch.float64).requires_grad_() if has_bias else None
    assert gradcheck(layers.linear, (x, weight, bias))


@pytest.mark.parametrize("has_bias", [True, False])
def test_conv_equals_torch_for_each_replica(has_bias: bool) -> None:
    x, weight = normal(8, R * C, SIDE, SIDE).requires_grad_(), normal(R, 6, C, 3, 3, seed=1).requires_grad_()
    bias = normal(R, 6, seed=2).requires_grad_() if has_bias else None
    weighting = normal(8, R * 6, SIDE, SIDE, seed=3)
    y = layers.conv(x, weight, bias)
    inputs = [x, weight] if bias is None else [x, weight, bias]
    gradients = grad((y * weighting).sum(), inputs)
    for r in range(R):
        own = [replica(x, r).detach().requires_grad_(), *(t[r].detach().requires_grad_() for t in inputs[1:])]
        z = F.conv2d(*own, padding=1)
        reference = grad((z * replica(weighting, r)).sum(), own)
        assert_close(replica(y, r), z, rtol=1e-5, atol=1e-5)
        assert_close(replica(gradients[0], r), reference[0], rtol=1e-4, atol=1e-5)
        for g, expected in zip(gradients[1:], reference[1:], strict=True):
            assert_close(g[r], expected, rtol=1e-4, atol=1e-4)


def test_images_and_features_hold_the_same_numbers() -> None:
    x = normal(R, 16, C * SIDE * SIDE)
    images = layers.to_image(x, (C, SIDE, SIDE))
    assert images.shape == (16, R * C, SIDE, SIDE)
    assert torch.equal(replica(images, 1).flatten(1), x[1])
    assert torch.equal(layers.to_features(images, R), x)


@pytest.mark.parametrize(("dim", "rows", "padded"), [(1, 1, 16), (1, 16, 16), (1, 17, 32), (0, 3, 16)])
def test_padding_adds_zeros_up_to_a_cache_line_of_rows(dim: int, rows: int, padded: int) -> None:
    x = normal(*(rows if d == dim else 6 for d in range(3)))
    y = layers.pad_rows(x, dim=dim)
    assert y.shape[dim] == padded
    assert torch.equal(y.narrow(dim, 0, rows), x)
    assert not y.narrow(dim, rows, padded - rows).any()


@pytest.mark.parametrize("columns", [1, 2, 10])
@pytest.mark.parametrize("rows", [48, 64, 1024])
def test_a_product_has_the_same_bits_alone_and_in_company(rows: int, columns: int) -> None:
    a, b, bias = torch.randn(6, rows, 24), torch.randn(6, columns, 24), torch.randn(6, columns)
    together = layers.linear(a, b, bias)
    for r in range(6):
        assert torch.equal(layers.linear(a[r : r + 1], b[r : r + 1], bias[r : r + 1])[0], together[r])
        torch.testing.assert_close(together[r], F.linear(a[r], b[r], bias[r]))
