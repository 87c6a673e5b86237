"""Optimizers for a stack: torch's own step for step, and the laws of decay, penalties and clipping."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from regrun import objective, optim
from regrun import settings as s

REPLICAS, SIZE, STEPS = 3, 40, 50
LRS = [0.05, 0.01, 0.002]

Gradient = Callable[[Tensor], Tensor]  # (R, P) parameters -> (R, P)


def coefficients(
    optimizers: Sequence[s.Optimizer], lr: np.ndarray, dtype: torch.dtype = torch.float64
) -> list[optim.Coefficients]:
    """The table of the steps of lr (S, R), in the dtype of the parameters."""
    table = optim.epoch_table(optimizers, lr, first_step=1, device=torch.device("cpu"))
    return [{name: value.to(dtype) for name, value in at.items()} for at in table]


def fixed(
    optimizers: Sequence[s.Optimizer], steps: int, dtype: torch.dtype = torch.float64
) -> list[optim.Coefficients]:
    """The same, at each optimizer's own constant lr."""
    return coefficients(optimizers, np.tile([o.lr for o in optimizers], (steps, 1)), dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=dtype)


def varied(cls: type, settings: dict[str, Sequence[object]], **same: object) -> list[s.Optimizer]:
    """One optimizer for each of LRS, its settings taken from each replica's place."""
    return [cls(lr=lr, **{name: v[r] for name, v in settings.items()}, **same) for r, lr in enumerate(LRS)]


def torch_sgd(o: s.Momentum) -> dict[str, object]:
    return {"momentum": o.momentum, "dampening": o.dampening, "nesterov": o.kind == "nesterov"}


def torch_rmsprop(o: s.RmsProp) -> dict[str, object]:
    return {"alpha": o.alpha, "eps": o.eps, "momentum": o.momentum, "centered": o.centered}


def torch_adam(o: s.Adam) -> dict[str, object]:
    return {"betas": tuple(o.betas), "eps": o.eps, "amsgrad": o.amsgrad}


def torch_nadam(o: s.NAdam) -> dict[str, object]:
    return {"betas": tuple(o.betas), "eps": o.eps, "momentum_decay": o.momentum_decay}


def torch_adamax(o: s.Adamax) -> dict[str, object]:
    return {"betas": tuple(o.betas), "eps": o.eps}


def torch_adagrad(o: s.Adagrad) -> dict[str, object]:
    names = ("lr_decay", "initial_accumulator_value", "eps")
    return {name: getattr(o, name) for name in names}


def torch_adadelta(o: s.Adadelta) -> dict[str, object]:
    return {"rho": o.rho, "eps": o.eps}


MOMENTA = {"momentum": [0.9, 0.5, 0.0]}
DAMPENED = {"momentum": [0.9, 0.5, 0.2], "dampening": [0.0, 0.3, 1.0]}
UNDAMPENED = {"momentum": [0.9, 0.0, 0.0], "dampening": [0.5, 0.5, 0.0]}  # torch dampens nothing without momentum
ALPHAS = {"alpha": [0.99, 0.9, 0.5], "eps": [1e-8, 1e-3, 1e-6]}
BETAS = {"betas": [[0.9, 0.999], [0.8, 0.9], [0.0, 0.5]], "eps": [1e-8, 1e-3, 1e-6]}
DECAYS = {"momentum_decay": [0.004, 1.0, 0.0]}
SUMS = {"lr_decay": [0.0, 0.1, 1.0], "initial_accumulator_value": [0.0, 0.1, 2.0], "eps": [1e-10, 1e-3, 1e-6]}
RHOS = {"rho": [0.9, 0.5, 0.0], "eps": [1e-6, 1e-3, 1e-8]}
SGD, RMSPROP, ADAM = torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam
RULES = {
    "sgd": (varied(s.Sgd, {}), SGD, lambda o: {}),
    "momentum": (varied(s.Momentum, MOMENTA), SGD, torch_sgd),
    "dampening": (varied(s.Momentum, DAMPENED), SGD, torch_sgd),
    "dampening-without-momentum": (varied(s.Momentum, UNDAMPENED), SGD, torch_sgd),
    "nesterov": (varied(s.Momentum, {"momentum": [0.9, 0.5, 0.1]}, kind="nesterov"), SGD, torch_sgd),
    "rmsprop": (varied(s.RmsProp, ALPHAS), RMSPROP, torch_rmsprop),
    "rmsprop-centered": (varied(s.RmsProp, ALPHAS, centered=True), RMSPROP, torch_rmsprop),
    "rmsprop-momentum": (varied(s.RmsProp, ALPHAS | MOMENTA), RMSPROP, torch_rmsprop),
    "rmsprop-centered-momentum": (varied(s.RmsProp, ALPHAS | MOMENTA, centered=True), RMSPROP, torch_rmsprop),
    "adam": (varied(s.Adam, BETAS), ADAM, torch_adam),
    "nadam": (varied(s.NAdam, BETAS | DECAYS), torch.optim.NAdam, torch_nadam),
    "adamax": (varied(s.Adamax, BETAS), torch.optim.Adamax, torch_adamax),
    "adagrad": (varied(s.Adagrad, SUMS), torch.optim.Adagrad, torch_adagrad),
    "adadelta": (varied(s.Adadelta, RHOS), torch.optim.Adadelta, torch_adadelta),
    "amsgrad": (varied(s.Adam, BETAS, amsgrad=True), ADAM, torch_adam),
}


