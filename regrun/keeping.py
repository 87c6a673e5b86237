"""What `trainer.save` will keep of runs, and how large it will be: said before the first one starts."""

import math
from collections.abc import Sequence

from regrun import predictions
from regrun.data.split import sizes
from regrun.models.build import build
from regrun.models.norms import BatchNorm
from regrun.models.ops import walk
from regrun.models.parameters import all_slots
from regrun.prepare import Prepared
from regrun.saving import weights_kept
from regrun.settings import CosineRestarts, cycle_ends

UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def line(runs: Sequence[Prepared]) -> str | None:
    """How many runs keep something, and how much disk they need; None where none does."""
    kept = [size for run in runs if (size := kept_bytes(run))]
    if not kept:
        return None
    saves = ", ".join(dict.fromkeys(run.job.settings.trainer.save for run in runs))
    return (
        f"trainer.save={saves}: about {shown(sum(kept))} on disk for {len(kept)} runs, at most {shown(max(kept))} each"
    )


def kept_bytes(run: Prepared) -> int:
    """Bytes of a run's weights or predictions."""
    if run.job.settings.trainer.save in ("predictions", "snapshots"):
        return _prediction_bytes(run)
    return len(weights_kept(run.job)) * _weight_bytes(run)


def _prediction_bytes(run: Prepared) -> int:
    trainer, scheduler, source = run.job.settings.trainer, run.job.settings.scheduler, run.source
    epochs = 1
    if trainer.save == "snapshots" and isinstance(scheduler, CosineRestarts):
        epochs = len(cycle_ends(scheduler, trainer.epochs))
    return predictions.count_bytes(
        epochs=epochs,
        examples=sizes(source, run.job.settings.data)[1] + len(source.test),
        outputs=source.num_outputs,
        is_regression=source.is_regression,
    )


def _weight_bytes(run: Prepared) -> int:
    """Parameters, running statistics and the scaling of inputs, in float32."""
    own, source = run.job.settings, run.source
    ops = build(own.model, own.reg, input_shape=source.shape, num_classes=source.num_outputs)
    statistics = sum(2 * op.width for op in walk(ops) if isinstance(op, BatchNorm))
    return 4 * (sum(math.prod(slot.shape) for slot in all_slots(ops)) + statistics + 3 * math.prod(source.shape))


def shown(size: int) -> str:
    """1.2 MB."""
    name, unit = next(((name, unit) for name, unit in UNITS if size >= unit), ("B", 1))
    return f"{size / unit:.3g} {name}"
