"""A mistake is one clear line for each problem, an exit code, and nothing else: no traceback, no file."""

import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import mistaken
import numpy as np
import pytest
import torch
from conftest import MNIST_ROOT, needs_mnist
from numpy.typing import NDArray

from regrun import checks
from regrun import settings as s
from regrun.cli import main
from regrun.data.sources import MNIST_SHA256, load

Refused = Callable[..., list[str]]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The lines that a command line is refused with, in a folder that it leaves as it was."""
    monkeypatch.chdir(tmp_path)

    def refuse(*argv: str, code: int = 2) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        assert main(list(argv)) == code
        output, errors = capsys.readouterr()
        assert output == ""
        assert "Traceback" not in errors
        assert sorted(tmp_path.rglob("*")) == before
        return checked(errors)

    return refuse


def checked(errors: str) -> list[str]:
    """The lines of stderr, without `regrun: `, which starts each, and none of which is long."""
    lines = errors.splitlines()
    assert all(line.startswith("regrun: ") for line in lines)
    assert all(len(line) <= 220 for line in lines)
    return [line.removeprefix("regrun: ") for line in lines]


# A command line (blanks part its words), and what its one line says first.
MISTAKES = [
    # keys, options and kinds that are not there
    ("model=resnett", "model"),
    ("model=/schema/model/cnn", "model"),
    ("model=null", "model=null"),
    ("reg=[[dropout]]", "reg"),
    ("experiment=none", "experiment"),
    ("model.kind=mlpp", "model.kind"),
    ("optimizer.kind=sgd", "optimizer.kind"),
    ("model@foo=deep", "model@foo"),
    ("hydra.nope=1", "hydra.nope"),
    # adding and deleting
    ("+optimizer.rho=1", "optimizer.rho"),
    ("++foo.bar=1", "foo"),
    ("+reg.dropout.rate=0.3", "reg.dropout.rate"),
    ("+experiment=smoke", "+experiment"),
    ("~optimizer.lr", "optimizer.lr"),
    ("~reg", "~reg"),
    ("~nothing", "nothing"),
    # types
    ("model.depth=three", "model.depth"),
    ("model.widths=75", "model.widths"),
    ("optimizer.lr=true", "optimizer.lr"),
    ("optimizer.betas=[0.9]", "optimizer.betas"),
    ("optimizer={lrr:1}", "optimizer"),
    ("reg.batchnorm.active=1", "reg.batchnorm.active"),
    ("trainer.early_stopping=false", "trainer.early_stopping"),
    # ranges
    ("seed=-1", "seed"),
    ("model.widths=[0]", "model.widths"),
    ("reg.dropout.rate=1", "reg.dropout.rate"),
    ("reg={dropout:{rate:2}}", "reg.dropout.rate"),
    ("optimizer.lr=-1e-9", "optimizer.lr"),
    ("trainer.early_stopping.patience=0", "trainer.early_stopping.patience"),
    ("optimizer=adagrad optimizer.eps=0", "optimizer.eps"),
    ("optimizer=adadelta optimizer.rho=1", "optimizer.rho"),
    ("optimizer=nadam optimizer.momentum_decay=-1", "optimizer.momentum_decay"),
    ("scheduler=multiplicative scheduler.alpha=1.1", "scheduler.alpha"),
    ("scheduler=multistep scheduler.milestones=[0]", "scheduler.milestones"),
    ("scheduler=one_cycle scheduler.pct_start=1", "scheduler.pct_start"),
    ("scheduler=plateau scheduler.factor=1", "scheduler.factor"),
    ("scheduler=plateau scheduler.interval=step", "scheduler.interval"),
    ("scheduler=cyclic scheduler.step_size_up=0", "scheduler.step_size_up"),
    ("scheduler=cosine_restarts scheduler.t_mult=0", "scheduler.t_mult"),
    ("scheduler=table scheduler.lrs=[-1]", "scheduler.lrs"),
    ("scheduler.warmup=1", "scheduler.warmup"),
    ("trainer.accumulate=0", "trainer.accumulate"),
    ("trainer.grad_clip_value=0", "trainer.grad_clip_value"),
    ("trainer.averaging.kind=mean", "trainer.averaging.kind"),
    ("trainer.averaging.decay=1", "trainer.averaging.decay"),
    ("trainer.averaging.start=1", "trainer.averaging.start"),
    ("reg=dropout trainer.mc_dropout=-1", "trainer.mc_dropout"),
    ("trainer.save=all", "trainer.save"),
    ("reg.max_norm.value=0", "reg.max_norm.value"),
    ("reg.sam.rho=-1", "reg.sam.rho"),
    ("reg.rotation.degrees=181", "reg.rotation.degrees"),
    ("reg.randaugment.num_ops=-1", "reg.randaugment.num_ops"),
    ("reg=randaugment reg.randaugment.magnitude=31", "reg.randaugment.magnitude"),
    ("reg.trivialaugment.active=1", "reg.trivialaugment.active"),
    ("reg.jitter.brightness=-0.1", "reg.jitter.brightness"),
    ("reg.cutout.size=-1", "reg.cutout.size"),
    ("reg.erasing.rate=1.1", "reg.erasing.rate"),
    ("reg.mixup.alpha=-1", "reg.mixup.alpha"),
    ("reg.cutmix.alpha=-1", "reg.cutmix.alpha"),
    ("reg.spatial_dropout.rate=1", "reg.spatial_dropout.rate"),
    ("reg.stochastic_depth.rate=1", "reg.stochastic_depth.rate"),
    ("reg.dropout.kind=scaled", "reg.dropout.kind"),
    ("reg.groupnorm.groups=0", "reg.groupnorm.groups"),
    ("reg.groupnorm.eps=0", "reg.groupnorm.eps"),
    ("reg.batchnorm.ghost_batch=1", "reg.batchnorm.ghost_batch"),
    ("model.norm_position=middle", "model.norm_position"),
    ("trainer.early_stopping.rule=none", "trainer.early_stopping.rule"),
    ("trainer.early_stopping.gap=1", "trainer.early_stopping.gap"),
    ("trainer.early_stopping.alpha=0", "trainer.early_stopping.alpha"),
    ("trainer.early_stopping.smoothing=1", "trainer.early_stopping.smoothing"),
    ("optimizer=momentum optimizer.convention=mine", "optimizer.convention"),
    ("reg=weight_decay reg.weight_decay.exclude=output", "reg.weight_decay.exclude"),
    ("data=moons data.samples=10", "data.samples"),
    ("optimizer.lr=nan", "optimizer.lr"),
    ("optimizer.lr=inf", "optimizer.lr"),
    ("trainer.epochs=1e400", "trainer.epochs"),
    # conflicts
    ("reg=[batchnorm,layernorm]", "reg"),
    ("reg=[groupnorm,layernorm,batchnorm]", "reg"),
    ("reg=groupnorm model.width=20", "reg.groupnorm.groups"),
    ("reg=groupnorm model=residual model.width=20 model.widths=[16]", "reg.groupnorm.groups"),
    ("reg=groupnorm reg.groupnorm.groups=128", "reg.groupnorm.groups"),
    ("reg=groupnorm model=linear", "reg.groupnorm"),
    ("reg=spatial_dropout", "reg.spatial_dropout.rate"),
    ("reg=stochastic_depth", "reg.stochastic_depth.rate"),
    ("model=residual model.norm_position=post", "model.norm_position"),
    ("reg.batchnorm.ghost_batch=16", "reg.batchnorm.ghost_batch"),
    ("reg.batchnorm.sync=true", "reg.batchnorm.sync"),  # no batch norm
    ("reg=batchnorm reg.batchnorm.sync=true", "reg.batchnorm.sync"),  # one process
    ("reg=batchnorm reg.batchnorm.sync=true reg.batchnorm.ghost_batch=16", "reg.batchnorm.sync"),
    ("reg.dropout.rates=[0.1,0.2]", "reg.dropout.rates"),
    ("model=linear reg.dropout.rates=[0.1]", "reg.dropout.rates"),
    ("model=linear reg=dropout", "reg.dropout.rate"),
    ("model=linear reg=batchnorm", "reg.batchnorm"),
    *((f"data=moons reg={name}", f"reg.{name}") for name in checks.OF_IMAGES),
    ("reg.jitter.saturation=0.2", "reg.jitter.saturation"),
    ("reg.cutout.size=9", "reg.cutout.size"),
    ("data=moons model=cnn", "model"),
    ("model=cnn model.widths=null model.depth=4", "model.depth"),
    ("model=resnet model.depth=21", "model.depth"),
    ("data=moons model=resnet", "model"),
    ("data=moons model=vit", "model"),
    ("data=moons model=torchvision", "model"),
    ("model=vit model.patch=3", "model.patch"),
    ("model=vit model.heads=5", "model.heads"),
    ("model=vit reg=batchnorm", "reg.batchnorm"),
    ("model=vit reg=layernorm", "reg.layernorm"),
    ("model=vit reg=groupnorm", "reg.groupnorm"),
    ("model=vit reg=spatial_dropout", "reg.spatial_dropout.rate"),
    ("model=torchvision reg=groupnorm", "reg.groupnorm"),
    ("model=torchvision reg=stochastic_depth", "reg.stochastic_depth.rate"),
    ("model=moe model.top_k=5", "model.top_k"),
    ("model=moe model.experts=0", "model.experts"),
    ("reg=attention_dropout", "reg.attention_dropout.rate"),
    ("model=vit reg.attention_dropout.rate=1", "reg.attention_dropout.rate"),
    ("model=torchvision reg=dropout", "reg.dropout"),
    ("model=torchvision reg=batchnorm", "reg.batchnorm"),
    ("model=torchvision reg=layernorm", "reg.layernorm"),
    ("model=torchvision model.name=resnet19", "model.name"),
    ("model=torchvision model.name=inception_v3", "model.name"),
    ("model=torchvision trainer.batch_size=1", "model.name"),
    ("model=torchvision model.name=vgg11_bn model.small_stem=true", "model.small_stem"),
    ("model=torchvision model.weights=nowhere.pth", "model.weights"),
    ("reg=crop reg.crop.padding=8", "reg.crop.padding"),
    ("reg=batchnorm trainer.batch_size=1", "trainer.batch_size"),
    ("reg=sam trainer.accumulate=2", "trainer.accumulate"),
    ("trainer.mc_dropout=20", "trainer.mc_dropout"),
    ("trainer.save=snapshots", "trainer.save"),
    ("trainer.save=snapshots scheduler=cosine_restarts scheduler.interval=step", "trainer.save"),
    ("trainer.save=snapshots scheduler=cosine_restarts trainer.epochs=9", "scheduler.t_0"),
    ("scheduler=table scheduler.lrs=[]", "scheduler.lrs"),
    ("scheduler.warmup=0.001", "scheduler.warmup"),
    ("trainer.device=mps trainer.precision=bfloat16", "trainer.precision"),
    # what the data set shows
    ("data.val_size=1.5", "data.val_size"),
    ("data.val_size=5000", "data.val_size"),
    ("data.train_size=100000", "data.train_size"),
    ("reg=batchnorm data.train_size=1", "data.train_size"),
    ("data.drop_last=true trainer.batch_size=2000", "data.drop_last"),
    ("data=mnist data.root=nowhere data.download=false", "data.root"),
    # interpolations
    ("seed=${nope}", "seed"),
    ("seed=${seed}", "seed"),
    ("data=mnist data.root=${oc.env:NO_SUCH_VARIABLE}", "data.root"),
    ("hydra.run.dir=${nope}", "hydra.run.dir"),
    ("-m hydra.sweep.dir=${nope} seed=1,2", "hydra.sweep.dir"),
    # sweeps without -m, and sweeps of nothing
    ("reg=dropout,batchnorm", "reg"),
    ("seed=range(3)", "seed"),
    ("-m seed=range(1,0)", "seed"),
    ("-m seed=range(0,1,0)", "seed"),
    ("-m optimizer.lr=interval(0,1)", "optimizer.lr"),
    # grammar
    ("=5", "'=5'"),
    ("model==deep", "'model==deep'"),
    ("model.depth=[", "'model.depth=['"),
    ("reg=[dropout,", "'reg=[dropout,'"),
    ("seeds.init=${seed", "'seeds.init=${seed'"),
    ("seed=1 model", "'model'"),
    ("model:deep", "'model:deep'"),
    ("modèle=deep", "'modèle=deep'"),
    ("model='深い'", "model"),
    # flags, verbs, names of files
    ("train", "'train'"),
    ("describe runs", "'describe'"),
    ("ensemble", "ensemble"),
    ("ensemble nowhere", "ensemble"),
    ("ensemble . ..", "ensemble"),
    ("ensemble . --all --by seed", "--all"),
    ("seed=1 --by seed", "--by"),
    ("demo nope", "demo"),
    ("demo chain l1", "demo"),
    ("audit modell=deep", "modell"),
    ("audit model", "'model'"),
    ("audit seed=1,2", "seed"),
    ("-m audit seed=1,2", "audit"),
    ("audit --cfg job", "audit"),
    ("audit data.val_size=5000", "data.val_size"),
    ("--frobnicate", "unrecognized arguments: --frobnicate"),
    ("--multi seed=1,2", "unrecognized arguments: --multi"),
    ("--cfg nonsense", "argument --cfg/-c"),
    ("--cfg job modell=deep", "modell"),
    ("-sc", "-sc"),
    ("-sc install=nosh", "-sc"),
    ("--config-dir nowhere", "--config-dir"),
    ("--config-name nope", "nope"),
    ("hydra.searchpath=[file://nowhere]", "hydra.searchpath"),
]


@pytest.mark.parametrize(("line", "where"), MISTAKES)
def test_a_mistake_is_one_line_that_names_it(line: str, where: str, refused: Refused) -> None:
    [problem] = refused(*line.split(" "))
    assert problem.startswith((f"{where}:", f"{where}=", f"{where};"))


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("modell=deep", "model"),
        ("model=depp", "deep"),
        ("reg=[dropout,batchnom]", "batchnorm"),
        ("optimizer=addam", "adam"),
        ("experiment=smok", "smoke"),
        ("model.depht=3", "model.depth"),
        ("optimizr.lr=0.1", "optimizer.lr"),
        ("lr=0.1", "optimizer.lr"),
        ("batch_size=3", "trainer.batch_size"),
        ("trainer.patience=3", "trainer.early_stopping.patience"),
        ("+optimizer.lrr=1", "optimizer.lr"),
        ("++reg.dropout.rat=1", "reg.dropout.rate"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(word: str, nearest: str, refused: Refused) -> None:
    [problem] = refused(word)
    assert f"did you mean {nearest}" in problem.split("; ")


@pytest.mark.parametrize(
    "word",
    [
        "optimizer.lr=" + "x" * 5000,
        "model=" + "y" * 5000,
        "k" * 5000 + "=1",
        "x" * 5000,
        "--" + "x" * 5000,
        "--cfg=" + "x" * 5000,
        "--config-dir=" + "x" * 5000,
        "--config-name=" + "x" * 5000,
        "model.widths=[" + "8," * 500 + "0]",
        "reg=[" + "dropot," * 100 + "none]",
        "seed=${" + "x" * 5000 + "}",
        "seed=1" + "0" * 400,
        "model.depth=" + "9" * 5000,
        "optimizer.lr=1" + "0" * 400,
        "data.val_size=1" + "0" * 400,
        "model.activation='two\nlines'",
        "hydra.run.dir=" + "x/" * 20 + "${nope}",
    ],
    ids=lambda word: f"{word[:24]}...",
)
def test_a_very_long_word_is_answered_in_one_short_line(word: str, refused: Refused) -> None:
    assert len(refused(word)) == 1


@pytest.mark.parametrize(
    ("line", "wheres"),
    [
        ("modell=deep optimizer.lrr=1 model.depth=two", ["modell", "optimizer.lrr", "model.depth"]),
        ("model=depp reg=[dropot,flop] seed=-1", ["model", "reg", "reg", "seed"]),
        ("data.val_size=0 reg.dropout.rate=2 model.width=-4", ["model.width", "reg.dropout.rate", "data.val_size"]),
        ("+foo=1 ~optimizer.lr seed=x", ["foo", "optimizer.lr", "seed"]),
        (
            "reg=[batchnorm,layernorm] trainer.batch_size=1 data.val_size=1.5",
            ["reg", "data.val_size", "trainer.batch_"],
        ),
        ("model=[ seed=1,2 train", ["'model=['", "seed", "'train'"]),
        ("modell=deep modell=deep", ["modell"]),
        ("-m model=depp,wid,deep", ["model", "model"]),
        ("-m optimizer.lr=0.1,-1,nan seed=range(3)", ["optimizer.lr", "optimizer.lr"]),
        ("-m reg=none,dropout,batchnom seed=range(2)", ["reg"]),
        ("-m model=linear,deep reg=none,dropout optimizer.lr=0.1,x", ["optimizer.lr", "reg.dropout.rate"]),
        ("-m data=moons model=cnn,deep reg=crop", ["model", "reg.crop"]),
        ("-m data.val_size=0.1,0.9999,5000 seed=1,2", ["data.val_size", "data.val_size"]),
        ("-m data.train_size=1,10,5000 reg=batchnorm", ["data.train_size", "data.train_size"]),
    ],
)
def test_each_of_several_mistakes_has_its_line(line: str, wheres: list[str], refused: Refused) -> None:
    """In whatever order; a sweep's runs that share a mistake share its line."""
    problems = sorted(refused(*line.split(" ")))
    assert len(problems) == len(wheres)
    assert all(problem.startswith(where) for problem, where in zip(problems, sorted(wheres), strict=True))


