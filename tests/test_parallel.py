"""Several processes train one run as one process does: the same batches, gradients and rows, and one of them writes.

Two processes are started by torchrun once for all cases (`ranks`); where exit codes count, by the tests themselves.
"""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from conftest import make, train_rows
from torch.utils.data import DistributedSampler

from regrun import checks, layers, parallel, prepare
from regrun import settings as s
from regrun.data.batches import Batches
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.parallel import ALONE, Peers, Shard
from regrun.stack import Stack, new_stack

TESTS = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
PLACES = [Peers(rank, 2, rank) for rank in (0, 1)]
SMALL = ["data.train_size=256", "model=shallow", "trainer.epochs=2", "trainer.progress=plain"]


def processes(folder: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each of two processes that are told what torchrun tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-m", "regrun", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(command, cwd=folder, env=os.environ | told | {"RANK": r, "LOCAL_RANK": r}, **pipes)
        for r in ("0", "1")
    ]
    said = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *own) for process, own in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has trained: every case of `ranks`."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([*TORCHRUN, str(TESTS / "ranks.py"), str(folder)], check=True, capture_output=True, timeout=300)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def numbers(rows: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, list[float]]]:
    return [(kind, [v for v in row.values() if isinstance(v, int | float)]) for kind, row in rows]


@pytest.mark.parametrize("name", [name for name in ranks.CASES if name not in ranks.SHARDED])
def test_two_processes_give_the_rows_and_weights_of_one(name: str, ends: list[dict[str, Any]]) -> None:
    """Within 3e-6, relative to the larger of a figure and 1: two epochs of six batches, the last one ragged."""
    alone, together = ranks.trained(name, ALONE), ends[0][name]
    for (kind, own), (other, theirs) in zip(numbers(alone["rows"]), numbers(together["rows"]), strict=True):
        assert kind == other
        assert theirs == pytest.approx(own, rel=3e-6, abs=3e-6)
    for key, weight in alone["last"].items():
        torch.testing.assert_close(together["last"][key], weight, rtol=0, atol=3e-6)
    figures = {key: value for key, value in together["outcome"].items() if isinstance(value, float)}
    assert figures == pytest.approx({key: alone["outcome"][key] for key in figures}, rel=3e-6, abs=3e-6)
    assert together["outcome"]["status"] == "ok"
    acted = {key: figure for key, figure in together["outcome"]["acted"].items() if figure is not None}
    assert list(acted) == s.requested(ranks.settings(name))


@pytest.mark.parametrize("name", ranks.SHARDED)
def test_batch_norm_by_shards_gives_other_rows(name: str, ends: list[dict[str, Any]]) -> None:
    alone, together = ranks.trained(name, ALONE), ends[0][name]
    assert together["outcome"]["status"] == "ok"
    assert abs(together["outcome"]["train_loss_last"] - alone["outcome"]["train_loss_last"]) > 1e-4


def test_batch_norm_by_shards_learns_what_ghost_batches_of_their_size_do(ends: list[dict[str, Any]]) -> None:
    """Even batches: the weights are the same. The running statistics are not: they are rank 0's alone."""
    name = "batchnorm, even batches"
    ghost = {"reg": s.Reg(batchnorm=s.BatchNorm(active=True, ghost_batch=32))}
    _, (end,) = train_rows([make(**(ranks.CASES[name] | ghost))], ranks.load(s.Digits()))
    differ = {k for k, w in end.last.items() if not torch.allclose(ends[0][name]["last"][k], w, rtol=0, atol=3e-6)}
    assert differ == {f"norm{i}.running_{kind}" for i in (1, 2) for kind in ("mean", "var")}


@pytest.mark.parametrize("name", ranks.CASES)
def test_every_process_has_the_same_rows_and_weights_bit_for_bit(name: str, ends: list[dict[str, Any]]) -> None:
    first, second = (end[name] for end in ends)
    assert first["rows"] == second["rows"]
    assert all(torch.equal(weight, second["last"][key]) for key, weight in first["last"].items())


