"""Configuration: what Hydra composes is what a run gets."""

import functools
import itertools
import re
from pathlib import Path

import pytest
import yaml
from conftest import NEEDS
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regrun import config
from regrun import settings as s
from regrun.errors import ConfigError
from regrun.paths import conf_dir

FILES = sorted(conf_dir().rglob("*.yaml"))
GROUPS = {path.parent for path in FILES if path.parent.parent == conf_dir()} - {conf_dir() / "study"}
OPTIONS = [(path.parent.name, path.stem) for path in FILES if path.parent in GROUPS]
REGULARIZERS = [option for group, option in OPTIONS if group == "reg"]

LINES = [
    "",
    "model=linear",
    "model=residual model.zero_residual=true",
    "model=cnn model.widths=[4,8]",
    "model=cnn model.widths=null model.depth=1",
    "model=[deep,wide]",
    "model.width=7 model=wide",
    "model.widths=[75,45]",
    "reg=dropout",
    "reg=none",
    "reg=[]",
    "reg=[dropout,dropout]",
    "reg=[dropout,batchnorm,weight_decay]",
    "reg=[layernorm,l1,l2,label_smoothing,noise,crop,flip]",
    "reg=[rotation,randaugment,trivialaugment,jitter,cutout,erasing,mixup,cutmix] reg.randaugment.magnitude=5",
    "reg=[batchnorm,stochastic_depth] model=residual reg.batchnorm.ghost_batch=16 reg.dropout.kind=classic",
    "reg=[groupnorm,spatial_dropout] model=cnn_small model.norm_position=post reg.groupnorm.groups=16",
    "reg.dropout.rate=0.7 reg=dropout",
    "reg={dropout:{rate:0.3}}",
    "reg.dropout.rates=[0.5,0.3,0,0,0,0,0,0.1]",
    "optimizer=nesterov optimizer.momentum=0.5",
    "optimizer=rmsprop optimizer.centered=true",
    "optimizer.lr=1.5E+2 optimizer.eps=1e-3",
    "optimizer.lr=.5",
    "optimizer.betas=[0.5,9e-1]",
    "++optimizer.lr=0.3",
    "++reg.noise.std=0.3 ++seed=4",
    "optimizer={lr:0.3,amsgrad:true}",
    "scheduler=step scheduler.step_size=3 scheduler.gamma=0.5",
    "scheduler=warmup_cosine scheduler.warmup=0.25 scheduler.interval=epoch",
    "scheduler=table scheduler.lrs=[0.1,1e-3] scheduler.interval=step",
    "scheduler=multistep scheduler.milestones=[2,5] scheduler.warmup=0.1",
    "scheduler=plateau scheduler.monitor=val_accuracy",
    "data=moons data.noise=0 data.samples=50",
    "data=kmnist data.root='a b, c'",
    'data=mnist data.root="it\'s" data.download=false',
    "data=fashion_mnist data.val_size=6000",
    "data.val_size=1e2 data.train_size=500",
    "trainer.early_stopping={patience:3,min_delta:1e-3}",
    "trainer.accumulate=4 trainer.averaging={kind:ema,decay:0.9} trainer.grad_clip_value=0.5",
    "reg=[max_norm,sam] trainer.averaging.kind=swa trainer.averaging.start=0.5",
    "trainer.grad_clip=1 trainer.time_limit=null trainer.epochs=3.0",
    "seed=3 seeds.init=${seed}",
    "seed=2 seeds={init:1,order:${seed}}",
    "trainer.batch_size=${model.width}",
    "model.width=9 experiment=smoke",
    "experiment=smoke trainer.epochs=1 seed=5",
    "experiment=lecture_batch_64",
    "experiment=lecture_batch_64 reg=[] reg.dropout.rates=null",
    "experiment=lecture_batch_1024 data=digits data.val_size=100 optimizer=adam",
    "experiment=[smoke,lecture_batch_64]",
    "~reg +reg=dropout",
    "~seed +seed=4",
    "~experiment experiment=smoke",
    "+experiment=[smoke]",
    "+model.widths=[1,2]",
    "seeds.init=null trainer.grad_clip=${optimizer.lr}",
    "model.widths=[${seed},4] seed=3",
    "trainer.epochs=${trainer.batch_size} trainer.batch_size=${model.width} model.width=16",
    "optimizer.lr=${oc.decode:'0.25'}",
]
REFUSED = [
    "~reg +reg=[dropout,l2]",
    "~reg.dropout",
    "~scheduler +scheduler=step",
    "~model +model=cnn",
    "optimizer.lr=${oc.env:NO_SUCH_VARIABLE,'0.25'}",
    "~model.widths +model.widths=[75,45]",
    "~trainer.grad_clip ++trainer.grad_clip=2",
    "+experiment=smoke",
    "reg@foo=dropout",
    "+optimizer.lrr=1",
    "optimizer.lrr=1",
    "model=depp",
    "seed=${sead}",
    "optimizer={lrr:1}",
]


