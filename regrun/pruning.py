"""Which runs end early for want of promise: Optuna's pruners, asked where the stack trains.

`pruning.json` in a stack's folder has all they need, so that any worker on any machine can ask, without the study's
database. A run is judged by its own val figures and by the trials of earlier batches. Those of its own batch play no
part, so that how a batch is cut into stacks, and with it the number of workers, changes nothing.
"""

import functools
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrun import foreign
from regrun.rows import CurveRow, Row
from regrun.writing import Prune

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

FILE = "pruning.json"


@dataclass(frozen=True)
class Rules:
    """What trials are judged by. metric: loss or accuracy, on val; epochs: of the longest run."""

    metric: str
    direction: str
    pruner: str
    n_startup_trials: int
    epochs: int
    study_name: str


def load_optuna() -> types.ModuleType:
    """Optuna, which takes half a second to import, without its log."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def text(rules: Rules, past: Sequence["FrozenTrial"], numbers: Mapping[str, int]) -> str:
    """pruning.json of a batch: the trials before it, in order, and the number of each of its run_ids."""
    trials = [
        {"state": t.state.name, "value": t.value, "curve": t.intermediate_values, "attributes": t.system_attrs}
        for t in past
    ]
    return json.dumps({"rules": asdict(rules), "past": trials, "numbers": numbers})


def of(folder: Path) -> Prune:
    """What prunes the stack in `folder`; nothing is pruned where there is no pruning.json."""
    if not (folder / FILE).is_file():
        return lambda _: set()
    data = foreign.tree(folder / FILE)
    rules, past = Rules(**data["rules"]), [_frozen(**trial) for trial in data["past"]]
    trial = functools.cache(lambda run_id: begin(rules, past, data["numbers"][run_id]))

    def prune(news: list[Row]) -> set[str]:
        val = [row for row in news if isinstance(row, CurveRow) and row.split == "val"]
        return {r.run_id for r in val if has_no_promise(trial(r.run_id), r.epoch, getattr(r, rules.metric))}

    prune(_rows_before(folder))
    return prune


def _rows_before(folder: Path) -> list[Row]:
    """The val curves of runs that go on from a checkpoint: a pruner knows them, too."""
    path = folder / "curves.csv"
    found = [row for row in (foreign.rows(path) if path.is_file() else []) if row["split"] == "val"]
    figures = [{n: float(row[n] or "nan") for n in ("loss", "accuracy", "r2")} for row in found]
    return [
        CurveRow(row["run_id"], int(row["epoch"]), int(row["step"]), "val", **own)
        for row, own in zip(found, figures, strict=True)
    ]


def begin(rules: Rules, past: Sequence["FrozenTrial"], number: int) -> "Trial":
    """A trial of that number in a study in memory that knows the trials of `past`, whose numbers begin at 0."""
    optuna = load_optuna()
    study = optuna.create_study(study_name=rules.study_name, direction=rules.direction, pruner=_pruner(rules))
    study.add_trials(past)
    unknown = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    study.add_trials([unknown] * (number - len(past)))  # of its own batch: they only count
    return study.ask()  # type: ignore[no-any-return]


def replay(
    rules: Rules, past: Sequence["FrozenTrial"], number: int, figures: Iterable[tuple[int, float]]
) -> "FrozenTrial":
    """A trial with the figures that it was judged by, and what the pruner has noted of it."""
    trial = begin(rules, past, number)
    for epoch, figure in figures:
        has_no_promise(trial, epoch, figure)
    return trial.study.get_trials(deepcopy=False)[-1]


def has_no_promise(trial: "Trial", epoch: int, figure: float) -> bool:
    """Report a figure, and ask whether to end here. Epoch 0 is before training; a figure that is not finite is none."""
    if epoch == 0 or not math.isfinite(figure):
        return False
    trial.report(figure, epoch)
    return trial.should_prune()


def _frozen(state: str, value: float | None, curve: dict[str, float], attributes: dict[str, Any]) -> "FrozenTrial":
    optuna = load_optuna()
    return optuna.trial.create_trial(  # type: ignore[no-any-return]
        state=optuna.trial.TrialState[state],
        value=value,
        intermediate_values={int(epoch): figure for epoch, figure in curve.items()},
        system_attrs=attributes,
    )


def _pruner(rules: Rules) -> "BasePruner":
    pruners = load_optuna().pruners
    if rules.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=rules.n_startup_trials)  # type: ignore[no-any-return]
    return pruners.HyperbandPruner(max_resource=max(1, rules.epochs))  # type: ignore[no-any-return]
