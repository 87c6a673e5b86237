"""A batch in shards, by threads that stand for processes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from regrun import settings as s
from regrun.data.sources import Source
from regrun.parallel import ALONE
from regrun.studies import shards
from regrun.studies.shards import Meeting, Thread


def test_threads_that_meet_have_the_sum_of_what_all_brought_each_time() -> None:
    """Three of them, 50 times: nobody reads what another one has already written over."""
    meeting = Meeting(3)
    places = [Thread(rank, 3, rank, meeting) for rank in range(3)]

    def sums(peers: Thread) -> list[float]:
        return [peers.add(torch.tensor([10.0**peers.rank * n])).item() for n in range(50)]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(sums, places)) == [[111.0 * n for n in range(50)]] * 3


def run_of(reg: s.Reg) -> s.Settings:
    run = s.Settings(model=s.Mlp(depth=2, width=16), reg=reg, trainer=s.Trainer(batch_size=32), optimizer=s.Sgd(lr=0.1))
    return s.resolve(run)


def test_the_gradient_is_that_of_torchs_autograd(digits: Source) -> None:
    """The first step of plain SGD moves the weights of the exported network by -lr times it."""
    run = run_of(s.Reg())
    batches = shards.Batches(digits, [shards.split(digits, run.data, run.seeds)], [run], torch.device("cpu"))
    stack = shards.new_stack([run], batches, ALONE)
    x, targets = batches.train_batch(batches.order(1)[:, :32], batches.augmenters(1))
    weights = {name: w[0].detach().clone().requires_grad_() for name, w in stack.params.leaves.items()}
    h = x[0]
    for name in ("hidden1", "hidden2"):
        h = torch.relu(h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
    loss = torch.nn.functional.cross_entropy(h @ weights["output.weight"].T + weights["output.bias"], targets[0])
    expected = torch.autograd.grad(loss, list(weights.values()))
    views = stack.params.views(shards.gradient(run, digits, 4).unsqueeze(0))
    for name, own in zip(weights, expected, strict=True):
        assert torch.allclose(views[name][0], own, atol=1e-6)


@pytest.mark.parametrize("norm", list(shards.NORMS))
def test_shards_add_up_unless_each_has_statistics_of_its_own(norm: str, digits: Source) -> None:
    run = run_of(shards.NORMS[norm])
    whole = shards.gradient(run, digits, 1)
    off = (shards.gradient(run, digits, 2) - whole).norm() / whole.norm()
    assert off > 0.01 if norm == "batch norm" else off < 3e-6


def test_a_shard_of_ghost_batches_is_the_ghost_batch(digits: Source) -> None:
    """Batch norm in two shards is batch norm of one process whose ghost batches are the halves."""
    run = run_of(shards.NORMS["batch norm"])
    ghosts = replace(run, reg=replace(run.reg, batchnorm=s.BatchNorm(active=True, ghost_batch=16)))
    assert torch.allclose(shards.gradient(run, digits, 2), shards.gradient(ghosts, digits, 1), atol=1e-6)
