"""The text of `regrun --help`: what to type, and every group with its options as `conf/` has them."""

from pathlib import Path

from regrun.paths import conf_dir

GROUPS = (
    *("model", "reg", "optimizer", "scheduler", "data", "trainer", "experiment", "study"),
    *("hydra/launcher", "hydra/sweeper"),
)

USAGE = """\
regrun: experiments on neural-network design and regularization

usage:
  regrun [KEY=VALUE ...]         train one run, e.g. regrun model=deep reg=dropout
  regrun -m [KEY=VALUE,... ...]  a sweep: every combination, e.g. regrun -m model=shallow,deep 'seed=range(3)'
  regrun -m hydra/sweeper=optuna [...]   a search, e.g. 'optimizer.lr=tag(log, interval(1e-4, 1e-1))' model.width=32,64
  regrun -m --dry-run [...]      print a sweep's plan: runs, stacks, what is finished already
  regrun study=NAME [profile=quick|full]   a claim from the literature, its runs, its verdict; study=all for all
  regrun resume DIR [--other-machine]   go on with a run, or with what a sweep lacks (which takes sweep.KEY=VALUE, too)
  regrun collect DIR             write a sweep's tables anew, finished or not
  regrun ensemble DIR [--by KEY ... | --all]   average kept predictions (trainer.save=predictions): seeds, or KEYs apart
  regrun compare DIR [DIR ...] [--by KEY ...] [--delta 0.005]   paired by seed: differences, intervals, verdicts
  regrun confirm DIR [--seeds 10]   train the best setting of a sweep by val from fresh seeds: what is left of it
  regrun variance [KEY=VALUE ...] [--seeds 5] [--contexts 3]   what each seed (init, order, ...) varies
  regrun variance DIR            the same of a sweep that varies seeds.*
  regrun ledger DIR ...          every look at test, and how far luck alone takes the best of what was tried
  regrun report DIR [--pictures] [--terminal]   a run or a sweep as one page, report.html; as PNG and SVG; as tables
  regrun stopping DIR [trainer.early_stopping.KEY=VALUE,... ...]   what rules of early stopping would have come to
  regrun check DIR --against BASELINE [--level 0.99]   fails (1) where DIR is worse than the seeds of a baseline allow
  regrun track DIR NAME ...      give the runs in DIR to tensorboard, mlflow or wandb (or trainer.trackers=[NAME])
  regrun audit [KEY=VALUE ...]   what a network does to its first batch, untrained; hydra.run.dir=DIR keeps it
  regrun demo [NAME]             a claim that has a closed form, shown by numbers; without a name, all of them
  regrun --cfg job [...]         show the configuration instead of running it
  regrun --version | --help | --hydra-help
  eval "$(regrun -sc install=bash)"   shell completion (bash, zsh or fish)

groups (GROUP=OPTION; reg takes a list, 'reg=[dropout,batchnorm]'):
"""

KEYS = """
keys often changed:
  model.depth  model.width  model.widths=[75,45]  model.activation  model.init.scheme  model.name (torchvision)
  reg.dropout.rate  reg.weight_decay.value  reg.label_smoothing.value
  optimizer.lr  scheduler.interval  data.val_size  data.train_size  data.label_noise  data.root
  trainer.epochs  trainer.batch_size  trainer.early_stopping.patience  trainer.device  trainer.progress
  trainer.save  trainer.mc_dropout  trainer.test_curve  trainer.checkpoint_minutes
  seed  seeds.init  hydra.run.dir

exit codes: 0 ok, 1 a run failed or diverged, or a check failed, 2 a mistake in the command, 3 corrupt input,
4 the environment, 5 a study was inconclusive, 6 its verdict is not the expected one, 130 or 143 interrupted.
Python: regrun.read(FOLDER), regrun.load(FOLDER).
"""


def text() -> str:
    """The whole help."""
    return USAGE + "".join(_group(name) for name in GROUPS) + KEYS


def options(group: str) -> dict[str, str]:
    """Each option of a group and the first comment of its file that is no directive."""
    return {path.stem: _comment(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def _group(name: str) -> str:
    lines = [f"    {option:<20} {about}\n" for option, about in options(name).items()]
    return f"  {name}\n" + "".join(lines)


def _comment(path: Path) -> str:
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((line for line in comments if not line.startswith("@package")), "")
