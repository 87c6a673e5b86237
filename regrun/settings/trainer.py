"""The groups `trainer`, `seeds` and `sweep`: the loop, its randomness, and how many runs are trained."""

from dataclasses import dataclass

from regrun.settings.fields import choice, choices, group, number, plain

SAVED = ("auto", "none", "best", "last", "both", "predictions", "snapshots")
PURPOSES = ("init", "order", "split", "dropout", "augment", "noise", "bootstrap")
# The packages that each tracker needs.
TRACKERS = {"tensorboard": ["tensorboard"], "mlflow": ["mlflow", "sqlalchemy", "alembic"], "wandb": ["wandb"]}


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` epochs without an improvement of more than `min_delta`; null trains to the end.

    Other rules: `gap`, as soon as train accuracy leads val accuracy by more than `gap`; `generalization_loss`, as
    soon as val loss is more than `alpha` percent above its lowest. Each judges its figure's exponential moving
    average with weight `smoothing` on the past; the best epoch is that of the monitored figure itself.
    """

    rule: str = choice("patience", ("patience", "gap", "generalization_loss"))
    patience: int | None = number(10, "[1, inf)")
    min_delta: float = number(0.0, "[0, inf)")
    monitor: str = choice("val_loss", ("val_loss", "val_accuracy", "val_r2"))
    mode: str = choice("auto", ("auto", "min", "max"))
    gap: float = number(0.05, "[0, 1)")
    alpha: float = number(5.0, "(0, inf)")
    smoothing: float = number(0.0, "[0, 1)")


@dataclass(frozen=True)
class Averaging:
    """Weights that are averaged beside training, and measured, kept and tested in place of the last ones.

    `ema` averages steps, `swa` the ends of epochs, from a share `start` of the epochs on; null is 0 for ema, 0.75 for
    swa. Batch norm's statistics are then estimated anew on train.
    """

    kind: str = choice("none", ("none", "ema", "swa"))
    decay: float = number(0.999, "[0, 1)")
    start: float | None = number(None, "[0, 1)")


@dataclass(frozen=True)
class Trainer:
    """The loop: how long, on what, how exactly. What cannot change a result is left out of `run_id`.

    `batch_size` is that of a whole batch, also where several processes share it.
    `mc_dropout` is how many passes with dropout val and test are also predicted by at the end; 0 for none.
    `checkpoint_minutes` is after how long an unfinished run is written down to go on from; null for only when a signal
    ends it.
    `test_curve` reads test after each epoch, too, into `curves.csv` alone: a look that nothing is chosen by.
    """

    epochs: int = number(100, "[0, inf)")
    batch_size: int = number(64, "[1, inf)")
    early_stopping: EarlyStopping = group(EarlyStopping, stackable=True)
    accumulate: int = number(1, "[1, inf)")
    loss: str = choice("auto", ("auto", "squared", "absolute", "huber"))
    grad_clip: float | None = number(None, "(0, inf)", stackable=True)
    grad_clip_value: float | None = number(None, "(0, inf)", stackable=True)
    averaging: Averaging = group(Averaging, stackable=True)
    mc_dropout: int = number(0, "[0, 100000]")
    precision: str = choice("float32", ("float32", "bfloat16"))
    limit_batches: int | None = number(None, "[1, inf)")
    time_limit: float | None = number(None, "(0, inf)")
    device: str = choice("auto", ("auto", "cpu", "cuda", "mps"))
    threads: int = number(1, "[1, 1024]")
    deterministic: bool = plain(True)
    progress: str = choice("auto", ("auto", "rich", "plain", "none"))
    save: str = choice("auto", SAVED)
    checkpoint_minutes: float | None = number(10.0, "(0, inf)")
    trackers: list[str] = choices(TRACKERS)
    test_curve: bool = plain(False)


@dataclass(frozen=True)
class Seeds:
    """One seed for each purpose; null derives it from the run's `seed`."""

    init: int | None = number(None, "[0, inf)")
    order: int | None = number(None, "[0, inf)")
    split: int | None = number(None, "[0, inf)")
    dropout: int | None = number(None, "[0, inf)")
    augment: int | None = number(None, "[0, inf)")
    noise: int | None = number(None, "[0, inf)")
    bootstrap: int | None = number(None, "[0, inf)")


@dataclass(frozen=True)
class Sweep:
    """How `-m` trains its runs: nothing here changes a result."""

    workers: int | None = number(None, "[1, 1024]")
    stack_size: int | None = number(None, "[1, 100000]")
    run_timeout: float | None = number(None, "(0, inf)")
    fail_fast: bool = plain(False)