@pytest.mark.parametrize("kind", mistaken.KINDS, ids=lambda kind: kind.__name__)
def test_mistakes_made_from_the_settings_are_refused_as_well(
    kind: mistaken.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [(words, mistaken.problem(words, where)) for words, where in islice(mistaken.of(kind, seed=0), 2)]
    assert [(words, problem) for words, problem in found if problem] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_is_not_there_is_a_mistake(refused: Refused) -> None:
    [problem] = refused("trainer.device=cuda")
    assert problem.startswith("trainer.device: ")


def test_a_taken_folder_is_left_as_it_was(refused: Refused) -> None:
    Path("taken").mkdir()
    Path("taken/mine.txt").touch()
    [problem] = refused("hydra.run.dir=taken")
    assert problem.startswith("hydra.run.dir: ")
    assert "taken" in problem


@pytest.mark.parametrize(
    "line", ["hydra.sweep.dir=sweep seed=1,2", "hydra.sweep.dir=new hydra.sweep.subdir=same seed=1,2"]
)
def test_folders_that_runs_of_a_sweep_cannot_have_are_found_before_the_first_one(line: str, refused: Refused) -> None:
    Path("sweep/1").mkdir(parents=True)
    Path("sweep/1/mine.txt").touch()
    [problem] = refused("-m", "trainer.epochs=0", *line.split(" "))
    assert problem.startswith("hydra.sweep.")


@pytest.mark.parametrize("line", ["hydra.run.dir=file", "hydra.run.dir=file/a/b", "-m hydra.sweep.dir=file seed=1,2"])
def test_a_folder_that_cannot_be_made_is_the_environments_fault(line: str, refused: Refused) -> None:
    Path("file").touch()
    [problem] = refused(*line.split(" "), code=4)
    assert problem.startswith("file")


def idx(values: NDArray[np.uint8]) -> bytes:
    """The format of MNIST's authors: magic, sizes, values."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_tiny(raw: Path) -> None:
    """Four right files, of 8 and 4 images."""
    raw.mkdir(parents=True)
    for name, count in zip(MNIST_SHA256, (8, 8, 4, 4), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        (raw / name).write_bytes(idx(np.ones(shape, np.uint8)))


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def test_right_idx_files_are_read(tmp_path: Path) -> None:
    """So that what follows is refused for what is wrong with it."""
    write_tiny(tmp_path / "KMNIST" / "raw")
    assert load(s.Mnist(kind="kmnist", root=str(tmp_path))).inputs.shape == (12, 1, 28, 28)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (IMAGES, lambda raw: raw[:-1]),
        (IMAGES, lambda raw: raw + b"\0"),
        (IMAGES, lambda raw: raw[:10]),
        (IMAGES, lambda raw: b""),
        (IMAGES, lambda raw: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        (IMAGES, lambda raw: b"\0\0\x0d" + raw[3:]),
        (IMAGES, lambda raw: idx(np.ones((8, 28), np.uint8))),
        (IMAGES, lambda raw: idx(np.ones((8, 20, 20), np.uint8))),
        (LABELS, lambda raw: idx(np.full(4, 10, np.uint8))),
        (LABELS, lambda raw: idx(np.ones(3, np.uint8))),
        (LABELS, lambda raw: idx(np.ones((4, 1), np.uint8))),
        (LABELS, lambda raw: idx(np.ones(0, np.uint8))),
    ],
    ids=[
        "cut",
        "grown",
        "no header",
        "empty",
        "html",
        "floats",
        "rows",
        "small images",
        "label 10",
        "a label missing",
        "labels in columns",
        "no labels",
    ],
)
def test_a_corrupt_file_is_corrupt_input(name: str, damage: Callable[[bytes], bytes], refused: Refused) -> None:
    raw = Path("root/KMNIST/raw")
    write_tiny(raw)
    (raw / name).write_bytes(damage((raw / name).read_bytes()))
    [problem] = refused("data=kmnist", "data.root=root", "data.val_size=1", "trainer.epochs=0", code=3)
    assert problem.startswith("root/KMNIST/raw")


@needs_mnist
@pytest.mark.parametrize("position", [0, 8, -1])
def test_one_altered_byte_of_mnist_is_corrupt_input(position: int, refused: Refused) -> None:
    raw = Path("root/MNIST/raw")
    raw.mkdir(parents=True)
    for name in MNIST_SHA256:
        (raw / name).symlink_to(MNIST_ROOT / "MNIST" / "raw" / name)
    altered = bytearray((raw / LABELS).read_bytes())
    altered[position] ^= 1
    (raw / LABELS).unlink()
    (raw / LABELS).write_bytes(altered)
    [problem] = refused("data=mnist", "data.root=root", code=3)
    assert problem.startswith(str(raw / LABELS))


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["modell=deep", "seed=-1"], 2),
        (["reg=[batchnorm,layernorm]"], 2),
        (["-m", "model=deep,depp"], 2),
        (["model='深い'"], 2),
        (["hydra.run.dir=/dev/null/below"], 4),
        (["model.depth=" + "9" * 5000], 2),
        (["model.activation=\x1b[2J"], 2),
        (["seed=${oc.env:NO_SUCH_VARIABLE}"], 2),
        (["-m", "hydra.sweep.subdir=../out", "seed=1,2"], 2),
        (["--config-dir", "nowhere"], 2),
        (["resume", "nowhere"], 2),
    ],
)
def test_the_command_itself_refuses_in_the_same_way(argv: list[str], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "regrun", *argv]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert checked(done.stderr)
    assert not list(tmp_path.iterdir())
