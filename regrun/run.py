"""One run, from its prepared settings to its folder of tables, its weights and its picture."""

import time
import traceback

from regrun import display, plots, records, settings, tracking
from regrun.config import to_yaml
from regrun.data.split import split
from regrun.ending import Finished
from regrun.errors import RegrunError
from regrun.prepare import Prepared, configure_torch, device_name
from regrun.rows import Outcome, Row
from regrun.trainer import train
from regrun.writing import failed, train_into, why_failed, write_summary


def execute(prepared: Prepared) -> Outcome:
    """Train one run and write everything it leaves. A run that fails is a row, too."""
    start, run, folder = time.monotonic(), prepared.job.settings, prepared.job.folder
    prepared.peers.agreed(lambda: _begin(prepared))
    view, log = display.choose(run.trainer.progress), display.Plain(lambda line: records.log(folder, line))
    views = (view, log)

    def show(row: Row) -> None:
        for shown in views:
            shown.row(row)

    def note(line: str) -> None:
        for shown in views:
            shown.note(line)

    for shown in views:
        shown.start(title(prepared), run.trainer.epochs)
        for line in prepared.source.notes:
            shown.note(line)
        for line in prepared.warnings:
            shown.warn(line)
    try:
        ((_, outcome),) = train_into(folder, [prepared], show)
    except RegrunError:  # the disk, say: `cli` knows what to do
        raise
    except Exception as error:
        records.log(folder, traceback.format_exc())
        outcome = failed(prepared.run_id, *why_failed(error))
    except KeyboardInterrupt:
        outcome = failed(prepared.run_id, "interrupted", "interrupted from the keyboard")
    finally:
        view.close()
    if outcome.best_epoch is None:
        write_summary(folder, prepared, outcome, time.monotonic() - start)
    else:
        records.replace(folder / "curves.png", plots.curves_png(folder))
    for shown in views:
        shown.finish(outcome, folder)
    tracking.publish(folder, run.trainer.trackers, note)
    if outcome.best_epoch is not None:
        prepared.peers.wait()
    return outcome


def _begin(prepared: Prepared) -> None:
    folder = prepared.job.folder
    records.claim(folder)
    records.replace(folder / "settings.yaml", to_yaml(prepared.job.settings))


def follow(prepared: Prepared) -> Outcome:
    """Train one run as the rank that writes does, and write nothing. It ends with that rank: torchrun ends the others
    as soon as one fails, which a run that diverged does.
    """
    run, source, peers = prepared.job.settings, prepared.source, prepared.peers
    peers.agreed(lambda: None)
    configure_torch(run, prepared.device)
    own = split(source, run.data, run.seeds)
    training = train([run], [prepared.run_id], source, [own], prepared.device, peers)
    (outcome,) = [news.outcome for news in training if isinstance(news, Finished)]
    peers.wait()
    return outcome


def title(prepared: Prepared) -> str:
    """A run in a line: data, shape, regularizers, optimizer, seed, device."""
    run = prepared.job.settings
    wanted = ", ".join(settings.requested(run)) or "none"
    parts = [
        prepared.source.name,
        settings.describe(run.model),
        f"reg {wanted}",
        run.optimizer.kind,
        f"seed {run.seed}",
    ]
    processes = [f"{prepared.peers.size} processes"] if prepared.peers.are_several else []
    return " | ".join([*parts, device_name(prepared.device), *processes])
