"""A study -> its runs, all of them checked; nothing is written. Arms know their runs by run_id."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regrun import config
from regrun.config import Command, Job
from regrun.data.sources import Source
from regrun.errors import ConfigError, clip
from regrun.plan import check_same
from regrun.prepare import Prepared, prepare
from regrun.settings import DATA
from regrun.studies import figures
from regrun.studies.computed import COMPUTED
from regrun.studies.design import Study

# A verdict's seeds are none that its design was tried out with: those below 200.
FIRST_SEED = {"quick": 200, "full": 1000}


@dataclass(frozen=True)
class Planned:
    """A study with its runs, each once, by run_id; `arms` has the run_ids of each arm and seed."""

    study: Study
    profile: str
    root: Path
    seeds: list[int]
    command: Command
    runs: dict[str, Prepared]
    arms: dict[str, dict[int, list[str]]]
    source: Source

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.arms)


def plan(study: Study, profile: str, how: Sequence[str], root: Path, loaded: dict[str, Source]) -> Planned:
    """Every run of a study. loaded: data sets that are there already; others are added. Raises ConfigError."""
    seeds = [FIRST_SEED[profile] + i for i in range(study.seeds[profile])]
    setup = [*study.setup, *(study.quick if profile == "quick" else ())]
    problems, jobs, spans = list(_problems(study)), list[Job](), dict[str, range]()
    command = _composed(study, setup, seeds[:1], how, problems)
    for arm, points in study.arms.items():
        begin = len(jobs)
        for point, trial in itertools.product(points, study.trials):
            own = _composed(study, [*setup, *point, *trial], seeds, how, problems)
            jobs += own.jobs if own is not None else []
        spans[arm] = range(begin, len(jobs))
    if problems or command is None:
        raise ConfigError(dict.fromkeys(problems))
    jobs = [replace(job, folder=root / str(i), sweep=root) for i, job in enumerate(jobs)]
    try:
        prepared = prepare(jobs or command.jobs, loaded=loaded)
    except ConfigError as error:
        raise ConfigError([f"study {study.name}: {line}" for line in error.problems]) from None
    arms = {arm: _by_seed([prepared[i] for i in span], seeds) for arm, span in spans.items()}
    runs = dict[str, Prepared]()
    for p in prepared:
        runs.setdefault(p.run_id, p)  # of two jobs that are one run, the sweep trains the first
    if jobs:
        check_same(root, list(runs.values()))
    command = replace(command, jobs=jobs or command.jobs)
    return Planned(study, profile, root, seeds, command, runs, arms, prepared[0].source)


def _by_seed(prepared: Sequence[Prepared], seeds: Sequence[int]) -> dict[int, list[str]]:
    return {seed: [p.run_id for p in prepared if p.job.settings.seed == seed] for seed in seeds}


def _composed(
    study: Study, lines: Sequence[str], seeds: Sequence[int], how: Sequence[str], problems: list[str]
) -> Command | None:
    """The runs of a list of overrides, of which the last one of a key counts; None where they are mistaken.

    Where files of data lie is left out where the data comes with scikit-learn or is drawn.
    """
    chosen = [line.removeprefix("data=") for line in lines if line.startswith("data=")]
    how = how if chosen and hasattr(DATA.get(chosen[-1]), "root") else [word for word in how if word[:5] != "data."]
    own = {line.partition("=")[0]: line for line in [*lines, f"seed={','.join(map(str, seeds))}", *how]}
    try:
        return config.command(list(own.values()), multirun=True)
    except ConfigError as error:
        problems += [f"study {study.name}: {line}" for line in error.problems]
        return None


def _problems(study: Study) -> Iterator[str]:
    """Figures that nobody knows how to measure, or that one run has and an arm of several has not."""
    if study.compute is not None:
        if study.compute not in COMPUTED:
            yield f"study {study.name}: compute: must be one of {', '.join(COMPUTED)}, got {clip(study.compute)!r}"
        return
    known = [*figures.ONE, *figures.SEVERAL]
    for name in [check.figure for check in study.checks] + ([study.picture.figure] if study.picture else []):
        if name not in known:
            yield f"study {study.name}: no such figure, got {clip(name)!r}; choose from {', '.join(known)}"