def chosen(group: str, option: str) -> str:
    """The line that chooses an option, and what it needs."""
    return " ".join([f"{group}={option}", *NEEDS.get(option, [])])


def words(line: str) -> list[str]:
    """The overrides of a line; a blank inside quotes parts none."""
    return re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+", line)


@functools.cache
def one(line: str) -> s.Settings:
    return config.jobs(words(line), multirun=False)[0].settings


def by_hydra(overrides: list[str]) -> s.Settings:
    composed = OmegaConf.create(config.compose_with_hydra(overrides))
    return s.resolve(config.from_yaml(OmegaConf.to_yaml(composed, resolve=True)))


@pytest.mark.parametrize("line", LINES)
def test_a_run_is_what_hydra_composes(line: str) -> None:
    assert one(line) == by_hydra(words(line))


@pytest.mark.parametrize("line", REFUSED)
def test_what_hydra_or_the_settings_refuse_is_refused(line: str) -> None:
    with pytest.raises(ConfigError):
        one(line)
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException)):
        by_hydra(words(line))


def test_each_run_of_a_sweep_is_what_hydra_composes_in_hydras_order() -> None:
    """The last override varies fastest; runs that share a choice of groups do not share values."""
    axes = [["reg=[]", "reg=[dropout,l2]"], ["model.width=3", "model.width=4"]]
    line = ["reg=[],[dropout,l2]", "seed=7", "model.width=choice(3,4)"]
    runs = [job.settings for job in config.jobs(line, multirun=True)]
    assert runs == [by_hydra([reg, "seed=7", width]) for reg, width in itertools.product(*axes)]


def test_an_interpolation_holds_in_each_run_of_a_sweep() -> None:
    jobs = config.jobs(["seed=3,4", "seeds.init=${seed}", "model.width=${trainer.batch_size}"], multirun=True)
    assert [(j.settings.seeds.init, j.settings.model.width) for j in jobs] == [(3, 64), (4, 64)]


def test_a_folder_of_ones_own_has_options(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "fast.yaml").write_text("# @package _global_\n# Mine\noptimizer:\n  lr: 0.5\n")
    command = config.command(["experiment=fast,smoke"], multirun=True, config_dir=tmp_path)
    assert [job.settings.optimizer.lr for job in command.jobs] == [0.5, 0.01]
    with pytest.raises(ConfigError, match="experiment: no such option, got 'fst'; did you mean fast"):
        config.command(["experiment=fst"], multirun=False, config_dir=tmp_path)


def test_glob_sweeps_over_the_options_of_a_group() -> None:
    kinds = [job.settings.optimizer.kind for job in config.jobs(["optimizer=glob(adam*)"], multirun=True)]
    assert kinds == ["adam", "adamax", "adamw"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_a_known_kind(group: str, option: str) -> None:
    run = one(chosen(group, option))
    for name, kinds in s.KINDS.items():
        node = getattr(run, name)
        assert type(node) is kinds[node.kind]


@pytest.mark.parametrize("group", s.KINDS)
def test_every_kind_has_an_option(group: str) -> None:
    kinds = {getattr(one(chosen(group, option)), group).kind for g, option in OPTIONS if g == group}
    assert kinds == set(s.KINDS[group])


@pytest.mark.parametrize("option", REGULARIZERS)
def test_a_reg_option_writes_its_own_key_alone(option: str) -> None:
    written = yaml.safe_load((conf_dir() / "reg" / f"{option}.yaml").read_text(encoding="utf-8"))
    own = [] if option == "none" else [option]
    assert list(written or {}) == own
    assert s.requested(one(chosen("reg", option))) == own


@pytest.mark.parametrize("order", list(itertools.permutations(["dropout", "batchnorm", "l1"])))
def test_the_order_of_reg_is_irrelevant(order: tuple[str, ...]) -> None:
    assert one(f"reg=[{','.join(order)}]") == one("reg=[batchnorm,dropout,l1]")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(conf_dir())))
