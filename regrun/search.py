"""A search: what a command line or a sweep's folder asks for, checked; how it begins, goes on, and what it came to.

A search that was killed asks for the same batch again and trains what is missing of it, and one that is given more
trials has those that it would have had at once (`asktell` says why).
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from regrun import asktell, foreign, records, stopping
from regrun.apart import apart, here
from regrun.batches import TABLE, Batch, Batches
from regrun.config import Command, corner_jobs
from regrun.errors import ConfigError, DataError, clip
from regrun.launchers import Launcher, Local
from regrun.prepare import Prepared
from regrun.pruning import Rules
from regrun.settings import EarlyStopping
from regrun.space import Range, Search, read

FILE = "search.json"
HOW = ("hydra.sweeper.n_trials=", "hydra.sweeper.storage=")  # what `resume` takes of a search's keys
CHOSEN = ["hydra/sweeper=optuna"]
SHOWN = 10  # what differs from an old search, at most


def check(search: Search, corners: Sequence[Prepared], root: Path) -> None:
    """Raise ConfigError for what cannot be searched, or not in this folder."""
    if not search.space:
        raise ConfigError("hydra/sweeper: optuna has nothing to search; give a key an interval, a range or a choice")
    watched = [p.job.settings.trainer.early_stopping for p in corners]
    for name in ("monitor", "mode"):
        if len(found := dict.fromkeys(getattr(w, name) for w in watched)) > 1:
            key = f"trainer.early_stopping.{name}"
            raise ConfigError(f"{key}: is what a search compares, got {', '.join(found)}; give it one value")
    _check_same(search, root)


def _check_same(search: Search, root: Path) -> None:
    """Raise ConfigError, with what differs, if the folder has another search, but for its number of trials."""
    if not (root / FILE).is_file():
        return
    old, new = asktell.facts(load(root)), asktell.facts(search)
    differing = [
        f"  {k}: {old.get(k, 'none')}; now {new.get(k, 'none')}" for k in old | new if old.get(k) != new.get(k)
    ]
    if differing:
        head = f"hydra.sweep.dir: has another search, got {str(root)[-80:]}; choose another folder"
        raise ConfigError([head, *(clip(line, 200) for line in differing[:SHOWN])])


def reach(search: Search, root: Path) -> None:
    """Open a study that is kept elsewhere, so that a mistake in its URL or its name costs nothing."""
    if search.options.storage is not None:
        apart(asktell.turn, search, root, _direction(search), [], wants=False)


def load(root: Path) -> Search:
    """The search in a sweep's folder. Raises DataError."""
    try:
        return read(foreign.tree(root / FILE))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise DataError(f"{root / FILE}: is no search of regrun's; repeat the command in another folder") from None


def resumed(found: Search, given: Command, root: Path, named: Sequence[str]) -> Command:
    """The search in a folder with how it is given to go on; `named` are the overrides that gave it."""
    assert given.search is not None
    own, problems = given.search.options, list[str]()
    if found.options.storage is not None and own.storage is None:
        raise ConfigError(
            "resume: this search keeps its study elsewhere, not in its folder; add hydra.sweeper.storage=URL"
        )
    gives_trials = any(line.startswith("hydra.sweeper.n_trials=") for line in named)
    n_trials = own.n_trials if gives_trials else found.options.n_trials
    options = replace(found.options, n_trials=n_trials, storage=own.storage)
    base = found.base | {"sweep": asdict(given.jobs[0].settings.sweep)}
    search = replace(found, options=options, base=base)
    try:
        asktell.distributions(search.space)
        jobs = [replace(job, fetches=False) for job in corner_jobs(search, root, problems)]
    except (ValueError, KeyError, TypeError) as error:
        problems, jobs = [clip(f"its space is none of regrun's: {error}", 120)], []
    if problems:
        raise DataError("\n".join(f"{root / FILE}: {line}" for line in dict.fromkeys(problems)))
    return Command(jobs, given.launcher, search)


def begin(
    search: Search, corners: Sequence[Prepared], launcher: Launcher, root: Path, there: dict[str, bool] | None
) -> Iterator[Batch]:
    """The batches of the search in `root`, a folder that is held."""
    records.replace(root / FILE, search.text())
    call = apart if isinstance(launcher, Local) else here
    return iter(Batches(search, root, _rules(search, corners), there, call))


def describe(search: Search, root: Path) -> list[str]:
    """What a search will do, and has done."""
    o, done = search.options, [row for row in _table(root) if row["state"] != "running"]
    size, pruner = asktell.batch_size(o), "" if o.pruner == "none" else f", pruned by {o.pruner}"
    head = f"{o.n_trials} trials in {root}, {len(done)} done; {o.sampler}, seed {o.seed}, {size} at once{pruner}"
    return [head, *map(str, search.space)]


def report(search: Search, root: Path) -> list[str]:
    """How many trials came to what, the best one by val, and what of it lies at an edge of the space."""
    rows, watched = _table(root), _watched(search)
    counts = Counter(row["state"] for row in rows)
    lines = [f"{len(rows)} trials: {', '.join(f'{number} {state}' for state, number in counts.items())}"]
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        return [*lines, "no trial is complete: none is best"]
    best = min(complete, key=lambda row: stopping.stopping(watched).best.sign * float(row["value"]))
    words = " ".join(shlex.quote(f"{axis.name}={best[axis.name]}") for axis in search.space)
    lines.append(f"best: trial {best['number']}, run {best['run_id']}, {watched.monitor} {float(best['value']):.4g}")
    ranges = [axis for axis in search.space if isinstance(axis, Range)]
    return [*lines, f"  {words}", *(line for axis in ranges for line in _edge(axis, float(best[axis.name])))]


def _edge(axis: Range, value: float) -> Iterator[str]:
    if (edge := axis.edge(value)) is not None:
        low, high = axis.ends()
        yield f"{axis.name}: the best value {value:.4g} lies at the {edge} edge of [{low}, {high}]; widen it"


def _table(root: Path) -> list[dict[str, str]]:
    path = root / TABLE
    return foreign.rows(path) if path.is_file() else []


def _watched(search: Search) -> EarlyStopping:
    return EarlyStopping(**search.base["trainer"]["early_stopping"])


def _direction(search: Search) -> str:
    return "minimize" if stopping.stopping(_watched(search)).best.sign == 1 else "maximize"


def _rules(search: Search, corners: Sequence[Prepared]) -> Rules:
    options, watched = search.options, _watched(search)
    return Rules(
        metric=watched.monitor.removeprefix("val_"),
        direction=_direction(search),
        pruner=options.pruner,
        n_startup_trials=options.n_startup_trials,
        epochs=max(p.job.settings.trainer.epochs for p in corners),
        study_name=options.study_name,
    )
