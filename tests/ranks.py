"""What `torchrun` starts for `test_parallel`: each process trains every case, and writes its rows to a folder."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from conftest import make, train_rows

from regrun import parallel
from regrun import settings as s
from regrun.data.sources import load

SHARDED = ("batchnorm", "batchnorm images", "batchnorm, even batches")  # whose batch statistics are those of a shard
SYNC = s.BatchNorm(active=True, sync=True)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "layernorm, dropout": {"reg": s.Reg(layernorm=s.LayerNorm(active=True), dropout=s.Dropout(0.4, input_rate=0.1))},
    "augmented, smoothed, accumulated": {
        "reg": s.Reg(
            crop=s.Crop(1), noise=s.Noise(0.1), label_smoothing=s.LabelSmoothing(0.1), weight_decay=s.WeightDecay(0.1)
        ),
        "trainer": {"accumulate": 2, "averaging": s.Averaging(kind="ema", decay=0.5)},
    },
    "sam, clipped": {"reg": s.Reg(sam=s.Sam(0.1)), "trainer": {"grad_clip": 0.5}},
    "images": {"model": s.Cnn(depth=2, width=4), "reg": s.Reg(dropout=s.Dropout(0.4))},
    "mixed": {"reg": s.Reg(mixup=s.Mixup(0.3))},
    "transformer, sampled": {
        "model": s.Vit(depth=1, width=8, heads=2),
        "reg": s.Reg(dropout=s.Dropout(0.2), attention_dropout=s.AttentionDropout(0.2)),
        "trainer": {"mc_dropout": 2, "save": "predictions"},
        "optimizer": s.Sgd(lr=0.1),  # a key's bias has no gradient but rounding, which adam would scale up
    },
    "regression": {"data": s.Sklearn(name="diabetes")},
    "batchnorm": {"reg": s.Reg(batchnorm=s.BatchNorm(active=True))},
    "batchnorm images": {"model": s.Cnn(depth=2, width=4), "reg": s.Reg(batchnorm=s.BatchNorm(active=True))},
    "batchnorm, even batches": {
        "reg": s.Reg(batchnorm=s.BatchNorm(active=True)),
        "data": s.Digits(train_size=256),
        "trainer": {"batch_size": 64},
    },
    "sync": {"reg": s.Reg(batchnorm=SYNC, dropout=s.Dropout(0.4)), "optimizer": s.Sgd(lr=0.1)},
    "sync, resnet": {
        "model": s.Resnet(depth=8, width=4),
        "reg": s.Reg(batchnorm=SYNC, stochastic_depth=s.StochasticDepth(0.3), sam=s.Sam(0.05)),
        "optimizer": s.Sgd(lr=0.1),
    },
    "sync, mixture": {"model": s.Moe(experts=2, width=8), "reg": s.Reg(batchnorm=SYNC), "optimizer": s.Sgd(lr=0.1)},
    "sync images": {"model": s.Cnn(depth=2, width=4), "reg": s.Reg(batchnorm=SYNC), "optimizer": s.Sgd(lr=0.1)},
}


def settings(name: str) -> s.Settings:
    """Batches of 45, which neither two processes nor the 256 examples are a multiple of."""
    case = CASES[name]
    data = case.get("data", s.Digits(train_size=256))
    return make(**(case | {"data": data, "trainer": {"batch_size": 45} | case.get("trainer", {})}))


def trained(name: str, peers: parallel.Peers) -> dict[str, Any]:
    """A case's rows, and its weights and outcome at the end, as plain data and tensors."""
    run = settings(name)
    (rows,), (end,) = train_rows([run], load(run.data), peers)
    return {
        "rows": [(type(row).__name__, asdict(row)) for row in rows],
        "last": end.last,
        "outcome": asdict(end.outcome),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    me = parallel.peers()
    with parallel.joined(me):
        ends = {name: trained(name, me) for name in CASES}
        torch.save(ends, Path(sys.argv[1]) / f"rank{me.rank}.pt")
