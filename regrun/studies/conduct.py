"""A planned study -> its figures, its verdict, its own tables in the folder of its runs."""

import math
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from regrun import collect, foreign, records, rows, sweep
from regrun.conversion import parsed
from regrun.engines.choice import cores
from regrun.errors import ConfigError, RunFailed, clip
from regrun.findings import StudyCheckRow, StudyFigureRow, StudyRow
from regrun.prepare import device_name, versions
from regrun.studies import figures, histories
from regrun.studies.computed import COMPUTED
from regrun.studies.design import Study
from regrun.studies.found import Found
from regrun.studies.judge import Figures, judge
from regrun.studies.plan import Planned
from regrun.studies.runs import Run, Tables
from regrun.studies.words import measured

VERDICT = "verdict.csv"
TABLES: dict[str, type] = {VERDICT: StudyRow, "checks.csv": StudyCheckRow, "figures.csv": StudyFigureRow}


@dataclass(frozen=True)
class Done:
    """What a study came to."""

    study: Study
    row: StudyRow
    checks: list[StudyCheckRow]
    figures: list[StudyFigureRow]


def conduct(planned: Planned, command: str) -> Done | int:
    """Train what is missing, measure, judge, write the tables; or the exit code of a signal that ended the training.

    command: what repeats it. Raises ConfigError, before anything trains, where a check or the picture asks for what
    nobody measures; RunFailed where a run failed or has no figure: there is no verdict, then.
    """
    start, study, runs = time.monotonic(), planned.study, dict[str, Run]()
    found = [StudyFigureRow(study.name, own.arm, seed, own.figure, own.over, own.value) for seed, own in _all(planned)]
    if problems := list(dict.fromkeys(_unmeasured(study, found))):
        raise ConfigError(problems)
    if planned.trains:
        if code := sweep.execute(planned.command, by="study").signal_code:
            return code
        runs = _ended(planned)
        found += [
            StudyFigureRow(study.name, own.arm, seed, own.figure, own.over, own.value)
            for seed, own in _measured(planned, runs)
        ]
    if bad := [row for row in found if not math.isfinite(row.value)]:
        raise RunFailed(f"study {study.name}: {bad[0].figure} of {bad[0].arm}, seed {bad[0].seed}, has no value")
    verdict, checks = judge(study.name, study.checks, _by_arm(found))
    row = _row(planned, verdict, checks[0], list(runs.values()), _seconds(planned, time.monotonic() - start), command)
    done = Done(study, row, checks, found)
    _write(planned, done)
    return done


def read(folder: Path, study: Study) -> Done:
    """What `conduct` wrote. Raises DataError."""
    tables = [
        [parsed(cls, row) for row in foreign.rows(folder / name, rows.columns(cls))] for name, cls in TABLES.items()
    ]
    return Done(study, tables[0][0], tables[1], tables[2])


def _all(planned: Planned) -> Iterator[tuple[int, Found]]:
    """What is computed and not trained: a seed on each core, since BLAS's own threads wait for each other.

    torch's threads are no less one here: with two, sums are others, whatever the process has done before.
    """
    study, own = planned.study, planned.command.jobs[0].settings
    if study.compute is None:
        return
    compute, is_quick = COMPUTED[study.compute], planned.profile == "quick"
    with threadpool_limits(1), ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        tried = pool.map(lambda seed: list(compute(own, planned.source, seed, is_quick)), planned.seeds)
        for seed, found in zip(planned.seeds, tried, strict=True):
            yield from ((seed, one) for one in found)


def _unmeasured(study: Study, found: Sequence[StudyFigureRow]) -> Iterator[str]:
    """What neither the computation gives nor runs have. Those that only train were asked when they were planned."""
    if study.compute is None:
        return
    computed = {(row.arm, row.figure) for row in found if row.over is None}
    told = clip("; ".join(f"{figure} of {arm}" for arm, figure in sorted(computed)), 500)
    for check in study.checks:
        for arm in check.of:
            if (arm, check.figure) not in computed and not (arm in study.arms and figures.is_known(check.figure)):
                yield f"study {study.name}: checks: nobody measures {check.figure} of {arm}; computed: {told}"
    if (own := study.picture) is None or (not own.over and study.arms and figures.is_known(own.figure)):
        return
    drawn = dict.fromkeys(row.figure for row in found if (row.over is not None) == (own.over is not None))
    if own.figure not in drawn:
        yield f"study {study.name}: picture: figure: must be one of {', '.join(drawn)}, got {clip(own.figure)!r}"


