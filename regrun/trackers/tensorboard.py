"""TensorBoard: an event file for each run, `tensorboard/<run_id>/`, while it trains. Its scalars are float32."""

import io
import time
from collections.abc import Iterable
from pathlib import Path

from regrun import records
from regrun.trackers import Cells, Tracked, named

FILE = "events.out.tfevents.0.regrun"  # one name, so that a run that is trained again has one file


def done(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob(f"tensorboard/*/{FILE}")}


def log(folder: Path, runs: Iterable[Tracked]) -> str:
    for run in runs:
        path = place(folder, run.run_id)
        records.make(path.parent)
        records.replace(path, head() + events(run.rows))
    return f"tensorboard --logdir {folder}"


def place(folder: Path, run_id: str) -> Path:
    """A run's event file."""
    return folder / "tensorboard" / run_id / FILE


def head() -> bytes:
    """What an event file begins with."""
    return _framed([{"file_version": "brain.Event:2"}])


def events(rows: Iterable[Cells]) -> bytes:
    """One event for each row, at its epoch."""
    return _framed({"step": int(row["epoch"]), "summary": {"value": _values(row)}} for row in rows)


def _values(row: Cells) -> list[dict[str, object]]:
    return [{"tag": name, "simple_value": value} for name, value in named(row).items()]


def _framed(parts: Iterable[dict[str, object]]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for part in parts:
        writer.write(Event(wall_time=time.time(), **part).SerializeToString())
    return buffer.getvalue()
