"""What `trainer.save` keeps of a run that has ended: its weights, and what it predicts."""

import io

import numpy as np
import torch

from regrun import predictions, records
from regrun.config import Job, to_yaml
from regrun.data.split import Split
from regrun.ending import Finished
from regrun.looks import Look
from regrun.predictions import Predictions
from regrun.prepare import Prepared

# The weights that `trainer.save` keeps of a run; auto keeps best.pt for a single run and nothing in a sweep, whose runs
# have folders only for their weights.
WEIGHTS = {"best": ["best"], "last": ["last"], "both": ["best", "last"]}


def save_predictions(prepared: Prepared, own: Split, look: Look) -> None:
    """The run's file under `predictions/`; a regression's are in the units of its targets."""
    source, job = prepared.source, prepared.job
    outputs, members = look.outputs, {split: getattr(own, split) for split in predictions.SPLITS}
    if source.is_regression:
        outputs = {split: y.double() * own.target_scale + own.target_mean for split, y in outputs.items()}
    targets = source.targets if source.is_regression else own.targets.int()
    found = Predictions(
        epochs=np.array(look.epochs, np.int32),
        outputs={split: y.numpy() for split, y in outputs.items()},
        targets={split: targets[at].numpy() for split, at in members.items()},
        examples={split: at.int().numpy() for split, at in members.items()},
        target_scale=own.target_scale.numpy(),
    )
    path = predictions.path(job.sweep or job.folder, prepared.run_id)
    records.make(path.parent)
    records.replace(path, predictions.content(found))


def weights_kept(job: Job) -> list[str]:
    """Which of best and last `trainer.save` keeps of a run."""
    save = job.settings.trainer.save
    return ["best"] if save == "auto" and job.sweep is None else WEIGHTS.get(save, [])


def save_weights(prepared: Prepared, own: Split, finished: Finished) -> None:
    """best.pt and last.pt as `trainer.save` asks; they also carry how inputs and targets are scaled."""
    job, wanted = prepared.job, weights_kept(prepared.job)
    if wanted and job.sweep is not None:
        records.make(job.folder)  # the sweep's lock guards it; a retry writes it again
        records.replace(job.folder / "settings.yaml", to_yaml(job.settings))
    inputs = {
        "input.offset": own.offset,
        "input.scale": own.scale,
        "input.fill": own.fill,
        "input.shape": torch.tensor(prepared.source.shape),
        "output.size": torch.tensor(prepared.source.num_outputs),
    }
    if prepared.source.is_regression:
        inputs |= {"target.mean": own.target_mean.float(), "target.scale": own.target_scale.float()}
    for name in wanted:
        buffer = io.BytesIO()
        torch.save(getattr(finished, name) | inputs, buffer)
        records.replace(job.folder / f"{name}.pt", buffer.getvalue())


def is_kept(job: Job, run_id: str) -> bool:
    """Whether all that is to be kept of a run is there."""
    paths = [job.folder / f"{name}.pt" for name in weights_kept(job)]
    if job.settings.trainer.save in ("predictions", "snapshots"):
        paths.append(predictions.path(job.sweep or job.folder, run_id))
    return all(path.is_file() for path in paths)