@pytest.mark.parametrize(("batch", "size"), [(64, 2), (45, 2), (64, 3), (7, 5), (2, 4)])
def test_shards_are_the_stretches_of_a_batch(batch: int, size: int) -> None:
    shards = [Peers(rank, size).shard(batch) for rank in range(size)]
    assert [i for shard in shards for i in range(batch)[shard.slice]] == list(range(batch))
    lengths = [shard.end - shard.begin for shard in shards]
    assert max(lengths) - min(lengths) <= 1
    assert sum(shard.share for shard in shards) == pytest.approx(1)


def test_a_batch_has_the_examples_that_distributed_sampler_hands_out_in_a_step() -> None:
    """It deals an order out one by one, and repeats examples so that all get as many; the sets are the same."""
    order, batch = list(range(100, 196)), 16
    samplers = [DistributedSampler(order, num_replicas=2, rank=rank, shuffle=False) for rank in (0, 1)]
    dealt = [[order[i] for i in sampler] for sampler in samplers]
    for begin in range(0, len(order), batch):
        whole = order[begin : begin + batch]
        half = slice(begin // 2, (begin + batch) // 2)
        assert sorted(dealt[0][half] + dealt[1][half]) == whole
        assert [i for peers in PLACES for i in whole[peers.shard(batch).slice]] == whole


def stack_of(run: s.Settings, source: Source, peers: Peers) -> tuple[Stack, Batches]:
    batches = Batches(source, [split(source, run.data, run.seeds)], [run], torch.device("cpu"))
    return new_stack([run], batches, peers), batches


NORMS = {"none": s.Reg(), "layer": s.Reg(layernorm=s.LayerNorm(True)), "batch": s.Reg(batchnorm=s.BatchNorm(True))}


@pytest.mark.parametrize(
    ("norm", "examples"), [("none", 64), ("none", 2), ("layer", 64), ("layer", 45), ("batch", 64), ("batch", 45)]
)
def test_shards_gradients_add_up_to_the_batchs_unless_batch_norm_takes_theirs(
    norm: str, examples: int, digits: Source
) -> None:
    """To 1e-6; with dropout, whose masks are those of the whole batch. With batch norm they do not, by over 1e-3."""
    run = make(reg=replace(NORMS[norm], dropout=s.Dropout(0.3)))
    gradients, losses = [], []
    for peers in (ALONE, *PLACES):
        stack, batches = stack_of(run, digits, peers)
        with torch.no_grad():
            x, targets = batches.train_batch(batches.order(1)[:, :examples], batches.augmenters(1))
            masks = stack._masks(stack.mask_streams(1, batch_size=64, steps=1), examples)
            losses.append(stack._backward(x, targets, masks, None))
        gradients.append(stack.gradient.clone())
    distance = (gradients[0] - gradients[1] - gradients[2]).abs().max().item()
    assert distance > 1e-3 if norm == "batch" else distance < 1e-6
    assert norm == "batch" or torch.allclose(losses[0], losses[1] + losses[2], rtol=1e-6)


def test_pixels_and_back() -> None:
    images = torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    pixels = layers.to_pixels(images)
    assert pixels.shape == (1, 90, 4) and pixels.data_ptr() == images.data_ptr()
    assert torch.equal(pixels[0, :, 1], images[:, 1].flatten())
    assert torch.equal(layers.from_pixels(pixels, images.shape), images)


@pytest.mark.long
def test_torchrun_writes_once_and_says_everything_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [*TORCHRUN, "-m", "regrun", *SMALL, "reg=dropout", "hydra.run.dir=two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    alone = [sys.executable, "-m", "regrun", *SMALL, "reg=dropout", "hydra.run.dir=one"]
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    one, two = tmp_path / "one", tmp_path / "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert done.stdout == (two / "run.log").read_text() and done.stdout.count("epoch 2/2") == 1
    for own, other in zip(table(one / "curves.csv"), table(two / "curves.csv"), strict=True):
        assert own | {"loss": ""} == other | {"loss": ""}  # the run_id as well
        assert float(own["loss"]) == pytest.approx(float(other["loss"]), rel=3e-6)
    (first,), (second,) = table(one / "summary.csv"), table(two / "summary.csv")
    assert (first["world_size"], second["world_size"]) == ("1", "2")
    assert first["fingerprint"] != second["fingerprint"] and first["run_id"] == second["run_id"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("optimizer.lr=-1",), ["optimizer.lr"]),
        (("hydra.run.dir=taken", "data.train_size=65"), ["hydra.run.dir", "trainer.batch_size"]),
        (("-m", "seed=1,2"), ["torchrun"]),
        (("audit",), ["torchrun"]),
    ],
)
def test_a_mistake_is_said_once_and_all_exit_2(arguments: tuple[str, ...], says: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (code, output, errors), *others = processes(tmp_path, *arguments)
    assert code == 2 and output == ""
    assert [line.split(": ")[:2] for line in errors.splitlines()] == [["regrun", where] for where in says]
    assert others == [(2, "", "")]
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_run_that_diverges_exits_1_in_all_and_has_its_row(tmp_path: Path) -> None:
    lines = ["optimizer=sgd", "optimizer.lr=1e30", "hydra.run.dir=run"]
    assert [code for code, _, _ in processes(tmp_path, *SMALL, *lines)] == [1, 1]
    (row,) = table(tmp_path / "run" / "summary.csv")
    assert row["status"] == "diverged"


@pytest.mark.long
def test_when_a_process_dies_the_other_ends_and_nothing_claims_success(tmp_path: Path) -> None:
    """Each dies at the end of the time that it is given; the second process is given less."""
    lines = [*SMALL, "trainer.epochs=100000", "trainer.early_stopping.patience=null", "hydra.run.dir=run"]
    script = f'[ "$RANK" = 0 ] || limit="timeout -s KILL 12"; exec $limit {sys.executable} -m regrun {" ".join(lines)}'
    command = [*TORCHRUN, "--no-python", "bash", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    summary = tmp_path / "run" / "summary.csv"
    assert [row["status"] for row in (table(summary) if summary.exists() else [])] in ([], ["failed"])


TOLD = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "host"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, ALONE),
        (TOLD, Peers(1, 4, 0)),
        (TOLD | {"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        *[({k: v for k, v in TOLD.items() if k != missing}, ALONE) for missing in TOLD],
    ],
)
def test_who_there_is_comes_from_torchruns_environment(environment: Mapping[str, str], found: Peers) -> None:
    assert parallel.peers(environment) == found


def test_alone_nothing_is_said_to_anybody() -> None:
    t = torch.ones(3)
    assert ALONE.add(t) is t and ALONE.mean(t) is t and torch.equal(t, torch.ones(3))
    assert ALONE.told(4) == 4 and ALONE.agreed(lambda: 5) == 5
    assert ALONE.shard(10) == Shard(ALONE, 0, 10, 10)


def test_the_number_of_processes_makes_another_run_only_where_batch_norm_takes_shards() -> None:
    active, sync = (s.Reg(batchnorm=s.BatchNorm(active=True, sync=sync)) for sync in (False, True))
    for reg, differs in ((s.Reg(), False), (active, True), (sync, False)):
        run = make(reg=reg)
        assert (prepare.run_id(run) != prepare.run_id(run, PLACES[0])) == differs
        assert prepare.run_id(run, PLACES[0]) == prepare.run_id(run, PLACES[1])
        assert bool(list(checks.parallel_warnings(run, 2))) == differs
        assert not list(checks.parallel_warnings(run, 1))


@pytest.mark.parametrize(
    ("sync", "active", "smallest", "size", "wrong"),
    [
        (False, False, 2, 2, ""),
        (False, False, 1, 2, "trainer.batch_size"),
        (False, True, 3, 2, "trainer.batch_size"),
        (False, True, 4, 2, ""),
        (True, True, 2, 2, ""),
        (True, True, 64, 1, "reg.batchnorm.sync"),
        (False, True, 2, 1, ""),
    ],
)
def test_every_process_needs_examples_of_every_batch(
    sync: bool, active: bool, smallest: int, size: int, wrong: str
) -> None:
    run = make(reg=s.Reg(batchnorm=s.BatchNorm(active=active, sync=sync)))
    lines = list(checks.parallel_conflicts(run, smallest, size))
    assert [line.partition(":")[0] for line in lines] == ([wrong] if wrong else [])
