"""What can be measured of a study's runs: a number for each arm and seed, from the tables and the weights they left.

A run that diverged has answered nothing rightly: its error is 1.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from regrun import ensembling
from regrun.studies import trends
from regrun.studies.runs import Run

if TYPE_CHECKING:
    from torch import nn

GOOD = 0.1  # val error below which a learning rate works


def scale_per_layer(run: Run) -> float:
    """By what a hidden layer multiplies the scale (root mean square) of activations before training, mean of all."""
    scales = [float(row["activation_rms"]) for row in run.layers.by_run[run.cells["run_id"]][:-1]]
    return (scales[-1] / scales[0]) ** (1 / (len(scales) - 1)) if scales[-1] > 0 else 0.0


def unit_difference(run: Run) -> float:
    """The largest difference between weights of two units of a hidden layer to the same input, after training."""
    weights = [w for name, w in run.network().named_parameters() if name.endswith("weight") and w.dim() > 1]
    return max(float((w - w[:1]).abs().max()) for w in weights[:-1])


def calibration_error(run: Run) -> float:
    """Expected calibration error on test by the last weights, 15 bins (Guo et al. 2017)."""
    log_p = _outputs(run, run.network()).log_softmax(1).double().numpy()
    return ensembling.calibration_error(log_p, run.source.targets[run.source.test].numpy())


def train_mode_excess_error(run: Run) -> float:
    """By how much test error is higher where nobody has called eval()."""
    torch.manual_seed(int(run.cells["seed"]))
    return _error(run, _outputs(run, run.network().train())) - _error(run, _outputs(run, run.network()))


def train_mode_change(run: Run) -> float:
    """Share of test images that two evaluations without eval() class differently."""
    return _change(run, lambda: run.network().train())


def eval_mode_change(run: Run) -> float:
    """The largest difference between the logits of two evaluations in eval mode."""
    network = run.network()
    return float((_outputs(run, network) - _outputs(run, network)).abs().max())


def _change(run: Run, network: Callable[[], "nn.Module"]) -> float:
    torch.manual_seed(int(run.cells["seed"]))
    first, second = (_outputs(run, network()).argmax(1) for _ in range(2))
    return float((first != second).double().mean())


@torch.no_grad()
def _outputs(run: Run, network: "nn.Module") -> torch.Tensor:
    """Logits on test."""
    inputs = run.source.inputs[run.source.test]
    return torch.cat([network(part) for part in inputs.split(1000)])


def _error(run: Run, logits: torch.Tensor) -> float:
    return float((logits.argmax(1) != run.source.targets[run.source.test]).double().mean())


ONE: dict[str, Callable[[Run], float]] = {
    "test_error": lambda run: run.error("test", "last"),
    "val_error": lambda run: run.error("val", "last"),
    "train_error": lambda run: run.error("train", "last"),
    "stopped_error": lambda run: run.error("test", "best"),
    "stopping_gain": lambda run: run.error("test", "last") - run.error("test", "best"),
    "best_epoch": lambda run: run.number("best_epoch"),
    "test_loss": lambda run: run.number("test_loss_last"),
    "gap": trends.gap,
    "diverged": lambda run: float(not run.is_ok),
    "parameters": lambda run: run.number("num_parameters"),
    "scale_per_layer": scale_per_layer,
    "unit_difference": unit_difference,
    "calibration_error": calibration_error,
    "train_mode_excess_error": train_mode_excess_error,
    "train_mode_change": train_mode_change,
    "eval_mode_change": eval_mode_change,
}


def highest_lr(runs: Sequence[Run]) -> float:
    """The highest learning rate whose lowest val error is below 10 %; a third of the lowest one tried if none is."""
    rates = {run.number("optimizer.lr"): run.error("val", "best") for run in runs}
    return max((lr for lr, error in rates.items() if error < GOOD), default=min(rates) / 3)


def tuned_error(runs: Sequence[Run]) -> float:
    """Test error of the run and the epoch that val chooses."""
    return min(runs, key=lambda run: run.error("val", "best")).error("test", "best")


def weight_distance(runs: Sequence[Run]) -> float:
    """Distance between the last weights of the first two runs, relative to the first one's norm."""
    first, second = (
        np.concatenate([w.detach().double().numpy().ravel() for w in run.network().parameters()]) for run in runs[:2]
    )
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


SEVERAL: dict[str, Callable[[Sequence[Run]], float]] = {
    "highest_lr": highest_lr,
    "tuned_error": tuned_error,
    "weight_distance": weight_distance,
    "chosen_setting": trends.chosen,
    "spread_of_test_error": trends.spread(lambda run: run.error("test", "last")),
    "slope_of_train_error": trends.slope(lambda run: run.error("train", "last")),
    "slope_of_test_error": trends.slope(lambda run: run.error("test", "last")),
    "slope_of_gap": trends.slope(trends.gap),
    "largest_rise_of_train_error": trends.largest_rise(lambda run: run.error("train", "last")),
}


def measured(figure: str, runs: Sequence[Run]) -> float:
    """A figure of an arm's runs of one seed; of the first one where it is a figure of one run."""
    return SEVERAL[figure](runs) if figure in SEVERAL else ONE[figure](runs[0])
