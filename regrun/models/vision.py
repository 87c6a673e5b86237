"""torchvision's classification models as an op: their parameters are slots, so that everything else works on them.

torchvision is imported only where one is built (1.3 s). A network from elsewhere has no replica axis: it trains in a
stack of one.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regrun.conversion import nearest
from regrun.errors import ConfigError, clip
from regrun.layers import pad_rows
from regrun.models.ops import Conv, Linear, Op, Pass, Slot
from regrun.paths import is_there
from regrun.settings import Torchvision
from regrun.streams import derive
from regrun.tensors import read as read_tensors

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Network(Op):
    """One of torchvision's models, images (B, 3, H, W) -> logits (1, B, K). Its slots have torchvision's own names.

    Its dropout draws from torch's global generator, which is seeded for each step from the run's `dropout` stream.
    """

    model: Torchvision
    size: tuple[int, int]  # H and W
    num_classes: int

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def module(self) -> nn.Module:
        """The model's modules and constants, shared and with no meaning in their parameters."""
        return _skeleton(self.model, self.size, self.num_classes)

    def slots(self) -> Iterator[Slot]:
        for prefix, module in self.module.named_modules():
            for name, value in module.named_parameters(recurse=False):
                yield Slot(f"{prefix}.{name}".lstrip("."), tuple(value.shape), _role(module, name, value))

    def weighted(self) -> Iterator[Linear | Conv]:
        """The linear layers and convolutions that the forward pass calls, in its order; the last one is the head."""
        *before, head = called(self.model, self.size, self.num_classes)
        for name in before:
            yield self._layer(name, "hidden" if self.model.weights is None else "given")
        yield self._layer(head, "output")

    def _layer(self, name: str, start: str) -> Linear | Conv:
        module = self.module.get_submodule(name)
        kind = Linear if isinstance(module, nn.Linear) else Conv
        weight = cast(Tensor, module.weight)
        return kind(name, weight.shape[1], weight.shape[0], bias=module.bias is not None, start=start)

    def running(self) -> Iterator[tuple[str, int, float]]:
        for name, module in self.module.named_modules():
            if isinstance(module, _BatchNorm):
                yield name, module.num_features, module.momentum or 0.1

    def begin(self, seed: int) -> dict[str, Tensor]:
        """torchvision's own initial values, from the seed; or those in the file, but for the head."""
        own = _built(self.model, self.size, self.num_classes, seed=derive(seed, "init", self.name)).state_dict()
        if self.model.weights is None:
            return {slot.name: own[slot.name] for slot in self.slots()}
        head, given = called(self.model, self.size, self.num_classes)[-1], _read(self.model.weights)
        return {n: own[n] if n.startswith(f"{head}.") else given[n] for n in (slot.name for slot in self.slots())}

    def begin_running(self) -> dict[str, Tensor]:
        """The running statistics in the file, by name; none without one."""
        given = {} if self.model.weights is None else _read(self.model.weights)
        names = [f"{name}.running_{kind}" for name, _, _ in self.running() for kind in ("mean", "var")]
        return {name: given[name] for name in names if given}

    def compute(self, x: Tensor, on: Pass) -> Tensor:
        module, drops = self.module, on.masks is not None
        for part in module.modules():  # without masks nothing is dropped, but batch norm sees the batch all the same
            part.training = on.training if isinstance(part, _BatchNorm) else drops
        tensors = {name: on.params[name][0] for name, _ in module.named_parameters()}
        tensors |= {name: b[0] for name, b in on.buffers.items()}
        others = {name: b for name, b in module.named_buffers() if name not in tensors and b.dim()}  # no counts
        tensors |= {name: b.to(x.device) for name, b in others.items()}
        with torch.random.fork_rng([x.device] if x.is_cuda else []), _watched(self, on):
            if on.masks is not None:
                torch.manual_seed(_seed(on.masks(self.name, 4)))
            with torch.autocast(x.device.type, on.dtype, enabled=on.dtype != torch.float32):
                logits = torch.func.functional_call(module, tensors, (x[: on.rows],))
        return pad_rows(logits.float().unsqueeze(0), dim=1)


def _watched(network: Network, on: Pass) -> ExitStack:
    """While it lasts, the outputs of the model's layers are recorded, where somebody asks for them."""
    watch = ExitStack()
    for layer in network.weighted() if on.outputs is not None else ():
        module = network.module.get_submodule(layer.name)
        watch.enter_context(module.register_forward_hook(partial(_record, layer.name, on)))
    return watch


def _record(name: str, on: Pass, module: nn.Module, inputs: Any, y: Tensor) -> None:
    """As `Conv` and `Linear` do it, with padding: images (B, C, H, W), or whatever else as features (1, B, D)."""
    on.record(name, pad_rows(y, dim=0) if y.dim() == 4 else pad_rows(y.reshape(1, len(y), -1), dim=1))


