"""Optimizers for a stack: (R, P) parameters, per-replica coefficients, one table of them for each epoch.

Every rule equals torch's own optimizer step for step (to rounding), but has no weight decay: decay is the
regularizer's, decoupled, and the same for all (Loshchilov and Hutter 2019).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrun import settings as s

State = dict[str, Tensor]
Coefficients = dict[str, Tensor]  # name -> (R, 1) of one step
Table = dict[str, NDArray[np.float64]]  # name -> (S, R) of all steps of an epoch


def sgd(p: Tensor, g: Tensor, state: State, at: Coefficients, _: s.Sgd) -> None:
    """p - lr g."""
    p.addcmul_(g, at["lr"], value=-1)


def momentum(p: Tensor, g: Tensor, state: State, at: Coefficients, optimizer: s.Momentum) -> None:
    """Heavy ball (Polyak 1964) or Nesterov's, in torch's convention: v = m v + (1 - dampening) g; p - lr v.

    In the lectures' convention, v = m v + lr g; p - v: the same at a constant lr, but an lr that changes does not
    change what is under way. `inner` and `size` are 1 and lr, or lr and 1.
    """
    entering = g * at["inner"] if "inner" in at else g
    if "velocity" not in state:
        state["velocity"] = entering.clone()  # torch starts from the first gradient, undampened
    else:
        state["velocity"].mul_(at["momentum"]).addcmul_(entering, at["fresh"])
    velocity = state["velocity"]
    if optimizer.kind == "nesterov":
        velocity = torch.addcmul(entering, velocity, at["momentum"])
    p.addcmul_(velocity, at["size"], value=-1)


def rmsprop(p: Tensor, g: Tensor, state: State, at: Coefficients, optimizer: s.RmsProp) -> None:
    """Gradients over their running root mean square (Hinton 2012), in torch's form: eps outside of the root."""
    if "square" not in state:
        state["square"] = torch.zeros_like(p)
        if optimizer.centered:
            state["mean"] = torch.zeros_like(p)
    square = state["square"].mul_(at["alpha"]).addcmul_(g * at["fresh"], g)
    if optimizer.centered:
        mean = state["mean"].lerp_(g, at["fresh"])
        square = torch.addcmul(square, mean, mean, value=-1)
    update = g / square.sqrt().add_(at["eps"])
    if "momentum" in at:
        velocity = state.setdefault("velocity", torch.zeros_like(p))
        update = velocity.mul_(at["momentum"]).add_(update)
    p.addcmul_(update, at["lr"], value=-1)


def adam(p: Tensor, g: Tensor, state: State, at: Coefficients, optimizer: s.Adam) -> None:
    """Adam with bias correction (Kingma and Ba 2015); the corrections are in the table's `size` and `floor`."""
    if "first" not in state:
        state["first"] = torch.zeros_like(p)
        state["second"] = torch.zeros_like(p)
    first = state["first"].lerp_(g, at["fresh1"])
    second = state["second"].mul_(at["beta2"]).addcmul_(g * at["fresh2"], g)
    if optimizer.amsgrad:
        second = torch.maximum(state.setdefault("largest", torch.zeros_like(p)), second)
        state["largest"] = second
    p.addcdiv_(first * at["size"], second.sqrt().add_(at["floor"]), value=-1)


def nadam(p: Tensor, g: Tensor, state: State, at: Coefficients, _: s.NAdam) -> None:
    """Adam that looks ahead by the next step's momentum (Dozat 2016), with torch's momentum schedule."""
    if "first" not in state:
        state["first"] = torch.zeros_like(p)
        state["second"] = torch.zeros_like(p)
    first = state["first"].lerp_(g, at["fresh1"])
    second = state["second"].mul_(at["beta2"]).addcmul_(g * at["fresh2"], g)
    ahead = (first * at["size"]).addcmul_(g, at["size_now"])
    p.addcdiv_(ahead, second.sqrt().add_(at["floor"]), value=-1)


def adamax(p: Tensor, g: Tensor, state: State, at: Coefficients, _: s.Adamax) -> None:
    """Adam by the infinity norm (Kingma and Ba 2015, section 7.1); as in torch, eps is added to |g|."""
    if "first" not in state:
        state["first"] = torch.zeros_like(p)
        state["largest"] = torch.zeros_like(p)
    first = state["first"].lerp_(g, at["fresh1"])
    largest = state["largest"].mul_(at["beta2"])
    torch.maximum(largest, g.abs().add_(at["eps"]), out=largest)
    p.addcdiv_(first * at["size"], largest, value=-1)


