"""The runs one after another: nn.Module, torch.optim, batches taken by index from tensors in memory.

With --processes, the same loop over a pool of processes.
"""

import argparse
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from work import Clock, Curve, Work, finish


def mlp(sizes: list[int], rate: float) -> nn.Sequential:
    """Linear, ReLU, dropout for each hidden layer, then Linear; He's start, as regrun's."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers[:-2])


class Sweep:
    """The data as tensors, once for all runs."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.inputs, self.targets = torch.from_numpy(work.inputs) / work.top, torch.from_numpy(work.targets)

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.targets[indices]

    def train(self, r: int) -> Curve:
        """Run r from its start to its end."""
        work = self.work
        torch.manual_seed(int(work.seed[r]))
        x, y = self.split(torch.from_numpy(work.train[work.split[r]]))
        val = self.split(torch.from_numpy(work.val[work.split[r]]))
        model = mlp(work.sizes, float(work.rate[r]))
        optimizer = torch.optim.SGD(model.parameters(), lr=float(work.lr[r]), momentum=work.momentum, fused=True)
        curve = []
        for _ in range(work.epochs):
            model.train()
            for batch in torch.randperm(len(x)).split(work.batch):
                loss = F.cross_entropy(model(x.index_select(0, batch)), y.index_select(0, batch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            curve.append(evaluate(model, *val))
        return curve


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    model.eval()
    logits = model(x)
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    work = Work.load(options.work)
    clock = Clock.start()
    sweep = Sweep(work)
    if options.processes == 1:
        curves = [sweep.train(r) for r in range(len(work))]
    else:
        pool = get_context("fork").Pool(options.processes)
        curves = pool.map(sweep.train, range(len(work)), chunksize=1)
        pool.close()
        pool.join()
    finish(curves, work.steps, clock)


if __name__ == "__main__":
    main()
