"""A stack goes on from its state as if it had never stopped: wherever it stops, whatever it does."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make

from regrun import settings as s
from regrun import state
from regrun.data.sources import Source
from regrun.data.split import split
from regrun.due import Due
from regrun.ending import Finished
from regrun.errors import DataError
from regrun.rows import EpochRow
from regrun.streams import MaskStream, generator
from regrun.trainer import Checkpoint, train

FEW = s.Digits(train_size=150)
PATIENT = s.EarlyStopping(patience=None)
OPTIMIZERS = [cls(kind) if "kind" in cls.__dataclass_fields__ else cls() for kind, cls in s.OPTIMIZERS.items()]
EVERYTHING = s.Reg(
    dropout=s.Dropout(rate=0.3, input_rate=0.1),
    batchnorm=s.BatchNorm(active=True),
    weight_decay=s.WeightDecay(value=0.01),
    l1=s.L1(value=1e-4, mode="proximal"),
    max_norm=s.MaxNorm(value=2.0),
    label_smoothing=s.LabelSmoothing(value=0.1),
    noise=s.Noise(std=0.1),
    crop=s.Crop(padding=1),
    flip=s.Flip(rate=0.5),
    jitter=s.Jitter(brightness=0.2),
    cutout=s.Cutout(size=2),
    mixup=s.Mixup(alpha=0.4),
    cutmix=s.Cutmix(alpha=1.0),
)


def trainer(**changes: Any) -> dict[str, Any]:
    return {"epochs": 3, "batch_size": 50, "early_stopping": PATIENT} | changes


CASES: dict[str, dict[str, Any]] = {
    "everything": {"reg": EVERYTHING, "scheduler": s.Cosine(interval="step", warmup=0.2)},
    "plateau": {"scheduler": s.Plateau(patience=0, threshold=0.5), "optimizer": s.Momentum(lr=0.1)},
    "ema": {"trainer": trainer(averaging=s.Averaging("ema", decay=0.5)), "reg": s.Reg(batchnorm=s.BatchNorm(True))},
    "swa": {"trainer": trainer(averaging=s.Averaging("swa", start=0.4))},
    "accumulate": {"trainer": trainer(accumulate=2, batch_size=30, grad_clip=0.5), "reg": s.Reg(sam=s.Sam(rho=0.0))},
    "sam": {"reg": s.Reg(sam=s.Sam(rho=0.05), dropout=s.Dropout(rate=0.2))},
    "snapshots": {"scheduler": s.CosineRestarts(t_0=1), "trainer": trainer(save="snapshots")},
    "monte carlo": {"reg": s.Reg(dropout=s.Dropout(rate=0.2)), "trainer": trainer(mc_dropout=3)},
    "gap": {"trainer": trainer(early_stopping=s.EarlyStopping(rule="gap", gap=0.2, smoothing=0.5))},
    "test curve": {"trainer": trainer(test_curve=True, limit_batches=2)},
    "streamed": {"data": replace(FEW, stream="always")},
    "bootstrap": {"data": replace(FEW, bootstrap=True, label_noise=0.2)},
    "residual": {
        "model": s.Residual(depth=2, width=12),
        "reg": s.Reg(stochastic_depth=s.StochasticDepth(rate=0.3), layernorm=s.LayerNorm(active=True)),
    },
    "cnn": {"model": s.Cnn(widths=[4, 6]), "reg": s.Reg(spatial_dropout=s.SpatialDropout(rate=0.2))},
    "vit": {"model": s.Vit(depth=1, width=8, heads=2), "reg": s.Reg(attention_dropout=s.AttentionDropout(rate=0.2))},
    "experts": {"model": s.Moe(width=6, experts=3, top_k=2)},
    "regression": {"data": s.Sine(samples=200), "trainer": trainer(loss="huber")},
}
EACH = ("everything", "ema", "monte carlo")  # of these, every place where they may stop
CASES |= {o.kind: {"optimizer": replace(o, lr=0.01)} for o in OPTIMIZERS}


def written(news: Any) -> Any:
    """A checkpoint's state as a file brings it back."""
    buffer = io.BytesIO()
    torch.save(news.state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def seen(news: Any) -> Any:
    """What must be the same, without what time changes."""
    if isinstance(news, Finished):
        weights = {f"{n}/{k}": t.tolist() for n in ("best", "last") for k, t in getattr(news, n).items()}
        look = None if news.look is None else {split: t.tolist() for split, t in news.look.outputs.items()}
        return repr(news.outcome), weights, look
    return [replace(r, seconds=0.0, examples_per_second=0.0) if isinstance(r, EpochRow) else r for r in news]


def trained(runs: list[s.Settings], source: Source, due: Callable[[], Due], found: Any = None) -> list[Any]:
    """All that comes, and the state where it ends early."""
    ids = [f"run{i}" for i in range(len(runs))]
    if found is not None:
        ids = [run["run_id"] for run in found["runs"]]
        runs = [runs[int(i[3:])] for i in ids]
    splits = [split(source, r.data, r.seeds) for r in runs]
    return [
        written(news) if isinstance(news, Checkpoint) else seen(news)
        for news in train(runs, ids, source, splits, torch.device("cpu"), state=found, due=due)
    ]


def ends_at(number: int) -> Callable[[], Due]:
    """Ask for the end when asked the number-th time."""
    left = number

    def due() -> Due:
        nonlocal left
        left -= 1
        return Due.END if left <= 0 else Due.NOTHING

    return due


def never() -> Due:
    return Due.NOTHING


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_stops_anywhere_goes_on_as_if_it_had_not(name: str, sources: Callable[[s.Data], Source]) -> None:
    """Between two steps, and between two batches of an evaluation: of an epoch, of averages' statistics, at the end."""
    run = make(**({"data": FEW, "trainer": trainer()} | CASES[name]))
    source, phases = sources(run.data), set[int]()
    whole = trained([run], source, never)
    for stop in range(1, 1000, 1 if name in EACH else 4):
        *before, found = trained([run], source, ends_at(stop))
        if not isinstance(found, dict):
            assert [*before, found] == whole and phases >= ({0, 1, 2} if name in EACH else {0, 1})
            break
        phases.add(found["phase"])
        assert before + trained([run], source, never, found) == whole


@pytest.fixture(scope="module")
def sources() -> Callable[[s.Data], Source]:
    from regrun.data.sources import key, load

    found: dict[Any, Source] = {}
    return lambda data: found.setdefault(key(data), load(data))


def ragged() -> list[s.Settings]:
    """Four runs, of which two are stopped early."""
    patience = (1, None, 2, None)
    return [
        make(
            data=FEW,
            optimizer=s.Adam(lr=(0.1, 0.01, 0.2, 0.001)[i]),
            reg=s.Reg(dropout=s.Dropout(rate=0.1 * i)),
            trainer=trainer(epochs=12, early_stopping=s.EarlyStopping(patience=patience[i], min_delta=0.05)),
            seed=i,
        )
        for i in range(4)
    ]


@pytest.mark.parametrize(("stop", "going"), [(2, 4), (14, 4), (40, 3), (55, 3)])
def test_a_stack_goes_on_without_the_runs_that_have_ended(stop: int, going: int, digits: Source) -> None:
    whole = trained(ragged(), digits, never)
    *before, found = trained(ragged(), digits, ends_at(stop))
    assert len(found["runs"]) == going == 4 - sum(isinstance(news, tuple) for news in before)
    assert before + trained(ragged(), digits, never, found) == whole


def test_some_of_a_stack_go_on_by_themselves(digits: Source) -> None:
    *_, found = trained(ragged(), digits, ends_at(10))
    whole = trained(ragged(), digits, never, found)
    for run_ids in (["run1"], ["run3", "run0"]):
        part = trained(ragged(), digits, never, state.select(found, run_ids))
        for run_id in run_ids:
            rows, expected = (
                [r for n in all_of if isinstance(n, list) for r in n if r.run_id == run_id] for all_of in (part, whole)
            )
            assert rows == expected and rows
            end = [n for n in part if isinstance(n, tuple) and f"run_id='{run_id}'" in n[0]]
            assert end == [n for n in whole if isinstance(n, tuple) and f"run_id='{run_id}'" in n[0]]


def test_checkpoints_on_the_way_change_nothing(digits: Source) -> None:
    run = make(data=FEW, trainer=trainer(), reg=EVERYTHING)
    news = trained([run], digits, lambda: Due.CHECKPOINT)
    rows = [each for each in news if not isinstance(each, dict)]
    assert rows == trained([run], digits, never) and len(news) - len(rows) == 9


def test_a_state_is_small(digits: Source) -> None:
    """A stack that has lost runs is a view of the larger one: only its own part is kept."""
    *_, found = trained(ragged(), digits, ends_at(55))
    buffer = io.BytesIO()
    torch.save(found, buffer)
    own = sum(t.nbytes for t in found["tensors"].values())
    assert own < buffer.tell() < own + 20_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["tensors"].pop("params/"),
        lambda found: found["tensors"].update({"params/": torch.zeros(1, 3)}),
        lambda found: found["runs"][0].pop("stopping"),
        lambda found: found.update(taken=1000),
        lambda found: found["runs"].clear(),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil: Callable[[Any], Any], digits: Source) -> None:
    run = make(data=FEW, trainer=trainer())
    *_, found = trained([run], digits, ends_at(4))
    spoil(found)
    splits = [split(digits, run.data, run.seeds)]
    with pytest.raises(DataError, match=r"^a checkpoint that does not fit its run"):
        list(train([run], ["run0"], digits, splits, torch.device("cpu"), state=found))


def test_runs_that_a_state_does_not_have_are_refused(digits: Source) -> None:
    *_, found = trained([make(data=FEW, trainer=trainer())], digits, ends_at(4))
    with pytest.raises(DataError, match="a checkpoint of other runs: it has run0, not run7"):
        state.select(found, ["run7"])


def test_the_time_that_training_took_before_counts(digits: Source) -> None:
    run = make(data=FEW, trainer=trainer(time_limit=1000.0))
    *_, found = trained([run], digits, ends_at(4))
    assert 0 < found["seconds"] < 1000
    *_, (end, *_) = trained([run], digits, never, found | {"seconds": 1000.0})
    assert "stop_reason='time_limit'" in end and "last_step=2" in end


@pytest.mark.parametrize("times", [0, 1, 5, 13])
def test_a_stream_can_be_skipped_ahead(times: int) -> None:
    def stream() -> MaskStream:
        return MaskStream([generator(seed, "dropout") for seed in (1, 2)], size=16_000, steps=100)

    drawn, skipped = stream(), stream()
    for _ in range(times):
        drawn.next(10)
    assert drawn.drawn == times
    skipped.skip(times)
    assert all(torch.equal(drawn.next(15_999), skipped.next(15_999)) for _ in range(6))