def adagrad(p: Tensor, g: Tensor, state: State, at: Coefficients, _: s.Adagrad) -> None:
    """Gradients over the root of the sum of their squares (Duchi et al. 2011), in torch's form: eps after the root."""
    if "sum" not in state:
        state["sum"] = torch.zeros_like(p) + at["start"]
    total = state["sum"].addcmul_(g, g)
    p.addcdiv_(g * at["size"], total.sqrt().add_(at["eps"]), value=-1)


def adadelta(p: Tensor, g: Tensor, state: State, at: Coefficients, _: s.Adadelta) -> None:
    """Gradients times recent updates over recent gradients, both root mean squares (Zeiler 2012); lr as in torch."""
    if "square" not in state:
        state["square"] = torch.zeros_like(p)
        state["moved"] = torch.zeros_like(p)
    square = state["square"].mul_(at["rho"]).addcmul_(g * at["fresh"], g)
    update = (state["moved"] + at["eps"]).sqrt_().div_((square + at["eps"]).sqrt_()).mul_(g)
    state["moved"].mul_(at["rho"]).addcmul_(update * at["fresh"], update)
    p.addcmul_(update, at["lr"], value=-1)


def _momentum_table(runs: list[s.Momentum], lr: NDArray[np.float64], _: NDArray[np.float64]) -> Table:
    fresh = [1 - o.dampening if o.momentum else 1.0 for o in runs]  # torch ignores dampening at momentum 0
    table = {"size": lr, "momentum": _row(o.momentum for o in runs), "fresh": _row(fresh)}
    inside = np.array([[o.convention == "lecture" for o in runs]])
    return table | ({"inner": np.where(inside, lr, 1.0), "size": np.where(inside, 1.0, lr)} if inside.any() else {})


def _rmsprop_table(runs: list[s.RmsProp], lr: NDArray[np.float64], _: NDArray[np.float64]) -> Table:
    alpha = _row(o.alpha for o in runs)
    table = {"lr": lr, "alpha": alpha, "fresh": 1 - alpha, "eps": _row(o.eps for o in runs)}
    velocity = _row(o.momentum for o in runs)
    return table | ({"momentum": velocity} if velocity.any() else {})


def _adam_table(runs: list[s.Adam], lr: NDArray[np.float64], t: NDArray[np.float64]) -> Table:
    """lr / c1 * m / (sqrt(v) / sqrt(c2) + eps) is size * m / (sqrt(v) + floor): one pass over memory less."""
    beta1, beta2 = _row(o.betas[0] for o in runs), _row(o.betas[1] for o in runs)
    correction1, root2 = 1 - beta1**t, np.sqrt(1 - beta2**t)
    return {
        "fresh1": 1 - beta1,
        "beta2": beta2,
        "fresh2": 1 - beta2,
        "size": lr / correction1 * root2,
        "floor": _row(o.eps for o in runs) * root2,
    }


def _nadam_table(runs: list[s.NAdam], lr: NDArray[np.float64], t: NDArray[np.float64]) -> Table:
    """Momentum beta1 (1 - 0.96^(t decay) / 2); the first moment is corrected by the product of all so far."""
    beta1, beta2 = _row(o.betas[0] for o in runs), _row(o.betas[1] for o in runs)
    decay, root2 = _row(o.momentum_decay for o in runs), np.sqrt(1 - beta2**t)
    so_far = np.arange(1, t[-1, 0] + 2)[:, None]
    mu = beta1 * (1 - 0.5 * 0.96 ** (so_far * decay))
    product, mu = np.cumprod(mu, axis=0)[-len(t) - 1 :], mu[-len(t) - 1 :]
    return {
        "fresh1": 1 - beta1,
        "beta2": beta2,
        "fresh2": 1 - beta2,
        "size": lr * mu[1:] / (1 - product[1:]) * root2,
        "size_now": lr * (1 - mu[:-1]) / (1 - product[:-1]) * root2,
        "floor": _row(o.eps for o in runs) * root2,
    }


def _adamax_table(runs: list[s.Adamax], lr: NDArray[np.float64], t: NDArray[np.float64]) -> Table:
    beta1, beta2 = _row(o.betas[0] for o in runs), _row(o.betas[1] for o in runs)
    return {"fresh1": 1 - beta1, "beta2": beta2, "size": lr / (1 - beta1**t), "eps": _row(o.eps for o in runs)}


def _adagrad_table(runs: list[s.Adagrad], lr: NDArray[np.float64], t: NDArray[np.float64]) -> Table:
    size = lr / (1 + (t - 1) * _row(o.lr_decay for o in runs))
    start = _row(o.initial_accumulator_value for o in runs)
    return {"size": size, "start": start, "eps": _row(o.eps for o in runs)}


