"""What the tests share: settings in a line, rows of a run, real data where it exists."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from regrun import settings as s
from regrun.cli import main
from regrun.data.sources import Source, load
from regrun.data.split import split
from regrun.ending import Finished
from regrun.parallel import ALONE, Peers
from regrun.rows import EpochRow
from regrun.trainer import train

# Commands that tests interrupt must hear Ctrl-C, even where the tests were started deaf to it (nohup, a shell's &).
signal.signal(signal.SIGINT, signal.default_int_handler)

MNIST_ROOT = Path(os.environ.get("REGRUN_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_mnist = pytest.mark.skipif(not (MNIST_ROOT / "MNIST" / "raw").is_dir(), reason=f"no MNIST in {MNIST_ROOT}")


# What an option of `reg` needs, to have a place.
NEEDS = {
    "spatial_dropout": ["model=cnn"],
    "stochastic_depth": ["model=residual"],
    "attention_dropout": ["model=vit"],
}


Said = Callable[..., list[str]]
Refused = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command that ends well prints."""

    def say(*words: object) -> list[str]:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out.splitlines()

    return say


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line that a command is refused with."""

    def refuse(*words: object, code: int = 2) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        output, errors = capsys.readouterr()
        assert output == "" and len(errors.splitlines()) == 1
        return errors.removeprefix("regrun: ").rstrip()

    return refuse


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The laws of bits hold at one thread; what a run sets for the whole process is undone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(scope="session")
def digits() -> Source:
    """The embedded default data set."""
    return load(s.Digits())


def make(**changes: Any) -> s.Settings:
    """Resolved settings: a small MLP on digits for two epochs, but for `changes` of its groups.

    `trainer` may be a dict of changes to that small default.
    """
    trainer = s.Trainer(
        **({"epochs": 2, "early_stopping": s.EarlyStopping(patience=None)} | changes.pop("trainer", {}))
    )
    return s.resolve(s.Settings(**({"model": s.Mlp(depth=2, width=24)} | changes), trainer=trainer))


def train_rows(runs: list[s.Settings], source: Source, peers: Peers = ALONE) -> tuple[list[list[Any]], list[Finished]]:
    """Each run's rows, and its end, from one stack; without what time and names change."""
    ids = [f"run{i}" for i in range(len(runs))]
    rows: dict[str, list[Any]] = {i: [] for i in ids}
    ends: dict[str, Finished] = {}
    splits = [split(source, r.data, r.seeds) for r in runs]
    for news in train(runs, ids, source, splits, torch.device("cpu"), peers):
        if isinstance(news, Finished):
            ends[news.outcome.run_id] = replace(news, outcome=replace(news.outcome, run_id=""))
            continue
        for row in news:
            timeless = {"seconds": 0.0, "examples_per_second": 0.0} if isinstance(row, EpochRow) else {}
            rows[row.run_id].append(replace(row, run_id="", **timeless))
    return [rows[i] for i in ids], [ends[i] for i in ids]