def _seed(draws: Tensor) -> int:
    """(1, 4) int16 -> 64 bits."""
    return sum((int(value) & 0xFFFF) << (16 * i) for i, value in enumerate(draws[0].tolist()))


def _role(module: nn.Module, name: str, value: Tensor) -> str:
    if isinstance(module, NORMS):
        return "gain" if name == "weight" else "shift"
    return "weight" if name.endswith("weight") and value.dim() > 1 else "bias"


@lru_cache(maxsize=8)
def _skeleton(model: Torchvision, size: tuple[int, int], num_classes: int) -> nn.Module:
    return _built(model, size, num_classes, seed=0)


def _built(model: Torchvision, size: tuple[int, int], num_classes: int, *, seed: int) -> nn.Module:
    """The untrained model, as torchvision starts it from this seed. Raises ConfigError where there is none."""
    from torchvision import models

    known = models.list_models(module=models)
    if model.name not in known:
        near = nearest(model.name, known).removesuffix("; ") or "see torchvision.models.list_models"
        raise ConfigError(f"model.name: torchvision has no such classification model, got {clip(model.name)!r}; {near}")
    changes: dict[str, Any] = {}
    if model.name in ("googlenet", "inception_v3"):
        changes = {"aux_logits": False, "init_weights": False}
    elif model.name.startswith("vit_"):
        changes = {"image_size": size[0]}
    elif model.name.startswith("maxvit"):
        changes = {"input_size": size}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module: nn.Module = models.get_model(model.name, weights=None, num_classes=num_classes, **changes)
        return _with_small_stem(module, model.name) if model.small_stem else module


def _with_small_stem(module: nn.Module, name: str) -> nn.Module:
    """The first convolution becomes one of 3 x 3 and stride 1, and the max pooling that follows goes."""
    kinds = (nn.Conv2d, nn.MaxPool2d)
    match [(n, m) for n, m in module.named_modules() if isinstance(m, kinds)][:2]:
        case [(first, nn.Conv2d(stride=stride) as conv), (second, nn.MaxPool2d())] if stride != (1, 1):
            small = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
            module.set_submodule(first, small)
            module.set_submodule(second, nn.Identity())
            return module
    raise ConfigError(
        f"model.small_stem: {name} does not begin with a large convolution and a max pooling; set it to false"
    )


@lru_cache(maxsize=32)
def called(model: Torchvision, size: tuple[int, int], num_classes: int, examples: int = 2) -> tuple[str, ...]:
    """The linear layers and convolutions in the order in which a forward pass in training mode first calls them.

    Nothing but shapes is computed; where they do not fit, RuntimeError, ValueError or AssertionError.
    """
    # A regnet computes its widths by tensors, and those on meta have no values.
    with torch.device("cpu" if model.name.startswith("regnet") else "meta"):
        module, found = _built(model, size, num_classes, seed=0).train(), dict[str, None]()
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda *_, name=name: found.setdefault(name))
    module.to("meta")(torch.zeros(examples, 3, *size, device="meta"))
    return tuple(found)


@lru_cache(maxsize=1)
def _read(path: str) -> dict[str, Tensor]:
    """A state_dict's tensors. Raises ConfigError where there is no file, DataError where it is none."""
    if not is_there(path):
        raise ConfigError(f"model.weights: must be the file of a state_dict, got {clip(path)!r}; name one")
    return read_tensors(Path(path))


def check(model: Torchvision, shape: tuple[int, ...], num_classes: int, batch_size: int) -> Iterator[str]:
    """What keeps the model from training on examples of this shape, found out without training."""
    try:
        *_, head = called(model, (shape[1], shape[2]), num_classes, min(2, batch_size))
    except ConfigError as error:
        yield from error.problems
        return
    except (RuntimeError, ValueError, AssertionError) as error:
        size, reason = f"{shape[1]} x {shape[2]} images", clip(str(error).splitlines()[0], 90)
        if batch_size == 1:
            size, remedy = f"{size} one at a time", "raise trainer.batch_size"
        else:
            remedy = "choose another model, or larger images"
        yield f"model.name: {model.name} cannot take {size} ({reason}); {remedy}"
        return
    if model.weights is not None:
        yield from _misfits(Network(model, (shape[1], shape[2]), num_classes), head)


def _misfits(network: Network, head: str) -> Iterator[str]:
    """The first tensor of the model, those of the head aside, that is not in the file as it should be."""
    path = network.model.weights or ""
    try:
        given = _read(path)
    except ConfigError as error:
        yield from error.problems
        return
    own = network.module.state_dict()
    wanted = {n: tuple(t.shape) for n, t in own.items() if not n.startswith(f"{head}.") and t.is_floating_point()}
    wrong = [name for name, size in wanted.items() if name not in given or tuple(given[name].shape) != size]
    if wrong:
        got = f"of shape {list(given[wrong[0]].shape)}" if wrong[0] in given else "none"
        yield (
            f"model.weights: must have the tensors of {network.name}, {wrong[0]} of shape {list(wanted[wrong[0]])}, "
            f"got {got}"
        )
