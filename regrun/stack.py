"""R runs as one model: parameters, optimizer state and coefficients on a replica axis, and the step that moves them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from regrun import objective, optim
from regrun.data.batches import ALL, Batches
from regrun.data.source import Source
from regrun.layers import aligned, pad_rows
from regrun.meter import Meter
from regrun.models.build import build
from regrun.models.dropping import Dropout, SpatialDropout, StochasticDepth
from regrun.models.ops import Op, Pass, Slot, run, run_back, walk
from regrun.models.parameters import Parameters, all_slots, initialize, new_buffers, weighted
from regrun.models.rates import Rates
from regrun.models.vision import Network
from regrun.parallel import ALONE, Peers, Shard
from regrun.settings import Settings
from regrun.streams import MaskStream, generator

TINY = 1e-30  # in place of a norm of 0
CACHE_BYTES, GPU_BYTES = 4 << 20, 1 << 30  # of one layer's activations in an evaluation

# Which slots keep their size under each `reg.weight_decay.exclude`, by role.
UNDECAYED = {
    "norm_bias": ("bias", "gain", "shift"),
    "norm_bias_output": ("bias", "gain", "shift"),
    "norm": ("gain", "shift"),
    "bias": ("bias",),
    "none": (),
}
RATES = {"inverted": Rates.of, "classic": Rates.classic}
Masks = Callable[[str, int], Tensor]
Moments = tuple[Tensor, Tensor, Tensor]  # (R,) each: objective, penalty, gradient norm


class Stack:
    """The tensors of R runs that share a structure (`grouping`), and one optimizer step of all of them."""

    def __init__(
        self,
        runs: Sequence[Settings],
        batches: Batches,
        ops: tuple[Op, ...],
        params: Parameters,
        buffers: dict[str, Tensor],
        state: optim.State,
        peers: Peers = ALONE,
    ) -> None:
        self.runs, self.batches, self.device, self.peers = list(runs), batches, batches.device, peers
        self.ops, self.num_classes, self.error = ops, batches.source.num_classes, error_of(runs[0], batches.source)
        self.params, self.buffers, self.state = params, buffers, state
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}  # of each layer's outputs when it was last measured
        self._bind()

    def _bind(self) -> None:
        """Read the coefficients of the runs that are (still) here. A mechanism nobody asks for is None."""
        reg = [r.reg for r in self.runs]
        replicas, size = self.params.flat.shape
        # Several processes send the loss along with the gradient.
        self.message = torch.zeros(replicas, size + self.peers.are_several, device=self.device)
        self.gradient = self.message[:, :size]
        self.gradients = self.params.views(self.gradient)
        self.nothing = torch.zeros(len(self.runs), device=self.device)
        self.smoothing = self._column([g.label_smoothing.value for g in reg])
        self.l1 = self._column([g.l1.value for g in reg])
        self.l2 = self._column([g.l2.value for g in reg])
        self.decay = self._column([g.weight_decay.value or 0.0 for g in reg])
        self.clip = self._limits([r.trainer.grad_clip for r in self.runs])
        self.clip_value = self._limits([r.trainer.grad_clip_value for r in self.runs])
        self.max_norm = self._limits([g.max_norm.value for g in reg])
        self.rho = self._column([g.sam.rho for g in reg])
        self.averages = any(r.trainer.averaging.kind != "none" for r in self.runs)
        if self.averages and "average" not in self.state:
            self.state["average"] = self.params.flat.clone()
        self.held: tuple[Tensor, Tensor, int] | None = None  # sums over the examples of batches before the step's own
        self.outputs = {f"{op.name}.weight" for op in weighted(self.ops) if op.start == "output"}
        end = self.params.weights_end
        self.weights = self.params.flat[:, :end]
        self.decayed = self.params.stretches(self._is_decayed)
        self.rates = {
            op.name: RATES[op.kind](rates, self.device)
            for op in walk(self.ops)
            if isinstance(op, Dropout) and any(rates := [drop_rate(r, op) for r in self.runs])
        }
        self.means = {name: rates for name, rates in self.rates.items() if rates.mean is not None}
        self.sizes = {op.name: op.size for op in walk(self.ops) if isinstance(op, Dropout)}
        self.draws = {name: self.sizes[name] for name in self.rates}  # random numbers an example, by place
        self.draws |= {op.name: 1 for op in walk(self.ops) if isinstance(op, Network)}

    def _is_decayed(self, slot: Slot) -> bool:
        exclude = self.runs[0].reg.weight_decay.exclude
        is_kept_output = exclude == "norm_bias_output" and slot.name in self.outputs
        return slot.role not in UNDECAYED[exclude] and not is_kept_output

    def _column(self, values: list[float]) -> Tensor | None:
        """(R, 1) on the device, or None where all are 0."""
        return torch.tensor(values, device=self.device).unsqueeze(1) if any(values) else None

    def _limits(self, values: list[float | None]) -> Tensor | None:
        """(R, 1) on the device, inf where there is no limit, or None where nobody has one."""
        limited = any(value is not None for value in values)
        return self._column([torch.inf if value is None else value for value in values]) if limited else None

    def __len__(self) -> int:
        return len(self.runs)

    def select(self, members: list[int]) -> "Stack":
        """A copy of some of the runs."""
        return Stack(
            [self.runs[r] for r in members],
            self.batches.select(members),
            self.ops,
            self.params.with_flat(self.params.flat[members]),
            {name: b[members] for name, b in self.buffers.items()},
            {name: t[members] for name, t in self.state.items()},
            self.peers,
        )

    def keep(self, members: list[int]) -> None:
        """The other runs leave: at once, as one epoch without them pays for it. In place: a large stack fits once."""
        del self.message, self.gradient, self.gradients
        self.runs, self.batches = [self.runs[r] for r in members], self.batches.select(members)
        self.params = self.params.with_flat(_moved_up(self.params.flat, members))
        self.buffers = {name: _moved_up(b, members) for name, b in self.buffers.items()}
        self.state = {name: _moved_up(t, members) for name, t in self.state.items()}
        self.moments = {name: (mean[members], std[members]) for name, (mean, std) in self.moments.items()}
        self._bind()

    def weights_of(self, replica: int) -> dict[str, Tensor]:
        """A copy of one replica's parameters and running statistics, by name, on the device."""
        tensors = {name: leaf.detach() for name, leaf in self.params.leaves.items()} | self.buffers
        return {name: t[replica].clone() for name, t in tensors.items()}

    def load(self, replica: int, weights: dict[str, Tensor]) -> None:
        """Put such a copy back."""
        tensors = {name: leaf.detach() for name, leaf in self.params.leaves.items()} | self.buffers
        for name, value in weights.items():
            tensors[name][replica] = value

    def mask_streams(
        self, time: int | str, *, batch_size: int, steps: int, purpose: str = "dropout", replicas: slice = ALL
    ) -> dict[str, MaskStream]:
        """A stream of dropout masks for each place where some replica drops. time: an epoch, or what the masks see."""
        runs = self.runs[replicas]
        return {
            name: MaskStream(
                [generator(r.seeds.dropout or 0, purpose, name, time, device=self.device) for r in runs],
                size=aligned(batch_size) * size,
                steps=steps,
            )
            for name, size in self.draws.items()
        }

    def forward(
        self,
        x: Tensor,
        *,
        replicas: slice = ALL,
        meter: Meter | None = None,
        streams: dict[str, MaskStream] | None = None,
    ) -> Tensor:
        """Logits (R, B, K) of some replicas in eval mode: running statistics, nothing is drawn. x: (R, B, D).

        With `streams` of these replicas' masks, units, maps and branches are dropped as in training.
        """
        with torch.no_grad():
            on = self._pass(x, training=False, meter=meter)
            on.params, on.buffers = ({n: t[replicas] for n, t in of.items()} for of in (on.params, on.buffers))
            rates, on.masks = (on.rates, None) if streams is None else (self.rates, _drawn_once(streams))
            on.rates = {name: own.some(replicas) for name, own in rates.items()}
            return self._logits(x, on)

    def groups(self, batch: int) -> list[slice]:
        """The replicas in groups whose activations on a batch stay in the cache; on a GPU, in its memory."""
        limit = CACHE_BYTES if self.device.type == "cpu" else GPU_BYTES
        size = max(1, limit // (4 * batch * max(self.sizes.values())))
        return [slice(start, start + size) for start in range(0, len(self), size)]

    def weight_gradients(self, x: Tensor, targets: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each slot's gradient of the plain loss in eval mode, valid until the next step."""
        return self._gradients(x, targets, training=False, outputs=outputs)

    def first_gradients(
        self, x: Tensor, targets: Tensor, outputs: dict[str, Tensor], kept: list[Tensor]
    ) -> dict[str, Tensor]:
        """The same in training mode, by the batch's own statistics, and every tensor that going back needed.

        Without dropout: the noise that it adds to each example would pass for a signal.
        """
        return self._gradients(x, targets, training=True, outputs=outputs, kept=kept)

    def _gradients(self, x: Tensor, targets: Tensor, **how: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            on = self._pass(x, tape=[], **how)
            _, gradient = self._plain_loss(self._logits(x, on), targets)
            run_back(self.ops, pad_rows(gradient, dim=1), on)
        return self.gradients

    def step(
        self,
        x: Tensor,
        targets: Tensor,
        at: optim.Coefficients,
        streams: dict[str, MaskStream],
        meter: Meter | None = None,
    ) -> Moments:
        """One update of every replica from its own batch. x: (R, B, D), targets: (R, B) or (R, B, T or K)."""
        with torch.no_grad():
            masks = self._masks(streams, x.shape[1])
            loss = self._backward(x, targets, masks, meter)
            if self.rho is not None:
                self._sharpen(x, targets, masks, self.rho, meter)
            if self.held is not None:
                loss = self._release(loss, x.shape[1])
            if self.peers.are_several:
                loss = self._add_up(loss)
            penalty = self._penalize(self.gradient, meter)
            norms = self._clip(self.gradient, meter)
            self._update(self.gradient, at, meter)
        return loss + penalty, penalty, norms

    def hold(self, x: Tensor, targets: Tensor, streams: dict[str, MaskStream], meter: Meter | None = None) -> None:
        """Keep a batch's loss and gradient for the next step, which is then that of all its examples."""
        with torch.no_grad():
            masks, examples = self._masks(streams, x.shape[1]), x.shape[1]
            loss = self._backward(x, targets, masks, meter)
            losses, gradients, count = self.held or (self.nothing, torch.zeros_like(self.gradient), 0)
            self.held = (
                losses + examples * loss,
                gradients.add_(self.gradient, alpha=examples),
                count + examples,
            )

    def _release(self, loss: Tensor, examples: int) -> Tensor:
        """The mean loss of what was held and a batch of `examples`; `self.gradient` becomes its gradient."""
        assert self.held is not None
        (losses, gradients, count), self.held = self.held, None
        self.gradient.mul_(examples).add_(gradients).div_(count + examples)
        return (losses + examples * loss) / (count + examples)

    def _backward(self, x: Tensor, targets: Tensor, masks: Masks, meter: Meter | None, **other: Any) -> Tensor:
        """Losses (R,) in training mode; their gradients are left in `self.gradient`.

        Of several processes each has what its shard adds to the loss of the whole batch, and to the gradient.
        """
        shard = self.peers.shard(x.shape[1]) if self.peers.are_several else None
        if shard is not None:
            x, targets = x[:, shard.slice], targets[:, shard.slice]
        on = self._pass(x, training=True, meter=meter, tape=[], **other)
        on.rates, on.masks, on.shard = self.rates, masks, shard if self.runs[0].reg.batchnorm.sync else None
        loss, gradient = self._loss(self._logits(x, on), targets, meter)
        if shard is not None:
            loss, gradient = loss * shard.share, gradient * shard.share
        run_back(self.ops, pad_rows(gradient, dim=1), on)
        return loss

    def _masks(self, streams: dict[str, MaskStream], batch: int) -> Masks:
        """Masks of this process's examples, from those of the whole batch: each example has its own wherever it is."""
        drawn, shard = _drawn_once(streams), self.peers.shard(batch)
        return drawn if shard.share == 1 else lambda name, size: self._part(drawn, shard, name, size)

    def _part(self, drawn: Masks, shard: Shard, name: str, size: int) -> Tensor:
        each = self.draws[name]
        whole = drawn(name, aligned(shard.batch) * each)
        part = whole[:, shard.begin * each :][:, :size]
        missing = size - part.shape[1]  # what drops in the padding does not matter
        return torch.cat([part, whole[:, :missing]], 1) if missing else part

    def _add_up(self, loss: Tensor) -> Tensor:
        """From what each process has, the loss (R,) of the whole batch, and its gradient in `self.gradient`."""
        self.message[:, -1] = loss
        return self.peers.add(self.message)[:, -1]

    def agree(self) -> None:
        """Every process takes rank 0's running statistics, as torch's DistributedDataParallel does at every step."""
        for buffer in self.buffers.values():
            self.peers.copy(buffer)

    def _sharpen(self, x: Tensor, targets: Tensor, masks: Masks, rho: Tensor, meter: Meter | None) -> None:
        """Replace the gradient by that at the weights a distance rho uphill: SAM (Foret et al. 2021).

        Uphill is that of the batch's loss, penalties aside; the same units are dropped, and batch norm's running
        statistics see the first pass alone.
        """
        before, buffers = self.params.flat.clone(), {name: b.clone() for name, b in self.buffers.items()}
        self.peers.add(self.gradient)
        self.params.flat.addcmul_(self.gradient, rho / (self.gradient.norm(dim=1, keepdim=True) + 1e-12))
        if meter is not None:
            meter.add("sam", (self.params.flat - before).norm(dim=1))
        self._backward(x, targets, masks, None, buffers=buffers)
        self.params.flat.copy_(before)

    @contextmanager
    def averaged(self) -> Iterator[list[float]]:
        """While it lasts, the weights are the averaged ones. Gives each replica's distance between these and its own.

        Where they differ, batch norm's running statistics are estimated anew on train.
        """
        if not self.averages:
            yield [0.0] * len(self)
            return
        last, buffers = self.params.flat.clone(), {name: b.clone() for name, b in self.buffers.items()}
        self.params.flat.copy_(self.state["average"])
        distances = (last - self.params.flat).norm(dim=1)
        try:
            self._estimate_statistics(distances != 0)
            yield distances.tolist()
        finally:
            self.params.flat.copy_(last)
            for name, buffer in buffers.items():
                self.buffers[name].copy_(buffer)

    def _estimate_statistics(self, chosen: Tensor) -> None:
        """The chosen replicas' (R,) running statistics as means over train, in batches as for evaluation.

        From 0 one batch moves them by their norm's momentum of its own, so they are divided by it.
        """
        if not self.buffers or not bool(chosen.any()):
            return
        sums, count = {name: torch.zeros_like(b) for name, b in self.buffers.items()}, 0
        for x, _ in self.batches.eval_batches("train"):
            if x.shape[1] > 1:
                own = {name: torch.zeros_like(b) for name, b in self.buffers.items()}
                with torch.no_grad():
                    self._logits(x, self._pass(x, training=True, buffers=own, ghost=None))
                sums = {name: total.add_(own[name], alpha=x.shape[1]) for name, total in sums.items()}
                count += x.shape[1]
        momenta = {name: momentum for op in walk(self.ops) for name, _, momentum in op.running()}
        for name, buffer in self.buffers.items():
            scale = 1 / (count * momenta[name.rpartition(".")[0]])
            buffer.copy_(torch.where(chosen.unsqueeze(1), sums[name] * scale, buffer))

    def _pass(self, x: Tensor, **more: Any) -> Pass:
        dtype = torch.float32 if self.runs[0].trainer.precision == "float32" else torch.bfloat16
        common: dict[str, Any] = {
            "params": self.params.leaves,
            "buffers": self.buffers,
            "gradients": self.gradients,
            "rates": self.means,
            "ghost": self.runs[0].reg.batchnorm.ghost_batch,
        }
        return Pass(**(common | more), rows=x.shape[1], dtype=dtype)

    def _logits(self, x: Tensor, on: Pass) -> Tensor:
        logits = run(self.ops, pad_rows(x, dim=1), on).float()
        return logits if logits.shape[1] == on.rows else logits[:, : on.rows]

    def _loss(self, logits: Tensor, targets: Tensor, meter: Meter | None) -> tuple[Tensor, Tensor]:
        """Each replica's mean loss (R,), and its gradient by the logits: every replica's as if it were alone."""
        if self.smoothing is None:
            return self._plain_loss(logits, targets)
        soft = objective.smoothed_targets(targets, self.num_classes, self.smoothing)
        if meter is not None:
            meter.add("label_smoothing", objective.entropy(soft))
        return objective.soft_cross_entropy_with_gradient(logits, soft)

    def _plain_loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.error is not None:
            return objective.error_with_gradient(outputs, targets, self.error)
        if targets.is_floating_point():  # shares of classes: the examples were mixed
            return objective.soft_cross_entropy_with_gradient(outputs, targets)
        return objective.cross_entropy_with_gradient(outputs, targets)

    def _penalize(self, g: Tensor, meter: Meter | None) -> Tensor:
        penalty = self.nothing
        weights, weight_gradient = self.weights, g[:, : self.params.weights_end]
        proximal = self.runs[0].reg.l1.mode == "proximal"
        if self.l2 is not None:
            l2 = objective.add_l2(weight_gradient, weights, self.l2)
            penalty = penalty + l2
            if meter is not None:
                meter.add("l2", l2)
        if self.l1 is not None:
            l1 = objective.l1(weights, self.l1) if proximal else objective.add_l1(weight_gradient, weights, self.l1)
            penalty = penalty + l1
            if meter is not None:
                meter.add("l1", l1)
        return penalty

    def _clip(self, g: Tensor, meter: Meter | None) -> Tensor:
        """Clip by value, then by norm. Returns the norms before, (R,); only measured steps pay for them."""
        norms = g.norm(dim=1) if meter is not None else self.nothing
        if self.clip_value is not None:
            if meter is not None:
                meter.add("grad_clip_value", (g.abs() > self.clip_value).sum(1) / self.params.num_parameters)
            optim.clip_value(g, self.clip_value)
        if self.clip is not None:
            clipped = optim.clip(g, self.clip) > self.clip
            if meter is not None:
                meter.add("grad_clip", clipped.squeeze(1))
        return norms

    def _update(self, g: Tensor, at: optim.Coefficients, meter: Meter | None) -> None:
        if self.decay is not None:
            before = [stretch.clone() for stretch in self.decayed] if meter is not None else []
            for stretch in self.decayed:
                optim.decay(stretch, at, self.decay)
            if meter is not None:
                moved = _norm([was - now for was, now in zip(before, self.decayed, strict=True)])
                meter.add("weight_decay", moved / _norm(before).clamp_min(TINY))
        optim.update(self.params.flat, g, self.state, at, self.runs[0].optimizer)
        if self.l1 is not None and self.runs[0].reg.l1.mode == "proximal":
            optim.proximal_l1(self.weights, at, self.l1)
        if self.max_norm is not None:
            limit, weights = self.max_norm, self.params.weights()
            scaled = torch.cat([optim.max_norm(weight, limit) for weight in weights], 1)
            if meter is not None:
                meter.add("max_norm", scaled.float().mean(1))
        if self.averages:
            self.state["average"].lerp_(self.params.flat, at["average"])


def _drawn_once(streams: dict[str, MaskStream]) -> Masks:
    """Masks by place and size, each drawn when it is first asked for and then the same."""
    drawn: dict[str, Tensor] = {}

    def mask(name: str, size: int) -> Tensor:
        if name not in drawn:
            drawn[name] = streams[name].next(size)
        return drawn[name]

    return mask


def _norm(parts: Sequence[Tensor]) -> Tensor:
    """(R,) of all parts (R, n) together."""
    norms: Tensor = torch.stack([part.norm(dim=1) for part in parts]).norm(dim=0)
    return norms


def _moved_up(t: Tensor, members: list[int]) -> Tensor:
    """Some replicas' rows, in the memory of the first of them."""
    t[: len(members)] = t[members]
    return t[: len(members)]


def new_stack(runs: Sequence[Settings], batches: Batches, peers: Peers = ALONE) -> Stack:
    """A stack at its first step: initial weights from each run's own settings and `init` stream."""
    first, source = runs[0], batches.source
    ops = build(first.model, first.reg, input_shape=source.shape, num_classes=source.num_outputs)
    params = Parameters(all_slots(ops), replicas=len(runs), device=batches.device)
    initialize(params, ops, runs)
    return Stack(runs, batches, ops, params, new_buffers(ops, len(runs), batches.device), {}, peers)


def error_of(run: Settings, source: Source) -> str | None:
    """Which error of a regression is minimized; None for classes, whose loss is the cross-entropy."""
    if not source.is_regression:
        return None
    return "squared" if run.trainer.loss == "auto" else run.trainer.loss


def drop_rate(run: Settings, op: Dropout) -> float:
    """The drop probability of a run at an op; the name of what belongs to hidden layer i has "hidden<i>" in it."""
    reg = run.reg
    if isinstance(op, StochasticDepth):
        return reg.stochastic_depth.rate * op.share
    if isinstance(op, SpatialDropout):
        return reg.spatial_dropout.rate
    if op.mechanism == "attention_dropout":
        return reg.attention_dropout.rate
    if op.name == "input":
        return reg.dropout.input_rate
    index = int(op.name.partition("hidden")[2].partition("_")[0]) - 1
    return reg.dropout.rate if reg.dropout.rates is None else reg.dropout.rates[index]
