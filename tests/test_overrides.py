"""What sets the runs of a plan apart, as overrides that one can copy."""

import csv
import io
import shlex

import pytest

from regrun import config, overrides, plan, prepare
from regrun.settings import KINDS


def planned(*lines: str) -> list[dict[str, str]]:
    """The plan of a sweep, as its table has it."""
    runs = prepare.prepare(config.jobs(["hydra.sweep.dir=s", *lines], multirun=True))
    return list(csv.DictReader(io.StringIO(plan.text(runs), newline="")))


@pytest.mark.parametrize(
    "swept",
    [
        ["optimizer.lr=0.1,0.01", "reg=none,dropout,[dropout,batchnorm]", "seed=1,2"],
        ["model=linear,shallow,wide,deep,residual,cnn"],
        ["model=shallow,cnn", "optimizer=sgd,momentum,rmsprop,adam,adamw", "optimizer.lr=0.1,0.2"],
        ["scheduler=constant,exponential,step,cosine", "data=digits,moons"],
        ["model.widths=null,[75,45],[10]", "trainer.grad_clip=null,1", "reg.l1.mode=penalty,proximal"],
        ["reg.weight_decay.exclude=none,norm_bias", "data.normalize=none,unit", "reg.batchnorm.active=true,false"],
        ["seeds.init=1,2", "seed=1,3"],
    ],
    ids=lambda lines: lines[0],
)
@pytest.mark.long
def test_the_words_of_a_run_give_that_run(swept: list[str]) -> None:
    rows = planned(*swept)
    names = overrides.varying(rows)
    for row in rows:
        (job,) = config.jobs(shlex.split(overrides.words(row, names)), multirun=False)
        assert prepare.run_id(job.settings) == row["run_id"]


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        (["optimizer.lr=0.1,0.01", "seed=1,2"], "optimizer.lr=0.1 seed=1"),
        (["optimizer=momentum,sgd"], "optimizer=momentum"),
        (["model=cnn,deep"], "model=cnn"),
        (["model=cnn,shallow"], "model=cnn model.depth=2 model.width=32"),
        (["model.widths=[75,45],null"], "model.depth=2 'model.widths=[75,45]'"),
        (["trainer.grad_clip=null,1.5"], "trainer.grad_clip=null"),
        (["seed=1"], ""),
    ],
)
def test_words_name_what_differs_and_nothing_else(swept: list[str], words: str) -> None:
    rows = planned(*swept)
    assert overrides.words(rows[0], overrides.varying(rows)) == words


def test_settings_that_differ_only_in_seeds_are_the_same() -> None:
    names = overrides.varying(planned("optimizer.lr=0.1,0.01", "seed=1,2", "seeds.init=3,4"))
    assert names == ["optimizer.lr", "seed", "seeds.init"]
    assert overrides.without_seeds(names) == ["optimizer.lr"]


@pytest.mark.long
def test_every_kind_has_an_option_that_gives_it() -> None:
    for group, kinds in KINDS.items():
        for kind in kinds:
            (job,) = config.jobs([f"{group}={overrides.OPTION.get(kind, kind)}"], multirun=False)
            assert getattr(job.settings, group).kind == kind
