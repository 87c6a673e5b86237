"""The recipe of the lecture on learning-rate decay, on real MNIST (where it exists)."""

import pytest
from conftest import MNIST_ROOT, needs_mnist, train_rows

from regrun import config
from regrun.data.sources import load


@pytest.mark.long
@needs_mnist
@pytest.mark.parametrize(("batch", "least", "skipped"), [(1024, 0.92, 54_000 % 1024), (64, 0.95, 54_000 % 64)])
def test_five_epochs_of_the_lecture_recipe(batch: int, least: float, skipped: int) -> None:
    overrides = [f"experiment=lecture_batch_{batch}", f"data.root={MNIST_ROOT}", "trainer.epochs=5"]
    run = config.jobs(overrides, multirun=False)[0].settings
    _, (end,) = train_rows([run], load(run.data))
    outcome = end.outcome
    assert outcome.num_parameters == 62_875
    assert (outcome.train_size, outcome.val_size, outcome.test_size) == (54_000, 6_000, 10_000)
    assert outcome.skipped_examples == skipped
    assert outcome.test_accuracy_last is not None and outcome.test_accuracy_last > least


def test_the_recipe_is_the_lectures() -> None:
    for batch in (64, 1024):
        run = config.jobs([f"experiment=lecture_batch_{batch}"], multirun=False)[0].settings
        assert run.model.widths == [75, 45] and run.model.activation == "relu"
        assert run.model.init.scheme == run.model.init.bias == "torch"
        assert run.reg.batchnorm.active and run.reg.dropout.rates == [0.5, 0.3]
        assert run.optimizer.kind == "sgd" and run.optimizer.lr == 0.1 and run.reg.weight_decay.value == 0
        assert (run.data.val_size, run.data.split, run.data.normalize, run.data.drop_last) == (
            6000,
            "tail",
            "unit",
            True,
        )
        assert run.trainer.batch_size == batch and run.trainer.epochs == 100
        assert run.trainer.early_stopping.patience is None
