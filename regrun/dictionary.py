"""The data dictionary, `outputs/README.md`, made from the classes that the tables are made from."""

import dataclasses
import typing
from collections.abc import Iterable, Iterator

from regrun import findings, rows, settings

HEAD = """\
# What a run leaves

One folder per run, `outputs/<date>/<time>/` under the working directory unless `hydra.run.dir` says otherwise.
This page is printed by `scripts/dictionary`; a test keeps it equal to the code.

| file | what it is |
|---|---|
| `curves.csv`, `epochs.csv`, `layers.csv`, `summary.csv` | the tables below |
| `label_noise.csv` | which labels were drawn at random; only with `data.label_noise` or `data.label_noise_val` |
| `settings.yaml` | the resolved settings; enough to repeat the run |
| `best.pt`, `last.pt` | weights by name, tensors only (`torch.load(..., weights_only=True)`); `trainer.save` chooses |
| `checkpoint-1.pt`, `.json`, `checkpoint-2...` | what `regrun resume` goes on from, see below; gone at the end |
| `lock` | by which process the run is being trained; gone at the end |
| `predictions/RUN_ID.npz` | what it predicted for val and test, see below; `trainer.save=predictions` or `snapshots` |
| `curves.png` | loss and accuracy (or R2) over epochs |
| `run.log` | what was printed, line by line |
| `ledger.csv` | looks at test (sweeps; a single run where an ensemble was made): see below |
| `report.html`, `pictures/` | the tables as a page; its charts as PNG and SVG; `regrun report DIR [--pictures]` |
| `tensorboard/`, `mlflow.db`, `wandb/` | the same rows for those whom `trainer.trackers` names |
| `studies.csv`, `checks.csv`, `figures.csv` | verdicts of `regrun study=NAME`; the runs are in `runs/NAME` |
| `compare.csv`, `profiles.csv` | what `regrun compare` found; profiles only over several data sets |

A sweep's folder (`hydra.sweep.dir`) has the same tables for all its runs, in the order of `plan.csv` (one row per
run, every setting, and the `folder` for its weights; written before the first starts), and `effects.csv`: one row per
distinct setting, seeds aside, with `n`, `failed`, `diverged`, and `_mean`, `_sd`, `_low`, `_high` (95 % t interval of
the mean) of the finished runs' figures. `summary.csv` and `effects.csv` are kept current while it runs, the others are
complete at its end; `regrun collect DIR` writes all of them anew at any time. `stacks/` holds what each stack wrote
(its `plan.csv`, its tables, its checkpoints while it trains, `run.log`, `failure.json` if it ended early, and
`before.json` if it goes on from the checkpoint of another); a run has a folder of its own only for weights. A search
(`hydra/sweeper=optuna`) also has `trials.csv`; `search.json`, its options and its space; `study.db`, Optuna's study;
and `pruning.json`, by what its runs are pruned, which goes with each stack. Its `plan.csv` grows by batches.
`looks.csv` has a line for each command that was about to read test, with the number of stacks before it; `ledger.csv`
is made of it and of the summaries. `launch.json` says how the sweep was trained, `lock` by which process it is being
trained.

`predictions/RUN_ID.npz`, in a run's folder or a sweep's, has arrays and nothing pickled (`numpy.load(...,
allow_pickle=False)`): `epochs` of the C weights that predicted (the best ones, or snapshots); `val` and `test`, (C, N,
classes) log-probabilities in float32, or (C, N, columns) numbers in the units of the targets; `val_targets`,
`test_targets`; `val_examples`, `test_examples`, their positions in the data set; and `target_scale`, empty for classes.
`regrun ensemble DIR` makes `ensemble.csv` of them. A run that is to keep predictions or weights is finished only when
their files are there.

A checkpoint is of a stack; a run alone is a stack of one. `checkpoint-N.pt` (`torch.load(..., weights_only=True)`) has
tensors and plain values: weights, running statistics, the optimizer's and the averages' tensors, the best weights so
far, each run's scores and rules, and how far each stream of random numbers has come. `checkpoint-N.json` has its bytes
and SHA-256, the bytes and SHA-256 of each table at that time, to which they are cut, its runs, epoch and step, and what
bits depend on. Two generations take turns. `last.pt` is something else: the weights at the end.

UTF-8, `\\n`, one header line, RFC 4180. Numbers are unformatted; accuracies, errors and gaps are shares in [0, 1];
losses are in nats, those of a regression are of targets standardized by train. A value that does not apply is `none`,
a list is JSON; the only blank is the one of `accuracy` and `r2` that does not apply. `run_id` joins the tables. Columns
are always the same. Time columns (`seconds`, `examples_per_second`, `peak_memory_bytes`, `when`) are the
only ones that differ when a command is repeated.

A word that a spreadsheet would compute (it begins with `=`, `+`, `-`, `@`, a tab or a carriage return, also behind
blanks and in full width, and is no number) stands behind an apostrophe, and so does one that begins with an apostrophe.
Whatever of regrun's reads a table takes one apostrophe away. No cell has a line end or a control character.
"""


GROUPS = "First one column for each setting that varies, seeds aside.\n\n"
BEFORE = {
    "ensemble.csv": "First one column for each setting that makes groups.\n\n",
    "stopping.csv": GROUPS,
    "check.csv": GROUPS,
}
AFTER = {"trials.csv": "\nThen one column for each key of the space, named as in the command.\n"}


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, row in (rows.TABLES | findings.TABLES).items():
        parts += [_heading(name, row), BEFORE.get(name, ""), _described(row), AFTER.get(name, "")]
    parts.append(_heading("summary.csv", rows.Outcome))
    parts.append("After `run_id` and `status` comes every setting (last table), then:\n\n")
    outcome = [f for f in dataclasses.fields(rows.Outcome) if f.name != "acted"]
    described = [(f.name, f.metadata["about"]) for f in outcome]
    described += [(f"acted.{name}", about) for name, about in rows.ACTED.items()]
    described += [(f.name, f.metadata["about"]) for f in dataclasses.fields(rows.Provenance)]
    parts.append(_table(described))
    parts.append("\n`acted.*` is `none` where the mechanism was not asked for.\n\n## Settings\n\n")
    parts.append(
        "Columns of `summary.csv` (all but `sweep.*`) and keys of `settings.yaml`; `none` where the chosen kind has no "
        "such key.\n\n"
    )
    parts.append(_table(_settings()))
    return "".join(parts)


def _heading(name: str, row: type) -> str:
    return f"\n## {name}\n\n{row.__doc__}\n\n"


def _described(row: type) -> str:
    return _table((f.name, f.metadata["about"]) for f in dataclasses.fields(row))


def _table(lines: Iterable[tuple[str, str]]) -> str:
    return "| column | what it says |\n|---|---|\n" + "".join(f"| `{name}` | {about} |\n" for name, about in lines)


def _settings() -> Iterator[tuple[str, str]]:
    for name, f in settings.all_fields().items():
        group = name.split(".")[0]
        if name == f"{group}.kind":
            yield name, "one of " + ", ".join(settings.KINDS[group])
        elif "options" in f.metadata:
            yield name, f"{'list' if f.type == list[str] else 'one'} of " + ", ".join(f.metadata["options"])
        else:
            interval = f.metadata.get("interval", "(-inf, inf)")
            word = f.type.__name__ if isinstance(f.type, type) and not typing.get_args(f.type) else str(f.type)
            yield name, word.replace("|", "or") + (f" in {interval}" if interval != "(-inf, inf)" else "")
