"""The side of a search that is Optuna's: trials that have ended go in, new points come out.

A batch is a function of the options and of the trials before it alone: samplers are seeded by both, and sample in
memory. The study gets whole trials when their batch has ended, one transaction each; none is ever left running.
"""

import hashlib
import importlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regrun import settings
from regrun.errors import ConfigError, DataError, RunFailed, clip
from regrun.pruning import load_optuna
from regrun.space import Axis, Options, Optuna, Point, Range, Search, flat

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STUDY = "study.db"
BATCH = 8  # on a test function 32 trials of TPE in 8s end as near the optimum as one by one; in 16s not
LEARN = ("tpe", "gp")


def warm_up() -> None:
    """Import what a turn needs before one is forked: it then takes 0.13 s of a processor, else 0.54 s."""
    load_optuna()
    for name in ("alembic.command", "sqlalchemy.dialects.sqlite", "sqlalchemy.orm"):
        importlib.import_module(name)


def batch_size(options: Optuna) -> int:
    """How many trials are asked at once: all of them where none depends on another's result."""
    if options.batch_size is not None:
        return options.batch_size
    return BATCH if options.sampler in LEARN or options.pruner != "none" else options.n_trials


def turn(
    search: Search, root: Path, direction: str, ended: Sequence["FrozenTrial"], *, wants: bool
) -> tuple[list["FrozenTrial"], list[Point]]:
    """Tell the study what has ended; all its trials, and new points if they are wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of what is experimental
        study = _open(search, root, direction)
        for trial in ended:
            if len(study.get_trials(deepcopy=False)) != trial.number:
                raise RunFailed(f"{search.options.study_name}: another process adds trials to this study; end one")
            study.add_trial(trial)
        trials = study.get_trials(deepcopy=False)
        return trials, _ask(search, direction, trials) if wants else []


def _open(search: Search, root: Path, direction: str) -> "Study":
    """The search's study, in the sweep's folder or where it was told to be."""
    options, optuna = search.options, load_optuna()
    url = options.storage or f"sqlite:///{root.absolute() / STUDY}"
    try:
        study = optuna.create_study(
            storage=url, study_name=options.study_name, direction=direction, load_if_exists=True
        )
    except Exception as error:  # of Optuna's, of SQLAlchemy's, of a database's driver
        said = clip(f"{type(error).__name__}: {error}", 120)
        if options.storage:
            raise ConfigError(f"hydra.sweeper.storage: cannot be opened, got {_hidden(url)} ({said})") from None
        raise DataError(f"{root / STUDY}: cannot be opened as a study ({said}); remove it, and resume") from None
    own = hashlib.sha256(json.dumps(facts(search), sort_keys=True).encode()).hexdigest()
    if study.user_attrs.get("search", own) != own or ("search" not in study.user_attrs and study.trials):
        raise ConfigError(
            f"hydra.sweeper.study_name: is another search's there, got {options.study_name!r}; name another"
        )
    study.set_user_attr("search", own)
    return study  # type: ignore[no-any-return]


def _hidden(url: str) -> str:
    """A database's URL without the name and the password in it."""
    return clip(re.sub(r"//[^/@]*@", "//***@", url))


def _ask(search: Search, direction: str, trials: Sequence["FrozenTrial"]) -> list[Point]:
    """The points of the trials after these: to the end of the batch, or of the search where nothing is learnt.

    They are sampled in memory, from the trials before the batch; what has been told of it already is left out.
    """
    options, optuna, size = search.options, load_optuna(), batch_size(search.options)
    learns, start = options.sampler in LEARN, len(trials) // size * size
    first, end = (start, min(start + size, options.n_trials)) if learns else (0, options.n_trials)
    study = optuna.create_study(direction=direction, sampler=_sampler(options, first))
    study.add_trials(trials[:first])
    space, points = distributions(search.space), list[Point]()
    for _ in range(first, end):
        trial = study.ask(space)
        points.append(trial.params)
        if not learns:
            study.tell(trial, 0.0)  # Sobol's sequence begins when a trial has been told; no value matters to it
    return points[len(trials) - first :]


def _sampler(options: Optuna, first: int) -> "BaseSampler":
    """The sampler of the trials from number `first` on."""
    samplers, startup = load_optuna().samplers, options.n_startup_trials
    seed = int(np.random.SeedSequence([options.seed, first]).generate_state(1)[0])
    samplers_of = {
        "random": lambda: samplers.RandomSampler(seed=seed),
        "sobol": lambda: samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed),
        "tpe": lambda: samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True),
        "gp": lambda: samplers.GPSampler(seed=seed, n_startup_trials=startup),
    }
    return samplers_of[options.sampler]()  # type: ignore[no-any-return]


def ended(
    number: int,
    point: Point,
    space: Sequence[Axis],
    attributes: Mapping[str, str],
    state: str,
    value: float | None = None,
    judged: "FrozenTrial | None" = None,
) -> "FrozenTrial":
    """A trial as it is told, with the figures that a pruner has seen, if there is one."""
    trial = load_optuna().trial
    told = trial.create_trial(
        state=trial.TrialState[state],
        value=value,
        params=point,
        distributions=distributions(space),
        user_attrs=attributes,
        system_attrs=judged.system_attrs if judged is not None else {},
        intermediate_values=judged.intermediate_values if judged is not None else {},
    )
    told.number = number
    return told  # type: ignore[no-any-return]


def distributions(space: Sequence[Axis]) -> dict[str, "BaseDistribution"]:
    of = load_optuna().distributions

    def distribution(axis: Axis) -> "BaseDistribution":
        if not isinstance(axis, Range):
            return of.CategoricalDistribution(axis.ends())  # type: ignore[no-any-return]
        if axis.whole:
            return of.IntDistribution(*axis.ends(), log=axis.log, step=int(axis.step or 1))  # type: ignore[no-any-return]
        return of.FloatDistribution(*axis.ends(), log=axis.log, step=axis.step)  # type: ignore[no-any-return]

    return {axis.name: distribution(axis) for axis in space}


def facts(search: Search) -> dict[str, str]:
    """What must be the same where a search goes on, by name."""
    options = {f"hydra.sweeper.{name}": value for name, value in asdict(search.options).items()}
    free = {"hydra.sweeper.n_trials", "hydra.sweeper.storage", *settings.WITHOUT_EFFECT}
    axes = {axis.name: str(axis).removeprefix(f"{axis.name}: ") for axis in search.space}
    choices = {f"{a.name}={text}": a.options[text] for a in search.space if isinstance(a, Options) for text in a.ends()}
    found = options | flat(search.base) | axes | choices
    return {name: str(value) for name, value in found.items() if name not in free}