def test_a_yaml_file_says_what_it_is_and_is_short(path: Path) -> None:
    """A package directive works in line 1 only, so there the comment is line 2."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert re.match(r"# \w", first)
    most = {"study": 80, "course.yaml": 20, "errata.yaml": 160}  # a study is its whole plan; the course names each
    assert len(lines) <= most.get(path.parent.name, most.get(path.name, 15))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("optimizer=adam", 0.0),
        ("optimizer=adamw", 0.01),
        ("optimizer=adamw reg.weight_decay.value=null", 0.01),
        ("optimizer=adamw reg.weight_decay.value=0", 0.0),
        ("optimizer=adamw reg.weight_decay.value=0.3", 0.3),
        ("optimizer=sgd reg=weight_decay", 0.01),
    ],
)
def test_adamw_implies_a_decay_that_was_not_given(line: str, value: float) -> None:
    assert one(line).reg.weight_decay.value == value


def test_a_purposes_seed_is_the_runs_unless_given() -> None:
    assert one("seed=5 seeds.order=0").seeds == s.Seeds(
        init=5, order=0, split=5, dropout=5, augment=5, noise=5, bootstrap=5
    )


def test_columns_are_the_flat_names_of_every_option() -> None:
    flat = [list(s.flatten(one(chosen(group, option)))) for group, option in OPTIONS]
    assert set(s.columns()) == {name for names in flat for name in names if not name.startswith("sweep.")}
    assert len(s.columns()) == len(set(s.columns()))


@pytest.mark.parametrize(
    "line",
    [
        *(chosen(group, option) for group, option in OPTIONS),
        "optimizer.lr=1e-5 reg.noise.std=0.30000000000000004 reg.l2.value=5e-324 reg.l1.value=1e+30",
        "model.widths=[75,45] reg.dropout.rates=[0,1e-7] seed=123456789012345678901234567890",
        *(f"data=mnist data.root={root}" for root in ("'null'", "'1e3'", "'yes'", "'a: b #c'", "'ключ'", "''", "' '")),
    ],
)
def test_settings_survive_yaml(line: str) -> None:
    run = one(line)
    assert config.from_yaml(config.to_yaml(run)) == run


def test_yaml_that_is_not_settings_is_refused_with_every_problem() -> None:
    text = config.to_yaml(one("")).replace("seed: 0", "sead: 0\nseed: -1")
    with pytest.raises(ConfigError) as refusal:
        config.from_yaml(text)
    assert [line.partition(":")[0] for line in refusal.value.problems] == ["sead", "seed"]


def test_a_run_goes_where_hydra_says() -> None:
    assert config.jobs(["hydra.run.dir=a/${seed}", "seed=4"], multirun=False)[0].folder == Path("a/4")
    assert re.fullmatch(r"outputs/[\d-]{10}/[\d-]{15}", str(config.jobs([], multirun=False)[0].folder))


def test_the_runs_of_a_sweep_go_where_hydra_says() -> None:
    def folders(*overrides: str) -> list[Path]:
        return [job.folder for job in config.jobs(["seed=1,2", *overrides], multirun=True)]

    assert folders("hydra.sweep.dir=s") == [Path("s/0"), Path("s/1")]
    choices = "${hydra.job.num}-${hydra:runtime.choices.model}-${seed}"
    assert folders("hydra.sweep.dir=s", f"hydra.sweep.subdir='{choices}'") == [Path("s/0-deep-1"), Path("s/1-deep-2")]
    default = folders()
    assert default[0].parent == default[1].parent
    assert re.fullmatch(r"outputs/[\d-]{10}/[\d-]{15}/1", str(default[1]))


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1", "model=wide"],
        ["seed=1", "hydra.job.config.override_dirname.exclude_keys=[seed]", "model=wide"],
        ["seed=1", "model=wide", "hydra.job.config.override_dirname.item_sep=_"],
    ],
)
def test_folders_are_named_by_overrides_as_hydra_names_them(overrides: list[str]) -> None:
    name = ["hydra.run.dir='${hydra.job.override_dirname}'"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="regrun"):
        config.register()
        hydras = compose("config", overrides, return_hydra_config=True).hydra.job.override_dirname
    assert config.jobs(overrides + name, multirun=False)[0].folder == Path(hydras)