def both(
    optimizers: list[s.Optimizer],
    reference: type[torch.optim.Optimizer],
    arguments: Callable[[s.Optimizer], dict[str, object]],
    lr: np.ndarray,
    decay: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Displacements (R, P) by the stack and by one torch optimizer per replica, from the same noisy gradients.

    lr: (S, R). decay: each replica's decoupled decay.
    """
    start, center = normal(REPLICAS, SIZE), normal(REPLICAS, SIZE, seed=1)
    noise = normal(len(lr), REPLICAS, SIZE, seed=2)
    p, state = start.clone(), dict[str, Tensor]()
    for at, jitter in zip(coefficients(optimizers, lr), noise, strict=True):
        g = p - center + jitter
        if decay is not None:
            optim.decay(p, at, torch.tensor(decay, dtype=p.dtype).unsqueeze(1))
        optim.update(p, g, state, at, optimizers[0])
    alone = [row.clone().requires_grad_() for row in start]
    for r, (row, o) in enumerate(zip(alone, optimizers, strict=True)):
        theirs = reference([row], lr=o.lr, **arguments(o), **({} if decay is None else {"weight_decay": decay[r]}))
        for step in range(len(lr)):
            theirs.param_groups[0]["lr"] = lr[step, r]
            row.grad = row.detach() - center[r] + noise[step, r]
            theirs.step()
    return p - start, torch.stack([row.detach() for row in alone]) - start


def assert_same_path(ours: Tensor, theirs: Tensor) -> None:
    """Coefficients are stored in float32: each is off by up to 6e-8, and velocities add ten of them up."""
    scale = theirs.abs().amax(1, keepdim=True)
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_every_replica_follows_torchs_own_optimizer(rule: str) -> None:
    assert_same_path(*both(*RULES[rule], np.tile(LRS, (STEPS, 1))))


@pytest.mark.parametrize("rule", RULES)
def test_every_replica_follows_torchs_own_optimizer_as_lr_changes(rule: str) -> None:
    factors = 0.5 * (1 + np.cos(np.linspace(0, 3 * np.pi, STEPS)))  # down to 0, up and down again
    assert_same_path(*both(*RULES[rule], factors[:, None] * np.array(LRS)))


def by_convention(convention: str, kind: str, lr: np.ndarray) -> Tensor:
    optimizers = varied(s.Momentum, {"momentum": [0.9, 0.5, 0.1]}, kind=kind, convention=convention)
    return both(optimizers, SGD, torch_sgd, lr)[0]


@pytest.mark.parametrize("kind", ["momentum", "nesterov"])
def test_the_lectures_momentum_is_torchs_until_lr_changes(kind: str) -> None:
    """Its own form, v = m v + lr g; w - v (nesterov: w - lr g - m v), at every lr."""
    constant = np.tile(LRS, (STEPS, 1))
    changing = constant * np.where(np.arange(STEPS) < STEPS // 2, 1.0, 0.1)[:, None]
    assert_same_path(by_convention("lecture", kind, constant), by_convention("torch", kind, constant))
    lecture, torchs = (by_convention(name, kind, changing) for name in ("lecture", "torch"))
    assert (lecture - torchs).abs().max().item() > 1e-3
    start, center, noise = normal(REPLICAS, SIZE), normal(REPLICAS, SIZE, seed=1), normal(STEPS, REPLICAS, SIZE, seed=2)
    w, v, m = start.clone(), torch.zeros_like(start), torch.tensor([[0.9], [0.5], [0.1]]).double()
    for lr, jitter in zip(torch.from_numpy(changing).unsqueeze(2), noise, strict=True):
        g = w - center + jitter
        v = m * v + lr * g
        w = w - (v if kind == "momentum" else lr * g + m * v)
    assert_same_path(lecture, w - start)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_after_decoupled_decay_is_torchs_adamw(amsgrad: bool) -> None:
    lr = np.tile(LRS, (STEPS, 1)) * np.linspace(1, 0.1, STEPS)[:, None]
    optimizers = varied(s.Adam, BETAS, kind="adamw", amsgrad=amsgrad)
    assert_same_path(*both(optimizers, torch.optim.AdamW, torch_adam, lr, decay=[0.01, 0.5, 0.0]))


def test_adam_is_kingma_and_bas_algorithm_1() -> None:
    gradients = normal(STEPS, 1, SIZE).numpy()
    optimizer = s.Adam()
    p, state = torch.zeros(1, SIZE, dtype=torch.float64), dict[str, Tensor]()
    w, m, v = np.zeros((1, SIZE)), np.zeros((1, SIZE)), np.zeros((1, SIZE))
    for t, at in enumerate(fixed([optimizer], STEPS), start=1):
        g = gradients[t - 1]
        optim.update(p, torch.from_numpy(g), state, at, optimizer)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert np.abs(p.numpy() - w).max() < 1e-7


@pytest.mark.parametrize("rule", ["adam", "nadam", "adamax", "adagrad"])
def test_the_table_of_two_epochs_is_the_table_of_one_long_epoch(rule: str) -> None:
    optimizers = RULES[rule][0]
    lr = np.linspace(0.1, 0.01, 12).reshape(4, 3)
    cpu = torch.device("cpu")
    long = optim.epoch_table(optimizers, lr, first_step=1, device=cpu)
    short = [
        *optim.epoch_table(optimizers, lr[:3], first_step=1, device=cpu),
        *optim.epoch_table(optimizers, lr[3:], first_step=4, device=cpu),
    ]
    for one, two in zip(long, short, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_weight_without_gradient_decays_as_a_power() -> None:
    start, value = normal(REPLICAS, SIZE), torch.tensor([[0.1], [2.0], [0.0]], dtype=torch.float64)
    optimizers = varied(s.Sgd, {})
    w = start.clone()
    for at in fixed(optimizers, STEPS):
        optim.decay(w, at, value)
        optim.update(w, torch.zeros_like(w), {}, at, optimizers[0])
    closed = start * (1 - torch.tensor(LRS, dtype=torch.float64).unsqueeze(1) * value) ** STEPS
    torch.testing.assert_close(w, closed, rtol=STEPS * 1e-7, atol=0)


def decayed_and_penalized(optimizer: s.Optimizer, strength: float, steps: int) -> tuple[Tensor, Tensor]:
    """A least-squares fit in float32, twice: with decoupled decay, and with an l2 penalty of the same strength."""
    x, y = normal(60, SIZE, dtype=torch.float32), normal(60, seed=1, dtype=torch.float32)
    value = torch.tensor([[strength]])
    ends = []
    for decoupled in (True, False):
        w, state = normal(1, SIZE, seed=2, dtype=torch.float32), dict[str, Tensor]()
        for at in fixed([optimizer], steps, torch.float32):
            g = (w @ x.T - y) @ x / len(y)
            if decoupled:
                optim.decay(w, at, value)
            else:
                objective.add_l2(g, w, value)
            optim.update(w, g, state, at, optimizer)
        ends.append(w)
    return ends[0], ends[1]


def test_under_sgd_an_l2_penalty_is_decoupled_decay() -> None:
    decayed, penalized = decayed_and_penalized(s.Sgd(lr=0.05), strength=0.1, steps=100)
    torch.testing.assert_close(decayed, penalized, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", [s.Momentum(lr=0.05, momentum=0.9), s.Adam(lr=0.05)])
def test_under_momentum_and_adam_an_l2_penalty_is_not_decoupled_decay(optimizer: s.Optimizer) -> None:
    decayed, penalized = decayed_and_penalized(optimizer, strength=0.1, steps=100)
    assert (decayed - penalized).abs().max().item() > 0.05


def test_adams_first_step_ignores_the_size_of_a_penalty_but_not_of_decay() -> None:
    lr, strength, optimizer = 0.01, 0.5, s.Adam(lr=0.01)
    w, g = normal(1, SIZE), normal(1, SIZE, seed=1)
    value = torch.full((1, 1), strength, dtype=torch.float64)
    (at,) = fixed([optimizer], 1)
    penalized, total = w.clone(), g.clone()
    objective.add_l2(total, w, value)
    optim.update(penalized, total, {}, at, optimizer)
    torch.testing.assert_close(penalized, w - lr * (g + strength * w).sign(), rtol=0, atol=1e-6)
    decayed = w.clone()
    optim.decay(decayed, at, value)
    optim.update(decayed, g, {}, at, optimizer)
    torch.testing.assert_close(decayed, w - lr * g.sign() - lr * strength * w, rtol=0, atol=1e-6)


def test_the_proximal_step_is_a_soft_threshold() -> None:
    w = torch.tensor([[-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0]] * 2, dtype=torch.float64)
    optim.proximal_l1(w, {"base_lr": torch.tensor([[0.5], [0.0]])}, torch.tensor([[1.0], [1.0]]))
    shrunk = [[-1.5, 0, 0, 0, 0, 0, 1.5], [-2, -0.5, -0.25, 0, 0.25, 0.5, 2]]
    assert torch.equal(w, torch.tensor(shrunk, dtype=torch.float64))


@pytest.mark.parametrize(("proximal", "zeros"), [(True, 45), (False, 0)], ids=["proximal", "subgradient"])
def test_only_the_proximal_step_finds_the_zeros_of_a_lasso(proximal: bool, zeros: int) -> None:
    """200 examples of 50 features, of which 5 matter."""
    x, truth = normal(200, 50, dtype=torch.float32), torch.zeros(50)
    truth[:5] = torch.tensor([3.0, -2.0, 1.5, -1.0, 2.5])
    y = x @ truth + 0.1 * normal(200, seed=1, dtype=torch.float32)
    optimizer, value = s.Sgd(lr=0.1), torch.tensor([[0.1]])
    w = normal(1, 50, seed=2, dtype=torch.float32)
    for at in fixed([optimizer], 500, torch.float32):
        g = (w @ x.T - y) @ x / len(y)
        if not proximal:
            objective.add_l1(g, w, value)
        optim.update(w, g, {}, at, optimizer)
        if proximal:
            optim.proximal_l1(w, at, value)
    assert (w == 0).sum().item() == zeros
    # Either way the penalty takes about its value off each weight that matters, and leaves the others small.
    assert (w[0, :5] - truth[:5] + 0.1 * truth[:5].sign()).abs().max().item() < 0.1
    assert w[0, 5:].abs().max().item() < 0.1


def test_clipping_by_value_is_torchs() -> None:
    g, limits = normal(3, SIZE, dtype=torch.float32), [0.1, 1.0, torch.inf]
    ours = g.clone()
    optim.clip_value(ours, torch.tensor(limits).unsqueeze(1))
    for row, limit, mine in zip(g, limits, ours, strict=True):
        parameter = torch.zeros(SIZE, requires_grad=True)
        parameter.grad = row.clone()
        torch.nn.utils.clip_grad_value_([parameter], limit)
        assert torch.equal(mine, parameter.grad)


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3, 3)], ids=["dense", "conv"])
def test_max_norm_projects_each_units_weights_onto_the_ball(shape: tuple[int, ...]) -> None:
    """As torch.renorm by unit; what is inside of the ball stays as it is, to the bit."""
    weight, limits = normal(3, *shape, dtype=torch.float32), [2.0, 3.0, torch.inf]
    ours = weight.clone()
    scaled = optim.max_norm(ours, torch.tensor(limits).unsqueeze(1))
    for before, after, limit, units in zip(weight, ours, limits, scaled, strict=True):
        outside = before.flatten(1).norm(dim=1) > limit
        assert torch.equal(units, outside)
        assert torch.equal(after[~outside], before[~outside])
        torch.testing.assert_close(after, torch.renorm(before, 2, 0, limit) if limit < torch.inf else before)
    assert scaled[0].any() and not scaled[2].any()


def test_a_unit_without_weights_stays_without() -> None:
    weight = torch.zeros(1, 3, 4)
    assert not optim.max_norm(weight, torch.tensor([[1.0]])).any()
    assert torch.equal(weight, torch.zeros(1, 3, 4))


def test_clipping_is_torchs() -> None:
    """Far above the limit, on it, below it, and no limit at all."""
    g = normal(4, SIZE, dtype=torch.float32)
    limits = torch.tensor([0.1, g[1].norm().item(), 100.0, torch.inf])
    expected, norms = [], []
    for row, limit in zip(g, limits, strict=True):
        parameter = torch.zeros(SIZE, requires_grad=True)
        parameter.grad = row.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([parameter], limit.item()))
        expected.append(parameter.grad)
    ours = g.clone()
    torch.testing.assert_close(optim.clip(ours, limits.unsqueeze(1)).squeeze(1), torch.stack(norms))
    torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-6, atol=0)
    assert torch.equal(ours[2:], g[2:])
    assert ours[0].norm().item() == pytest.approx(0.1, rel=1e-6)
