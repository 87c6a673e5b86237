"""What is wrong with settings whose types and ranges are right: conflicts, and what deserves a warning.

Each rule yields lines, `where: what is wrong, got VALUE; what to do`. A rule that must see the data set
itself is in `data_conflicts`.
"""

from collections.abc import Iterator

from regrun.settings import Cnn, Data, Residual, Scheduler, Settings, Table, Toy, hidden_layers, image_side, requested


def conflicts(run: Settings) -> Iterator[str]:
    """Every mistake that can be known before anything is loaded."""
    yield from _regularizer_conflicts(run)
    yield from _model_conflicts(run)
    yield from _data_conflicts(run.data)
    yield from _trainer_conflicts(run)
    yield from _scheduler_conflicts(run.scheduler, run.trainer.epochs)


def _regularizer_conflicts(run: Settings) -> Iterator[str]:
    reg, hidden = run.reg, hidden_layers(run.model)
    if reg.batchnorm.active and reg.layernorm.active:
        yield "reg: two norms at once, got batchnorm and layernorm; choose one"
    rates = reg.dropout.rates
    if rates is not None and len(rates) != len(hidden):
        yield (
            f"reg.dropout.rates: must have one rate for each of {len(hidden)} hidden layers, got {len(rates)}; "
            "or use reg.dropout.rate"
        )
    elif not hidden and reg.dropout.rate > 0:
        yield (
            "reg.dropout.rate: a model without hidden layers has nothing to drop, "
            f"got {reg.dropout.rate}; choose another model, or reg.dropout.input_rate"
        )
    for name in ("batchnorm", "layernorm"):
        if getattr(reg, name).active and not hidden:
            yield f"reg.{name}: a model without hidden layers has nothing to normalize; choose another model"
    if isinstance(run.data, Toy):
        for name in ("crop", "flip"):
            if name in requested(run):
                yield f"reg.{name}: needs images, got data={run.data.kind}, a table; leave it out"
    side = image_side(run.data)
    if side is not None and reg.crop.padding >= side:
        yield f"reg.crop.padding: must be less than the image's side of {side} pixels, got {reg.crop.padding}"


def _model_conflicts(run: Settings) -> Iterator[str]:
    model, hidden = run.model, hidden_layers(run.model)
    if model.widths is not None and not model.widths and isinstance(model, Cnn | Residual):
        yield "model.widths: must have at least one width, got []; or set it to null"
    side = image_side(run.data)
    if isinstance(model, Cnn):
        if side is None:
            yield f"model: a cnn needs images, got data={run.data.kind}, a table; choose another model"
        elif side >> len(hidden) < 1:
            most = side.bit_length() - 1
            yield f"model.depth: {side} x {side} images can be halved {most} times, got {len(hidden)} blocks; use fewer"


def _data_conflicts(data: Data) -> Iterator[str]:
    if data.val_size >= 1 and not data.val_size.is_integer():
        yield f"data.val_size: must be a fraction below 1 or a whole count, got {data.val_size}"


def _trainer_conflicts(run: Settings) -> Iterator[str]:
    trainer = run.trainer
    if run.reg.batchnorm.active and trainer.batch_size == 1:
        yield "trainer.batch_size: batchnorm needs at least 2 examples in a batch, got 1; raise it, or use layernorm"
    if run.reg.sam.rho > 0 and trainer.accumulate > 1:
        yield (
            "trainer.accumulate: reg.sam takes both of its gradients on one batch, "
            f"got {trainer.accumulate}; raise trainer.batch_size instead"
        )
    if trainer.device == "mps" and trainer.precision == "bfloat16":
        yield "trainer.precision: bfloat16 is for cpu and cuda here, got device mps; use float32"


def _scheduler_conflicts(scheduler: Scheduler, epochs: int) -> Iterator[str]:
    if isinstance(scheduler, Table) and not scheduler.lrs:
        yield "scheduler.lrs: must have at least one learning rate, got []; name them"
    if scheduler.interval == "epoch" and scheduler.warmup > 0 and epochs > 0 and round(scheduler.warmup * epochs) < 1:
        yield (
            f"scheduler.warmup: is less than half of one of {epochs} epochs, got {scheduler.warmup:g}; "
            "raise it, or use scheduler.interval=step"
        )


def data_conflicts(run: Settings, train_size: int) -> Iterator[str]:
    """Mistakes that only the number of training examples shows."""
    batch = run.trainer.batch_size
    if run.data.drop_last and train_size < batch:
        yield (
            f"data.drop_last: leaves nothing of {train_size} training examples in batches of {batch}; "
            "lower trainer.batch_size"
        )
    if run.reg.batchnorm.active and train_size == 1:
        yield "data.train_size: batchnorm needs at least 2 training examples, got 1; raise it"


def warnings(run: Settings, train_size: int) -> Iterator[str]:
    """What is allowed but probably not meant, in a sentence each."""
    if run.reg.flip.rate > 0 and run.data.kind in ("digits", "mnist", "kmnist"):
        yield (
            f"reg.flip.rate: mirroring changes what a {'character' if run.data.kind == 'kmnist' else 'digit'} is "
            "(a mirrored 2 is no 2): expect it to hurt"
        )
    ragged = train_size % run.trainer.batch_size
    if run.reg.batchnorm.active and ragged == 1 and not run.data.drop_last:
        yield "reg.batchnorm: the last batch of one example cannot be normalized and is left out of each epoch"
    averaging, early = run.trainer.averaging, run.trainer.early_stopping
    if averaging.kind != "none" and averaging.start and (early.patience is not None or early.rule != "patience"):
        yield (
            f"trainer.averaging: begins at {100 * averaging.start:g} % of the epochs; a run that early stopping ends "
            "before fails: set trainer.early_stopping={rule:patience,patience:null}"
        )
    if run.model.init.scheme in ("zeros", "constant"):
        yield f"model.init.scheme: {run.model.init.scheme} leaves a layer's units identical; it is for demonstration"