def _adadelta_table(runs: list[s.Adadelta], lr: NDArray[np.float64], _: NDArray[np.float64]) -> Table:
    rho = _row(o.rho for o in runs)
    return {"lr": lr, "rho": rho, "fresh": 1 - rho, "eps": _row(o.eps for o in runs)}


def _row(values: Iterable[float]) -> NDArray[np.float64]:
    return np.array([list(values)])  # (1, R)


RULES: dict[type, Callable[..., None]] = {
    s.Sgd: sgd,
    s.Momentum: momentum,
    s.RmsProp: rmsprop,
    s.Adam: adam,
    s.NAdam: nadam,
    s.Adamax: adamax,
    s.Adagrad: adagrad,
    s.Adadelta: adadelta,
}
TABLES: dict[type, Callable[..., Table]] = {
    s.Sgd: lambda runs, lr, t: {"lr": lr},
    s.Momentum: _momentum_table,
    s.RmsProp: _rmsprop_table,
    s.Adam: _adam_table,
    s.NAdam: _nadam_table,
    s.Adamax: _adamax_table,
    s.Adagrad: _adagrad_table,
    s.Adadelta: _adadelta_table,
}


def epoch_table(
    optimizers: Sequence[s.Optimizer],
    lr: NDArray[np.float64],
    *,
    first_step: int,
    device: torch.device,
    others: Table | None = None,
) -> list[Coefficients]:
    """The coefficients of each step of an epoch, on the device before it begins: no transfer in the loop.

    lr: (S, R) the learning rates; first_step: 1-based count of the epoch's first update; others: what else
    changes with the step. Computed in float64 (bias corrections cancel), stored in float32.
    """
    steps, replicas = lr.shape
    t = np.arange(first_step, first_step + steps, dtype=np.float64)[:, None]
    table = TABLES[type(optimizers[0])](list(optimizers), lr, t) | {"base_lr": lr} | (others or {})
    stacked = np.stack([np.broadcast_to(column, (steps, replicas)) for column in table.values()], axis=1)
    rows = torch.from_numpy(stacked.astype(np.float32)).to(device).unsqueeze(-1)  # (S, names, R, 1)
    return [dict(zip(table, row.unbind(0), strict=True)) for row in rows.unbind(0)]


def update(p: Tensor, g: Tensor, state: State, at: Coefficients, optimizer: s.Optimizer) -> None:
    """One step of every replica, in place. p, g: (R, P)."""
    RULES[type(optimizer)](p, g, state, at, optimizer)


def decay(weights: Tensor, at: Coefficients, value: Tensor) -> None:
    """Decoupled weight decay, w (1 - lr value), before the update as torch's AdamW has it. value: (R, 1)."""
    weights.mul_(1 - at["base_lr"] * value)


def proximal_l1(weights: Tensor, at: Coefficients, value: Tensor) -> None:
    """Soft threshold by lr * value after the step: the proximal step of an l1 penalty, which gives exact zeros.

    The threshold is that of plain gradient descent, also under adaptive optimizers. value: (R, 1).
    """
    threshold = at["base_lr"] * value
    weights.copy_(weights.sign() * (weights.abs() - threshold).clamp_(min=0))


def max_norm(weight: Tensor, limit: Tensor) -> Tensor:
    """Scale each unit's incoming weights down to a norm of at most `limit`, in place (Srivastava et al. 2014).

    For a convolution that is the kernel of an output channel. Output units are held, too. weight: (R, out, ...);
    limit: (R, 1), inf for none. Returns which units were scaled, (R, out).
    """
    factors: Tensor = (limit / weight.flatten(2).norm(dim=2)).clamp_(max=1.0)
    weight.mul_(factors.view(*factors.shape, *[1] * (weight.dim() - 2)))
    return factors < 1


def clip_value(g: Tensor, limit: Tensor) -> None:
    """Cut each element of g off at +- `limit`, in place, as torch's clip_grad_value_. limit: (R, 1), inf for none."""
    torch.clamp(g, -limit, limit, out=g)


def clip(g: Tensor, limit: Tensor) -> Tensor:
    """Scale each replica's gradient down to a norm of at most `limit`, as torch's clip_grad_norm_ (Pascanu 2013).

    g: (R, P), in place; limit: (R, 1), inf for none. Returns the norms before clipping, (R, 1).
    """
    norms: Tensor = g.norm(dim=1, keepdim=True)
    g.mul_((limit / (norms + 1e-6)).clamp_(max=1.0))
    return norms
