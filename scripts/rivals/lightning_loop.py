"""The runs one after another through Lightning's Trainer: tensors in memory.

Logger, progress bar, checkpoints, model summary and sanity check are off.
"""

import argparse
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch_loop import Sweep, mlp
from work import Clock, Curve, Work, finish

LEAN = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Classifier(lightning.LightningModule):
    def __init__(self, model: nn.Module, lr: float, momentum: float) -> None:
        super().__init__()
        self.model, self.lr, self.momentum = model, lr, momentum
        self.curve: Curve = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        logits = self.model(batch[0])
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        self.curve.append((F.cross_entropy(logits, batch[1]).item(), accuracy.item()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, fused=True)


def by_batch(data: TensorDataset, batch: int) -> DataLoader:
    """A loader that takes each batch with one index."""
    return DataLoader(data, sampler=BatchSampler(RandomSampler(data), batch, drop_last=False), batch_size=None)


def by_example(data: TensorDataset, batch: int) -> DataLoader:
    """The loader of the manuals, which stacks a batch from its examples."""
    return DataLoader(data, batch_size=batch, shuffle=True)


def train(sweep: Sweep, r: int, loader: Callable[[TensorDataset, int], DataLoader]) -> Curve:
    work = sweep.work
    torch.manual_seed(int(work.seed[r]))
    data, val = (TensorDataset(*sweep.split(torch.from_numpy(i[work.split[r]]))) for i in (work.train, work.val))
    module = Classifier(mlp(work.sizes, float(work.rate[r])), float(work.lr[r]), work.momentum)
    trainer = lightning.Trainer(max_epochs=work.epochs, **LEAN)
    trainer.fit(module, loader(data, work.batch), DataLoader(val, batch_size=len(val)))
    return module.curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--by-example", action="store_const", const=by_example, default=by_batch, dest="loader")
    options = parser.parse_args()
    work = Work.load(options.work)
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    clock = Clock.start()
    sweep = Sweep(work)
    finish([train(sweep, r, options.loader) for r in range(len(work))], work.steps, clock)


if __name__ == "__main__":
    main()