def _ended(planned: Planned) -> dict[str, Run]:
    """Every run by run_id. Raises RunFailed where one has not ended well enough to be measured."""
    root, tables = planned.root, Tables(planned.root)
    cells = {row["run_id"]: row for row in collect.finished(root)}
    if missing := set(planned.runs) - set(cells):
        raise RunFailed(
            f"study {planned.study.name}: {len(missing)} of {len(planned.runs)} runs have failed, so there is no "
            f"verdict; {root / 'summary.csv'} says why, and the same command tries them again"
        )
    return {i: Run(cells[i], p.job.folder, tables, p.source) for i, p in planned.runs.items()}


def _measured(planned: Planned, runs: dict[str, Run]) -> Iterator[tuple[int, Found]]:
    """Each figure of a check for each of its arms, and what the picture shows of every arm."""
    study, picture = planned.study, planned.study.picture
    wanted = [(arm, check.figure) for check in study.checks for arm in check.of]
    if picture and not picture.over and figures.is_known(picture.figure):
        wanted += [(arm, picture.figure) for arm in study.arms]
    for arm, figure in dict.fromkeys(wanted):
        for seed, ids in planned.arms.get(arm, {}).items():
            yield seed, Found(arm, figure, figures.measured(figure, [runs[i] for i in ids]))
    if picture and picture.over and study.compute is None:
        for arm, by_seed in planned.arms.items():
            for seed, ids in by_seed.items():
                for own in [runs[i] for i in ids]:
                    if picture.over == "epoch":
                        points = histories.over_epochs(own)
                    else:
                        points = iter([(own.number(picture.over), figures.measured(picture.figure, [own]))])
                    yield from ((seed, Found(arm, picture.figure, value, at)) for at, value in points)


def _by_arm(found: Sequence[StudyFigureRow]) -> Figures:
    table: dict[tuple[str, str], dict[int, float]] = {}
    for row in found:
        if row.over is None:
            table.setdefault((row.arm, row.figure), {})[row.seed] = row.value
    return table


def _row(
    planned: Planned, verdict: str, first: StudyCheckRow, runs: Sequence[Run], seconds: float, command: str
) -> StudyRow:
    study, any_run = planned.study, next(iter(planned.runs.values()))
    return StudyRow(
        study=study.name,
        chapter=study.chapter,
        claim=study.claim,
        verdict=verdict,
        expected=study.expected,
        profile=planned.profile,
        seeds=len(planned.seeds),
        runs=len(runs),
        diverged=sum(not run.is_ok for run in runs),
        effect=f"{first.says}: {measured(first)}",
        published=study.published,
        paper=study.paper,
        seconds=seconds,
        device=_machine(any_run.device),
        versions=versions(),
        date=datetime.now(UTC).date().isoformat(),
        command=command,
    )


def _seconds(planned: Planned, own: float) -> float:
    """Of the command that trained the runs: judging anew what is there already takes next to none."""
    path = planned.root / VERDICT
    return max([own, *(float(row["seconds"]) for row in foreign.rows(path))]) if path.is_file() else own


def _machine(device: torch.device) -> str:
    """The device; of a CPU how many cores there are for us, and what Linux calls it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", info.read_text("utf-8") if info.is_file() else "", re.MULTILINE)
    if device.type != "cpu" or named is None:
        return device_name(device)
    return f"{cores()} cores of {named[1]}"


def _write(planned: Planned, done: Done) -> None:
    """The three tables, in the folder of the study's runs; the verdict last."""
    records.make(planned.root)
    parts: list[Sequence[StudyRow | StudyCheckRow | StudyFigureRow]] = [[done.row], done.checks, done.figures]
    for (name, cls), own in reversed(list(zip(TABLES.items(), parts, strict=True))):
        records.replace(planned.root / name, records.table([rows.columns(cls), *map(rows.values, own)]))
